//! What can go wrong with a meter.

use std::io;
use std::path::{Path, PathBuf};

use domain::energy::FaultKind;

use crate::model::watts;

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum MeterError {
    /// A file cannot be read or locked.
    #[error("the meter cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A value that no meter has.
    #[error(
        "root '{root}': its meter says {value}, which is no measurement: the driver may have nothing to say"
    )]
    Absurd {
        /// The root.
        root: String,
        /// What it said.
        value: u64,
    },
    /// A file does not say what it should.
    #[error("{path} has no {expected}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is missing from it.
        expected: &'static str,
    },
    /// A file may not be read by this process.
    #[error("the meter may not read {path}: {advice}")]
    Denied {
        /// The file.
        path: PathBuf,
        /// What to grant, in words.
        advice: &'static str,
    },
    /// A counter ran backwards without a new boot. It is not believed.
    #[error(
        "the counter of root '{root}' ran backwards, from {before_uj} to {now_uj} µJ: it is not believed"
    )]
    Fell {
        /// The root.
        root: String,
        /// The counter as it was last believed, in microjoules.
        before_uj: u64,
        /// The counter now, in microjoules.
        now_uj: u64,
    },
    /// More power than the root can take. It is not believed.
    #[error(
        "root '{root}' would have taken {} where at most {} are believed ({bound}): check the sensor",
        watts(*power_uw),
        watts(*most_uw)
    )]
    Jumped {
        /// The root.
        root: String,
        /// What the meter says: over the time since its counter moved, or now, in microwatts.
        power_uw: u64,
        /// The most that is believed, in microwatts.
        most_uw: u64,
        /// Where that comes from.
        bound: String,
    },
    /// A counter goes on from another place than where it was believed.
    #[error(
        "the count of root '{root}' goes on from a new place: what it took since it was last believed is not \
         known, and nobody is charged for it"
    )]
    Rebased {
        /// The root.
        root: String,
    },
    /// The machine slept between two reads, and such a meter does not count meanwhile.
    #[error(
        "the machine slept for {slept_ms} ms: what root '{root}' took since the read before is not known, and \
         nobody is charged for it"
    )]
    Slept {
        /// The root.
        root: String,
        /// How long, in milliseconds.
        slept_ms: u64,
    },
    /// Too much time between two reads to know what was taken.
    #[error(
        "root '{root}' was not read for {span_ms} ms, and only {longest_ms} ms are sure: what it took meanwhile \
         is not known, and nobody is charged for it"
    )]
    Overdue {
        /// The root.
        root: String,
        /// Time since the read before, in milliseconds.
        span_ms: u64,
        /// The longest that leaves no doubt, in milliseconds.
        longest_ms: u64,
    },
    /// A meter does not answer.
    #[error(
        "the meter of root '{root}' did not answer within {patience_ms} ms: it is left alone until it does"
    )]
    Silent {
        /// The root.
        root: String,
        /// How long it was waited for, in milliseconds.
        patience_ms: u64,
    },
    /// The thread of a meter ended.
    #[error("the meter of root '{root}' is gone: start the host again to read it")]
    Ended {
        /// The root.
        root: String,
    },
    /// A counter stands still although the machine works.
    #[error("the counter of root '{root}' has stood still for {span_ms} ms in which the machine worked")]
    StoodStill {
        /// The root.
        root: String,
        /// For how long, in milliseconds.
        span_ms: u64,
    },
    /// Two meters say that they read the same root.
    #[error("root '{0}' would be read by two meters: give one another name, or leave one out")]
    Twice(String),
    /// No thread for a meter.
    #[error("no thread can be started for a meter: {0}")]
    Thread(io::Error),
    /// Another process bills this root.
    #[error("the energy root '{root}' is held by another process, see {path}")]
    RootHeld {
        /// The root.
        root: String,
        /// The lock.
        path: PathBuf,
    },
    /// A root's name cannot stand in a file name.
    #[error(
        "a root's name has 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit, not '{0}'"
    )]
    RootName(String),
    /// A power model that no machine has.
    #[error(
        "the power model takes {idle_uw} µW idle and {max_uw} µW at most: idle must be above 0 and below most"
    )]
    Model {
        /// Power with nothing to do, in microwatts.
        idle_uw: u64,
        /// Power with all CPUs busy, in microwatts.
        max_uw: u64,
    },
    /// The driver of GPUs is not there, or has gone.
    #[error("the driver of NVIDIA's GPUs does not answer through {library}: {words}")]
    GpuDriver {
        /// Its library.
        library: PathBuf,
        /// What it says, and what to do where something can be done.
        words: String,
    },
    /// A driver cannot reach its GPU any more.
    #[error(
        "the GPU of root '{root}' is lost: {words}; if it does not come back, stop the host and reset the GPU \
         or the machine"
    )]
    GpuLost {
        /// The root.
        root: String,
        /// What the driver says.
        words: String,
    },
    /// A driver does not say what a GPU takes.
    #[error("the driver does not say what the GPU of root '{root}' takes: {words}")]
    Gpu {
        /// The root.
        root: String,
        /// What the driver says.
        words: String,
    },
    /// A GPU's counter says what cannot be.
    #[error("the GPU of root '{root}' says that it has taken {energy_mj} mJ: it is not believed")]
    GpuValue {
        /// The root.
        root: String,
        /// The counter in millijoules.
        energy_mj: u64,
    },
    /// A scripted meter was told to fail.
    #[error("the scripted meter was told to fail")]
    Scripted,
}

impl MeterError {
    /// The stable code of the problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "meter_io",
            Self::Absurd { .. } => "meter_absurd",
            Self::Malformed { .. } => "meter_malformed",
            Self::Denied { .. } => "meter_denied",
            Self::Fell { .. } => "meter_fell",
            Self::Jumped { .. } => "meter_jumped",
            Self::Rebased { .. } => "meter_rebased",
            Self::Slept { .. } => "meter_slept",
            Self::Overdue { .. } => "meter_overdue",
            Self::Silent { .. } => "meter_silent",
            Self::Ended { .. } => "meter_ended",
            Self::StoodStill { .. } => "meter_stood_still",
            Self::Twice(_) => "meter_twice",
            Self::Thread(_) => "meter_thread",
            Self::RootHeld { .. } => "meter_root_held",
            Self::RootName(_) => "meter_root_name",
            Self::Model { .. } => "meter_model",
            Self::GpuDriver { .. } => "meter_gpu_driver",
            Self::GpuLost { .. } => "meter_gpu_lost",
            Self::Gpu { .. } => "meter_gpu",
            Self::GpuValue { .. } => "meter_gpu_value",
            Self::Scripted => "meter_scripted",
        }
    }

    /// How a slice is marked that has no reading because of it.
    pub fn fault(&self) -> FaultKind {
        match self {
            Self::Absurd { .. } | Self::Malformed { .. } | Self::GpuValue { .. } => FaultKind::Malformed,
            Self::Fell { .. } => FaultKind::Fell,
            Self::Jumped { .. } => FaultKind::Jumped,
            Self::Rebased { .. } => FaultKind::Rebased,
            Self::Slept { .. } | Self::Overdue { .. } => FaultKind::Gap,
            Self::Silent { .. } => FaultKind::Silent,
            Self::StoodStill { .. } => FaultKind::StoodStill,
            _ => FaultKind::Unreadable,
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
