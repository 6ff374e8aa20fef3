//! What the host knows of its meters now: for operators and auditors, never for tenants.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::energy::{FaultKind, Reading};
use energy::{Candidate, Metered};

use super::compare::{Compared, Comparing};

/// The meters as they are, and all that might have been one.
pub struct Meters {
    candidates: Vec<Candidate>,
    description: String,
    roots: Mutex<BTreeMap<String, Seen>>,
    comparing: Mutex<Comparing>,
}

/// A root as it was seen last.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its last good reading; none if there was none yet.
    pub reading: Option<Reading>,
    /// Mean power between the last two readings, in microwatts.
    pub power_uw: Option<u64>,
    /// Whether it measures the whole machine and is not billed.
    pub calibrates: bool,
    /// What is wrong with it now.
    pub fault: Option<FaultKind>,
}

impl Meters {
    /// What was found, and its meters in words.
    pub fn new(candidates: Vec<Candidate>, described: &[String]) -> Self {
        Self {
            candidates,
            description: described.join("; "),
            roots: Mutex::default(),
            comparing: Mutex::default(),
        }
    }

    /// All that was looked at when the host started.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Those that are read, in words.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Every root that is read, by name.
    pub fn roots(&self) -> BTreeMap<String, Seen> {
        self.seen().clone()
    }

    /// Whether a meter of the whole machine is read beside the roots.
    pub fn calibrates(&self) -> bool {
        self.seen().values().any(|seen| seen.calibrates)
    }

    /// What the roots say together beside the meter of the whole machine, where there is one.
    pub fn compared(&self) -> Option<Compared> {
        self.comparing().compared().cloned()
    }

    /// Takes in a look at all meters, and tells the operator what is new.
    pub fn note(&self, metered: &Metered) {
        if let Some(news) = self.comparing().note(metered) {
            tell(&news);
        }
        let mut roots = self.seen();
        for (reading, calibrates) in metered
            .readings
            .iter()
            .map(|reading| (reading, false))
            .chain(metered.calibrating.iter().map(|reading| (reading, true)))
        {
            let seen = roots.entry(reading.root.name.clone()).or_insert(Seen::NOTHING);
            seen.take(reading, calibrates);
        }
        for fault in &metered.faults {
            let seen = roots.entry(fault.root.clone()).or_insert(Seen::NOTHING);
            (seen.fault, seen.power_uw) = (Some(fault.kind), None);
        }
        for change in &metered.changes {
            let (root, code, words) = (&change.root, change.code, &change.words);
            let seen = roots.entry(root.clone()).or_insert(Seen::NOTHING);
            match change.fault {
                // In no slice, so it is not among the faults above.
                Some(kind) if seen.calibrates => {
                    (seen.fault, seen.power_uw) = (Some(kind), None);
                    tracing::warn!(root, code, "{words}; it is not billed");
                }
                Some(_) => {
                    tracing::warn!(
                        root,
                        code,
                        "{words}; its energy is nobody's until it is read again"
                    );
                }
                None => tracing::info!(root, code, "{words}"),
            }
        }
    }

    fn comparing(&self) -> MutexGuard<'_, Comparing> {
        self.comparing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That the parts take more than the whole, or no longer do.
fn tell(news: &Compared) {
    let (wall, percent) = (&news.wall, news.ratio_ppm / 10_000);
    if news.exceeds {
        tracing::warn!(
            wall,
            code = "meter_roots_exceed_wall",
            "the roots say {percent} % of what '{wall}' measures of the whole machine: one of them is counted twice, \
             is off, or is not behind that meter (`wattle meter list`)"
        );
    } else {
        tracing::info!(
            wall,
            code = "meter_roots_within_wall",
            "the roots say {percent} % of what '{wall}' measures of the whole machine: they fit again"
        );
    }
}

impl Seen {
    const NOTHING: Self = Self {
        reading: None,
        power_uw: None,
        calibrates: false,
        fault: None,
    };

    fn take(&mut self, now: &Reading, calibrates: bool) {
        let before = self.reading.replace(now.clone());
        self.power_uw = before.and_then(|before| power_uw(&before, now));
        (self.calibrates, self.fault) = (calibrates, None);
    }
}

/// Mean power between two readings of one boot, in microwatts.
fn power_uw(before: &Reading, now: &Reading) -> Option<u64> {
    let energy_uj = now.counter_uj.checked_sub(before.counter_uj)?;
    let span_ns = now
        .at_ns
        .checked_sub(before.at_ns)
        .filter(|&span_ns| span_ns > 0)?;
    if before.boot_id != now.boot_id {
        return None;
    }
    u64::try_from(u128::from(energy_uj) * 1_000_000_000 / u128::from(span_ns)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::energy::{MeterFault, Provenance, Root};

    fn reading(at_ns: u64, counter_uj: u64) -> Reading {
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
            at_ns,
            counter_uj,
            floor_uw: 0,
            state: Vec::new(),
        }
    }

    #[test]
    fn power_is_known_between_two_good_readings() {
        let meters = Meters::new(Vec::new(), &["one".into(), "two".into()]);
        assert_eq!(meters.description(), "one; two");
        let look = |readings: Vec<Reading>, faults: Vec<MeterFault>| {
            let (calibrating, changes) = (Vec::new(), Vec::new());
            meters.note(&Metered {
                readings,
                calibrating,
                faults,
                changes,
            });
            let seen = meters.roots()["package-0"].clone();
            (seen.power_uw, seen.fault)
        };
        assert_eq!(look(vec![reading(0, 5)], vec![]), (None, None));
        assert_eq!(
            look(vec![reading(500_000_000, 1_005)], vec![]),
            (Some(2_000), None)
        );
        let fault = MeterFault {
            root: "package-0".into(),
            kind: FaultKind::Silent,
        };
        assert_eq!(look(vec![], vec![fault]), (None, Some(FaultKind::Silent)));
        assert_eq!(
            look(vec![reading(2_500_000_000, 3_005)], vec![]),
            (Some(1_000), None)
        );
    }
}
