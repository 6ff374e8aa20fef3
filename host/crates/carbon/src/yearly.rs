//! Yearly averages of every country, in the program itself: what there is where nobody is asked.
//!
//! The data is Ember's and Our World in Data's, CC BY 4.0; see `data/README.md`.

use domain::carbon::{Fact, Factor, Method, Signal, Zone};
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use time::{Date, Month, OffsetDateTime};

use crate::{IntensityProvider, ProviderError, Span};

const DATA: &str = include_str!("../data/yearly.csv");

/// For how many years after its own a figure is taken as an estimate; after that there is none.
const CARRIED_YEARS: i32 = 10;

/// The embedded figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Yearly;

impl Yearly {
    /// The figures of `zone`: of its year, and as an estimate of the years after. A zone is a country by ISO 3166-1, two
    /// letters or three; `US-CAL-CISO` is a part of `US`, and that one's figures are then an estimate.
    pub fn of(zone: &Zone) -> Result<Vec<Factor>, ProviderError> {
        let country = zone.as_str().split('-').next().unwrap_or_default();
        let row = DATA.lines().find_map(|line| {
            let mut fields = line.split(',');
            let (alpha2, alpha3) = (fields.next()?, fields.next()?);
            (alpha2 == country || alpha3 == country).then(|| (fields.next(), fields.next()))
        });
        let figures =
            row.and_then(|(year, milligrams)| Some((year?.parse().ok()?, milligrams?.parse().ok()?)));
        let Some((year, mg_per_kwh)) = figures else {
            let advice = "give a country by ISO 3166-1, such as DE, or bring factors of your own";
            return Err(ProviderError::UnknownZone {
                zone: zone.clone(),
                advice,
            });
        };
        let is_part = country != zone.as_str();
        [
            (year, year + 1, is_part),
            (year + 1, year + 1 + CARRIED_YEARS, true),
        ]
        .into_iter()
        .map(|(from, to, is_estimated)| {
            let fact = Fact {
                zone: zone.clone(),
                from: new_year(from)?,
                to: new_year(to)?,
                intensity: mg_per_kwh,
                source: "ember-owid-yearly".to_owned(),
                version: match is_part {
                    true => format!("{year} {country}"),
                    false => year.to_string(),
                },
                is_estimated,
            };
            Ok(Factor::new(Signal::Average, Method::Location, fact)?)
        })
        .collect()
    }
}

fn new_year(year: i32) -> Result<OffsetDateTime, ProviderError> {
    let day = Date::from_calendar_date(year, Month::January, 1).map_err(ProviderError::malformed)?;
    Ok(day.midnight().assume_utc())
}

impl IntensityProvider for Yearly {
    fn name(&self) -> &'static str {
        "ember-owid-yearly"
    }

    fn factors<'a>(&'a self, zone: &'a Zone, _: Span) -> BoxFuture<'a, Result<Vec<Factor>, ProviderError>> {
        ready(Self::of(zone)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(zone: &str) -> Result<Vec<Factor>, ProviderError> {
        Yearly::of(&zone.parse().unwrap())
    }

    #[test]
    fn every_row_of_the_data_is_a_zone_with_factors() {
        let rows: Vec<_> = DATA
            .lines()
            .filter(|line| !line.starts_with('#'))
            .skip(1)
            .collect();
        assert!(rows.len() > 200, "{}", rows.len());
        for row in rows {
            let fields: Vec<_> = row.split(',').collect();
            for zone in &fields[..2] {
                let [now, carried] = of(zone).unwrap().try_into().unwrap();
                let (now, carried) = (now.parts().2, carried.parts().2);
                assert!(
                    now.intensity > 0 && !now.is_estimated && carried.is_estimated,
                    "{row}"
                );
                assert_eq!(
                    (now.to, now.from.year().to_string()),
                    (carried.from, fields[2].to_owned())
                );
                assert_eq!(now.intensity.to_string(), fields[3]);
            }
        }
    }

    #[test]
    fn a_part_of_a_country_is_an_estimate_by_the_country() {
        let (part, whole) = (of("US-CAL-CISO").unwrap(), of("US").unwrap());
        let (part, whole) = (part[0].parts().2, whole[0].parts().2);
        assert_eq!(
            (part.intensity, part.zone.as_str()),
            (whole.intensity, "US-CAL-CISO")
        );
        assert!(part.is_estimated && !whole.is_estimated && part.version.ends_with(" US"));
    }

    #[test]
    fn unknown_zones_are_refused() {
        for zone in ["CAISO_NORTH", "XX", "de", "CF", "zone"] {
            assert_eq!(of(zone).unwrap_err().code(), "intensity_unknown_zone", "{zone}");
        }
    }
}
