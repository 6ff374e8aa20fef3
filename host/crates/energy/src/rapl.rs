//! RAPL, the energy counters of CPUs, through the kernel's powercap files.
//!
//! **What is counted.** Each physical joule once: every CPU package, and its memory (`dram`), which stands
//! below the package in the tree but is not in its counter. `core`, `uncore` and other subzones are inside
//! their package and never counted. MMIO zones are the same packages by another way and stand in only for a
//! package that the MSR zones lack. Dies that mirror one counter (AMD Zen 1 and 2) are found by reading.
//! `psys`, the whole platform, overlaps all of these. It is left wherever a package can be read: most servers
//! have none, it means what the maker of the board connected to it, and it says nothing of where in the
//! machine energy went. It is taken where it is all there is.
//!
//! **Wraps.** A package's counter wraps after some minutes at full load. How long it may go unread follows
//! from `max_energy_range_uj` and the most power that the zone can take: twice the largest limit that the
//! zone states, and never less than a bound that no part of its kind comes near. A bound too low would lose
//! real energy, one too high only asks for reads more often (see [`Meter::period`]).

mod survey;

use std::path::Path;
use std::time::Duration;

use domain::energy::{Provenance, Reading, Root};

use crate::model::watts;
use crate::sensor::{self, Quantity, Sensor, Spec};
use crate::tally::PowerBound;
use crate::{Meter, MeterError};

pub(crate) use survey::survey;
use survey::{Kind, Zone};

/// How long a counter may stand still while the machine works. It is refreshed every millisecond (Intel SDM
/// vol. 3, "RAPL Interfaces").
const STILL_AFTER: Duration = Duration::from_secs(10);

/// A judgement: no maker states an error. Khan et al., "RAPL in Action" (2018), find that packages follow
/// what is measured at the wall closely from Haswell on; AMD's Zen 2 counts by a model (Schöne et al. 2021).
const PACKAGE_PPM: u32 = 50_000;

/// A judgement too: Desrochers et al., "A Validation of DRAM RAPL Power Measurements" (2016), find an offset
/// that is larger when memory is idle and smaller on servers.
const DRAM_PPM: u32 = 200_000;

/// `psys` means what the maker of the board connected to it.
const PLATFORM_PPM: u32 = 200_000;

/// What to grant to whom may not read a counter.
const ADVICE: &str = "run the host as root or with the capability CAP_DAC_READ_SEARCH (for systemd, \
                      AmbientCapabilities=CAP_DAC_READ_SEARCH); Linux lets only these read it since 5.10, as \
                      fine readings give away what other processes compute (CVE-2020-8694)";

/// A meter of one zone.
pub struct RaplMeter {
    sensor: Sensor,
}

impl RaplMeter {
    /// A meter of `zone` under the name of `root`.
    fn new(zone: &Zone, root: &str) -> Result<Self, MeterError> {
        let uncertainty_ppm = match zone.kind {
            Kind::Dram => DRAM_PPM,
            Kind::Platform => PLATFORM_PPM,
            Kind::Package | Kind::Inside | Kind::Unknown => PACKAGE_PPM,
        };
        let root = Root {
            name: root.into(),
            kind: "rapl".into(),
            provenance: Provenance::Measured,
            uncertainty_ppm,
            model_version: 1,
        };
        let sensor = Sensor::new(Spec {
            root,
            path: zone.energy_path(),
            quantity: Quantity::EnergyUj,
            // What it takes with nothing to do is to be learnt.
            floor_uw: 0,
            bound: bound(zone),
            highest_uj: Some(zone.highest_uj()?),
            sleep_loses: true,
        })?;
        Ok(Self { sensor })
    }
}

impl Meter for RaplMeter {
    fn read(&mut self) -> Result<Vec<Reading>, MeterError> {
        Ok(vec![self.sensor.read().map_err(advise)?])
    }

    fn resume(&mut self, last: &[Reading]) {
        self.sensor.resume(last);
    }

    fn roots(&self) -> Vec<Root> {
        vec![self.sensor.root().clone()]
    }

    fn period(&self) -> Option<Duration> {
        self.sensor.period()
    }

    fn still_after(&self) -> Option<Duration> {
        Some(STILL_AFTER)
    }

    fn describe(&self) -> String {
        let bound = self.sensor.bound();
        format!(
            "root '{}', RAPL counter {}, at most {} believed ({})",
            self.sensor.root().name,
            self.sensor.path().display(),
            watts(bound.power_uw),
            bound.source
        )
    }
}

/// Says what to grant where the kernel refuses.
fn advise(error: MeterError) -> MeterError {
    match error {
        MeterError::Io { path, source } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            MeterError::Denied { path, advice: ADVICE }
        }
        other => other,
    }
}

/// The zone's counter now.
fn raw_uj(zone: &Zone) -> Result<u64, MeterError> {
    sensor::number(&zone.energy_path(), Quantity::EnergyUj).map_err(advise)
}

/// Firmware states limits of terawatts for "no limit": more than this is none.
const MOST_UW: u64 = 4_000_000_000;

/// The most power that the zone is believed to take.
fn bound(zone: &Zone) -> PowerBound {
    // Twice what the largest of a kind is sold with today, 500 W for a CPU and some 250 W for the memory of
    // a socket; a board with eight sockets for the platform.
    let (least_uw, source) = match zone.kind {
        Kind::Dram => (500_000_000, "no socket's memory takes more"),
        Kind::Platform => (MOST_UW, "no platform with such a counter takes more"),
        Kind::Package | Kind::Inside | Kind::Unknown => (1_000_000_000, "no CPU package takes more"),
    };
    let stated =
        largest_limit(&zone.path).map(|(file, limit_uw)| (file, limit_uw.saturating_mul(2).min(MOST_UW)));
    match stated {
        Some((file, power_uw)) if power_uw > least_uw => PowerBound {
            power_uw,
            source: format!("twice the zone's {file}, or no limit"),
        },
        _ => PowerBound {
            power_uw: least_uw,
            source: source.into(),
        },
    }
}

/// The largest limit that a zone states and the file that does so: a package has up to three constraints.
fn largest_limit(zone: &Path) -> Option<(String, u64)> {
    let files = (0..4).flat_map(|n| {
        [
            format!("constraint_{n}_max_power_uw"),
            format!("constraint_{n}_power_limit_uw"),
        ]
    });
    let stated = files.filter_map(|file| {
        let limit_uw = sensor::number(&zone.join(&file), Quantity::PowerUw).ok()?;
        Some((file, limit_uw))
    });
    stated.max_by_key(|(_, limit_uw)| *limit_uw)
}

#[cfg(test)]
mod tests;
