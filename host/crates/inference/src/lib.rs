//! Graphs and the backends that run them, each in a process of its own but for runs too short to need one.
//!
//! [`Inference`] holds one [`GraphHandle`] for each loaded (tenant, digest, backend, target). Behind a
//! handle stands a task that owns the backend's [`Runner`] and a bounded queue that feeds it; both end
//! when the last handle is dropped. The backends that run any model, [`worker::Workers`], start a process for
//! each graph and let no library see a tenant's file in the host: whatever it holds, a fault ends as an
//! error of the one call. Short runs of small dense networks are worked out within the call ([`Direct`]).

mod backend;
pub mod backends;
mod check;
mod cost;
mod cpu;
mod error;
mod exercise;
mod golden;
mod handle;
mod onnx;
mod paying;
mod placement;
mod queue;
mod registry;
mod scan;
mod turns;
pub mod worker;

pub use backend::{Backend, BackendInfo, Caps, Direct, Graph, Run, RunMeter, Runner, Target};
pub use error::{ComputeError, LoadError};
pub use exercise::Exercise;
pub use handle::GraphHandle;
pub use paying::{metered, metered_polls};
pub use placement::Source;
pub use registry::{Inference, Options};
pub use worker::{OnnxRuntimeLibrary, WorkerError, WorkerOptions, graph_worker};

/// The most bytes of outputs that one run may give: they pass through the host.
const MAX_OUTPUT_BYTES: u64 = 256 << 20;
