//! Meters: where joules come from, and whose CPU time went into them.
//!
//! A [`Meter`] gives a counter in microjoules that never falls within a boot, one [`Reading`] per
//! root, and goes on across restarts of the host, so that the energy between two runs is in the
//! count. [`ActivityProbe`] gives the CPU time of the machine, the host and its Postgres, by which
//! that energy is later attributed.

mod activity;
mod error;
mod file;
mod model;
mod modelled;
mod proc;
mod root_lock;
mod scripted;

use std::path::Path;

use domain::energy::Reading;
use uuid::Uuid;

pub use activity::ActivityProbe;
pub use error::MeterError;
pub use file::FileMeter;
pub use model::{MODEL_VERSION, PowerModel};
pub use modelled::ModelledMeter;
pub use root_lock::RootLock;
pub use scripted::{ScriptHandle, ScriptedMeter};

/// A source of energy readings.
pub trait Meter: Send {
    /// Reads every root of the meter. The first reading of a root is its baseline.
    fn read(&mut self) -> Result<Vec<Reading>, MeterError>;

    /// Goes on from the last readings of an earlier run, where they are of this boot. To be called
    /// before the first [`Meter::read`].
    fn resume(&mut self, last: &[Reading]);

    /// What the meter is and how sure, in one line for people.
    fn describe(&self) -> String;
}

/// The id of the machine's boot: a new one means that counters have begun anew.
pub fn boot_id() -> Result<Uuid, MeterError> {
    proc::boot_id(Path::new(proc::ROOT))
}

/// Nanoseconds since boot, suspended time included.
fn boottime_ns() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    nanoseconds(rustix::time::clock_gettime(clock))
}

/// CPU time of this process, all threads, in nanoseconds.
fn process_cpu_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime))
}

fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    // Both are positive, and the sum lasts for 584 years.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
