//! Calibrate: known loads run one after another while the meters are read, and weights are fitted to what they say.
//!
//! Each load is one kind of use alone, on one CPU or on all, for a short time; nothing at all is one of them. They are
//! gone through some times over, so that what drifts meanwhile falls on all of them alike. What is fitted, and how
//! surely, is `domain::calibrate`'s to say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use domain::attribution::Span;
use domain::calibrate::{Calibration, CalibrationError, Load, calibrate};
use domain::energy::{Activity, Reading, Root};
use domain::{Usage, UsageCell};
use energy::{ActivityProbe, Chosen, Guarded, MeterError, Metered};
use runtime::{Exercise, Exercises, RuntimeError};

use super::learnt::Learnt;

/// How long a meter may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the loads are run, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long each load is metered.
    pub length: Duration,
    /// How long it runs before that: clocks and meters take a moment to follow.
    pub lead: Duration,
    /// How often all of them are run.
    pub rounds: u32,
    /// Hardware threads, for the loads that take all.
    pub threads: usize,
}

/// What can be run.
pub struct Loads<'a> {
    /// Guests' work.
    pub guests: &'a Exercises,
    /// A graph on each backend.
    pub graphs: &'a [inference::Exercise],
    /// Where graphs are waited for.
    pub runtime: &'a tokio::runtime::Handle,
}

/// One of them.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Idle,
    Guests(Exercise, usize),
    Graph(&'a inference::Exercise),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each root that was read, by name.
    pub roots: Vec<Calibrated>,
    /// CPU time of others while the loads ran, in millionths of all.
    pub others_ppm: u64,
}

/// What was found of a root.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The root.
    pub root: Root,
    /// Loads that it metered.
    pub loads: usize,
    /// Loads in which it was not read well.
    pub lost: usize,
    /// Floor and weights, or why there are none.
    pub fitted: Result<Calibration, CalibrationError>,
}

/// Why nothing was calibrated.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The meters, or who uses the CPU, cannot be read.
    #[error(transparent)]
    Meter(#[from] MeterError),
    /// The sandbox.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A backend does not load the graph.
    #[error("a backend does not load a graph: {0}")]
    Graph(#[from] inference::LoadError),
    /// A backend does not run it.
    #[error("a backend does not run a graph: {0}")]
    Compute(#[from] inference::ComputeError),
    /// There is nothing to run loads with.
    #[error("no load can be started: {0}")]
    Start(#[source] std::io::Error),
    /// A load ended before its time.
    #[error("a load broke down")]
    Broken,
    /// No root gave anything to fit.
    #[error("no meter gave anything to fit: {0}")]
    Nothing(String),
    /// What was learnt cannot be kept.
    #[error("what was learnt cannot be kept: {0}")]
    Keep(#[source] std::io::Error),
}

impl CalibrateError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Meter(error) => error.code(),
            Self::Runtime(_) => "calibration_sandbox",
            Self::Graph(_) | Self::Compute(_) => "calibration_backend",
            Self::Start(_) => "calibration_start",
            Self::Broken => "calibration_broken",
            Self::Nothing(_) => "calibration_nothing",
            Self::Keep(_) => "calibration_not_kept",
        }
    }
}

/// The machine at an instant.
struct Look {
    metered: Metered,
    activity: Activity,
    used: Usage,
}

/// The meters, and what they said of each load.
pub struct Bench {
    meters: Guarded,
    probe: ActivityProbe,
    roots: BTreeMap<String, Metering>,
    activity: Activity,
    used_ns: u64,
}

/// What a root said.
struct Metering {
    root: Root,
    loads: Vec<Load>,
    lost: usize,
}

impl Bench {
    /// Starts the meters; nobody else may bill them meanwhile.
    pub fn new(meters: Vec<Chosen>, mut probe: ActivityProbe) -> Result<Self, MeterError> {
        let machine_ns = probe.read()?.machine_ns;
        let (meters, _) = Guarded::start(meters, &[], machine_ns, PATIENCE)?;
        Ok(Self {
            meters,
            probe,
            roots: BTreeMap::new(),
            activity: Activity::default(),
            used_ns: 0,
        })
    }

    /// Runs all loads as planned, `tell`s before each which one it is, and gives what they show.
    pub fn run(
        mut self,
        loads: &Loads<'_>,
        plan: &Plan,
        mut tell: impl FnMut(u32, &str),
    ) -> Result<Report, CalibrateError> {
        let kinds = kinds(loads, plan.threads);
        for round in 0..plan.rounds {
            for kind in &kinds {
                tell(round, &kind.name());
                let (before, after) = self.load(*kind, loads, plan)?;
                self.note(&before, &after);
            }
        }
        Ok(self.report())
    }

    /// Runs one load, and looks when it has got going and when its time is over.
    fn load(
        &mut self,
        kind: Kind<'_>,
        loads: &Loads<'_>,
        plan: &Plan,
    ) -> Result<(Look, Look), CalibrateError> {
        let (goes_on, cell) = (AtomicBool::new(true), Arc::new(UsageCell::default()));
        thread::scope(|scope| {
            let work = || work(kind, loads, &cell, &goes_on);
            let workers: Vec<_> = (0..kind.threads()).map(|_| scope.spawn(work)).collect();
            thread::sleep(plan.lead);
            let before = self.look(&cell);
            thread::sleep(plan.length);
            let after = self.look(&cell);
            // Whatever was seen: nobody is to work for ever.
            goes_on.store(false, Relaxed);
            for worker in workers {
                worker.join().map_err(|_| CalibrateError::Broken)??;
            }
            Ok((before?, after?))
        })
    }

    fn look(&mut self, cell: &UsageCell) -> Result<Look, MeterError> {
        let machine_ns = self.probe.read()?.machine_ns;
        let metered = self.meters.read(machine_ns);
        Ok(Look {
            metered,
            activity: self.probe.read()?,
            used: cell.snapshot(),
        })
    }

    /// Takes in what each root said of a load.
    fn note(&mut self, before: &Look, after: &Look) {
        let (used, activity) = (
            after.used.since(&before.used),
            after.activity.since(&before.activity),
        );
        self.activity.machine_ns += activity.machine_ns;
        self.activity.host_ns += activity.host_ns;
        self.used_ns += used.total_cpu_ns();
        for now in &after.metered.readings {
            let metering = self.roots.entry(now.root.name.clone()).or_insert(Metering {
                root: now.root.clone(),
                loads: Vec::new(),
                lost: 0,
            });
            match span(before, after, now) {
                Some(span) => metering.loads.push(Load::of(&span, &now.root, &used, &activity)),
                None => metering.lost += 1,
            }
        }
        for (name, metering) in &mut self.roots {
            let was_read = after.metered.readings.iter().any(|now| now.root.name == *name);
            metering.lost += usize::from(!was_read);
        }
    }

    fn report(self) -> Report {
        // What this process did beside its loads is no one else's.
        let ours_ns = self.activity.host_ns.max(self.used_ns);
        let others_ns = self.activity.machine_ns.saturating_sub(ours_ns);
        let others_ppm = u128::from(others_ns) * 1_000_000 / u128::from(self.activity.machine_ns.max(1));
        let roots = self.roots.into_values().map(|metering| Calibrated {
            fitted: calibrate(&metering.loads),
            loads: metering.loads.len(),
            lost: metering.lost,
            root: metering.root,
        });
        Report {
            roots: roots.collect(),
            others_ppm: u64::try_from(others_ppm).unwrap_or(u64::MAX),
        }
    }
}

/// What a root metered between two looks; none where it was not well, or began anew.
fn span(before: &Look, after: &Look, now: &Reading) -> Option<Span> {
    let is_well = after
        .metered
        .faults
        .iter()
        .all(|fault| fault.root != now.root.name);
    let then = before
        .metered
        .readings
        .iter()
        .find(|then| then.root.name == now.root.name)?;
    Span::between(then, now).filter(|span| is_well && span.length_ns > 0)
}

impl Kind<'_> {
    fn name(&self) -> String {
        match self {
            Self::Idle => "nothing".to_owned(),
            Self::Guests(exercise, 1) => exercise.as_str().to_owned(),
            Self::Guests(exercise, threads) => format!("{} on {threads} CPUs", exercise.as_str()),
            Self::Graph(graph) => graph.backend(),
        }
    }

    fn threads(&self) -> usize {
        match self {
            Self::Idle => 0,
            Self::Guests(_, threads) => *threads,
            Self::Graph(_) => 1,
        }
    }
}

/// Each kind of use alone, on one CPU, and the loops on all of them.
fn kinds<'a>(loads: &Loads<'a>, threads: usize) -> Vec<Kind<'a>> {
    let mut kinds = vec![Kind::Idle];
    kinds.extend(Exercise::ALL.map(|exercise| Kind::Guests(exercise, 1)));
    if threads > 1 {
        kinds.extend([Exercise::Integers, Exercise::Memory].map(|exercise| Kind::Guests(exercise, threads)));
    }
    kinds.extend(loads.graphs.iter().map(Kind::Graph));
    kinds
}

/// What one thread does for a load.
fn work(
    kind: Kind<'_>,
    loads: &Loads<'_>,
    cell: &Arc<UsageCell>,
    goes_on: &AtomicBool,
) -> Result<(), CalibrateError> {
    let goes_on = || goes_on.load(Relaxed);
    match kind {
        Kind::Idle => {}
        Kind::Guests(exercise, _) => loads.guests.run(exercise, cell, goes_on)?,
        Kind::Graph(graph) => {
            while goes_on() {
                loads.runtime.block_on(graph.run(cell))?;
            }
        }
    }
    Ok(())
}

/// Keeps what was found, for the next host on this data directory to start from; the roots of which there was
/// something to keep.
pub fn keep(report: &Report, learnt: &Learnt) -> Result<usize, CalibrateError> {
    let mut kept = 0;
    for found in &report.roots {
        let Ok(calibration) = &found.fitted else {
            continue;
        };
        // Of a device that no load used nothing is known but its floor: then what was learnt is worth more.
        if calibration
            .weights
            .iter()
            .flatten()
            .any(|weight| weight.value > 0)
        {
            learnt.calibrate(&found.root, calibration);
            kept += 1;
        }
    }
    if kept == 0 {
        let why = |found: &Calibrated| match &found.fitted {
            Ok(_) => format!("{}: nothing that was run changed what it says", found.root.name),
            Err(error) => format!("{}: {error}", found.root.name),
        };
        let why: Vec<_> = report.roots.iter().map(why).collect();
        return Err(CalibrateError::Nothing(match why.is_empty() {
            true => "none could be read (`wattle doctor` says more)".to_owned(),
            false => why.join("; "),
        }));
    }
    learnt.write().map_err(CalibrateError::Keep)?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use domain::estimator::Banded;
    use domain::weights::Feature;
    use energy::{ScriptHandle, ScriptedMeter};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A bench on a meter that is told what to say, and whether it is well.
    fn bench() -> (Bench, ScriptHandle) {
        let (meter, script) = ScriptedMeter::new("test");
        script.set_at_ns(0);
        let bench = Bench::new(vec![Chosen::root(meter)], ActivityProbe::new(|| None)).unwrap();
        (bench, script)
    }

    /// The machine after so many seconds, and what the load has used by then.
    fn look(bench: &mut Bench, at_s: u64, guest_ns: u64, others_ns: u64) -> Look {
        Look {
            metered: bench.meters.read(0),
            activity: Activity {
                machine_ns: guest_ns + others_ns + at_s,
                host_ns: guest_ns,
                postgres_ns: 0,
            },
            used: Usage {
                cpu_ns: guest_ns,
                ..Usage::default()
            },
        }
    }

    #[test]
    fn what_loads_show_is_fitted_and_kept_for_the_host() {
        let (mut bench, script) = bench();
        // A machine of 20 W and 5 W for each CPU; of a tenth of the time others use one.
        let mut used_ns = 0;
        for (at_s, busy_ms) in (0..).zip([0, 1_000, 2_000, 0, 500, 1_500, 0, 2_000]) {
            script.set_at_ns(2 * at_s * SECOND);
            let before = look(&mut bench, 2 * at_s, used_ns, 100_000_000 * at_s);
            script.add_uj(20_000_000 + 5_000 * (busy_ms + 100));
            script.set_at_ns((2 * at_s + 1) * SECOND);
            used_ns += busy_ms * 1_000_000;
            let after = look(&mut bench, 2 * at_s, used_ns, 100_000_000 * (at_s + 1));
            bench.note(&before, &after);
        }
        let (mut before, after) = (look(&mut bench, 0, 0, 0), look(&mut bench, 0, 0, 0));
        // A meter that gave nothing in between is no load.
        before.metered.readings.clear();
        bench.note(&before, &after);
        let report = bench.report();
        let found = &report.roots[0];
        assert_eq!((found.loads, found.lost), (8, 1));
        // 800 ms of 7.8 s.
        assert_eq!(report.others_ppm / 1_000, 102);
        let fitted = found.fitted.clone().unwrap();
        let guest = fitted.weights[Feature::Guest as usize].unwrap();
        let near = |banded: Banded, uw: u64| banded.value.abs_diff(uw) < uw / 100;
        assert!(
            near(fitted.floor_uw, 20_000_000) && near(guest, 5_000_000),
            "{fitted:?}"
        );

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("learnt");
        assert_eq!(keep(&report, &Learnt::open(path.clone())).unwrap(), 1);
        let (models, _) = Learnt::open(path).models();
        assert_eq!((models[0].root.name.as_str(), models[0].slices), ("test", 0));
        assert!(near(models[0].floor_uw, 20_000_000), "{models:?}");
        let (feature, weight) = models[0].weights[0];
        assert!(feature == Feature::Guest && near(weight, 5_000_000), "{models:?}");
    }

    #[test]
    fn a_meter_that_shows_nothing_keeps_nothing() {
        let (bench, script) = bench();
        let guests = Exercises::new().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let loads = Loads {
            guests: &guests,
            graphs: &[],
            runtime: runtime.handle(),
        };
        let plan = Plan {
            length: Duration::from_millis(5),
            lead: Duration::ZERO,
            rounds: 1,
            threads: 2,
        };
        script.set_failing(true);
        let mut told = Vec::new();
        let report = bench
            .run(&loads, &plan, |round, kind| told.push(format!("{round} {kind}")))
            .unwrap();
        assert_eq!(
            told,
            [
                "0 nothing",
                "0 integers",
                "0 floats",
                "0 memory",
                "0 traffic",
                "0 integers on 2 CPUs",
                "0 memory on 2 CPUs"
            ]
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("learnt");
        let error = keep(&report, &Learnt::open(path.clone())).unwrap_err();
        assert_eq!(error.code(), "calibration_nothing");
        assert!(!path.exists(), "nothing is written");
    }
}
