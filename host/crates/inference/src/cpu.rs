//! CPU time of the calling thread, and of calls that may panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread since it began, in nanoseconds.
pub(crate) fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// Calls `work` and gives its answer, or the words of its panic, and the CPU time that it took: the
/// calling thread's and what `work` itself adds for others.
pub(crate) fn metered<T>(work: impl FnOnce(&mut u64) -> T) -> (Result<T, String>, u64) {
    let before = thread_ns();
    let mut elsewhere = 0;
    let answer = catch_unwind(AssertUnwindSafe(|| work(&mut elsewhere))).map_err(|panic| words(&*panic));
    (answer, thread_ns().saturating_sub(before) + elsewhere)
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.as_deref().unwrap_or("no message"))
}
