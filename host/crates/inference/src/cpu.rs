//! CPU time of threads and of worker processes, and the words of a panic.

use std::any::Any;

use nix::time::{ClockId as ProcessClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use rustix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread since it began, in nanoseconds.
pub(crate) fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// The CPU clock of a process: all its threads, since it began. It stands when the process has ended, and
/// is gone when that was waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessClock(ProcessClockId);

impl ProcessClock {
    /// Of a process that has not been waited for.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?);
        clock_getcpuclockid(pid).ok().map(Self)
    }

    /// CPU time in nanoseconds.
    pub(crate) fn now_ns(self) -> Option<u64> {
        let time = self.0.now().ok()?;
        let seconds = u64::try_from(time.tv_sec()).ok()?;
        Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).ok()?)
    }
}

/// What a panic said.
pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.as_deref().unwrap_or("no message"))
}
