//! What the host has learnt of what use costs, kept over restarts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::Usage;
use domain::calibrate::Calibration;
use domain::energy::{Reading, Root};
use domain::estimator::{Banded, Estimator, RootModel};
use domain::posting::{Call, Slice};
use domain::weights::RootWeights;

use crate::secret_file;

/// The version of the file: a change of what the estimator holds needs a new one.
const VERSION: u8 = 2;

/// The estimator, behind a lock, and its file.
pub struct Learnt {
    path: PathBuf,
    estimator: Mutex<Estimator>,
    /// Held while the file is written: the last that is written is the last that was learnt.
    writing: Mutex<()>,
    /// Whether a slice was learnt from since the start.
    begun: AtomicBool,
}

impl Learnt {
    /// Goes on with what is in the file. Whatever cannot be read there is learnt again.
    pub fn open(path: PathBuf) -> Self {
        let estimator = match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "what was learnt of the meters cannot be read: it is learnt again");
                Estimator::default()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Estimator::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what was learnt of the meters cannot be read: it is learnt again");
                Estimator::default()
            }
        };
        Self {
            path,
            estimator: Mutex::new(estimator),
            writing: Mutex::default(),
            begun: AtomicBool::new(false),
        }
    }

    /// Writes it down; that it fails is said, and costs what was learnt since the last time.
    pub fn keep(&self) {
        if let Err(error) = self.write() {
            tracing::warn!(%error, "what was learnt of the meters could not be kept");
        }
    }

    /// Writes it down.
    pub fn write(&self) -> std::io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Calls ask for their provisional figures meanwhile.
        let estimator = self.estimator().clone();
        let bytes = postcard::to_extend(&estimator, vec![VERSION]).map_err(std::io::Error::other)?;
        secret_file::write(&self.path, &bytes)
    }

    /// Starts anew with `root`, from what known loads have shown of it.
    pub fn calibrate(&self, root: &Root, calibration: &Calibration) {
        self.estimator().calibrate(root, calibration);
    }

    /// Learns from a slice, or a part of one, and the readings before it.
    pub fn observe(&self, before: &[Reading], slice: &Slice) {
        self.estimator().observe(before, slice);
        self.begun.store(true, Relaxed);
    }

    /// Whether a slice was learnt from since the start.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Relaxed)
    }

    /// By what a slice is shared, from what earlier ones and its parts have shown.
    pub fn weights(&self, before: &[Reading], slice: &Slice) -> Vec<RootWeights> {
        self.estimator().weights(before, slice)
    }

    /// What `usage` of `call` will probably cost, in microjoules; none before the first slice.
    pub fn provisional_uj(&self, call: &Call, usage: &Usage) -> Option<u64> {
        self.estimator().provisional_uj(call, usage)
    }

    /// What is known of each root, and what a unit of fuel costs, in femtojoules.
    pub fn models(&self) -> (Vec<RootModel>, Option<Banded>) {
        let estimator = self.estimator();
        (estimator.roots(), estimator.fuel_cost_fj())
    }

    fn estimator(&self) -> MutexGuard<'_, Estimator> {
        self.estimator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode(bytes: &[u8]) -> Option<Estimator> {
    let rest = bytes.strip_prefix(&[VERSION])?;
    match postcard::take_from_bytes(rest) {
        Ok((estimator, [])) => Some(estimator),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::energy::{Activity, Provenance};
    use time::OffsetDateTime;

    fn reading(at_s: u64) -> Reading {
        let root = Root {
            name: "package-0".into(),
            kind: "rapl".into(),
            provenance: Provenance::Measured,
            uncertainty_ppm: 50_000,
            model_version: 1,
        };
        Reading {
            root,
            boot_id: uuid::Uuid::nil(),
            at_ns: at_s * 1_000_000_000,
            counter_uj: at_s * (20_000_000 + at_s % 7 * 1_000_000),
            floor_uw: 0,
            state: Vec::new(),
        }
    }

    #[test]
    fn what_was_learnt_outlives_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("learnt");
        let learnt = Learnt::open(path.clone());
        assert!(learnt.models().0.is_empty() && !learnt.has_begun());
        for at_s in 1..30 {
            let slice = Slice {
                index: at_s,
                at: OffsetDateTime::UNIX_EPOCH,
                readings: vec![reading(at_s)],
                activity: Activity {
                    machine_ns: at_s % 7 * 100_000_000,
                    ..Activity::default()
                },
                claims: Vec::new(),
                faults: Vec::new(),
                weights: Vec::new(),
            };
            learnt.observe(&[reading(at_s - 1)], &slice);
        }
        learnt.keep();
        let again = Learnt::open(path.clone());
        assert_eq!(again.models(), learnt.models());
        // But for the parts of the slice that was under way.
        let kept = |learnt: &Learnt| postcard::to_stdvec(&*learnt.estimator()).unwrap();
        assert_eq!(kept(&again), kept(&learnt));
        for spoilt in [&b""[..], b"\x07", b"\x01", b"\x01junk"] {
            std::fs::write(&path, spoilt).unwrap();
            assert!(Learnt::open(path.clone()).models().0.is_empty(), "{spoilt:?}");
        }
    }
}
