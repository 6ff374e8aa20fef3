//! A meter that someone else keeps in a file, so that any site can bring its own: one decimal number, a
//! counter in microjoules or power in watts.
//!
//! The file should be written at least once a slice: a counter that moves more seldom charges all that was
//! taken since to the calls of the slice in which it moves.

use std::path::PathBuf;
use std::time::Duration;

use domain::energy::{Provenance, Reading, Root};

use crate::model::watts;
use crate::sensor::{Quantity, Sensor, Spec};
use crate::tally::PowerBound;
use crate::{Meter, MeterError};

/// What a site's own meter measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covers {
    /// The whole machine, such as a plug: its parts are never counted beside it.
    Machine,
    /// Something that no other meter of the machine sees, such as a box of accelerators with a plug of its own.
    Apart,
}

/// A site's own meter. The file says a number and nothing else, so the site says the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSource {
    /// The root's name.
    pub root: String,
    /// Where the number stands.
    pub path: PathBuf,
    /// What the number is.
    pub quantity: Quantity,
    /// What it measures.
    pub covers: Covers,
    /// Power with nothing to do, in microwatts; 0 where it is not known.
    pub floor_uw: u64,
    /// The most power that is believed, in microwatts.
    pub most_uw: u64,
    /// Relative uncertainty (one standard deviation) in parts per million.
    pub uncertainty_ppm: u32,
    /// How long the number may stay the same while the machine works.
    pub still_after: Duration,
}

/// A meter with one root whose number stands in a file.
pub struct FileMeter {
    sensor: Sensor,
    still_after: Duration,
}

impl FileMeter {
    /// A meter over a site's file, which is not read yet.
    pub fn new(source: &FileSource) -> Result<Self, MeterError> {
        let root = Root {
            name: source.root.clone(),
            kind: "file".into(),
            provenance: Provenance::Measured,
            uncertainty_ppm: source.uncertainty_ppm,
            model_version: 1,
        };
        let bound = PowerBound {
            power_uw: source.most_uw,
            source: "configured".into(),
        };
        let sensor = Sensor::new(Spec {
            root,
            path: source.path.clone(),
            quantity: source.quantity,
            floor_uw: source.floor_uw,
            bound,
            highest_uj: None,
            // Who writes the file need not be on this machine.
            sleep_loses: false,
        })?;
        Ok(Self {
            sensor,
            still_after: source.still_after,
        })
    }
}

impl Meter for FileMeter {
    fn read(&mut self) -> Result<Vec<Reading>, MeterError> {
        Ok(vec![self.sensor.read()?])
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
        Some(self.still_after)
    }

    fn describe(&self) -> String {
        format!(
            "root '{}', read from {}, at most {} believed (configured)",
            self.sensor.root().name,
            self.sensor.path().display(),
            watts(self.sensor.bound().power_uw)
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::tally::Moment;

    /// At most 1 kW, 9 W with nothing to do.
    pub(crate) fn source(path: &Path, quantity: Quantity) -> FileSource {
        FileSource {
            root: "plug".into(),
            path: path.to_owned(),
            quantity,
            covers: Covers::Machine,
            floor_uw: 9_000_000,
            most_uw: 1_000_000_000,
            uncertainty_ppm: 10_000,
            still_after: Duration::from_secs(300),
        }
    }

    fn meter(path: &Path, quantity: Quantity) -> FileMeter {
        FileMeter::new(&source(path, quantity)).unwrap()
    }

    fn at(meter: &mut FileMeter, at_s: u64) {
        let moment = Moment {
            at_ns: at_s * 1_000_000_000,
            asleep_ns: 0,
        };
        meter.sensor.set_clock(move || moment);
    }

    #[test]
    fn the_file_is_the_counter_and_may_not_fall_even_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("energy_uj");
        fs::write(&path, "1234\n").unwrap();
        let mut first = meter(&path, Quantity::EnergyUj);
        let last = first.read().unwrap();
        assert_eq!((last[0].counter_uj, last[0].floor_uw), (1_234, 9_000_000));
        fs::write(&path, "1233").unwrap();
        assert_eq!(first.read().unwrap_err().code(), "meter_fell");
        let mut second = meter(&path, Quantity::EnergyUj);
        second.resume(&last);
        assert_eq!(second.read().unwrap_err().code(), "meter_fell");
        fs::write(&path, "a lot").unwrap();
        assert_eq!(second.read().unwrap_err().code(), "meter_malformed");
        // It was a slip: nothing is lost.
        fs::write(&path, "1240").unwrap();
        assert_eq!(second.read().unwrap()[0].counter_uj, 1_240);
    }

    #[test]
    fn a_file_that_begins_anew_is_followed_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("energy_uj");
        fs::write(&path, "1000").unwrap();
        let mut meter = meter(&path, Quantity::EnergyUj);
        meter.read().unwrap();
        let mut next = |text: &str| {
            fs::write(&path, text).unwrap();
            meter
                .read()
                .map(|read| read[0].counter_uj)
                .map_err(|error| error.code())
        };
        assert_eq!(next("5"), Err("meter_fell"));
        assert_eq!(next("7"), Err("meter_rebased"));
        assert_eq!(next("10"), Ok(1_005), "2 and 3 µJ are sure");
    }

    #[test]
    fn watts_are_integrated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watts");
        fs::write(&path, "100").unwrap();
        let mut first = meter(&path, Quantity::PowerW);
        at(&mut first, 10);
        assert_eq!(first.read().unwrap()[0].counter_uj, 0);
        fs::write(&path, "200.5").unwrap();
        at(&mut first, 12);
        let last = first.read().unwrap();
        assert_eq!(last[0].counter_uj, 300_500_000);
        fs::write(&path, "1000.1").unwrap();
        assert_eq!(first.read().unwrap_err().code(), "meter_jumped");
        // A restart in the same boot bridges what was between.
        fs::write(&path, "0.5").unwrap();
        let mut second = meter(&path, Quantity::PowerW);
        second.resume(&last);
        at(&mut second, 14);
        assert_eq!(second.read().unwrap()[0].counter_uj, 501_500_000);
    }

    #[test]
    fn what_a_driver_says_that_has_nothing_to_say_is_no_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counter");
        let mut meter = meter(&path, Quantity::EnergyUj);
        for (text, code) in [
            ("18446744073709551615", Err("meter_absurd")),
            ("9223372036854775807", Err("meter_absurd")),
            ("4611686018427387904", Err("meter_absurd")),
            ("4611686018427387903", Ok(4_611_686_018_427_387_903)),
        ] {
            fs::write(&path, text).unwrap();
            let counter = meter.read().map(|readings| readings[0].counter_uj);
            assert_eq!(counter.map_err(|error| error.code()), code, "{text}");
        }
    }
}
