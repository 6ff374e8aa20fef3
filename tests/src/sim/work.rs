//! Who works in the simulated machine: calls that arrive, run and end, the host's own work, and others.

use std::collections::{BTreeMap, VecDeque};

use domain::posting::{Call, CallKind, Claim};
use domain::{Digest, InvocationId, Outcome, TenantId, Usage, Work};
use time::OffsetDateTime;
use uuid::Uuid;

use super::machine::{NOMINAL_CYCLES, Ran, physics_of};
use super::random::Random;
use super::scenario::{Foreign, Machine, Mix, Phase, Scenario, Tenant};

/// Calls beyond this many at once are turned away: a scenario asked for more than the machine can do.
const MOST_CALLS: usize = 400;
/// The resolution of the kernel's counters of CPU time.
const JIFFY_NS: f64 = 1e7;
/// Fuel per cycle of a model's static cost.
const MODEL_FUEL: f64 = 0.01;

/// Whose work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A call, by number.
    Call(u64),
    /// The host and its Postgres.
    System,
    /// Others.
    Foreign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Guest,
    Model,
    Host,
    Postgres,
    Other,
}

/// A thread's worth of work.
#[derive(Clone, Debug)]
struct Task {
    who: Who,
    part: Part,
    mix: Mix,
    cycles: f64,
}

/// A call while it runs.
struct Running {
    tenant: usize,
    usage: Usage,
    claimed: Usage,
    learnt: Usage,
    /// CPU time of models that is not told yet.
    untold_ns: f64,
    guest_ns: f64,
    model_ns: f64,
    /// How long at least one thread of a model worked.
    model_busy_ns: f64,
    busy_ns: f64,
    threads_left: usize,
    ended: bool,
}

/// Something that comes and goes.
struct Source {
    on: bool,
    turns_at_s: f64,
    next_s: f64,
    on_s: f64,
    off_s: f64,
    gap_s: f64,
}

impl Source {
    fn new(per_second: f64, on_s: f64, off_s: f64, random: &mut Random) -> Self {
        let on = random.unit() < on_s / (on_s + off_s);
        let gap_s = if per_second > 0.0 {
            1.0 / per_second
        } else {
            f64::INFINITY
        };
        Self {
            on,
            turns_at_s: random.exponential(if on { on_s } else { off_s }),
            next_s: random.exponential(1.0) * gap_s,
            on_s,
            off_s,
            gap_s,
        }
    }

    /// How many arrive up to `now_s`.
    fn arrivals(&mut self, now_s: f64, random: &mut Random) -> usize {
        while self.turns_at_s <= now_s && self.off_s > 0.0 {
            self.on = !self.on;
            self.turns_at_s += random.exponential(if self.on { self.on_s } else { self.off_s });
        }
        let mut count = 0;
        while self.next_s <= now_s {
            self.next_s += random.exponential(1.0) * self.gap_s;
            count += usize::from(self.on);
        }
        count
    }
}

/// What a millisecond was used for.
pub struct Tick {
    /// Threads that ran.
    pub ran: Vec<Ran>,
    /// Who the players of `ran` are.
    pub players: Vec<Who>,
    /// Calls on the GPU: the part of the millisecond and the power above being awake, in watts.
    pub gpu: Vec<(Who, f64, f64)>,
    /// The share of all threads that worked.
    pub utilisation: f64,
}

/// All who work.
pub struct Workload {
    machine: Machine,
    tenants: Vec<Tenant>,
    foreign: Vec<Foreign>,
    sources: Vec<Source>,
    foreign_sources: Vec<Source>,
    host_source: Source,
    postgres_source: Source,
    us_per_call: f64,
    quiet_s: f64,
    random: Random,
    queue: VecDeque<Task>,
    gpu: VecDeque<(u64, f64, f64)>,
    calls: BTreeMap<u64, Running>,
    next_call: u64,
    /// Cumulative CPU times in nanoseconds: host, Postgres, machine.
    pub host_ns: f64,
    postgres_ns: f64,
    machine_ns: f64,
    /// Calls turned away.
    pub refused: u64,
}

/// The call with this number, of a tenant.
pub fn call(number: u64, tenant: usize, name: &str) -> Call {
    Call {
        invocation: InvocationId(Uuid::from_u128(u128::from(number) + 1)),
        kind: CallKind::Infer,
        tenant: TenantId(Uuid::from_u128(tenant as u128 + 1)),
        deployment: name.parse().ok(),
        release: Some(1),
        started_at: OffsetDateTime::UNIX_EPOCH,
    }
}

impl Workload {
    /// The workload of a scenario.
    pub fn new(scenario: &Scenario, mut random: Random) -> Self {
        let tenants = scenario.tenant.iter();
        let sources = tenants
            .map(|t| Source::new(t.calls_per_second, t.on_seconds, t.off_seconds, &mut random))
            .collect();
        let foreign_sources = scenario
            .foreign
            .iter()
            .map(|f| {
                Source::new(
                    f.busy / f.burst_ms * 1e3,
                    f.on_seconds,
                    f.off_seconds,
                    &mut random,
                )
            })
            .collect();
        // Bursts of a millisecond.
        let host_source = Source::new(scenario.system.host_busy * 1e3, 1.0, 0.0, &mut random);
        let postgres_source = Source::new(scenario.system.postgres_busy * 1e3, 1.0, 0.0, &mut random);
        Self {
            machine: scenario.machine.clone(),
            tenants: scenario.tenant.clone(),
            foreign: scenario.foreign.clone(),
            sources,
            foreign_sources,
            host_source,
            postgres_source,
            us_per_call: scenario.system.us_per_call,
            quiet_s: scenario.quiet_seconds,
            random,
            queue: VecDeque::new(),
            gpu: VecDeque::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            host_ns: 0.0,
            postgres_ns: 0.0,
            machine_ns: 0.0,
            refused: 0,
        }
    }

    /// Calls that have not ended; the others wait for the next cut.
    fn running(&self) -> usize {
        let calls = self.calls.len();
        if calls < MOST_CALLS {
            return calls;
        }
        self.calls.values().filter(|call| !call.ended).count()
    }

    fn push(&mut self, who: Who, part: Part, mix: Mix, ms: f64) {
        let cycles = ms * NOMINAL_CYCLES;
        self.queue.push_back(Task {
            who,
            part,
            mix,
            cycles,
        });
    }

    fn length_ms(&mut self, phase: &Phase) -> f64 {
        if phase.fixed {
            phase.ms
        } else {
            self.random.exponential(phase.ms)
        }
    }

    fn arrive(&mut self, now_s: f64) {
        for tenant in 0..self.tenants.len() {
            for _ in 0..self.sources[tenant].arrivals(now_s, &mut self.random) {
                if now_s < self.quiet_s {
                    continue;
                }
                if self.running() >= MOST_CALLS {
                    self.refused += 1;
                    continue;
                }
                let guest = self.tenants[tenant].guest.clone();
                let ms = self.length_ms(&guest);
                self.push(Who::Call(self.next_call), Part::Guest, guest.mix, ms);
                self.push(Who::System, Part::Host, Mix::Branchy, self.us_per_call / 1e3);
                self.calls.insert(self.next_call, Running::new(tenant));
                self.next_call += 1;
            }
        }
        for at in 0..self.foreign.len() {
            let (mix, burst_ms) = (self.foreign[at].mix, self.foreign[at].burst_ms);
            for _ in 0..self.foreign_sources[at].arrivals(now_s, &mut self.random) {
                let ms = self.random.exponential(burst_ms);
                self.push(Who::Foreign, Part::Other, mix, ms);
            }
        }
        for _ in 0..self.host_source.arrivals(now_s, &mut self.random) {
            self.push(Who::System, Part::Host, Mix::Branchy, 1.0);
        }
        for _ in 0..self.postgres_source.arrivals(now_s, &mut self.random) {
            self.push(Who::System, Part::Postgres, Mix::Branchy, 1.0);
        }
    }

    /// The next millisecond, which ends at `now_s`.
    pub fn tick(&mut self, now_s: f64) -> Tick {
        self.arrive(now_s);
        let threads = self.machine.cores * self.machine.threads_per_core;
        let running = threads.min(self.queue.len());
        let first = self.queue.iter().take(self.machine.cores);
        let active = first.map(|task| (task.cycles / NOMINAL_CYCLES).min(1.0)).sum();
        let [ghz, _] = self.machine.step(active);
        let (mut ran, mut players) = (Vec::new(), Vec::new());
        let (mut busy_ns, mut longest_ns) = (0.0, BTreeMap::<u64, f64>::new());
        for place in 0..running {
            let Some(mut task) = self.queue.pop_front() else {
                break;
            };
            let core = place % self.machine.cores;
            let shared = running > self.machine.cores && (core + self.machine.cores < running);
            let speed = ghz * 1e6 * if shared { self.machine.smt_speed } else { 1.0 };
            let cycles = task.cycles.min(speed);
            let cpu_ns = cycles / speed * 1e6;
            task.cycles -= cycles;
            busy_ns += cpu_ns;
            let player = players
                .iter()
                .position(|who| *who == task.who)
                .unwrap_or_else(|| {
                    players.push(task.who);
                    players.len() - 1
                });
            ran.push(Ran {
                player,
                core,
                cycles,
                mix: task.mix,
            });
            self.account(&task, cycles, cpu_ns);
            if let (Who::Call(number), Part::Model) = (task.who, task.part) {
                let longest_ns = longest_ns.entry(number).or_default();
                *longest_ns = longest_ns.max(cpu_ns);
            }
            if task.cycles > 1.0 {
                self.queue.push_back(task);
            } else {
                self.end_task(&task);
            }
        }
        for (number, longest_ns) in longest_ns {
            if let Some(call) = self.calls.get_mut(&number) {
                call.model_busy_ns += longest_ns;
            }
        }
        Tick {
            ran,
            players,
            gpu: self.gpu_tick(),
            utilisation: busy_ns / (threads as f64 * 1e6),
        }
    }

    fn account(&mut self, task: &Task, cycles: f64, cpu_ns: f64) {
        self.machine_ns += cpu_ns;
        match task.part {
            Part::Postgres => self.postgres_ns += cpu_ns,
            Part::Other => {}
            Part::Guest | Part::Model | Part::Host => self.host_ns += cpu_ns,
        }
        let Who::Call(number) = task.who else { return };
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        if task.part == Part::Guest {
            call.guest_ns += cpu_ns;
            call.usage.fuel += (cycles * physics_of(task.mix).fuel) as u64;
        } else if self.tenants[call.tenant].late {
            call.untold_ns += cpu_ns;
        } else {
            call.model_ns += cpu_ns;
        }
    }

    fn end_task(&mut self, task: &Task) {
        let Who::Call(number) = task.who else { return };
        let Some(tenant) = self.calls.get(&number).map(|call| call.tenant) else {
            return;
        };
        let tenant = self.tenants[tenant].clone();
        let model = tenant.model.filter(|_| task.part == Part::Guest);
        if let Some(model) = model {
            let ms = self.length_ms(&model);
            let threads = model.threads.max(1);
            for _ in 0..threads {
                self.push(task.who, Part::Model, model.mix, ms / threads as f64);
            }
            if let Some(call) = self.calls.get_mut(&number) {
                call.threads_left = threads;
                call.usage.fuel += (ms * NOMINAL_CYCLES * MODEL_FUEL) as u64;
                call.usage.bytes_in += tenant.bytes;
            }
            return;
        }
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        call.threads_left = call.threads_left.saturating_sub(1);
        if call.threads_left > 0 {
            return;
        }
        call.model_ns += std::mem::take(&mut call.untold_ns);
        call.usage.bytes_out += tenant.bytes / 4;
        call.ended = tenant.gpu_ms <= 0.0;
        if !call.ended {
            let ms = self.random.exponential(tenant.gpu_ms);
            self.gpu.push_back((number, ms, tenant.gpu_w));
        }
    }

    fn gpu_tick(&mut self) -> Vec<(Who, f64, f64)> {
        let (mut left, mut used) = (1.0, Vec::new());
        while left > 1e-9 {
            let Some((number, ms, watts)) = self.gpu.pop_front() else {
                break;
            };
            let part = ms.min(left);
            left -= part;
            used.push((Who::Call(number), part, watts));
            let Some(call) = self.calls.get_mut(&number) else {
                continue;
            };
            call.busy_ns += part * 1e6;
            if ms > part {
                self.gpu.push_front((number, ms - part, watts));
            } else {
                call.ended = true;
            }
        }
        used
    }

    /// The machine's counters, as the kernel tells them: host, Postgres, machine, in nanoseconds.
    pub fn activity(&self) -> domain::energy::Activity {
        let jiffies = |ns: f64| ((ns / JIFFY_NS).floor() * JIFFY_NS) as u64;
        domain::energy::Activity {
            machine_ns: jiffies(self.machine_ns),
            host_ns: self.host_ns as u64,
            postgres_ns: jiffies(self.postgres_ns),
        }
    }

    /// The claims of a slice: what every call used since the last cut.
    pub fn cut(&mut self) -> Vec<Claim> {
        let claims = self.claims(|running| &mut running.claimed);
        self.calls.retain(|_, running| !running.ended);
        claims
    }

    /// What every call used since this was asked last, for the estimator.
    pub fn glance(&mut self) -> Vec<Claim> {
        self.claims(|running| &mut running.learnt)
    }

    fn claims(&mut self, since: impl Fn(&mut Running) -> &mut Usage) -> Vec<Claim> {
        let mut claims = Vec::new();
        for (number, running) in &mut self.calls {
            running.usage.cpu_ns = running.guest_ns as u64;
            running.usage.work = running.work();
            let (now, ended) = (running.usage.clone(), running.ended);
            let then = since(running);
            if now == *then && !ended {
                continue;
            }
            let usage = now.since(then);
            *then = now;
            claims.push(Claim {
                call: call(*number, running.tenant, &self.tenants[running.tenant].name),
                usage,
                outcome: ended.then_some(Outcome::Ok),
            });
        }
        claims
    }
}

impl Running {
    fn new(tenant: usize) -> Self {
        Self {
            tenant,
            usage: Usage::default(),
            claimed: Usage::default(),
            learnt: Usage::default(),
            untold_ns: 0.0,
            guest_ns: 0.0,
            model_ns: 0.0,
            model_busy_ns: 0.0,
            busy_ns: 0.0,
            threads_left: 0,
            ended: false,
        }
    }

    fn work(&self) -> Vec<Work> {
        let work = |device: &str, cpu_ns: f64, busy_ns: f64| Work {
            graph: Digest::of(device.as_bytes()),
            backend: "simulated".into(),
            device: device.into(),
            precision: "exact".into(),
            runs: 1,
            rows: 1,
            cpu_ns: cpu_ns as u64,
            busy_ns: busy_ns as u64,
            tokens: 0,
        };
        let mut all = Vec::new();
        if self.model_ns > 0.0 {
            all.push(work("cpu", self.model_ns, self.model_busy_ns));
        }
        if self.busy_ns > 0.0 {
            all.push(work(super::drive::GPU, 0.0, self.busy_ns));
        }
        all
    }
}
