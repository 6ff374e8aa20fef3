//! WattTime: marginal intensities (MOER) every five minutes.
//!
//! `GET /login` trades name and password for a token of 30 minutes, `GET /v3/historical` has the figures; see
//! <https://docs.watttime.org>.

use std::sync::{Mutex, PoisonError};

use domain::carbon::{Fact, Factor, Method, Signal, Zone};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use crate::http::{Client, Options, end, instant, minute};
use crate::{IntensityProvider, Key, ProviderError, Span, milligrams};

/// The marginal operating emission rate. There are other signals under the same address.
const SIGNAL: &str = "co2_moer";
const UNITS: &str = "lbs_co2_per_mwh";

/// A pound has 453.59237 g, and a MWh 1,000 kWh.
const MG_PER_KWH_EACH: f64 = 453.592_37;

/// Shorter than the 30 minutes that a token lives: it must outlive the request.
const TOKEN_LIFE: Duration = Duration::minutes(25);

/// A client of WattTime.
#[derive(Debug)]
pub struct WattTime {
    client: Client,
    user: String,
    password: Key,
    token: Mutex<Option<(Key, OffsetDateTime)>>,
}

impl WattTime {
    /// Where it is.
    pub const URL: &str = "https://api.watttime.org";

    /// A client of a registered user.
    pub fn new(url: &str, user: String, password: Key, options: Options) -> Result<Self, ProviderError> {
        Ok(Self {
            client: Client::new(url, options)?,
            user,
            password,
            token: Mutex::default(),
        })
    }

    async fn historical(&self, zone: &Zone, span: Span) -> Result<Vec<Factor>, ProviderError> {
        let kept = self.kept(span.to);
        let answer = match kept {
            Some(token) => match self.ask(zone, span, &token).await {
                // It may have been ended before its time: a fresh one decides.
                Err(ProviderError::Unauthorised { .. }) => {
                    self.ask(zone, span, &self.login(span.to).await?).await
                }
                answer => answer,
            },
            None => self.ask(zone, span, &self.login(span.to).await?).await,
        };
        answer?.factors(zone)
    }

    /// The token of an earlier login, if it still lives at `now`.
    fn kept(&self, now: OffsetDateTime) -> Option<Key> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let lives = |since: OffsetDateTime| (Duration::ZERO..TOKEN_LIFE).contains(&(now - since));
        token
            .as_ref()
            .filter(|(_, since)| lives(*since))
            .map(|(token, _)| token.clone())
    }

    async fn login(&self, now: OffsetDateTime) -> Result<Key, ProviderError> {
        let request = self.client.get("/login", &[])?;
        let request = request.basic_auth(&self.user, Some(self.password.reveal()));
        let login: Login = self.client.json(request).await?;
        let token = Key::new(login.token);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((token.clone(), now));
        Ok(token)
    }

    async fn ask(&self, zone: &Zone, span: Span, token: &Key) -> Result<Answer, ProviderError> {
        let (start, end) = (minute(span.from), minute(span.to));
        let query = [
            ("region", zone.as_str()),
            ("start", &start),
            ("end", &end),
            ("signal_type", SIGNAL),
        ];
        let request = self.client.get("/v3/historical", &query)?;
        self.client.json(request.bearer_auth(token.reveal())).await
    }
}

#[derive(Deserialize)]
struct Login {
    token: String,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Point>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Point {
    point_time: String,
    value: f64,
}

#[derive(Deserialize)]
struct Meta {
    region: String,
    signal_type: String,
    units: String,
    #[serde(default)]
    model: Option<Model>,
    #[serde(default = "five_minutes")]
    data_point_period_seconds: u32,
}

#[derive(Deserialize)]
struct Model {
    date: String,
}

fn five_minutes() -> u32 {
    300
}

impl Answer {
    fn factors(self, zone: &Zone) -> Result<Vec<Factor>, ProviderError> {
        let meta = self.meta;
        if meta.region != zone.as_str() {
            let (asked, answered) = (zone.clone(), meta.region);
            return Err(ProviderError::OtherZone { asked, answered });
        }
        for (asked, answered) in [(SIGNAL, meta.signal_type), (UNITS, meta.units)] {
            if asked != answered {
                return Err(ProviderError::OtherSignal { asked, answered });
            }
        }
        if self.data.is_empty() {
            return Err(ProviderError::Missing(zone.clone()));
        }
        let version = meta.model.map_or("unnamed model".to_owned(), |model| model.date);
        let each = Duration::seconds(meta.data_point_period_seconds.into());
        let factor = |point: Point| {
            let from = instant(&point.point_time)?;
            let fact = Fact {
                zone: zone.clone(),
                from,
                to: end(from, each)?,
                intensity: milligrams(point.value, MG_PER_KWH_EACH)?,
                source: "watttime".to_owned(),
                version: version.clone(),
                // All of a marginal signal is modelled; the provider marks none of it as a stopgap.
                is_estimated: false,
            };
            Ok(Factor::new(Signal::Marginal, Method::Location, fact)?)
        };
        self.data.into_iter().map(factor).collect()
    }
}

impl IntensityProvider for WattTime {
    fn name(&self) -> &'static str {
        "watttime"
    }

    fn factors<'a>(
        &'a self,
        zone: &'a Zone,
        span: Span,
    ) -> BoxFuture<'a, Result<Vec<Factor>, ProviderError>> {
        self.historical(zone, span).boxed()
    }

    fn max_age(&self) -> Option<Duration> {
        Some(Duration::hours(2))
    }
}
