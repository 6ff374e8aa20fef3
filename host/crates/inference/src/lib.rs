//! Graphs and the backends that run them, each on a thread of its own.
//!
//! [`Inference`] holds one [`GraphHandle`] for each loaded (tenant, digest, backend, target). Behind a
//! handle stands a thread that owns the backend's [`Runner`] and a bounded queue that feeds it; the
//! thread ends when the last handle is dropped. Whatever a tenant uploads, a fault in a backend ends as
//! an error of the one call, never as a panic of the host.

mod backend;
pub mod backends;
mod check;
mod cost;
mod cpu;
mod error;
mod handle;
mod onnx;
mod queue;
mod registry;
mod scan;

pub use backend::{Backend, BackendInfo, Caps, Graph, Runner, Target};
pub use error::{ComputeError, LoadError};
pub use handle::GraphHandle;
pub use registry::{Inference, Options};
