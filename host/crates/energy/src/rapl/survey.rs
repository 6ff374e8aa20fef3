//! Which zones of a powercap tree are counted, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{RaplMeter, raw_uj};
use crate::discover::{Candidate, Verdict};
use crate::sensor::{self, Quantity};
use crate::{Meter as _, MeterError, root_lock};

/// Through the CPUs' model-specific registers, or TPMI on newer servers.
const MSR: &str = "intel-rapl";

/// The same through memory-mapped I/O. AMD's zones have the name of Intel's.
const MMIO: &str = "intel-rapl-mmio";

/// How often two counters are compared: between them `pause` lets the counters move.
const ROUNDS: usize = 5;

/// What a zone measures, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Package,
    Dram,
    /// In its package's counter.
    Inside,
    Platform,
    Unknown,
}

impl Kind {
    fn of(name: &str) -> Self {
        match name {
            "core" | "uncore" => Self::Inside,
            "dram" => Self::Dram,
            "psys" => Self::Platform,
            _ if name.starts_with("package") => Self::Package,
            _ => Self::Unknown,
        }
    }
}

/// A folder with a counter.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    /// The folder's name, such as `intel-rapl:0:1`.
    pub(super) id: String,
    pub(super) path: PathBuf,
    /// What the kernel calls it, such as `package-0`.
    pub(super) name: String,
    pub(super) kind: Kind,
}

impl Zone {
    pub(super) fn energy_path(&self) -> PathBuf {
        self.path.join("energy_uj")
    }

    pub(super) fn highest_uj(&self) -> Result<u64, MeterError> {
        let path = self.path.join("max_energy_range_uj");
        match sensor::number(&path, Quantity::EnergyUj)? {
            0 => Err(MeterError::Malformed {
                path,
                expected: "range above 0",
            }),
            highest_uj => Ok(highest_uj),
        }
    }

    fn is_mmio(&self) -> bool {
        control(&self.id) == MMIO
    }

    /// The zone above it, if it has one: `intel-rapl:0` of `intel-rapl:0:1`.
    fn parent(&self) -> Option<&str> {
        let (parent, _) = self.id.rsplit_once(':')?;
        parent.contains(':').then_some(parent)
    }

    fn subject(&self) -> String {
        format!("{} ({})", self.id, self.name)
    }
}

fn control(id: &str) -> &str {
    id.split(':').next().unwrap_or(id)
}

/// The numbers in a zone's id, or none if it is not one: other things live in the folder too.
fn numbers(id: &str) -> Option<Vec<u32>> {
    let mut parts = id.split(':');
    if !matches!(parts.next(), Some(MSR | MMIO)) {
        return None;
    }
    let numbers: Option<Vec<u32>> = parts.map(|part| part.parse().ok()).collect();
    numbers.filter(|numbers| !numbers.is_empty())
}

/// All zones below `root`, in the order of their numbers. The kernel lists subzones beside their parents
/// and within them; a tree may have either.
fn zones(root: &Path) -> Result<Vec<Zone>, MeterError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if folder == *root => return Err(MeterError::io(root)(error)),
            // It went while we looked.
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let id = entry.file_name().to_string_lossy().into_owned();
            let Some(numbers) = numbers(&id) else {
                continue;
            };
            let name = sensor::text(&path.join("name")).unwrap_or_default();
            let kind = Kind::of(&name);
            // The kernel's entries are links; zones lie at most three deep.
            if numbers.len() < 3 {
                folders.push(path.clone());
            }
            let key = (control(&id).to_owned(), numbers);
            found.entry(key).or_insert(Zone { id, path, name, kind });
        }
    }
    Ok(found.into_values().collect())
}

/// Chooses among the zones below `root`; `pause` waits for counters to move, some milliseconds.
pub(crate) fn survey(root: &Path, pause: &mut dyn FnMut()) -> (Vec<RaplMeter>, Vec<Candidate>) {
    let zones = match zones(root) {
        Ok(zones) if !zones.is_empty() => zones,
        _ => {
            let why = "the kernel shows no counter of a CPU: a virtual machine has none; elsewhere the module \
                       intel_rapl_msr is missing";
            let candidate = Candidate::new("rapl", root.display().to_string(), Verdict::Unusable, why);
            return (Vec::new(), vec![candidate]);
        }
    };
    let mut choice = Choice::default();
    let (mmio, msr): (Vec<&Zone>, Vec<&Zone>) = zones.iter().partition(|zone| zone.is_mmio());
    // Packages before what depends on them, and MMIO after what it repeats.
    for zones in [&msr, &mmio] {
        for kind in [Kind::Package, Kind::Dram] {
            for zone in zones.iter().filter(|zone| zone.kind == kind) {
                choice.consider(zone, pause);
            }
        }
    }
    let rest = zones
        .iter()
        .filter(|zone| !matches!(zone.kind, Kind::Package | Kind::Dram));
    rest.for_each(|zone| choice.consider(zone, pause));
    // As the tree lists them, not as they were decided.
    let place = |candidate: &Candidate| zones.iter().position(|zone| zone.subject() == candidate.subject);
    choice.candidates.sort_by_key(place);
    (choice.meters, choice.candidates)
}

#[derive(Default)]
struct Choice {
    meters: Vec<RaplMeter>,
    candidates: Vec<Candidate>,
    /// Packages that are counted.
    packages: Vec<Zone>,
    /// The ids of those, and of the same packages by another way.
    counted: BTreeSet<String>,
    taken: BTreeSet<String>,
}

impl Choice {
    fn consider(&mut self, zone: &Zone, pause: &mut dyn FnMut()) {
        let left = |why: String| Candidate::new("rapl", zone.subject(), Verdict::Left, why);
        let candidate = match self.reason_to_leave(zone, pause) {
            Ok(Some(why)) => left(why),
            Ok(None) => match self.take(zone) {
                Ok(why) => Candidate::new("rapl", zone.subject(), Verdict::Root, why),
                Err(error) => Candidate::unusable("rapl", zone.subject(), &error),
            },
            Err(error) => Candidate::unusable("rapl", zone.subject(), &error),
        };
        if self.taken.contains(&root_name(zone)) {
            self.counted.insert(zone.id.clone());
        }
        self.candidates.push(candidate);
    }

    /// Why a zone is not counted although it may be readable, or that it cannot be read.
    fn reason_to_leave(&self, zone: &Zone, pause: &mut dyn FnMut()) -> Result<Option<String>, MeterError> {
        let why = match zone.kind {
            Kind::Inside => "its energy is in its package's already".to_owned(),
            Kind::Unknown => "nobody says what it measures, so it could count a joule twice".to_owned(),
            Kind::Platform if !self.meters.is_empty() => {
                "the whole platform overlaps the packages, which are read one by one".to_owned()
            }
            Kind::Dram if self.parent_is_left(zone) => "its package is not counted: see there".to_owned(),
            Kind::Package | Kind::Dram if self.taken.contains(&root_name(zone)) => {
                "the same counter by another way is counted already".to_owned()
            }
            Kind::Package => {
                raw_uj(zone)?;
                return self.mirrored(zone, pause);
            }
            Kind::Dram | Kind::Platform => {
                raw_uj(zone)?;
                return Ok(None);
            }
        };
        Ok(Some(why))
    }

    /// A memory's package that was left takes it along: a mirror's memory is a mirror too.
    fn parent_is_left(&self, zone: &Zone) -> bool {
        zone.parent().is_some_and(|parent| !self.counted.contains(parent))
    }

    /// Why a package counts nothing of its own, if one that is counted moves as it does.
    fn mirrored(&self, zone: &Zone, pause: &mut dyn FnMut()) -> Result<Option<String>, MeterError> {
        for package in &self.packages {
            let other = package.subject();
            match compare(package, zone, pause)? {
                Likeness::Apart => {}
                Likeness::Mirror => {
                    return Ok(Some(format!(
                        "it mirrors {other}: {ROUNDS} times both had one value while it moved"
                    )));
                }
                Likeness::Still => {
                    return Ok(Some(format!(
                        "it stands at the value of {other} and neither moves: they may be one"
                    )));
                }
            }
        }
        Ok(None)
    }

    fn take(&mut self, zone: &Zone) -> Result<String, MeterError> {
        let root = root_name(zone);
        root_lock::check_name(&root)?;
        let meter = RaplMeter::new(zone, &root)?;
        let why = format!("counted as {}", meter.describe());
        if zone.kind == Kind::Package {
            self.packages.push(zone.clone());
        }
        self.taken.insert(root);
        self.meters.push(meter);
        Ok(why)
    }
}

/// `package-1` as it is; its memory is `dram-1`.
fn root_name(zone: &Zone) -> String {
    if zone.kind != Kind::Dram {
        return zone.name.clone();
    }
    let above = zone
        .path
        .parent()
        .filter(|_| zone.parent().is_some())
        .map(|above| above.join("name"));
    // Beside its parent or within it: the parent's name tells the socket.
    let beside = zone
        .parent()
        .map(|parent| zone.path.with_file_name(parent).join("name"));
    let parent = [beside, above]
        .into_iter()
        .flatten()
        .find_map(|path| sensor::text(&path).ok());
    match parent.as_deref().and_then(|name| name.strip_prefix("package")) {
        Some(socket) => format!("dram{socket}"),
        None => "dram".to_owned(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    Apart,
    Mirror,
    Still,
}

/// Whether two counters are one. Each round reads the first before and after the second: a mirror's value
/// lies between, every time. Counters of two dies that began together are joules apart a second later, so
/// that one round in which they are not alike decides. What this cannot see is a mirror that the kernel
/// refreshes later than the time between two reads, some microseconds; then both are counted, so a
/// calibrating wall meter is worth having.
fn compare(one: &Zone, other: &Zone, pause: &mut dyn FnMut()) -> Result<Likeness, MeterError> {
    let mut moved = BTreeSet::new();
    for round in 0..ROUNDS {
        if round > 0 {
            pause();
        }
        let (before_uj, between_uj, after_uj) = (raw_uj(one)?, raw_uj(other)?, raw_uj(one)?);
        if !may_be_one(before_uj, between_uj, after_uj) {
            return Ok(Likeness::Apart);
        }
        moved.insert(between_uj);
    }
    Ok(if moved.len() > 1 {
        Likeness::Mirror
    } else {
        Likeness::Still
    })
}

/// Whether the second counter's value can be the first's at an instant between two reads of it. The first
/// that wraps between them says nothing.
fn may_be_one(before_uj: u64, between_uj: u64, after_uj: u64) -> bool {
    after_uj < before_uj || (before_uj..=after_uj).contains(&between_uj)
}

#[cfg(test)]
mod tests {
    use super::may_be_one;

    #[test]
    fn a_mirror_lies_between_two_reads_of_the_other() {
        for (reads, expected) in [
            ([5, 5, 5], true),
            ([5, 5, 9], true),
            ([5, 9, 9], true),
            ([5, 4, 9], false),
            ([5, 10, 9], false),
            // The first wraps.
            ([98, 99, 3], true),
            ([98, 2, 3], true),
        ] {
            let [before_uj, between_uj, after_uj] = reads;
            assert_eq!(may_be_one(before_uj, between_uj, after_uj), expected, "{reads:?}");
        }
    }
}
