//! Electricity Maps: average intensities by the hour.
//!
//! `GET /v3/carbon-intensity/history?zone=` has the last 24 hours; see
//! <https://portal.electricitymaps.com/developer-hub/api/reference>.

use domain::carbon::{Fact, Factor, Method, Signal, Zone};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use time::Duration;

use crate::http::{Client, Options, end, instant};
use crate::{IntensityProvider, Key, ProviderError, Span, milligrams};

/// Emissions over the whole life of the plants, and not of burning alone.
const FACTORS: &str = "lifecycle";

/// A client of Electricity Maps.
#[derive(Debug)]
pub struct ElectricityMaps {
    client: Client,
    key: Key,
}

impl ElectricityMaps {
    /// Where it is.
    pub const URL: &str = "https://api.electricitymaps.com";

    /// A client with an API key.
    pub fn new(url: &str, key: Key, options: Options) -> Result<Self, ProviderError> {
        Ok(Self {
            client: Client::new(url, options)?,
            key,
        })
    }

    async fn history(&self, zone: &Zone, span: Span) -> Result<Vec<Factor>, ProviderError> {
        let query = [("zone", zone.as_str()), ("emissionFactorType", FACTORS)];
        let mut key = HeaderValue::from_str(self.key.reveal())
            .map_err(|_| ProviderError::malformed("the key has characters that no key has"))?;
        key.set_sensitive(true);
        let request = self.client.get("/v3/carbon-intensity/history", &query)?;
        let answer: Answer = self.client.json(request.header("auth-token", key)).await?;
        // It falls back to the caller's own place where it does not know the zone.
        if answer.zone != zone.as_str() {
            let (asked, answered) = (zone.clone(), answer.zone);
            return Err(ProviderError::OtherZone { asked, answered });
        }
        let mut factors = Vec::new();
        for hour in answer.history {
            let factor = hour.factor(zone)?;
            factors.extend(factor.filter(|factor| factor.parts().2.to > span.from));
        }
        match factors.is_empty() {
            true => Err(ProviderError::Missing(zone.clone())),
            false => Ok(factors),
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    zone: String,
    history: Vec<Hour>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hour {
    /// In g/kWh; null where it is not known.
    carbon_intensity: Option<f64>,
    datetime: String,
    emission_factor_type: String,
    is_estimated: bool,
    #[serde(default)]
    estimation_method: Option<String>,
}

impl Hour {
    /// The factor; none where the hour has no figure.
    fn factor(self, zone: &Zone) -> Result<Option<Factor>, ProviderError> {
        let Some(grams) = self.carbon_intensity else {
            return Ok(None);
        };
        if self.emission_factor_type != FACTORS {
            let answered = self.emission_factor_type;
            return Err(ProviderError::OtherSignal {
                asked: FACTORS,
                answered,
            });
        }
        let from = instant(&self.datetime)?;
        let version = match self.estimation_method.filter(|_| self.is_estimated) {
            Some(method) => format!("v3 {FACTORS} {method}"),
            None => format!("v3 {FACTORS}"),
        };
        let fact = Fact {
            zone: zone.clone(),
            from,
            to: end(from, Duration::HOUR)?,
            intensity: milligrams(grams, 1_000.0)?,
            source: "electricity-maps".to_owned(),
            version,
            is_estimated: self.is_estimated,
        };
        Ok(Some(Factor::new(Signal::Average, Method::Location, fact)?))
    }
}

impl IntensityProvider for ElectricityMaps {
    fn name(&self) -> &'static str {
        "electricity-maps"
    }

    fn factors<'a>(
        &'a self,
        zone: &'a Zone,
        span: Span,
    ) -> BoxFuture<'a, Result<Vec<Factor>, ProviderError>> {
        self.history(zone, span).boxed()
    }

    fn max_age(&self) -> Option<Duration> {
        Some(Duration::hours(4))
    }
}
