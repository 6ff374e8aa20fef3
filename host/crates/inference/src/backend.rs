//! What a backend is: something that probes, loads graphs and runs them.

use std::fmt;

use bytes::Bytes;
use domain::usage::CPU;
use domain::{Signature, Tensor, UsageCell, Work};
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{ComputeError, LoadError};

/// Where a graph runs. A target that is not there is refused, never replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Target {
    /// The processor.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A tensor processor.
    Tpu,
}

impl Target {
    /// The name: `cpu`, `gpu` or `tpu`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => CPU,
            Self::Gpu => "gpu",
            Self::Tpu => "tpu",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What ran a call, as receipts name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendInfo {
    /// The backend's name, such as `rten`.
    pub name: &'static str,
    /// Its version.
    pub version: String,
    /// The device, such as `cpu`.
    pub device: String,
    /// The precision policy: `exact` keeps the model's own.
    pub precision: &'static str,
}

impl BackendInfo {
    /// Name and version, such as `rten 0.27.0`: the `backend` of a work entry.
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// What a backend found that it can do on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// The backend, and what its receipts will say; one for each target in `targets`.
    pub info: BackendInfo,
    /// The targets that it can run on now.
    pub targets: Vec<Target>,
    /// Whether a run can be stopped.
    pub interruptible: bool,
    /// Whether it is made for some few kinds of graphs: that it refuses one says nothing of the model.
    pub narrow: bool,
}

/// Code that runs graphs.
pub trait Backend: Send + Sync {
    /// Looks for what the backend needs and says what it can do. Cheap enough to repeat.
    fn probe(&self) -> Caps;

    /// Makes a graph of a model that has passed the scan. CPU time goes to `cell`, also when it fails.
    fn load<'a>(
        &'a self,
        blob: Bytes,
        target: Target,
        cell: &'a UsageCell,
    ) -> BoxFuture<'a, Result<Box<dyn Graph>, LoadError>>;
}

/// A loaded model.
pub trait Graph: Send + Sync {
    /// What it takes and gives.
    fn signature(&self) -> &Signature;

    /// Multiply-accumulates of one run on inputs of these shapes, in the signature's order: a static
    /// figure, the same on every machine and in every run.
    fn cost(&self, shapes: &[Vec<u32>]) -> u64;

    /// Memory that it holds, in bytes.
    fn resident_bytes(&self) -> u64;

    /// Whether two runs on the same inputs may differ.
    fn is_random(&self) -> bool {
        false
    }

    /// What answers its short runs where they are asked for, if anything does. Then a runner is first asked for when one
    /// comes that is not short.
    fn direct(&self) -> Option<&dyn Direct> {
        None
    }

    /// What runs it. Called again when a runner is spent; CPU time goes to `cell`.
    fn runner<'a>(&'a self, cell: &'a UsageCell) -> BoxFuture<'a, Result<Box<dyn Runner>, LoadError>>;
}

/// What answers short runs on the thread that asks, without waiting for anything.
pub trait Direct: Send + Sync {
    /// Whether a run on inputs that fit the signature is short.
    fn is_short(&self, inputs: &[Tensor]) -> bool;

    /// The outputs of a short run, which fit the signature and stand in its order.
    ///
    /// # Errors
    /// A fault of the backend.
    fn answer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, ComputeError>;

    /// What runs the graph where a run is not short, as receipts name it.
    fn runner_info(&self) -> BackendInfo;
}

/// A run that is asked for.
pub struct Run {
    /// They fit the signature and stand in its order.
    pub inputs: Vec<Tensor>,
    /// Fires when nobody wants the answer any more: the run should end.
    pub stop: CancellationToken,
    /// Where its CPU time is told while it is used, also by a run that fails.
    pub meter: RunMeter,
    /// The outputs, which fit the signature and stand in its order, or why there are none.
    pub answer: Option<Result<Vec<Tensor>, ComputeError>>,
}

/// What runs a graph: owned by one task.
pub trait Runner: Send {
    /// Answers the runs, one after the other; at least the first. Those after one that took along what runs them get no
    /// answer: they are to be run again.
    fn run<'a>(&'a mut self, runs: &'a mut [Run]) -> BoxFuture<'a, ()>;

    /// How many runs it should be given at once.
    fn most_at_once(&self) -> usize {
        1
    }

    /// Whether it must be replaced before the next run.
    fn is_spent(&mut self) -> bool {
        false
    }
}

/// Where a run's CPU time goes, piece by piece, with how long it took: of runs on the CPU alone, since other
/// devices tell that themselves.
pub struct RunMeter {
    cell: std::sync::Arc<UsageCell>,
    work: Work,
    told_at: Instant,
}

impl RunMeter {
    pub(crate) fn new(cell: std::sync::Arc<UsageCell>, work: Work) -> Self {
        let told_at = Instant::now();
        Self { cell, work, told_at }
    }

    pub(crate) fn cell(&self) -> &UsageCell {
        &self.cell
    }

    /// Adds CPU time, in nanoseconds. The first piece, be it 0, also counts the run, its rows and its tokens.
    pub fn add_ns(&mut self, cpu_ns: u64) {
        self.work.cpu_ns = cpu_ns;
        if self.work.runs > 0 || cpu_ns > 0 {
            if self.work.device == *CPU && cpu_ns > 0 {
                let now = Instant::now();
                let took = now.duration_since(std::mem::replace(&mut self.told_at, now));
                // One thread that waited for a CPU worked no longer than it had one.
                self.work.busy_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(cpu_ns);
            }
            self.cell.add_work(&self.work);
        }
        (
            self.work.runs,
            self.work.rows,
            self.work.busy_ns,
            self.work.tokens,
        ) = (0, 0, 0, 0);
    }

    /// The same of CPU time of the thread that works for the call.
    pub(crate) fn add_here_ns(&mut self, cpu_ns: u64) {
        self.cell.note_work_here(cpu_ns);
        self.add_ns(cpu_ns);
    }
}
