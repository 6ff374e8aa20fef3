//! A deployment without a component: its graph is served as it is.

use std::sync::Arc;

use domain::{Outcome, Tensor, usage};
use inference::{ComputeError, GraphHandle};
use runtime::{Failure, Invocation, Request, RequestedOutput, Response, graph_failure};

/// Runs the graph, for whoever meters it, at the fuel that a guest's `compute` would cost, within the same limits.
pub(super) async fn bare(
    graph: &Arc<GraphHandle>,
    request: Request,
    inv: Invocation,
) -> Result<Response, Failure> {
    let moved = request.bytes();
    if moved > inv.limits.tensor_bytes {
        let over = format!("the inputs and parameters have {moved} bytes: raise limits.tensor_bytes");
        return Err(Failure::new(Outcome::TensorsExceeded, over));
    }
    let macs = graph.cost_macs(&shapes(graph, &request.inputs));
    let fuel = usage::compute_fuel(macs, moved);
    if fuel > inv.limits.fuel {
        let over = format!("the graph costs {fuel} fuel: raise limits.fuel");
        return Err(Failure::new(Outcome::FuelExhausted, over));
    }
    inv.cell.add_fuel(fuel);
    inv.cell.add_bytes_in(moved);
    let mut outputs = compute(graph, request.inputs, &inv).await?;
    if !request.outputs.is_empty() {
        let find = |wanted: &RequestedOutput| {
            let found = outputs.iter().find(|tensor| tensor.name() == wanted.name);
            found.cloned()
        };
        outputs = request.outputs.iter().filter_map(find).collect();
    }
    let response = Response {
        outputs,
        parameters: Vec::new(),
    };
    let bytes = response.bytes();
    if bytes > inv.limits.output_bytes {
        let over = format!("the answer has {bytes} bytes: raise limits.output_bytes");
        return Err(Failure::new(Outcome::OutputExceeded, over));
    }
    inv.cell.add_bytes_out(bytes);
    Ok(response)
}

/// A run that the deadline stops ends within a short grace, and what it used is known when the call ends.
async fn compute(
    graph: &Arc<GraphHandle>,
    inputs: Vec<Tensor>,
    inv: &Invocation,
) -> Result<Vec<Tensor>, Failure> {
    let mut running = Box::pin(graph.compute(inputs, inv.cell.clone(), inv.cancel.clone()));
    let result = tokio::select! {
        result = &mut running => result,
        () = tokio::time::sleep_until(inv.deadline) => {
            inv.cancel.cancel();
            // It ends soon, unless it is loading its graph again; whatever it says now comes too late.
            let _ = running.await;
            let passed = format!("{} ms passed: raise limits.deadline_ms", inv.limits.deadline_ms);
            return Err(Failure::new(Outcome::DeadlineExceeded, passed));
        }
    };
    result.map_err(|error| match error {
        ComputeError::Cancelled => Failure::new(Outcome::Cancelled, "the caller went away"),
        error => graph_failure(&error),
    })
}

/// The shapes of `inputs` in the order of the graph's signature, as its cost wants them.
fn shapes(graph: &GraphHandle, inputs: &[Tensor]) -> Vec<Vec<u32>> {
    let shape = |name: &str| inputs.iter().find(|tensor| tensor.name() == name);
    let specs = graph.signature().inputs.iter();
    specs
        .filter_map(|spec| Some(shape(&spec.name)?.shape().to_vec()))
        .collect()
}
