//! The meter of a machine that has none: energy by the power model and the kernel's CPU times.

use std::path::{Path, PathBuf};

use domain::energy::{Reading, Root};
use uuid::Uuid;

use crate::model::{MODEL_VERSION, PowerModel};
use crate::{Meter, MeterError, boottime_ns, proc, root_lock};

/// The layout of [`Reading::state`]: this number, busy and total ticks, femtojoules, microwatts.
const STATE_VERSION: u64 = 1;

/// µW × ns, of which a microjoule has this many.
const FJ_PER_UJ: u128 = 1_000_000_000;

/// A meter that computes: the power at the mean utilisation since the last reading, times the time.
///
/// Between two runs of the host in one boot it does the same with the ticks of the last run's last
/// reading, so the gap's energy is in the count. Time in which the machine is suspended counts like
/// time in which it is awake.
pub struct ModelledMeter {
    root: Root,
    model: PowerModel,
    proc_root: PathBuf,
    clock: Box<dyn Fn() -> u64 + Send>,
    boot_id: Uuid,
    last: Option<Last>,
}

/// Where the count stands.
struct Last {
    at_ns: u64,
    counter_uj: u64,
    /// Below one microjoule.
    remainder_fj: u64,
    /// Busy and total; none where an earlier run's state cannot be read.
    ticks: Option<(u64, u64)>,
    /// For a span too short to have ticks.
    power_uw: u64,
}

impl ModelledMeter {
    /// A meter with one root over the files below `proc_root` (usually `/proc`).
    pub fn new(
        root_name: impl Into<String>,
        model: PowerModel,
        proc_root: impl Into<PathBuf>,
    ) -> Result<Self, MeterError> {
        Self::with_clock(root_name, model, proc_root, boottime_ns)
    }

    /// The same with a clock of nanoseconds since boot.
    pub fn with_clock(
        root_name: impl Into<String>,
        model: PowerModel,
        proc_root: impl Into<PathBuf>,
        clock: impl Fn() -> u64 + Send + 'static,
    ) -> Result<Self, MeterError> {
        let (name, proc_root) = (root_name.into(), proc_root.into());
        root_lock::check_name(&name)?;
        let root = Root {
            name,
            kind: "modelled".into(),
            provenance: model.provenance(),
            uncertainty_ppm: model.uncertainty_ppm(),
            model_version: MODEL_VERSION,
        };
        let boot_id = proc::boot_id(&proc_root)?;
        Ok(Self {
            root,
            model,
            proc_root,
            clock: Box::new(clock),
            boot_id,
            last: None,
        })
    }

    /// Hardware threads of the machine below `proc_root`, for [`PowerModel::from_threads`].
    pub fn threads(proc_root: &Path) -> Result<u32, MeterError> {
        Ok(proc::machine(proc_root)?.threads)
    }

    fn advance(&mut self, at_ns: u64, busy: u64, total: u64) -> Last {
        let ticks = Some((busy, total));
        let Some(last) = self.last.take() else {
            let power_uw = self.model.idle_uw();
            return Last {
                at_ns,
                counter_uj: 0,
                remainder_fj: 0,
                ticks,
                power_uw,
            };
        };
        let (ticks, power_uw) = match last.ticks {
            Some((busy_then, total_then)) if total > total_then => (
                ticks,
                self.model
                    .power_uw(busy.saturating_sub(busy_then), total - total_then),
            ),
            // Not a tick has passed: they all belong to the next span.
            Some(_) => (last.ticks, last.power_uw),
            None => (ticks, self.model.idle_uw()),
        };
        let span_ns = at_ns.saturating_sub(last.at_ns);
        let energy_fj = u128::from(power_uw) * u128::from(span_ns) + u128::from(last.remainder_fj);
        let energy_uj = u64::try_from(energy_fj / FJ_PER_UJ).unwrap_or(u64::MAX);
        Last {
            at_ns: at_ns.max(last.at_ns),
            counter_uj: last.counter_uj.saturating_add(energy_uj),
            remainder_fj: (energy_fj % FJ_PER_UJ) as u64,
            ticks,
            power_uw,
        }
    }
}

impl Meter for ModelledMeter {
    fn read(&mut self) -> Result<Vec<Reading>, MeterError> {
        let ticks = proc::machine(&self.proc_root)?;
        let last = self.advance((self.clock)(), ticks.busy, ticks.total);
        let (busy, total) = last.ticks.unwrap_or_default();
        let reading = Reading {
            root: self.root.clone(),
            boot_id: self.boot_id,
            at_ns: last.at_ns,
            counter_uj: last.counter_uj,
            floor_uw: self.model.idle_uw(),
            state: vec![STATE_VERSION, busy, total, last.remainder_fj, last.power_uw],
        };
        self.last = Some(last);
        Ok(vec![reading])
    }

    fn resume(&mut self, last: &[Reading]) {
        let ours =
            |reading: &&Reading| reading.root.name == self.root.name && reading.boot_id == self.boot_id;
        let Some(reading) = last.iter().find(ours) else {
            return;
        };
        let (ticks, remainder_fj, power_uw) = match reading.state[..] {
            [STATE_VERSION, busy, total, remainder_fj, power_uw] => {
                (Some((busy, total)), remainder_fj, power_uw)
            }
            // The count goes on all the same, the gap at idle power.
            _ => (None, 0, self.model.idle_uw()),
        };
        let (at_ns, counter_uj) = (reading.at_ns, reading.counter_uj);
        self.last = Some(Last {
            at_ns,
            counter_uj,
            remainder_fj,
            ticks,
            power_uw,
        });
    }

    fn roots(&self) -> Vec<Root> {
        vec![self.root.clone()]
    }

    fn describe(&self) -> String {
        format!("root '{}', modelled: {}", self.root.name, self.model.describe())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::proc::testing::ProcTree;

    const SECOND: u64 = 1_000_000_000;

    struct Bench {
        tree: ProcTree,
        now_ns: Arc<AtomicU64>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                tree: ProcTree::new(),
                now_ns: Arc::default(),
            }
        }

        /// 100 W idle, 300 W at most.
        fn meter(&self) -> ModelledMeter {
            let model = PowerModel::from_ends(100_000_000, 300_000_000).unwrap();
            let now_ns = Arc::clone(&self.now_ns);
            ModelledMeter::with_clock("modelled", model, self.tree.root(), move || now_ns.load(Relaxed))
                .unwrap()
        }

        fn set(&self, at_ns: u64, busy: u64, idle: u64) {
            self.now_ns.store(at_ns, Relaxed);
            self.tree.cpu(busy, idle);
        }
    }

    fn read(meter: &mut ModelledMeter) -> Reading {
        meter.read().unwrap().remove(0)
    }

    #[test]
    fn energy_is_power_at_the_mean_utilisation_times_time() {
        let bench = Bench::new();
        let mut meter = bench.meter();
        bench.set(5 * SECOND, 1_000, 9_000);
        let first = read(&mut meter);
        assert_eq!((first.counter_uj, first.floor_uw), (0, 100_000_000));
        // Two seconds at 50 %: f = 0.419.
        bench.set(7 * SECOND, 1_200, 9_200);
        assert_eq!(read(&mut meter).counter_uj, 2 * 183_800_000);
        // A second with nothing to do, then one with all busy.
        bench.set(8 * SECOND, 1_200, 9_400);
        assert_eq!(read(&mut meter).counter_uj, 2 * 183_800_000 + 100_000_000);
        bench.set(9 * SECOND, 1_400, 9_400);
        assert_eq!(read(&mut meter).counter_uj, 2 * 183_800_000 + 400_000_000);
    }

    #[test]
    fn cutting_finer_than_a_microjoule_or_a_tick_loses_nothing() {
        let bench = Bench::new();
        let model = PowerModel::from_ends(1, 333_333).unwrap();
        let now_ns = Arc::clone(&bench.now_ns);
        let clock = move || now_ns.load(Relaxed);
        let mut meter = ModelledMeter::with_clock("modelled", model, bench.tree.root(), clock).unwrap();
        bench.set(0, 0, 1_000);
        read(&mut meter);
        // All busy from here on: 333,333 µW.
        bench.set(10_000_000, 2, 1_000);
        assert_eq!(read(&mut meter).counter_uj, 3_333);
        // No tick passes in 1,000 cuts of 777 ns.
        for cut in 1..=1_000 {
            bench.now_ns.store(10_000_000 + cut * 777, Relaxed);
            read(&mut meter);
        }
        let exact_fj = 333_333_u64 * (10_000_000 + 777_000);
        assert_eq!(read(&mut meter).counter_uj, exact_fj / 1_000_000_000);
        // The ticks of those cuts come with the next one that sees any.
        bench.set(20_777_000, 2, 1_002);
        assert_eq!(
            read(&mut meter).counter_uj,
            (exact_fj + 10_000_000) / 1_000_000_000
        );
    }

    #[test]
    fn a_restart_in_the_same_boot_counts_the_gap() {
        let bench = Bench::new();
        let mut meter = bench.meter();
        bench.set(SECOND, 0, 1_000);
        read(&mut meter);
        bench.set(2 * SECOND, 200, 1_000);
        let last = read(&mut meter);
        assert_eq!(last.counter_uj, 300_000_000);
        // Ten seconds without a host, half of them busy.
        bench.set(12 * SECOND, 1_200, 2_000);
        let mut next = bench.meter();
        next.resume(std::slice::from_ref(&last));
        assert_eq!(read(&mut next).counter_uj, 300_000_000 + 10 * 183_800_000);
        // Of another root nothing is known here.
        let mut other = bench.meter();
        other.resume(&[Reading {
            root: Root {
                name: "other".into(),
                ..last.root.clone()
            },
            ..last.clone()
        }]);
        assert_eq!(read(&mut other).counter_uj, 0);
        // A state of another version: the counter goes on, at idle power.
        let mut newer = bench.meter();
        newer.resume(&[Reading {
            state: vec![2],
            ..last
        }]);
        assert_eq!(read(&mut newer).counter_uj, 300_000_000 + 10 * 100_000_000);
    }

    #[test]
    fn a_new_boot_begins_anew() {
        let bench = Bench::new();
        let mut meter = bench.meter();
        bench.set(SECOND, 0, 1_000);
        read(&mut meter);
        bench.set(2 * SECOND, 200, 1_000);
        let last = read(&mut meter);
        bench.tree.boot(2);
        bench.set(SECOND, 5, 100);
        let mut next = bench.meter();
        next.resume(std::slice::from_ref(&last));
        let first = read(&mut next);
        assert_eq!(first.counter_uj, 0);
        assert_ne!(first.boot_id, last.boot_id);
    }

    #[test]
    fn this_machine_can_be_read() {
        let threads = ModelledMeter::threads(Path::new(proc::ROOT)).unwrap();
        let model = PowerModel::from_threads(threads).unwrap();
        let mut meter = ModelledMeter::new("modelled", model, proc::ROOT).unwrap();
        let (first, second) = (read(&mut meter), read(&mut meter));
        assert_eq!(first.boot_id, crate::boot_id().unwrap());
        assert!(second.at_ns > first.at_ns && second.counter_uj >= first.counter_uj);
    }
}
