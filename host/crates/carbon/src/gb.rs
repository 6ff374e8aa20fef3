//! Great Britain's Carbon Intensity API: average intensities by the half-hour, without a key.
//!
//! `GET /intensity/{from}/{to}`; see <https://carbon-intensity.github.io/api-definitions/>. Its figures are CC BY 4.0
//! of the National Energy System Operator.

use domain::carbon::{Fact, Factor, Method, Signal, Zone};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::Deserialize;
use time::Duration;

use crate::http::{Client, Options, instant, minute};
use crate::{IntensityProvider, ProviderError, Span, milligrams};

/// A client of the Carbon Intensity API.
#[derive(Debug)]
pub struct GreatBritain {
    client: Client,
}

impl GreatBritain {
    /// Where it is.
    pub const URL: &str = "https://api.carbonintensity.org.uk";

    /// A client.
    pub fn new(url: &str, options: Options) -> Result<Self, ProviderError> {
        Ok(Self {
            client: Client::new(url, options)?,
        })
    }

    async fn intensity(&self, zone: &Zone, span: Span) -> Result<Vec<Factor>, ProviderError> {
        if zone.as_str() != "GB" {
            let advice = "this provider has GB only";
            return Err(ProviderError::UnknownZone {
                zone: zone.clone(),
                advice,
            });
        }
        let path = format!("/intensity/{}/{}", minute(span.from), minute(span.to));
        let answer: Answer = self.client.json(self.client.get(&path, &[])?).await?;
        let mut factors = Vec::new();
        for half_hour in answer.data {
            factors.extend(half_hour.factor(zone)?);
        }
        match factors.is_empty() {
            true => Err(ProviderError::Missing(zone.clone())),
            false => Ok(factors),
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<HalfHour>,
}

#[derive(Deserialize)]
struct HalfHour {
    from: String,
    to: String,
    intensity: Figures,
}

/// In g/kWh.
#[derive(Deserialize)]
struct Figures {
    forecast: Option<f64>,
    /// Null until some time after the half-hour.
    actual: Option<f64>,
}

impl HalfHour {
    /// The factor: what was, else what was forecast, as an estimate; none where there is neither.
    fn factor(self, zone: &Zone) -> Result<Option<Factor>, ProviderError> {
        let is_estimated = self.intensity.actual.is_none();
        let Some(grams) = self.intensity.actual.or(self.intensity.forecast) else {
            return Ok(None);
        };
        let fact = Fact {
            zone: zone.clone(),
            from: instant(&self.from)?,
            to: instant(&self.to)?,
            intensity: milligrams(grams, 1_000.0)?,
            source: "gb-carbon-intensity".to_owned(),
            version: if is_estimated { "forecast" } else { "actual" }.to_owned(),
            is_estimated,
        };
        Ok(Some(Factor::new(Signal::Average, Method::Location, fact)?))
    }
}

impl IntensityProvider for GreatBritain {
    fn name(&self) -> &'static str {
        "gb-carbon-intensity"
    }

    fn factors<'a>(
        &'a self,
        zone: &'a Zone,
        span: Span,
    ) -> BoxFuture<'a, Result<Vec<Factor>, ProviderError>> {
        self.intensity(zone, span).boxed()
    }

    fn max_age(&self) -> Option<Duration> {
        Some(Duration::hours(3))
    }
}
