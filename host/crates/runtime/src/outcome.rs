//! From the many ways in which wasmtime ends a call to the one outcome that is recorded.

use domain::Outcome;
use inference::ComputeError;
use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi::I32Exit;

use crate::pipeline::Failure;
use crate::state::State;

/// An error of the host's functions that ends the call with an outcome of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Stop {
    pub(crate) outcome: Outcome,
    pub(crate) message: String,
}

impl Stop {
    pub(crate) fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            message: message.into(),
        }
    }
}

/// What a call that ended with `error` is to be called.
pub(crate) fn failure(error: &wasmtime::Error, state: &State) -> Failure {
    let root = error.root_cause().to_string();
    let stop = error.chain().find_map(|cause| cause.downcast_ref::<Stop>());
    if let Some(stop) = stop {
        return Failure::new(stop.outcome, explain(stop, state));
    }
    let trap = error.downcast_ref::<Trap>().copied();
    if trap == Some(Trap::OutOfFuel) {
        return Failure::new(
            Outcome::FuelExhausted,
            format!("the fuel limit is {}", state.limits.fuel),
        );
    }
    if error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(ResourceTableError::Full)))
        || root.contains("handle limit exceeded")
    {
        let message = format!("the guest may hold {} handles", state.limits.handles);
        return Failure::new(Outcome::HandlesExceeded, message);
    }
    if root.contains("fuel allocated for hostcalls") {
        let message = format!("the guest may pass {} bytes at once", state.limits.tensor_bytes);
        return Failure::new(Outcome::TensorsExceeded, message);
    }
    if error
        .chain()
        .any(|cause| cause.is::<PoolConcurrencyLimitError>() || cause.is::<std::io::Error>())
    {
        return Failure {
            retryable: true,
            ..Failure::new(Outcome::HostFault, "no room for another instance")
        };
    }
    if let Some(outcome) = state.limiter.denied() {
        let message = match outcome {
            Outcome::TableExceeded => format!(
                "the guest may have {} table elements",
                state.limits.table_elements
            ),
            _ => format!("the guest may have {} bytes of memory", state.limits.memory_bytes),
        };
        return Failure::new(outcome, format!("{message}; then: {root}"));
    }
    if let Some(fault) = &state.graph_fault {
        return graph_failure(fault);
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return Failure::new(Outcome::Trapped, format!("the guest exited with status {code}"));
    }
    Failure::new(Outcome::Trapped, root)
}

/// A call that came to nothing because its graph did, under the graph's own code.
pub fn graph_failure(error: &ComputeError) -> Failure {
    let outcome = match error {
        ComputeError::Cancelled => Outcome::Cancelled,
        ComputeError::Unavailable => Outcome::HostFault,
        _ => Outcome::ModelFailed,
    };
    Failure {
        code: error.code().to_owned(),
        retryable: matches!(error, ComputeError::QueueFull { .. } | ComputeError::Unavailable),
        ..Failure::new(outcome, error.to_string())
    }
}

fn explain(stop: &Stop, state: &State) -> String {
    match stop.outcome {
        Outcome::DeadlineExceeded => format!("the call may take {} ms", state.limits.deadline_ms),
        Outcome::Cancelled => "the caller went away".into(),
        _ => stop.message.clone(),
    }
}
