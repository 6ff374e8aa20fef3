//! The run: milliseconds of the machine become slices, slices go through the real estimator and sealer.

use std::collections::BTreeMap;

use domain::account::Account;
use domain::energy::{Activity, Reading};
use domain::estimator::Estimator;
use domain::posting::{Posting, Slice, TransferKind, Unit};
use domain::weights::Weights;
use domain::window::{OpenReceipts, Sealer};
use domain::{Digest, Epoch, NodeId, TenantId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::machine::Die;
use super::meter::SimMeter;
use super::random::Random;
use super::scenario::Scenario;
use super::score::{RootRow, Row, Score, off_pct};
use super::shapley::shares;
use super::work::{Tick, Who, Workload, call};

/// The GPU's root and device.
pub const GPU: &str = "gpu-0";
/// Work of less CPU time than this is short.
const SHORT_NS: u64 = 5_000_000;

/// What each of them truly took of one root.
type Truth = BTreeMap<Who, f64>;

/// The machine with its meters.
struct Simulated {
    scenario: Scenario,
    workload: Workload,
    die: Die,
    meters: Vec<SimMeter>,
    random: Random,
    tick: u64,
    gpu_awake_until: u64,
    /// Since the last reading of each root.
    truth: Vec<Truth>,
    idle_j: Vec<f64>,
    variance: Truth,
}

/// Sums after the warm-up.
#[derive(Default)]
struct Sums {
    truth: BTreeMap<Who, f64>,
    variance: BTreeMap<Who, f64>,
    tenants: BTreeMap<u64, usize>,
    cpu_ns: BTreeMap<u64, u64>,
    charged_uj: BTreeMap<u64, u64>,
    provisional: BTreeMap<u64, (u64, u64)>,
    true_idle_j: Vec<f64>,
}

/// What postings say by account, root and kind.
#[derive(Default)]
struct Ledger {
    by_account: BTreeMap<Account, u64>,
    by_root: BTreeMap<(String, TransferKind), u64>,
}

impl Ledger {
    fn post(&mut self, posting: &Posting) {
        for transfer in posting
            .transfers
            .iter()
            .filter(|transfer| transfer.unit == Unit::Uj)
        {
            *self.by_account.entry(transfer.debit.clone()).or_default() += transfer.amount;
            let root = transfer.root.clone().unwrap_or_default();
            *self.by_root.entry((root, transfer.kind)).or_default() += transfer.amount;
        }
    }

    fn of(&self, account: &Account) -> f64 {
        self.by_account.get(account).copied().unwrap_or_default() as f64 / 1e6
    }

    fn of_root(&self, root: &str, kind: TransferKind) -> f64 {
        let key = (root.to_owned(), kind);
        self.by_root.get(&key).copied().unwrap_or_default() as f64 / 1e6
    }
}

impl Simulated {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let machine = &scenario.machine;
        let die = Die::cold(machine);
        let [package_w, dram_w] = machine.idle(die.celsius);
        let mut roots = vec![("package-0", "rapl", package_w), ("dram-0", "rapl", dram_w)];
        if machine.gpu_sleep_w > 0.0 {
            roots.push((GPU, "nvml", machine.gpu_sleep_w));
        }
        let meters: Vec<SimMeter> = roots
            .into_iter()
            .map(|(name, kind, idle_w)| {
                let kind = if scenario.meter.modelled { "modelled" } else { kind };
                SimMeter::new(name, kind, &scenario.meter, idle_w, Random::new(random.bits()))
            })
            .collect();
        let roots = meters.len();
        Self {
            scenario: scenario.clone(),
            workload: Workload::new(scenario, Random::new(random.bits())),
            die,
            meters,
            random,
            tick: 0,
            gpu_awake_until: 0,
            truth: vec![Truth::new(); roots],
            idle_j: vec![0.0; roots],
            variance: Truth::new(),
        }
    }

    /// A millisecond.
    fn step(&mut self) {
        self.tick += 1;
        let now_s = self.tick as f64 / 1e3;
        let tick = self.workload.tick(now_s);
        let (machine, celsius) = (&self.scenario.machine, self.die.celsius);
        let everyone = machine.dynamic(&tick.ran, u64::MAX, celsius);
        let game = |coalition| machine.dynamic(&tick.ran, coalition, celsius);
        let found = shares(tick.players.len(), game, &mut self.random);
        for (player, who) in tick.players.iter().enumerate() {
            for root in 0..2 {
                *self.truth[root].entry(*who).or_default() += found.joules[player][root];
            }
            *self.variance.entry(*who).or_default() += found.variance[player];
        }
        let idle_w = machine.idle(celsius);
        for root in 0..2 {
            let idle_j = idle_w[root] / 1e3;
            self.idle_j[root] += idle_j;
            let joules = match self.scenario.meter.modelled {
                true => modelled_j(idle_w[root], root, tick.utilisation),
                false => idle_j + everyone[root],
            };
            self.meters[root].tick(joules);
        }
        let watts = 1e3 * (everyone[0] + idle_w[0] / 1e3);
        self.die.warm(&self.scenario.machine, watts, now_s);
        self.gpu_step(&tick);
    }

    fn gpu_step(&mut self, tick: &Tick) {
        let machine = &self.scenario.machine;
        let Some(meter) = self.meters.get_mut(2) else {
            return;
        };
        if !tick.gpu.is_empty() {
            self.gpu_awake_until = self.tick + (machine.gpu_awake_s * 1e3) as u64;
        }
        let wake_w = machine.gpu_awake_w - machine.gpu_sleep_w;
        let mut joules = machine.gpu_sleep_w / 1e3;
        self.idle_j[2] += joules;
        if self.tick <= self.gpu_awake_until {
            joules += wake_w / 1e3;
        }
        for (who, part, watts) in &tick.gpu {
            joules += part * watts / 1e3;
            *self.truth[2].entry(*who).or_default() += part * (watts + wake_w) / 1e3;
        }
        meter.tick(joules);
    }

    fn at_ns(&self) -> u64 {
        self.tick * 1_000_000
    }
}

/// A meter that knows utilisation alone: the median SPECpower curve's concave shape, roughly, over fixed
/// ends that are not this machine's.
fn modelled_j(idle_w: f64, root: usize, utilisation: f64) -> f64 {
    let span_w = [70.0, 6.0][root];
    (idle_w + span_w * utilisation.sqrt()) / 1e3
}

fn at(index: u64, slice_ms: u64) -> OffsetDateTime {
    let ms = (index + 1) * slice_ms;
    OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// The slice as equal weights for all CPU time would share it, over the same floor.
fn by_time(slice: &Slice) -> Slice {
    let mut slice = slice.clone();
    for weights in &mut slice.weights {
        weights.base = Weights::EQUAL;
        weights.classes.clear();
    }
    slice
}

/// A run's parts that live from slice to slice.
struct Run {
    machine: Simulated,
    estimator: Estimator,
    sealer: Sealer,
    by_time: Sealer,
    activity: Activity,
    sums: Sums,
    ledger: Ledger,
    by_time_ledger: Ledger,
    all: Ledger,
    covered: Vec<bool>,
    before: Vec<Reading>,
    learnt_readings: Vec<Reading>,
    learnt_activity: Activity,
}

/// Runs a scenario; the same seed gives the same figures.
pub fn run(scenario: &Scenario, seed: u64) -> Score {
    let mut machine = Simulated::new(scenario, seed);
    let baseline: Vec<_> = machine
        .meters
        .iter_mut()
        .filter_map(|meter| meter.read(0, false))
        .collect();
    let sealer = Sealer::new(
        NodeId(Uuid::from_u128(7)),
        Epoch(Uuid::from_u128(8)),
        0,
        Digest::ZERO,
        OffsetDateTime::UNIX_EPOCH,
        baseline.clone(),
        OpenReceipts::default(),
    );
    let roots = machine.meters.len();
    let mut run = Run {
        machine,
        estimator: Estimator::default(),
        by_time: sealer.clone(),
        sealer,
        activity: Activity::default(),
        sums: Sums {
            true_idle_j: vec![0.0; roots],
            ..Sums::default()
        },
        ledger: Ledger::default(),
        by_time_ledger: Ledger::default(),
        all: Ledger::default(),
        covered: vec![true; roots],
        before: baseline.clone(),
        learnt_readings: baseline.clone(),
        learnt_activity: Activity::default(),
    };
    let per_window = scenario.window_slices as u64;
    let windows = |seconds: u64| (seconds * 1_000).div_ceil(scenario.slice_ms * per_window);
    let warm = windows(scenario.warm_up_seconds);
    for window in 0..warm + windows(scenario.seconds) {
        let counts = window >= warm;
        let slices: Vec<Slice> = (0..per_window)
            .map(|slice| run.slice(window * per_window + slice, counts))
            .collect();
        run.seal(&slices, counts);
    }
    run.score(&baseline)
}

impl Run {
    /// The machine's next `ms`, and what is read then: all readings, and the CPU time since `activity`.
    fn advance(&mut self, ms: u64, ends_slice: bool) -> Vec<Reading> {
        let machine = &mut self.machine;
        (0..ms).for_each(|_| machine.step());
        let at_ns = machine.at_ns();
        let meters = machine.meters.iter_mut();
        meters.filter_map(|meter| meter.read(at_ns, ends_slice)).collect()
    }

    /// The part of a slice from which the estimator learns; nothing of it is kept.
    fn learn(&mut self, readings: &[Reading]) {
        let activity = self.machine.workload.activity();
        let glance = Slice {
            index: 0,
            at: OffsetDateTime::UNIX_EPOCH,
            readings: readings.to_vec(),
            activity: activity.since(&self.learnt_activity),
            claims: self.machine.workload.glance(),
            weights: Vec::new(),
            faults: Vec::new(),
        };
        self.estimator.observe(&self.learnt_readings, &glance);
        self.learnt_readings = readings.to_vec();
        self.learnt_activity = activity;
    }

    fn slice(&mut self, index: u64, counts: bool) -> Slice {
        let (slice_ms, learn_ms) = (self.machine.scenario.slice_ms, self.machine.scenario.learn_ms);
        for _ in 1..slice_ms / learn_ms {
            let readings = self.advance(learn_ms, false);
            self.learn(&readings);
        }
        let readings = self.advance(learn_ms, true);
        self.learn(&readings);
        let machine = &mut self.machine;
        let activity = machine.workload.activity();
        let claims = machine.workload.cut();
        for (root, meter) in machine.meters.iter().enumerate() {
            let read = readings.iter().any(|reading| reading.root.name == meter.name());
            let truth = std::mem::take(&mut machine.truth[root]);
            let idle_j = std::mem::take(&mut machine.idle_j[root]);
            // A span over a gap is nobody's by rule: the truth in it is not asked for either.
            if read && self.covered[root] && counts {
                for (who, joules) in truth {
                    *self.sums.truth.entry(who).or_default() += joules;
                }
                self.sums.true_idle_j[root] += idle_j;
            }
            self.covered[root] = read;
        }
        for (who, variance) in std::mem::take(&mut machine.variance) {
            *self.sums.variance.entry(who).or_default() += variance;
        }
        let mut slice = Slice {
            index,
            at: at(index, slice_ms),
            readings,
            activity: activity.since(&self.activity),
            claims,
            weights: Vec::new(),
            faults: Vec::new(),
        };
        slice.weights = self.estimator.weights(&self.before, &slice);
        self.activity = activity;
        self.before.clone_from(&slice.readings);
        if counts {
            self.note_claims(&slice);
        }
        slice
    }

    fn note_claims(&mut self, slice: &Slice) {
        for claim in &slice.claims {
            let number = (claim.call.invocation.0.as_u128() - 1) as u64;
            let tenant = claim.call.tenant.0.as_u128() - 1;
            self.sums.tenants.insert(number, tenant as usize);
            *self.sums.cpu_ns.entry(number).or_default() += claim.usage.total_cpu_ns();
            if let Some(estimate) = self.estimator.provisional(&claim.call, &claim.usage) {
                let sum = self.sums.provisional.entry(number).or_default();
                sum.0 += estimate.energy_uj;
                sum.1 += estimate.upper_uj;
            }
        }
    }

    fn seal(&mut self, slices: &[Slice], counts: bool) {
        let posting = self.sealer.seal(slices);
        assert_eq!(posting.verify(), Ok(()), "a posting that does not fit itself");
        self.all.post(&posting);
        let plain: Vec<Slice> = slices.iter().map(by_time).collect();
        let plain = self.by_time.seal(&plain);
        if !counts {
            return;
        }
        self.ledger.post(&posting);
        self.by_time_ledger.post(&plain);
        for line in &posting.lines {
            let number = (line.call.invocation.0.as_u128() - 1) as u64;
            *self.sums.charged_uj.entry(number).or_default() += line.energy_uj.unwrap_or(0);
        }
    }

    /// What the counters say against what was moved, in microjoules.
    fn leak_uj(&self, baseline: &[Reading]) -> u64 {
        let roots = self.sealer.baseline().iter().map(|last| {
            let first = baseline.iter().find(|first| first.root.name == last.root.name);
            let grown_uj = last.counter_uj - first.map_or(0, |first| first.counter_uj);
            let moved = self
                .all
                .by_root
                .iter()
                .filter(|((root, _), _)| *root == last.root.name);
            grown_uj.abs_diff(moved.map(|(_, uj)| uj).sum())
        });
        roots.sum()
    }

    fn row(&self, name: &str, account: &Account, truth_j: f64, variance: f64) -> Row {
        Row {
            name: name.to_owned(),
            truth_j,
            charged_j: self.ledger.of(account),
            by_time_j: self.by_time_ledger.of(account),
            sampling_pct: if truth_j > 0.0 {
                196.0 * variance.sqrt() / truth_j
            } else {
                0.0
            },
        }
    }

    fn score(&self, baseline: &[Reading]) -> Score {
        let (scenario, sums) = (&self.machine.scenario, &self.sums);
        let mut by_tenant = vec![(0.0, 0.0); scenario.tenant.len()];
        for (who, joules) in &sums.truth {
            if let Who::Call(number) = who
                && let Some(tenant) = sums.tenants.get(number)
            {
                by_tenant[*tenant].0 += joules;
                by_tenant[*tenant].1 += sums.variance.get(who).copied().unwrap_or_default();
            }
        }
        let tenants = by_tenant.iter().enumerate().map(|(tenant, (joules, variance))| {
            let id: TenantId = call(0, tenant, "").tenant;
            let name = &scenario.tenant[tenant].name;
            self.row(name, &Account::Tenant(id), *joules, *variance)
        });
        let others = [
            ("system", Account::System, Who::System),
            ("foreign", Account::Foreign, Who::Foreign),
        ];
        let others = others.into_iter().map(|(name, account, who)| {
            let of = |sums: &BTreeMap<Who, f64>| sums.get(&who).copied().unwrap_or_default();
            self.row(name, &account, of(&sums.truth), of(&sums.variance))
        });
        let roots = self.machine.meters.iter().enumerate().map(|(root, meter)| {
            let name = meter.name();
            let of = |kind| self.ledger.of_root(name, kind);
            let kinds = self.ledger.by_root.iter().filter(|((of, _), _)| of == name);
            RootRow {
                name: name.to_owned(),
                metered_j: kinds.map(|(_, uj)| *uj as f64).sum::<f64>() / 1e6,
                true_idle_j: sums.true_idle_j[root],
                idle_j: of(TransferKind::Idle),
                unattributed_j: of(TransferKind::Unattributed),
            }
        });
        let (short_calls, short_bias_pct) = self.short();
        let (provisional, provisional_bias_pct) = self.provisional();
        Score {
            scenario: scenario.name.clone(),
            good_meter: scenario.good_meter(),
            tenants: tenants.collect(),
            others: others.filter(|row| row.truth_j > 0.0).collect(),
            roots: roots.collect(),
            short_bias_pct,
            short_calls,
            provisional,
            provisional_bias_pct,
            leak_uj: self.leak_uj(baseline),
            refused: self.machine.workload.refused,
            models: self.estimator.roots(),
        }
    }

    fn short(&self) -> (u64, Option<f64>) {
        let (mut count, mut truth_j, mut charged_j) = (0, 0.0, 0.0);
        for (number, cpu_ns) in &self.sums.cpu_ns {
            if *cpu_ns < SHORT_NS {
                count += 1;
                truth_j += self
                    .sums
                    .truth
                    .get(&Who::Call(*number))
                    .copied()
                    .unwrap_or_default();
                charged_j += self.sums.charged_uj.get(number).copied().unwrap_or_default() as f64 / 1e6;
            }
        }
        (count, (count > 0).then(|| off_pct(charged_j, truth_j)))
    }

    fn provisional(&self) -> ((u64, u64), f64) {
        let (mut all, mut within, mut told_j, mut charged_j) = (0, 0, 0.0, 0.0);
        for (number, (energy_uj, upper_uj)) in &self.sums.provisional {
            let charged_uj = self.sums.charged_uj.get(number).copied().unwrap_or_default();
            all += 1;
            within += u64::from(charged_uj <= *upper_uj);
            told_j += *energy_uj as f64;
            charged_j += charged_uj as f64;
        }
        ((all, within), off_pct(told_j, charged_j))
    }
}
