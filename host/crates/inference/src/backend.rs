//! What a backend is: something that probes, loads graphs and runs them.

use std::fmt;

use bytes::Bytes;
use domain::{Signature, Tensor};
use tokio_util::sync::CancellationToken;

use crate::{ComputeError, LoadError};

/// Where a graph runs. A target that is not there is refused, never replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
            Self::Cpu => "cpu",
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
    /// Whether a run can be stopped between operators.
    pub interruptible: bool,
}

/// Code that runs graphs.
pub trait Backend: Send + Sync {
    /// Looks for what the backend needs and says what it can do. Cheap enough to repeat.
    fn probe(&self) -> Caps;

    /// Makes a graph of a model that has passed the scan. Runs on a thread that may block; CPU time used
    /// on threads other than the caller's is added to `cpu_ns`, also when loading fails.
    fn load(&self, blob: &Bytes, target: Target, cpu_ns: &mut u64) -> Result<Box<dyn Graph>, LoadError>;
}

/// A loaded model.
pub trait Graph: Send + Sync {
    /// What it takes and gives.
    fn signature(&self) -> &Signature;

    /// Multiply-accumulates of one run on inputs of these shapes, in the signature's order: a static
    /// figure, the same on every machine and in every run.
    fn cost(&self, shapes: &[Vec<u32>]) -> u64;

    /// What runs it; the caller gives it a thread of its own.
    fn runner(&self) -> Result<Box<dyn Runner>, LoadError>;
}

/// What runs a graph: owned by one thread.
pub trait Runner: Send {
    /// Calls `serve` with itself, on the thread where [`run`](Self::run) is at home, and returns when
    /// `serve` does. A backend with a thread of its own is so entered once, not for every run.
    fn drive(&mut self, serve: &mut (dyn FnMut(&mut dyn Runner) + Send));

    /// Runs once. The inputs fit the signature and stand in its order; so must the outputs. CPU time used
    /// on threads other than the caller's is added to `cpu_ns`, also when the run fails. A backend that
    /// cannot stop between operators may ignore `cancel`.
    fn run(
        &mut self,
        inputs: &[Tensor],
        cancel: &CancellationToken,
        cpu_ns: &mut u64,
    ) -> Result<Vec<Tensor>, ComputeError>;
}
