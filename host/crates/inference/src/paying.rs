//! Who pays for what a thread does: the meter around the polls of a call, and around a model that runs within one.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;

use domain::UsageCell;

use crate::backend::RunMeter;
use crate::cpu::thread_ns;

/// Adds this thread's CPU time for each poll of `work` to the cell: not wall time, and no neighbour's polls. Work is
/// pinned by whoever makes it: what a call is doing is too large to be moved for nothing.
pub async fn metered_polls<T>(cell: &UsageCell, mut work: Pin<&mut impl Future<Output = T>>) -> T {
    poll_fn(|cx| metered(cell, || work.as_mut().poll(cx))).await
}

thread_local! {
    /// The cell that pays for what this thread does.
    static PAYING: Cell<*const UsageCell> = const { Cell::new(std::ptr::null()) };
    /// CPU time of this thread that was told as work of models, in nanoseconds.
    static MODELS_NS: Cell<u64> = const { Cell::new(0) };
}

/// Until this is dropped, a cell pays for what this thread does.
struct Paying<'a> {
    cell: &'a UsageCell,
    paid_before: *const UsageCell,
    before_ns: u64,
    models_before_ns: u64,
}

impl Drop for Paying<'_> {
    fn drop(&mut self) {
        let used_ns = thread_ns().saturating_sub(self.before_ns);
        let models_ns = MODELS_NS.get() - self.models_before_ns;
        self.cell.add_cpu_ns(used_ns.saturating_sub(models_ns));
        PAYING.set(self.paid_before);
    }
}

/// Runs `work`, which does not wait, and adds this thread's CPU time for it to the cell: also where it panics, and once
/// where it is directly within work that is metered for the same cell. To ask a clock of CPU time is a call of the
/// system.
pub fn metered<T>(cell: &UsageCell, work: impl FnOnce() -> T) -> T {
    if cell.is_of_fuel() || std::ptr::eq(PAYING.get(), cell) {
        return work();
    }
    let _paying = Paying {
        cell,
        paid_before: PAYING.replace(cell),
        before_ns: thread_ns(),
        models_before_ns: MODELS_NS.get(),
    };
    work()
}

/// Runs a part of a model, which does not wait: its CPU time is the run's, and no longer that of the call that this
/// thread works for.
pub(crate) fn metered_run<T>(meter: &mut RunMeter, work: impl FnOnce() -> T) -> T {
    if meter.cell().is_of_fuel() {
        return work();
    }
    let before_ns = thread_ns();
    let done = work();
    let used_ns = thread_ns().saturating_sub(before_ns);
    MODELS_NS.set(MODELS_NS.get() + used_ns);
    meter.add_here_ns(used_ns);
    done
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::Work;

    use super::*;

    fn spin() {
        let before = thread_ns();
        while thread_ns() < before + 2_000_000 {}
    }

    #[test]
    fn what_is_metered_within_metered_work_counts_once() {
        let cell = UsageCell::default();
        let before = thread_ns();
        metered(&cell, || {
            metered(&cell, spin);
            metered(&cell, spin);
            spin();
        });
        let all = thread_ns() - before;
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

    #[test]
    fn a_model_within_a_call_counts_once_and_as_model() {
        let cell = Arc::new(UsageCell::default());
        let work = Work {
            graph: domain::Digest::of(b"model"),
            backend: "dense 1".into(),
            device: "cpu".into(),
            precision: "exact".into(),
            runs: 1,
            rows: 1,
            cpu_ns: 0,
            busy_ns: 0,
            tokens: 0,
        };
        let before = thread_ns();
        metered(&cell, || {
            spin();
            let mut meter = RunMeter::new(Arc::clone(&cell), work);
            metered_run(&mut meter, spin);
            metered_run(&mut meter, spin);
            spin();
        });
        let all = thread_ns() - before;
        let used = cell.snapshot();
        assert!(
            used.cpu_ns >= 4_000_000 && used.model_ns() >= 4_000_000,
            "{used:?}"
        );
        assert!(used.total_cpu_ns() <= all, "{used:?} of {all}");
        assert_eq!((used.work.len(), used.work[0].runs), (1, 1));
        assert_eq!(cell.here_ns(), used.total_cpu_ns());
    }
}
