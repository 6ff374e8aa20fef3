//! What stops a call from outside, and the meter around its polls.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};

use domain::{Outcome, UsageCell};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::outcome::Stop;
use crate::turns::Place;

/// The deadline and the cancel token of a call, and what came of them.
pub(crate) struct Guard {
    deadline: Instant,
    cancel: CancellationToken,
    /// Fires when the call must end, for whichever reason.
    stop: CancellationToken,
    ended: OnceLock<Outcome>,
    computing: AtomicBool,
}

impl Guard {
    pub(crate) fn new(deadline: Instant, cancel: CancellationToken) -> Self {
        let stop = CancellationToken::new();
        Self {
            deadline,
            cancel,
            stop,
            ended: OnceLock::new(),
            computing: AtomicBool::new(false),
        }
    }

    /// What a wait on the guest's behalf must heed.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Why the call must end, if it must. Looks at the clock.
    pub(crate) fn look(&self) -> Option<Stop> {
        if self.cancel.is_cancelled() {
            self.end(Outcome::Cancelled);
        } else if Instant::now() >= self.deadline {
            self.end(Outcome::DeadlineExceeded);
        }
        self.ended()
    }

    /// Why the call was told to end, if it was.
    pub(crate) fn ended(&self) -> Option<Stop> {
        self.ended
            .get()
            .map(|&outcome| Stop::new(outcome, "the call was stopped"))
    }

    /// Whether a graph works for the call just now. A stopped call waits for it, so that the work is in the
    /// cell before the call ends: a short grace, but as long as a load may take where its process is new.
    pub(crate) fn set_computing(&self, computing: bool) {
        self.computing.store(computing, Ordering::Relaxed);
    }

    fn end(&self, outcome: Outcome) {
        self.ended.get_or_init(|| outcome);
        self.stop.cancel();
    }

    /// Runs `call` to its end, a turn for each poll, or drops it as soon as it must stop and no graph works
    /// for it.
    pub(crate) async fn drive<T>(
        &self,
        mut place: Place<'_>,
        mut call: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
    ) -> wasmtime::Result<T> {
        let mut deadline = pin!(tokio::time::sleep_until(self.deadline));
        let mut cancelled = pin!(self.cancel.cancelled());
        poll_fn(|cx| {
            if self.ended.get().is_none() {
                if cancelled.as_mut().poll(cx).is_ready() {
                    self.end(Outcome::Cancelled);
                } else if deadline.as_mut().poll(cx).is_ready() {
                    self.end(Outcome::DeadlineExceeded);
                }
            }
            match self.ended() {
                Some(stop) if !self.computing.load(Ordering::Relaxed) => Poll::Ready(Err(stop.into())),
                _ => {
                    let _turn = ready!(place.poll_turn(cx));
                    call.as_mut().poll(cx)
                }
            }
        })
        .await
    }
}

/// Adds this thread's CPU time for each poll of `work` to the cell: not wall time, and no neighbour's polls. Work is
/// pinned by whoever makes it: what a call is doing is too large to be moved for nothing.
pub async fn metered_polls<T>(cell: &UsageCell, mut work: Pin<&mut impl Future<Output = T>>) -> T {
    poll_fn(|cx| metered(cell, || work.as_mut().poll(cx))).await
}

thread_local! {
    /// The cell that pays for what this thread does.
    static PAYING: Cell<*const UsageCell> = const { Cell::new(std::ptr::null()) };
}

/// Until this is dropped, a cell pays for what this thread does.
struct Paying<'a> {
    cell: &'a UsageCell,
    paid_before: *const UsageCell,
    before_ns: u64,
}

impl Drop for Paying<'_> {
    fn drop(&mut self) {
        let used_ns = thread_cpu_ns().saturating_sub(self.before_ns);
        self.cell.add_cpu_ns(used_ns);
        PAYING.set(self.paid_before);
    }
}

/// Runs `work`, which does not wait, and adds this thread's CPU time for it to the cell: also where it panics, and once
/// where it is directly within work that is metered for the same cell. To ask a clock of CPU time is a call of the system.
pub fn metered<T>(cell: &UsageCell, work: impl FnOnce() -> T) -> T {
    if cell.is_of_fuel() || std::ptr::eq(PAYING.get(), cell) {
        return work();
    }
    let _paying = Paying {
        cell,
        paid_before: PAYING.replace(cell),
        before_ns: thread_cpu_ns(),
    };
    work()
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin() {
        let before = thread_cpu_ns();
        while thread_cpu_ns() < before + 2_000_000 {}
    }

    #[test]
    fn what_is_metered_within_metered_work_counts_once() {
        let cell = UsageCell::default();
        let before = thread_cpu_ns();
        metered(&cell, || {
            metered(&cell, spin);
            metered(&cell, spin);
            spin();
        });
        let all = thread_cpu_ns() - before;
        assert!(
            (6_000_000..=all).contains(&cell.cpu_ns()),
            "{} of {all}",
            cell.cpu_ns()
        );
    }

    #[test]
    fn work_that_panics_is_paid_for() {
        let cell = UsageCell::default();
        for least_ns in [2_000_000, 4_000_000] {
            let panicking = || {
                metered(&cell, || {
                    spin();
                    std::panic::resume_unwind(Box::new(()));
                });
            };
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking));
            assert!(panicked.is_err() && cell.cpu_ns() >= least_ns);
        }
    }
}
