//! Meters: where joules come from, and whose CPU time went into them.
//!
//! A [`Meter`] gives a counter in microjoules that never falls within a boot, one [`Reading`] per
//! root, and goes on across restarts of the host, so that the energy between two runs is in the
//! count. [`discover`] finds the meters of a machine and says why each is used or left, [`Guarded`] keeps
//! one that hangs or lies from the others. [`ActivityProbe`] gives the CPU time of the machine, the host and its Postgres, by which
//! that energy is later attributed.

mod activity;
mod count;
mod discover;
mod error;
mod file;
mod guarded;
mod hwmon;
mod machine;
mod model;
mod modelled;
mod nvml;
mod proc;
mod rapl;
mod root_lock;
mod scripted;
mod sensor;
mod tally;
#[cfg(test)]
mod trees;

use std::path::Path;
use std::time::Duration;

use domain::energy::{Reading, Root};
use uuid::Uuid;

pub use activity::ActivityProbe;
pub use discover::{Candidate, Chosen, Found, Role, Site, Verdict, discover};
pub use error::MeterError;
pub use file::{Covers, FileMeter, FileSource};
pub use guarded::{Change, Guarded, Metered};
pub use hwmon::HwmonMeter;
pub use machine::Machine;
pub use model::{MODEL_VERSION, PowerModel};
pub use modelled::ModelledMeter;
pub use nvml::{GpuActivity, GpuProbe, GpuProcess, NvmlMeter};
pub use rapl::RaplMeter;
pub use root_lock::RootLock;
pub use scripted::{ScriptHandle, ScriptedMeter};
pub use sensor::Quantity;
pub use tally::PowerBound;

/// A source of energy readings.
pub trait Meter: Send {
    /// Reads every root of the meter. The first reading of a root is its baseline. An error says that
    /// nothing of this read may be counted; the next may be good again.
    fn read(&mut self) -> Result<Vec<Reading>, MeterError>;

    /// Goes on from the last readings of an earlier run, where they are of this boot. To be called
    /// before the first [`Meter::read`].
    fn resume(&mut self, last: &[Reading]);

    /// The roots that it reads, known before it is read.
    fn roots(&self) -> Vec<Root>;

    /// The longest time between two reads, where that matters: for a counter that wraps, and for power that
    /// is added up.
    fn period(&self) -> Option<Duration> {
        None
    }

    /// How long its counters may stand still while the machine works; none: for ever.
    fn still_after(&self) -> Option<Duration> {
        None
    }

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

/// The instant, and how long the machine has slept since boot.
fn moment() -> tally::Moment {
    let awake_ns = nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic));
    let at_ns = boottime_ns();
    tally::Moment {
        at_ns,
        asleep_ns: at_ns.saturating_sub(awake_ns),
    }
}

/// CPU time of this process, all threads, in nanoseconds.
fn process_cpu_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime))
}

/// CPU time of any process, all its threads, in nanoseconds; none where there is no such process (any more).
fn cpu_ns_of(pid: u32) -> Option<u64> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?);
    let time = nix::time::clock_getcpuclockid(pid).ok()?.now().ok()?;
    let [seconds, rest] = [time.tv_sec(), time.tv_nsec()].map(u64::try_from);
    Some(seconds.ok()? * 1_000_000_000 + rest.ok()?)
}

fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    // Both are positive, and the sum lasts for 584 years.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
