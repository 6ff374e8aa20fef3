//! A meter that someone else keeps in a file: one decimal number, a counter in microjoules.

use std::fs;
use std::path::PathBuf;

use domain::energy::{Provenance, Reading, Root};
use uuid::Uuid;

use crate::{Meter, MeterError, boot_id, boottime_ns, root_lock};

/// A meter with one root whose counter stands in a file.
pub struct FileMeter {
    root: Root,
    path: PathBuf,
    floor_uw: u64,
    boot_id: Uuid,
    last_uj: u64,
}

impl FileMeter {
    /// A meter over `path`. The file does not say what the machine takes with nothing to do, nor how
    /// sure it is, so the caller does: in microwatts, and in parts per million (one standard deviation).
    pub fn new(
        root_name: impl Into<String>,
        path: impl Into<PathBuf>,
        floor_uw: u64,
        uncertainty_ppm: u32,
    ) -> Result<Self, MeterError> {
        let name = root_name.into();
        root_lock::check_name(&name)?;
        let (kind, provenance) = ("file".into(), Provenance::Measured);
        let root = Root {
            name,
            kind,
            provenance,
            uncertainty_ppm,
            model_version: 1,
        };
        Ok(Self {
            root,
            path: path.into(),
            floor_uw,
            boot_id: boot_id()?,
            last_uj: 0,
        })
    }
}

impl Meter for FileMeter {
    fn read(&mut self) -> Result<Vec<Reading>, MeterError> {
        let text = fs::read_to_string(&self.path).map_err(MeterError::io(&self.path))?;
        let malformed = |_| MeterError::Malformed {
            path: self.path.clone(),
            expected: "counter in microjoules",
        };
        let counter_uj: u64 = text.trim().parse().map_err(malformed)?;
        if counter_uj < self.last_uj {
            let (root, before_uj) = (self.root.name.clone(), self.last_uj);
            return Err(MeterError::Fell {
                root,
                before_uj,
                now_uj: counter_uj,
            });
        }
        self.last_uj = counter_uj;
        Ok(vec![Reading {
            root: self.root.clone(),
            boot_id: self.boot_id,
            at_ns: boottime_ns(),
            counter_uj,
            floor_uw: self.floor_uw,
            state: Vec::new(),
        }])
    }

    fn resume(&mut self, last: &[Reading]) {
        let ours = |last: &&Reading| last.root.name == self.root.name && last.boot_id == self.boot_id;
        if let Some(last) = last.iter().find(ours) {
            self.last_uj = last.counter_uj;
        }
    }

    fn describe(&self) -> String {
        format!("root '{}', read from {}", self.root.name, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_counter_and_may_not_fall_even_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("energy_uj");
        fs::write(&path, "1234\n").unwrap();
        let meter = || FileMeter::new("wall", &path, 9, 10_000).unwrap();
        let mut first = meter();
        let last = first.read().unwrap();
        assert_eq!((last[0].counter_uj, last[0].floor_uw), (1234, 9));
        fs::write(&path, "1233").unwrap();
        assert_eq!(first.read().unwrap_err().code(), "meter_fell");
        let mut second = meter();
        second.resume(&last);
        assert_eq!(second.read().unwrap_err().code(), "meter_fell");
        fs::write(&path, "a lot").unwrap();
        assert_eq!(second.read().unwrap_err().code(), "meter_malformed");
        fs::write(&path, "1235").unwrap();
        assert_eq!(second.read().unwrap()[0].counter_uj, 1235);
    }
}
