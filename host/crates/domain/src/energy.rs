//! Readings of meters and of the machine's activity.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How a figure came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// Read from a hardware counter.
    Measured,
    /// Computed from use by a power model.
    Modelled,
    /// Guessed where nothing better was to be had.
    Estimated,
}

impl Provenance {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Modelled => "modelled",
            Self::Estimated => "estimated",
        }
    }
}

/// A source of energy readings: one root per physical joule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The root's name on its node, such as `package-0` or `modelled`.
    pub name: String,
    /// The kind of meter, such as `modelled`.
    pub kind: String,
    /// How its readings come about.
    pub provenance: Provenance,
    /// Relative uncertainty (one standard deviation) in parts per million.
    pub uncertainty_ppm: u32,
    /// The version of the model behind it.
    pub model_version: u32,
}

/// A meter's counter at an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The root that was read.
    pub root: Root,
    /// The boot in which the counter counts.
    pub boot_id: Uuid,
    /// Nanoseconds since boot, suspended time included.
    pub at_ns: u64,
    /// The unwrapped counter in microjoules: never falls within a boot.
    pub counter_uj: u64,
    /// The power that the root takes with nothing to do, in microwatts, as known at this reading.
    pub floor_uw: u64,
    /// What the meter itself needs to go on after a restart, opaque to everyone else.
    pub state: Vec<u64>,
}

/// Why a root has no reading in a slice, or one that does not say when its energy was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The meter did not answer in time. Its counter goes on: nothing is lost.
    Silent,
    /// The meter cannot be read. Nothing is lost if it comes back.
    Unreadable,
    /// The meter answered something that is no reading.
    Malformed,
    /// The counter ran backwards.
    Fell,
    /// The counter grew by more than the root can take.
    Jumped,
    /// The counter goes on from another place than it was at: what was taken in between is not known.
    Rebased,
    /// The machine slept, or too much time passed between two reads: what was taken meanwhile is not known.
    Gap,
    /// The counter stands still although the machine works.
    StoodStill,
}

impl FaultKind {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
            Self::Fell => "fell",
            Self::Jumped => "jumped",
            Self::Rebased => "rebased",
            Self::Gap => "gap",
            Self::StoodStill => "stood_still",
        }
    }

    /// All kinds, for whoever reads their names.
    pub const ALL: [Self; 8] = [
        Self::Silent,
        Self::Unreadable,
        Self::Malformed,
        Self::Fell,
        Self::Jumped,
        Self::Rebased,
        Self::Gap,
        Self::StoodStill,
    ];
}

/// What was wrong with a root in a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MeterFault {
    /// The root's name.
    pub root: String,
    /// What it was.
    pub kind: FaultKind,
}

/// CPU time since boot, by who used it, in nanoseconds: cumulative counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// All CPUs of the machine, steal included.
    pub machine_ns: u64,
    /// The host process and its children, ended ones included.
    pub host_ns: u64,
    /// The host's own Postgres, backends included.
    pub postgres_ns: u64,
}

impl Activity {
    /// What was used after `earlier`. Counters of processes can fall when these end; that counts as none.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            machine_ns: self.machine_ns.saturating_sub(earlier.machine_ns),
            host_ns: self.host_ns.saturating_sub(earlier.host_ns),
            postgres_ns: self.postgres_ns.saturating_sub(earlier.postgres_ns),
        }
    }
}
