//! `wasi:nn`, over the graphs of the calling release.
//!
//! Whatever a guest passes, it gets one of the WIT's error codes or the outcome of a limit: nothing here
//! panics, and nothing blocks the thread. Tensors are lifted once and shared from then on.

use std::sync::Arc;

use bytes::Bytes;
use domain::{DType, Tensor, TensorSpec};
use inference::{ComputeError, GraphHandle};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};

use crate::bindings::wasi::nn::errors::ErrorCode;
use crate::bindings::wasi::nn::graph::{ExecutionTarget, GraphEncoding};
use crate::bindings::wasi::nn::tensor::TensorType;
use crate::convert::cut;
use crate::state::{State, call_fuel, charge, graph_fuel};

type Store<'a> = StoreContextMut<'a, State>;
/// A result of the WIT: its error is a resource.
type NnResult<T> = Result<T, Resource<NnError>>;
type Named = Vec<(String, Resource<HostTensor>)>;

/// A tensor as the guest gave it. Whether its data fits its dimensions is told when it is used: the WIT's
/// constructor has no way to fail.
struct HostTensor {
    dimensions: Vec<u32>,
    ty: TensorType,
    data: Bytes,
}

impl HostTensor {
    /// Bytes that the host holds for it.
    fn bytes(&self) -> u64 {
        (self.data.len() + 4 * self.dimensions.len()) as u64
    }
}

/// A graph of the release.
struct HostGraph(Arc<GraphHandle>);

/// A graph that may be run. It holds nothing: the inputs come with each run.
struct HostContext(Arc<GraphHandle>);

/// The most bytes of an error's text.
const MAX_ERROR_BYTES: usize = 1 << 10;

struct NnError {
    code: ErrorCode,
    data: String,
}

impl NnError {
    /// Cut, because a guest may hold many and no limit counts their text.
    fn new(code: ErrorCode, data: impl Into<String>) -> Self {
        let data = cut(data.into(), MAX_ERROR_BYTES);
        Self { code, data }
    }
}

/// Links the four interfaces.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    tensor(linker)?;
    graph(linker)?;
    inference(linker)?;
    errors(linker)
}

fn tensor(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut tensor = linker.instance("wasi:nn/tensor@0.2.0-rc-2024-10-28")?;
    tensor.resource("tensor", ResourceType::host::<HostTensor>(), |mut store, rep| {
        take_tensor(store.data_mut(), Resource::new_own(rep)).map(drop)
    })?;
    tensor.func_wrap(
        "[constructor]tensor",
        |mut store: Store<'_>, (dimensions, ty, data): (Vec<u32>, TensorType, Vec<u8>)| {
            let tensor = HostTensor {
                dimensions,
                ty,
                data: data.into(),
            };
            charge(&mut store, call_fuel(tensor.bytes()))?;
            Ok((hold_tensor(store.data_mut(), tensor)?,))
        },
    )?;
    tensor.func_wrap(
        "[method]tensor.dimensions",
        |mut store: Store<'_>, (tensor,): (Resource<HostTensor>,)| {
            let dimensions = store.data().table.get(&tensor)?.dimensions.clone();
            charge(&mut store, call_fuel(4 * dimensions.len() as u64))?;
            Ok((dimensions,))
        },
    )?;
    tensor.func_wrap(
        "[method]tensor.ty",
        |mut store: Store<'_>, (tensor,): (Resource<HostTensor>,)| {
            charge(&mut store, call_fuel(0))?;
            Ok((store.data().table.get(&tensor)?.ty,))
        },
    )?;
    tensor.func_wrap(
        "[method]tensor.data",
        |mut store: Store<'_>, (tensor,): (Resource<HostTensor>,)| {
            let data = store.data().table.get(&tensor)?.data.clone();
            charge(&mut store, call_fuel(data.len() as u64))?;
            Ok((Vec::from(data),))
        },
    )
}

fn graph(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut graph = linker.instance("wasi:nn/graph@0.2.0-rc-2024-10-28")?;
    graph.resource("graph", ResourceType::host::<HostGraph>(), |mut store, rep| {
        store.data_mut().forget::<HostGraph>(rep)
    })?;
    graph.func_wrap(
        "[method]graph.init-execution-context",
        |mut store: Store<'_>, (graph,): (Resource<HostGraph>,)| {
            charge(&mut store, call_fuel(0))?;
            let table = &mut store.data_mut().table;
            let handle = Arc::clone(&table.get(&graph)?.0);
            let context: NnResult<_> = Ok(table.push(HostContext(handle))?);
            Ok((context,))
        },
    )?;
    graph.func_wrap(
        "load",
        |mut store: Store<'_>,
         (builder, _encoding, _target): (Vec<Vec<u8>>, GraphEncoding, ExecutionTarget)| {
            let bytes: usize = builder.iter().map(Vec::len).sum();
            charge(&mut store, call_fuel(bytes as u64))?;
            let error = NnError::new(
                ErrorCode::Security,
                "graphs are deployed, not brought: use load-by-name",
            );
            refuse::<Resource<HostGraph>>(store.data_mut(), error)
        },
    )?;
    graph.func_wrap("load-by-name", |mut store: Store<'_>, (name,): (String,)| {
        charge(&mut store, call_fuel(name.len() as u64))?;
        let state = store.data_mut();
        match state.graphs.get(&name).cloned() {
            Some(handle) => Ok((Ok(state.table.push(HostGraph(handle))?),)),
            None => {
                let name = cut(name, MAX_ERROR_BYTES);
                let named = format!("this release has no graph '{}'", name.escape_debug());
                refuse(state, NnError::new(ErrorCode::NotFound, named))
            }
        }
    })
}

fn inference(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut inference = linker.instance("wasi:nn/inference@0.2.0-rc-2024-10-28")?;
    inference.resource(
        "graph-execution-context",
        ResourceType::host::<HostContext>(),
        |mut store, rep| store.data_mut().forget::<HostContext>(rep),
    )?;
    inference.func_wrap_async(
        "[method]graph-execution-context.compute",
        |store: Store<'_>, (context, inputs): (Resource<HostContext>, Named)| {
            Box::new(compute(store, context, inputs))
        },
    )
}

fn errors(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut errors = linker.instance("wasi:nn/errors@0.2.0-rc-2024-10-28")?;
    errors.resource("error", ResourceType::host::<NnError>(), |mut store, rep| {
        store.data_mut().forget::<NnError>(rep)
    })?;
    errors.func_wrap(
        "[method]error.code",
        |mut store: Store<'_>, (error,): (Resource<NnError>,)| {
            charge(&mut store, call_fuel(0))?;
            Ok((store.data().table.get(&error)?.code,))
        },
    )?;
    errors.func_wrap(
        "[method]error.data",
        |mut store: Store<'_>, (error,): (Resource<NnError>,)| {
            let data = store.data().table.get(&error)?.data.clone();
            charge(&mut store, call_fuel(data.len() as u64))?;
            Ok((data,))
        },
    )
}

/// Runs a graph. The guest waits, the thread does not; a call that must stop gives up its place.
async fn compute(
    mut store: Store<'_>,
    context: Resource<HostContext>,
    inputs: Named,
) -> wasmtime::Result<(NnResult<Named>,)> {
    charge(&mut store, call_fuel(0))?;
    let state = store.data_mut();
    let graph = Arc::clone(&state.table.get(&context)?.0);
    let (tensors, bytes) = match take_inputs(state, inputs)? {
        Ok(taken) => taken,
        Err(error) => return refuse(state, error),
    };
    state.cell.add_bytes_in(bytes);
    charge(&mut store, graph_fuel(cost_macs(&graph, &tensors)))?;

    let state = store.data_mut();
    // The host holds the inputs until the graph has answered.
    state.hold(bytes)?;
    let (cell, guard) = (Arc::clone(&state.cell), Arc::clone(&state.guard));
    guard.set_computing(true);
    let answer = graph.compute(tensors, cell, guard.stop()).await;
    guard.set_computing(false);
    let state = store.data_mut();
    state.release(bytes);
    match answer {
        Ok(outputs) => give_outputs(state, outputs),
        Err(error) => match (state.guard.ended(), nn_error(&error)) {
            (Some(stop), _) => Err(stop.into()),
            (None, Some(error)) => refuse(state, error),
            (None, None) => {
                state.graph_fault.get_or_insert_with(|| error.clone());
                refuse(state, NnError::new(ErrorCode::RuntimeError, error.to_string()))
            }
        },
    }
}

/// The guest's mistakes, as the WIT names them; `None` where the guest made none.
fn nn_error(error: &ComputeError) -> Option<NnError> {
    match error {
        ComputeError::Input { .. } => Some(NnError::new(ErrorCode::InvalidArgument, error.to_string())),
        ComputeError::Cancelled => Some(NnError::new(ErrorCode::Timeout, error.to_string())),
        ComputeError::Output { .. } => Some(NnError::new(ErrorCode::TooLarge, error.to_string())),
        ComputeError::QueueFull { .. }
        | ComputeError::Memory { .. }
        | ComputeError::Backend { .. }
        | ComputeError::Unavailable => None,
    }
}

/// Takes the inputs out of the table, all of them, and checks each.
fn take_inputs(state: &mut State, inputs: Named) -> wasmtime::Result<Result<(Vec<Tensor>, u64), NnError>> {
    let mut taken = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        taken.push((name, take_tensor(state, tensor)?));
    }
    let mut bytes = 0;
    let mut tensors = Vec::with_capacity(taken.len());
    for (name, HostTensor { dimensions, ty, data }) in taken {
        bytes += data.len() as u64;
        match Tensor::new(name, dtype(ty), dimensions, data) {
            Ok(tensor) => tensors.push(tensor),
            Err(error) => return Ok(Err(NnError::new(ErrorCode::InvalidArgument, error.to_string()))),
        }
    }
    Ok(Ok((tensors, bytes)))
}

/// The static cost of a run; 0 where the inputs do not fit, since then nothing will run.
fn cost_macs(graph: &GraphHandle, tensors: &[Tensor]) -> u64 {
    let fits = |spec: &TensorSpec| {
        let tensor = tensors.iter().find(|tensor| tensor.name() == spec.name)?;
        spec.accepts(tensor.dtype(), tensor.shape())
            .then(|| tensor.shape().to_vec())
    };
    let shapes: Option<Vec<_>> = graph.signature().inputs.iter().map(fits).collect();
    shapes.map_or(0, |shapes| graph.cost_macs(&shapes))
}

fn give_outputs(state: &mut State, outputs: Vec<Tensor>) -> wasmtime::Result<(NnResult<Named>,)> {
    state
        .cell
        .add_bytes_out(outputs.iter().map(|tensor| tensor.data().len() as u64).sum());
    let mut given = Vec::with_capacity(outputs.len());
    for output in outputs {
        let Some(ty) = tensor_type(output.dtype()) else {
            let dtype = output.dtype().as_str();
            let message = format!(
                "output '{}' is {dtype}, which wasi-nn does not know",
                output.name()
            );
            return refuse(state, NnError::new(ErrorCode::UnsupportedOperation, message));
        };
        let tensor = HostTensor {
            dimensions: output.shape().to_vec(),
            ty,
            data: output.data().clone(),
        };
        given.push((output.name().to_owned(), hold_tensor(state, tensor)?));
    }
    Ok((Ok(given),))
}

fn refuse<T>(state: &mut State, error: NnError) -> wasmtime::Result<(NnResult<T>,)> {
    Ok((Err(state.table.push(error)?),))
}

fn hold_tensor(state: &mut State, tensor: HostTensor) -> wasmtime::Result<Resource<HostTensor>> {
    state.hold(tensor.bytes())?;
    Ok(state.table.push(tensor)?)
}

fn take_tensor(state: &mut State, tensor: Resource<HostTensor>) -> wasmtime::Result<HostTensor> {
    let tensor = state.table.delete(tensor)?;
    state.release(tensor.bytes());
    Ok(tensor)
}

fn dtype(ty: TensorType) -> DType {
    match ty {
        TensorType::Fp16 => DType::Fp16,
        TensorType::Fp32 => DType::Fp32,
        TensorType::Fp64 => DType::Fp64,
        TensorType::Bf16 => DType::Bf16,
        TensorType::U8 => DType::U8,
        TensorType::I32 => DType::I32,
        TensorType::I64 => DType::I64,
    }
}

fn tensor_type(dtype: DType) -> Option<TensorType> {
    match dtype {
        DType::Fp16 => Some(TensorType::Fp16),
        DType::Fp32 => Some(TensorType::Fp32),
        DType::Fp64 => Some(TensorType::Fp64),
        DType::Bf16 => Some(TensorType::Bf16),
        DType::U8 => Some(TensorType::U8),
        DType::I32 => Some(TensorType::I32),
        DType::I64 => Some(TensorType::I64),
        _ => None,
    }
}
