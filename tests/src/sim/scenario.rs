//! A scenario: a TOML file that says what the simulated machine is and who works on it.
//!
//! ```toml
//! name = "pair"
//! about = "two tenants, one of them vector code"
//! seconds = 600            # simulated; what the figures cover
//! warm_up_seconds = 120    # before that, left out of the figures
//!
//! [machine]                # every key has a default: see `Machine`
//! cores = 4
//! [meter]                  # see `Quality`
//! noise = 0.002
//! [system]                 # the host's own work: see `System`
//! us_per_call = 60
//!
//! [[foreign]]              # CPU time of others, or stolen by a hypervisor: see `Foreign`
//! busy = 0.5
//! mix = "branchy"
//!
//! [[tenant]]               # see `Tenant`
//! name = "acacia"
//! calls_per_second = 20
//! guest = { ms = 3, mix = "integer" }
//! model = { ms = 40, mix = "vector", threads = 2 }
//! ```
//!
//! Unknown keys are errors. Rates and times vary from call to call around the means given here, by the
//! seed alone.

use serde::Deserialize;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The name in the report.
    pub name: String,
    /// What it is to show.
    pub about: String,
    /// Simulated seconds that the figures cover.
    pub seconds: u64,
    /// Simulated seconds before that, from which the estimator learns.
    #[serde(default = "two_minutes")]
    pub warm_up_seconds: u64,
    /// How long a host that has just started waits for its first call, within the warm-up.
    #[serde(default = "half_a_minute")]
    pub quiet_seconds: f64,
    /// The length of a slice in milliseconds.
    #[serde(default = "thousand")]
    pub slice_ms: u64,
    /// How often the estimator learns, in milliseconds: a part of a slice, or a whole one.
    #[serde(default = "hundred")]
    pub learn_ms: u64,
    /// Slices of a window.
    #[serde(default = "ten")]
    pub window_slices: usize,
    /// The machine.
    #[serde(default)]
    pub machine: Machine,
    /// How good the meters are.
    #[serde(default)]
    pub meter: Quality,
    /// The host's own work.
    #[serde(default)]
    pub system: System,
    /// Others on the machine.
    #[serde(default)]
    pub foreign: Vec<Foreign>,
    /// Who calls.
    #[serde(default)]
    pub tenant: Vec<Tenant>,
}

/// A scenario that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The text is no scenario.
    #[error("no scenario: {0}")]
    Toml(#[from] toml::de::Error),
    /// A value that makes no sense.
    #[error("'{key}' must be {must}")]
    Value {
        /// The key.
        key: &'static str,
        /// What would make sense.
        must: &'static str,
    },
}

impl Scenario {
    /// Reads and checks a scenario.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        let machine = &scenario.machine;
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite() && *value >= 0.0);
        let tenants_ok = scenario.tenant.iter().all(|tenant| {
            let phases = [tenant.on_seconds, tenant.off_seconds];
            finite(&[tenant.calls_per_second, tenant.guest.ms]) && finite(&phases) && tenant.on_seconds > 0.0
        });
        let checks = [
            (
                (1..=86_400).contains(&scenario.seconds),
                "seconds",
                "from 1 to 86,400",
            ),
            (
                (10..=60_000).contains(&scenario.slice_ms),
                "slice_ms",
                "from 10 to 60,000",
            ),
            (
                scenario.learn_ms >= 10 && scenario.slice_ms.is_multiple_of(scenario.learn_ms),
                "learn_ms",
                "a whole part of slice_ms, and at least 10",
            ),
            (scenario.window_slices > 0, "window_slices", "at least 1"),
            ((1..=32).contains(&machine.cores), "machine.cores", "from 1 to 32"),
            (
                (1..=2).contains(&machine.threads_per_core),
                "machine.threads_per_core",
                "1 or 2",
            ),
            (
                !machine.steps.is_empty() && machine.steps.iter().all(|step| finite(step) && step[0] > 0.0),
                "machine.steps",
                "at least one [GHz, V]",
            ),
            (
                scenario.meter.late_ms < scenario.learn_ms,
                "meter.late_ms",
                "below learn_ms",
            ),
            (
                (0.0..=1.0).contains(&scenario.meter.gaps),
                "meter.gaps",
                "a probability",
            ),
            (
                scenario.meter.quantum_uj > 0 && scenario.meter.range_uj > scenario.meter.quantum_uj,
                "meter.quantum_uj",
                "above 0 and below range_uj",
            ),
            (
                !scenario.tenant.is_empty() && tenants_ok,
                "tenant",
                "at least one, with finite rates",
            ),
            (
                scenario
                    .tenant
                    .iter()
                    .all(|tenant| tenant.name.parse::<domain::Name>().is_ok()),
                "tenant.name",
                "lower-case letters, digits and hyphens",
            ),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, key, must)) => Err(ScenarioError::Value { key, must }),
            None => Ok(scenario),
        }
    }

    /// Whether its meter is a good one: it measures, within half a percent a slice, and misses at most one
    /// reading in a hundred; and CPU time is known when it is used. Only such scenarios are held to the bar.
    pub fn good_meter(&self) -> bool {
        let meter = &self.meter;
        let late = self.tenant.iter().any(|tenant| tenant.late);
        !late
            && !meter.modelled
            && meter.noise <= 0.005
            && meter.gaps <= 0.01
            && (meter.gain - 1.0).abs() <= 0.001
    }
}

/// The machine. Defaults are those of a small server of one socket.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// Physical cores.
    pub cores: usize,
    /// 1, or 2 with SMT.
    pub threads_per_core: usize,
    /// `[GHz, V]` with 1, 2, … cores active; the last goes on.
    pub steps: Vec<[f64; 2]>,
    /// The speed of each of two threads on a core, against one alone.
    pub smt_speed: f64,
    /// Power of an active core beyond its switching, in watts at 50 °C.
    pub core_static_w: f64,
    /// Power of what wakes with the first active core, in watts.
    pub uncore_w: f64,
    /// Package power with nothing to do, in watts at 50 °C.
    pub idle_w: f64,
    /// How much of `idle_w` leaks.
    pub leak_w: f64,
    /// Growth of leakage per kelvin.
    pub leak_per_k: f64,
    /// Temperature of the air, in °C, and how far it swings in an hour.
    pub ambient_c: f64,
    /// See `ambient_c`.
    pub ambient_swing_c: f64,
    /// Kelvins per watt between air and die.
    pub kelvin_per_w: f64,
    /// Seconds in which the die follows.
    pub thermal_s: f64,
    /// Memory's power with nothing to do, in watts.
    pub dram_idle_w: f64,
    /// Memory's energy per byte in nanojoules; half as much again at `dram_gbps`.
    pub dram_nj: f64,
    /// The bandwidth of memory in GB/s.
    pub dram_gbps: f64,
    /// The power of a sleeping GPU in watts; 0 for no GPU.
    pub gpu_sleep_w: f64,
    /// Its power while awake, which it stays for a while after its work.
    pub gpu_awake_w: f64,
    /// How long it stays awake, in seconds.
    pub gpu_awake_s: f64,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            cores: 8,
            threads_per_core: 2,
            steps: vec![
                [3.8, 1.15],
                [3.8, 1.15],
                [3.6, 1.10],
                [3.6, 1.10],
                [3.4, 1.05],
                [3.4, 1.05],
                [3.2, 1.00],
                [3.2, 1.00],
            ],
            smt_speed: 0.62,
            core_static_w: 1.2,
            uncore_w: 7.0,
            idle_w: 22.0,
            leak_w: 6.0,
            leak_per_k: 0.012,
            ambient_c: 26.0,
            ambient_swing_c: 2.0,
            kelvin_per_w: 0.3,
            thermal_s: 40.0,
            dram_idle_w: 4.0,
            dram_nj: 0.2,
            dram_gbps: 60.0,
            gpu_sleep_w: 0.0,
            gpu_awake_w: 60.0,
            gpu_awake_s: 4.0,
        }
    }
}

/// How good meters are. Defaults are those of RAPL.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quality {
    /// Relative noise of a second, one standard deviation.
    pub noise: f64,
    /// The factor by which it is off.
    pub gain: f64,
    /// The counter's step in microjoules.
    pub quantum_uj: u64,
    /// Where the counter wraps, in microjoules.
    pub range_uj: u64,
    /// A reading is up to this many milliseconds old.
    pub late_ms: u64,
    /// The probability that a slice has no reading.
    pub gaps: f64,
    /// Whether the meter says its idle power (of the machine when it is cold); else the floor's start is 0.
    pub knows_idle: bool,
    /// The meter does not measure: it computes from utilisation.
    pub modelled: bool,
}

impl Default for Quality {
    fn default() -> Self {
        Self {
            noise: 0.002,
            gain: 1.0,
            quantum_uj: 61,
            range_uj: 262_143_328_850,
            late_ms: 1,
            gaps: 0.0,
            knows_idle: false,
            modelled: false,
        }
    }
}

/// What a CPU does: see [`super::machine::physics_of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// Arithmetic on integers in a tight loop.
    Integer,
    /// Wide vectors, such as matrix products.
    Vector,
    /// Waiting for memory.
    Memory,
    /// Branches, calls and small objects: servers and interpreters.
    Branchy,
}

/// The host's own work.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct System {
    /// CPU time of the host for each call, in microseconds, charged to no call.
    pub us_per_call: f64,
    /// CPUs that the host keeps busy besides.
    pub host_busy: f64,
    /// CPUs that Postgres keeps busy.
    pub postgres_busy: f64,
}

impl Default for System {
    fn default() -> Self {
        Self {
            us_per_call: 80.0,
            host_busy: 0.01,
            postgres_busy: 0.03,
        }
    }
}

/// Load of others, or a hypervisor's steal: both are in the machine's CPU time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foreign {
    /// CPUs kept busy while on.
    pub busy: f64,
    /// What they do.
    pub mix: Mix,
    /// Mean length of a burst in milliseconds.
    #[serde(default = "twenty")]
    pub burst_ms: f64,
    /// Mean seconds on.
    #[serde(default = "forever")]
    pub on_seconds: f64,
    /// Mean seconds off in between.
    #[serde(default)]
    pub off_seconds: f64,
}

/// A stretch of CPU work.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Mean length on one CPU alone at 3 GHz, in milliseconds, over all threads together.
    pub ms: f64,
    /// What it does.
    pub mix: Mix,
    /// Threads.
    #[serde(default = "one")]
    pub threads: usize,
    /// Whether each call takes the mean; else exponentially distributed.
    #[serde(default)]
    pub fixed: bool,
}

/// A tenant with one deployment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// The name, of the tenant and the deployment.
    pub name: String,
    /// Calls per second while on, at random times.
    pub calls_per_second: f64,
    /// The guest's work.
    pub guest: Phase,
    /// The model's work on the CPU, after the guest's.
    pub model: Option<Phase>,
    /// The model's work on the GPU, after that, in milliseconds.
    #[serde(default)]
    pub gpu_ms: f64,
    /// The GPU's power above being awake while it does it, in watts.
    #[serde(default)]
    pub gpu_w: f64,
    /// Bytes of tensors and requests per call.
    #[serde(default)]
    pub bytes: u64,
    /// Whether the CPU time of models is known only when they have ended.
    #[serde(default)]
    pub late: bool,
    /// Mean seconds on.
    #[serde(default = "forever")]
    pub on_seconds: f64,
    /// Mean seconds off in between.
    #[serde(default)]
    pub off_seconds: f64,
}

fn half_a_minute() -> f64 {
    30.0
}

fn two_minutes() -> u64 {
    120
}

fn thousand() -> u64 {
    1_000
}

fn hundred() -> u64 {
    100
}

fn ten() -> usize {
    10
}

fn twenty() -> f64 {
    20.0
}

fn one() -> usize {
    1
}

fn forever() -> f64 {
    1e12
}
