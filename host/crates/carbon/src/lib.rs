//! Carbon intensities of power grids: who says how much, a provider a file.
//!
//! A provider gives [`Factor`]s, whose kind is a type: Electricity Maps, Great Britain's and the yearly figures are
//! averages, WattTime's are marginal, and neither can be taken for the other. What a provider does not say is an
//! error or is left out, never 0.

mod csv;
mod electricity_maps;
mod error;
mod gb;
mod http;
mod key;
mod watttime;
mod yearly;

use domain::carbon::{Factor, Zone};
use futures::future::BoxFuture;
use time::{Duration, OffsetDateTime};

pub use csv::{CsvFile, RowError, parse};
pub use electricity_maps::ElectricityMaps;
pub use error::ProviderError;
pub use gb::GreatBritain;
pub use http::Options;
pub use key::Key;
pub use watttime::WattTime;
pub use yearly::Yearly;

/// The time to get factors of; its end is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// From this instant on.
    pub from: OffsetDateTime,
    /// Until this one, which is now.
    pub to: OffsetDateTime,
}

/// A source of intensities.
pub trait IntensityProvider: Send + Sync {
    /// Its name: the source of its factors.
    fn name(&self) -> &'static str;

    /// The factors of `zone` that it has for `span`, in order of time; more of them than were asked for if that is
    /// what it has. At least one.
    fn factors<'a>(&'a self, zone: &'a Zone, span: Span)
    -> BoxFuture<'a, Result<Vec<Factor>, ProviderError>>;

    /// How long ago its newest factor may have ended; none where it makes no promise.
    fn max_age(&self) -> Option<Duration> {
        None
    }

    /// Whether `factors`, which it gave at `now`, are as new as it promises.
    fn check_age(&self, factors: &[Factor], now: OffsetDateTime) -> Result<(), ProviderError> {
        let Some(max_age) = self.max_age() else {
            return Ok(());
        };
        let newest = factors.iter().map(|factor| factor.parts().2.to).max();
        match newest.is_some_and(|newest| now - newest <= max_age) {
            true => Ok(()),
            false => Err(ProviderError::Stale {
                newest,
                max_age_min: max_age.whole_minutes(),
            }),
        }
    }
}

/// A figure of a provider as whole milligrams: the one place where its decimals are rounded.
fn milligrams(value: f64, mg_each: f64) -> Result<u64, ProviderError> {
    let milligrams = (value * mg_each).round();
    // Above it no factor is accepted; below it every whole number has a float of its own.
    match (0.0..=1e15).contains(&milligrams) {
        true => Ok(milligrams as u64),
        false => Err(ProviderError::malformed(format!("{value} is no intensity"))),
    }
}

#[cfg(test)]
mod tests {
    use super::milligrams;

    #[test]
    fn decimals_are_rounded_and_nonsense_is_refused() {
        for (value, each, expected) in [
            (322.0, 1_000.0, 322_000),
            (0.0004, 1_000.0, 0),
            (0.0005, 1_000.0, 1),
        ] {
            assert_eq!(milligrams(value, each).unwrap(), expected);
        }
        for value in [-1.0, f64::NAN, f64::INFINITY, 1e15] {
            assert_eq!(
                milligrams(value, 1_000.0).unwrap_err().code(),
                "intensity_malformed"
            );
        }
    }
}
