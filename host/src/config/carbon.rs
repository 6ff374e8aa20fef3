//! What the host is told of its site: the grid, the building, the machine, and whom to ask.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use domain::carbon::{Hardware, Site, Zone};
use time::OffsetDateTime;

use super::{ConfigError, Secret};

/// Facility energy per IT energy where nobody says: the mean of the Uptime Institute's Global Data Center Survey 2025.
/// Such figures are marked as estimates.
const PUE: f64 = 1.54;

/// Litres of water that a kWh of electricity takes where nobody says: EcoLogits' figure for the world. Such figures are
/// marked as estimates.
const EWIF_L_PER_KWH: f64 = 3.908;

/// Flags of `wattle serve` about carbon and water.
#[derive(Args, Clone, Debug)]
pub struct CarbonArgs {
    /// The power grid that feeds this host: a country such as DE, or a zone of --carbon-provider; without it no carbon
    /// is told.
    #[arg(long, env = "WATTLE_CARBON_ZONE", value_name = "ZONE")]
    pub carbon_zone: Option<Zone>,
    /// Who says how much carbon the grid emits on average.
    #[arg(long, env = "WATTLE_CARBON_PROVIDER", value_enum, default_value = "yearly")]
    pub carbon_provider: CarbonProvider,
    /// File with intensities of one's own, for --carbon-provider csv.
    #[arg(long, env = "WATTLE_CARBON_CSV", value_name = "FILE")]
    pub carbon_csv: Option<PathBuf>,
    /// API key, for --carbon-provider electricity-maps.
    #[arg(
        long,
        env = "WATTLE_CARBON_ELECTRICITY_MAPS_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub carbon_electricity_maps_key: Option<Secret>,
    /// WattTime's name of the grid's region, for marginal intensities beside the average ones.
    #[arg(long, env = "WATTLE_CARBON_WATTTIME_REGION", value_name = "REGION")]
    pub carbon_watttime_region: Option<Zone>,
    /// User of WattTime.
    #[arg(long, env = "WATTLE_CARBON_WATTTIME_USER", value_name = "NAME")]
    pub carbon_watttime_user: Option<String>,
    /// Password of that user.
    #[arg(
        long,
        env = "WATTLE_CARBON_WATTTIME_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    pub carbon_watttime_password: Option<Secret>,
    /// Power usage effectiveness of the site [default: 1.54, as an estimate].
    #[arg(long, env = "WATTLE_CARBON_PUE")]
    pub carbon_pue: Option<f64>,
    /// Litres of water that the site evaporates per kWh of IT energy; without it no water is told.
    #[arg(long, env = "WATTLE_CARBON_WUE_L_PER_KWH")]
    pub carbon_wue_l_per_kwh: Option<f64>,
    /// Litres of water that making a kWh of the grid's electricity takes [default: 3.908, as an estimate].
    #[arg(long, env = "WATTLE_CARBON_EWIF_L_PER_KWH")]
    pub carbon_ewif_l_per_kwh: Option<f64>,
    /// Share of the site's energy that carbon-free contracts cover, hour by hour.
    #[arg(long, env = "WATTLE_CARBON_CFE_PERCENT", default_value = "0")]
    pub carbon_cfe_percent: f64,
    /// Embodied emissions of this machine in kg CO₂e: least, likely and most, such as 828-1200-1936.
    #[arg(long, env = "WATTLE_CARBON_EMBODIED_KG", value_name = "MIN-MID-MAX")]
    pub carbon_embodied_kg: Option<Kilograms>,
    /// Years that the machine is expected to serve.
    #[arg(long, env = "WATTLE_CARBON_LIFE_YEARS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=30))]
    pub carbon_life_years: u32,
}

/// Who says what a grid emits on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CarbonProvider {
    /// The yearly averages of countries that come with the host.
    Yearly,
    /// A file of one's own.
    Csv,
    /// Electricity Maps, by the hour.
    ElectricityMaps,
    /// Great Britain's Carbon Intensity API, by the half-hour.
    Gb,
}

/// A mass in kg: the least, the likely one, the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kilograms([u64; 3]);

/// Most kilograms that a machine is believed to have taken.
const MAX_KG: u64 = 1_000_000_000;

impl FromStr for Kilograms {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("write three whole numbers that do not fall, up to {MAX_KG}, such as 828-1200-1936");
        let parts: Result<Vec<u64>, _> = text.split('-').map(str::parse).collect();
        let parts: [u64; 3] = parts.map_err(|_| refused())?.try_into().map_err(|_| refused())?;
        match parts.is_sorted() && parts[2] <= MAX_KG {
            true => Ok(Self(parts)),
            false => Err(refused()),
        }
    }
}

impl fmt::Display for Kilograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, mid, max] = self.0;
        write!(f, "{min}-{mid}-{max}")
    }
}

impl CarbonArgs {
    /// All that is wrong with them.
    pub(super) fn check(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (flag, value, range) in [
            ("carbon-pue", self.carbon_pue, 1.0..=10.0),
            ("carbon-wue-l-per-kwh", self.carbon_wue_l_per_kwh, 0.0..=1_000.0),
            ("carbon-ewif-l-per-kwh", self.carbon_ewif_l_per_kwh, 0.0..=1_000.0),
            ("carbon-cfe-percent", Some(self.carbon_cfe_percent), 0.0..=100.0),
        ] {
            let (min, max) = (*range.start(), *range.end());
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                errors.push(ConfigError::OutOfRange {
                    flag,
                    value,
                    min,
                    max,
                });
            }
        }
        let watttime = [
            ("carbon-watttime-region", self.carbon_watttime_region.is_some()),
            ("carbon-watttime-user", self.carbon_watttime_user.is_some()),
            (
                "carbon-watttime-password",
                self.carbon_watttime_password.is_some(),
            ),
        ];
        if let Some((given, _)) = watttime.into_iter().find(|(_, is_there)| *is_there) {
            let missing = watttime.into_iter().filter(|(_, is_there)| !is_there);
            errors.extend(missing.map(|(missing, _)| ConfigError::Alone { given, missing }));
        }
        let zone = ("carbon-zone", self.carbon_zone.is_some());
        let (given, needed) = match self.carbon_provider {
            CarbonProvider::Yearly => ("", vec![]),
            CarbonProvider::Csv => (
                "carbon-provider csv",
                vec![zone, ("carbon-csv", self.carbon_csv.is_some())],
            ),
            CarbonProvider::ElectricityMaps => {
                let key = (
                    "carbon-electricity-maps-key",
                    self.carbon_electricity_maps_key.is_some(),
                );
                ("carbon-provider electricity-maps", vec![zone, key])
            }
            CarbonProvider::Gb => ("carbon-provider gb", vec![zone]),
        };
        let missing = needed.into_iter().filter(|(_, is_there)| !is_there);
        errors.extend(missing.map(|(missing, _)| ConfigError::Alone { given, missing }));
        errors.extend(self.idle());
        match (&self.carbon_zone, self.carbon_provider) {
            (Some(zone), CarbonProvider::Yearly) => {
                errors.extend(::carbon::Yearly::of(zone).err().map(ConfigError::Carbon));
            }
            (Some(zone), CarbonProvider::Gb) if zone.as_str() != "GB" => {
                let advice = "--carbon-provider gb has GB only";
                let zone = zone.clone();
                errors.push(ConfigError::Carbon(::carbon::ProviderError::UnknownZone {
                    zone,
                    advice,
                }));
            }
            _ => {}
        }
        errors
    }

    /// What is given for a provider that was not chosen: nobody would be asked, and nothing said.
    fn idle(&self) -> impl Iterator<Item = ConfigError> {
        let given = [
            (
                "carbon-csv",
                self.carbon_csv.is_some() && self.carbon_provider != CarbonProvider::Csv,
                "carbon-provider csv",
            ),
            (
                "carbon-electricity-maps-key",
                self.carbon_electricity_maps_key.is_some()
                    && self.carbon_provider != CarbonProvider::ElectricityMaps,
                "carbon-provider electricity-maps",
            ),
        ];
        let idle = given.into_iter().filter(|(_, is_idle, _)| *is_idle);
        idle.map(|(given, _, missing)| ConfigError::Alone { given, missing })
    }

    /// Whether anything is told of the site that makes a figure.
    pub fn is_told(&self) -> bool {
        self.carbon_zone.is_some() || self.carbon_embodied_kg.is_some() || self.carbon_wue_l_per_kwh.is_some()
    }

    /// Where the host stands since `from`, on a machine with `threads`. `check` has bounded every number.
    pub fn site(&self, from: OffsetDateTime, threads: u32) -> Site {
        let microlitres = |litres: f64| (litres * 1e6).round() as u64;
        Site {
            from,
            zone: self.carbon_zone.clone(),
            marginal_zone: self.carbon_watttime_region.clone(),
            pue_ppm: (self.carbon_pue.unwrap_or(PUE) * 1e6).round() as u32,
            pue_is_estimated: self.carbon_pue.is_none(),
            wue_ul_per_kwh: self.carbon_wue_l_per_kwh.map(microlitres),
            ewif_ul_per_kwh: Some(microlitres(self.carbon_ewif_l_per_kwh.unwrap_or(EWIF_L_PER_KWH))),
            ewif_is_estimated: self.carbon_ewif_l_per_kwh.is_none(),
            cfe_ppm: (self.carbon_cfe_percent * 1e4).round() as u32,
            hardware: self
                .carbon_embodied_kg
                .map(|Kilograms([min, mid, max])| Hardware {
                    min_g: min * 1_000,
                    mid_g: mid * 1_000,
                    max_g: max * 1_000,
                    life_s: u64::from(self.carbon_life_years) * 365 * 86_400,
                    threads,
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        carbon: CarbonArgs,
    }

    fn carbon(flags: &[&str]) -> CarbonArgs {
        let flags = ["wattle"].iter().chain(flags);
        <Flags as clap::Parser>::try_parse_from(flags).unwrap().carbon
    }

    #[test]
    fn what_is_not_said_is_an_estimate_or_not_known() {
        let site = carbon(&[]).site(OffsetDateTime::UNIX_EPOCH, 8);
        assert_eq!((site.pue_ppm, site.pue_is_estimated), (1_540_000, true));
        assert_eq!(
            (site.ewif_ul_per_kwh, site.ewif_is_estimated),
            (Some(3_908_000), true)
        );
        assert_eq!(
            (site.zone, site.wue_ul_per_kwh, site.hardware, site.cfe_ppm),
            (None, None, None, 0)
        );
        assert!(!carbon(&[]).is_told());
    }

    #[test]
    fn what_is_said_is_kept_to_the_last_digit() {
        let carbon = carbon(&[
            "--carbon-zone=DE",
            "--carbon-pue=1.123456",
            "--carbon-wue-l-per-kwh=1.8",
            "--carbon-ewif-l-per-kwh=0",
            "--carbon-cfe-percent=12.5",
            "--carbon-embodied-kg=828-1200-1936",
        ]);
        let site = carbon.site(OffsetDateTime::UNIX_EPOCH, 8);
        assert_eq!((site.pue_ppm, site.pue_is_estimated), (1_123_456, false));
        assert_eq!(
            (site.wue_ul_per_kwh, site.ewif_ul_per_kwh),
            (Some(1_800_000), Some(0))
        );
        assert!(!site.ewif_is_estimated && carbon.is_told() && carbon.check().is_empty());
        let hardware = site.hardware.unwrap();
        assert_eq!(
            (hardware.min_g, hardware.mid_g, hardware.max_g),
            (828_000, 1_200_000, 1_936_000)
        );
        assert_eq!(
            (hardware.life_s, hardware.threads, site.cfe_ppm),
            (126_144_000, 8, 125_000)
        );
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let cases: [(&[&str], &str); 15] = [
            (&["--carbon-pue=0.99"], "--carbon-pue 0.99 is not from 1 to 10"),
            (&["--carbon-pue=10.1"], "--carbon-pue 10.1"),
            (&["--carbon-pue=NaN"], "--carbon-pue NaN"),
            (&["--carbon-wue-l-per-kwh=-1"], "--carbon-wue-l-per-kwh -1"),
            (&["--carbon-ewif-l-per-kwh=1001"], "--carbon-ewif-l-per-kwh 1001"),
            (&["--carbon-cfe-percent=100.1"], "--carbon-cfe-percent 100.1"),
            (&["--carbon-zone=XX"], "there are no intensities of zone 'XX'"),
            (
                &["--carbon-zone=FR", "--carbon-provider=gb"],
                "--carbon-provider gb has GB only",
            ),
            (
                &["--carbon-provider=gb"],
                "--carbon-provider gb needs --carbon-zone",
            ),
            (
                &["--carbon-provider=csv", "--carbon-zone=own"],
                "--carbon-provider csv needs --carbon-csv",
            ),
            (
                &["--carbon-provider=electricity-maps", "--carbon-zone=DE"],
                "--carbon-provider electricity-maps needs --carbon-electricity-maps-key",
            ),
            (
                &[
                    "--carbon-watttime-region=CAISO_NORTH",
                    "--carbon-watttime-user=me",
                ],
                "--carbon-watttime-region needs --carbon-watttime-password",
            ),
            (
                &["--carbon-watttime-user=me", "--carbon-watttime-password=secret"],
                "--carbon-watttime-user needs --carbon-watttime-region",
            ),
            (
                &["--carbon-zone=DE", "--carbon-csv=factors.csv"],
                "--carbon-csv needs --carbon-provider csv",
            ),
            (
                &[
                    "--carbon-zone=GB",
                    "--carbon-provider=gb",
                    "--carbon-electricity-maps-key=secret",
                ],
                "--carbon-electricity-maps-key needs --carbon-provider electricity-maps",
            ),
        ];
        for (flags, expected) in cases {
            let said: Vec<_> = carbon(flags).check().iter().map(ToString::to_string).collect();
            assert!(
                said.len() == 1 && said[0].contains(expected),
                "{flags:?}: {said:?}"
            );
        }
    }

    #[test]
    fn masses_are_three_numbers_that_do_not_fall() {
        for bad in [
            "",
            "1",
            "1-2",
            "1-2-3-4",
            "3-2-1",
            "a-b-c",
            "1-2-1000000001",
            "-1-2-3",
        ] {
            assert!(bad.parse::<Kilograms>().is_err(), "{bad}");
        }
        assert_eq!(
            "1-1-1000000000".parse::<Kilograms>().unwrap().to_string(),
            "1-1-1000000000"
        );
    }
}
