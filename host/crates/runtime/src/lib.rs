//! The sandbox: inspects, compiles and runs tenants' components, and plays the host's side of the guest
//! contract in `sdk/wit`.
//!
//! [`inspect`](inspect()) decides whether bytes may become a pipeline. [`Runtime::compile`] turns them
//! into machine code in a child process with limits ([`compile_child`]) and keeps the result under a MAC;
//! only code that this node compiled is ever loaded. [`Pipeline::infer`] runs one call in a fresh store.
//!
//! What always holds: a guest cannot hold a thread (fuel and epochs make it yield, host calls are async);
//! whatever way a call ends, its [`UsageCell`](domain::UsageCell) is complete by then; every limit has an
//! [`Outcome`](domain::Outcome) of its own; a guest reaches no file, socket, environment or clock of the
//! host but coarse time.

mod artefact;
mod bindings;
mod child;
mod compile;
mod contract;
mod convert;
mod engine;
mod exercise;
mod guard;
mod inspect;
mod limits;
mod nesting;
mod nn;
mod outcome;
mod pipeline;
mod runtime;
mod state;
mod turns;
mod wasi;

pub use child::{ChildError, compile_child};
pub use compile::{CompileError, CompileLimits, CompilerCommand};
pub use convert::check_parameters;
pub use engine::RuntimeError;
pub use exercise::{Exercise, Exercises};
pub use inspect::{InspectError, Inspected, UploadCaps, inspect};
pub use outcome::graph_failure;
pub use pipeline::{Failure, Graphs, Invocation, Pipeline, Request, RequestedOutput, Response};
pub use runtime::{Options, Runtime};
