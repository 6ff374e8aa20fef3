//! One number in a file that the kernel, or someone else, keeps: a counter of energy, or power now.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::energy::{Reading, Root};
#[cfg(test)]
use uuid::Uuid;

use crate::MeterError;
use crate::count::{Count, Says};
#[cfg(test)]
use crate::tally::Moment;
use crate::tally::PowerBound;

/// No number is longer; what comes after is not read.
const MAX_BYTES: u64 = 256;

/// What a file's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// A counter in whole microjoules.
    EnergyUj,
    /// Power in whole microwatts, to be integrated over time.
    PowerUw,
    /// Power in watts with decimals, to be integrated over time.
    PowerW,
}

/// A root whose number stands in a file.
pub(crate) struct Sensor {
    path: PathBuf,
    quantity: Quantity,
    count: Count,
}

/// How to read a root's file.
pub(crate) struct Spec {
    pub(crate) root: Root,
    pub(crate) path: PathBuf,
    pub(crate) quantity: Quantity,
    pub(crate) floor_uw: u64,
    pub(crate) bound: PowerBound,
    pub(crate) highest_uj: Option<u64>,
    pub(crate) sleep_loses: bool,
}

impl Sensor {
    pub(crate) fn new(spec: Spec) -> Result<Self, MeterError> {
        let says = match spec.quantity {
            Quantity::EnergyUj => Says::Energy {
                highest_uj: spec.highest_uj,
                sleep_loses: spec.sleep_loses,
            },
            Quantity::PowerUw | Quantity::PowerW => Says::Power,
        };
        Ok(Self {
            path: spec.path,
            quantity: spec.quantity,
            count: Count::new(spec.root, spec.floor_uw, spec.bound, says)?,
        })
    }

    #[cfg(test)]
    pub(crate) fn set_clock(&mut self, clock: impl Fn() -> Moment + Send + 'static) {
        self.count.set_clock(clock);
    }

    #[cfg(test)]
    pub(crate) fn set_boot_id(&mut self, boot_id: Uuid) {
        self.count.set_boot_id(boot_id);
    }

    pub(crate) fn root(&self) -> &Root {
        self.count.root()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn read(&mut self) -> Result<Reading, MeterError> {
        let value = number(&self.path, self.quantity)?;
        self.count.advance(value)
    }

    pub(crate) fn resume(&mut self, last: &[Reading]) {
        self.count.resume(last);
    }

    /// The longest time between two reads, for a counter that wraps and for power.
    pub(crate) fn period(&self) -> Option<Duration> {
        self.count.period()
    }

    pub(crate) fn bound(&self) -> &PowerBound {
        self.count.bound()
    }
}

/// The file's text without white space around it.
pub(crate) fn text(path: &Path) -> Result<String, MeterError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
        .map_err(MeterError::io(path))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err(malformed(path, "text")),
    }
}

/// The file's number: microjoules or microwatts.
pub(crate) fn number(path: &Path, quantity: Quantity) -> Result<u64, MeterError> {
    let text = text(path)?;
    match quantity {
        Quantity::EnergyUj => text
            .parse()
            .map_err(|_| malformed(path, "counter in microjoules")),
        Quantity::PowerUw => text.parse().map_err(|_| malformed(path, "power in microwatts")),
        Quantity::PowerW => microwatts(&text).ok_or_else(|| malformed(path, "power in watts, 0 or more")),
    }
}

/// The largest power that a file can state: a terawatt. What a root can take is bounded by its own bound.
const MAX_W: f64 = 1e12;

fn microwatts(text: &str) -> Option<u64> {
    let watts: f64 = text.parse().ok()?;
    // Not a number fits no range.
    (0.0..=MAX_W)
        .contains(&watts)
        .then(|| (watts * 1e6).round() as u64)
}

fn malformed(path: &Path, expected: &'static str) -> MeterError {
    MeterError::Malformed {
        path: path.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn numbers_are_read_and_all_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        let read = |bytes: &[u8], quantity| {
            fs::write(&path, bytes).unwrap();
            number(&path, quantity).map_err(|error| error.code())
        };
        let (energy, power, watts) = (Quantity::EnergyUj, Quantity::PowerUw, Quantity::PowerW);
        let bad = Err("meter_malformed");
        let long = "1".repeat(1_000_000);
        let cases: [(&[u8], _, _); 20] = [
            (b"1234\n", energy, Ok(1_234)),
            (b"18446744073709551615", energy, Ok(u64::MAX)),
            // 10^15 J.
            (b"1000000000000000000000", energy, bad),
            (b"-1", energy, bad),
            (b"1.5", energy, bad),
            (b"", energy, bad),
            (b"a lot", energy, bad),
            (b"\xff\xfe", energy, bad),
            (long.as_bytes(), energy, bad),
            (b"12 13", energy, bad),
            (b"73500000", power, Ok(73_500_000)),
            (b"-3", power, bad),
            (b"132.5\n", watts, Ok(132_500_000)),
            (b"0", watts, Ok(0)),
            (b"0.0000004", watts, Ok(0)),
            (b"1e3", watts, Ok(1_000_000_000)),
            (b"-0.1", watts, bad),
            (b"NaN", watts, bad),
            (b"inf", watts, bad),
            (b"1e15", watts, bad),
        ];
        for (bytes, quantity, expected) in cases {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
            assert_eq!(read(bytes, quantity), expected, "{shown:?} as {quantity:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(number(&path, energy).unwrap_err().code(), "meter_io");
        fs::create_dir(&path).unwrap();
        assert_eq!(number(&path, energy).unwrap_err().code(), "meter_io");
    }
}
