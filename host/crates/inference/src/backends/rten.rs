//! rten: pure Rust, always there, on the processor.
//!
//! It works in `f32`, `i32`, `i8` and `u8`: INT64 and BOOL tensors are carried as `i32` and converted here,
//! with a check that no value is lost. FP64, FP16 and BF16 at a graph's edge are refused, because rten
//! would change their precision unsaid.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use domain::{DType, Signature, Tensor, TensorSpec};
use rten::{
    Dimension, LoadErrorKind, Model, ModelOptions, NodeId, RunErrorKind, RunOptions, ThreadPool, Value,
    ValueOrView,
};
use rten_tensor::Layout as _;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, BackendInfo, Caps, Graph, Runner, Target};
use crate::cost::Cost;
use crate::error::{ComputeError, LoadError};
use crate::{check, cpu, onnx};

/// rten's version, as receipts name it; `=`-pinned in the workspace.
const VERSION: &str = "0.27.0";

/// The longest way through a graph, in operators. rten's planner recurses along it, on a thread with a stack
/// of the default size: more than twice this many end the process.
const MAX_DEPTH: usize = 2_000;

/// The backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rten;

impl Backend for Rten {
    fn probe(&self) -> Caps {
        let info = BackendInfo {
            name: "rten",
            version: VERSION.into(),
            device: "cpu".into(),
            precision: "exact",
        };
        Caps {
            info,
            targets: vec![Target::Cpu],
            interruptible: false,
        }
    }

    fn load(&self, blob: &Bytes, target: Target, cpu_ns: &mut u64) -> Result<Box<dyn Graph>, LoadError> {
        if target != Target::Cpu {
            return Err(LoadError::TargetUnavailable { target });
        }
        let proto = onnx::parse(blob)?;
        refuse_unbounded(&proto)?;
        let cost = Cost::of(&proto);
        let model = load_model(blob.to_vec(), cpu_ns)?;
        let signature = onnx::signature(&proto, |name| inferred_shape(&model, name))?;
        let (inputs, outputs) = (model.input_ids().to_vec(), model.output_ids().to_vec());
        if inputs.len() != signature.inputs.len() || outputs.len() != signature.outputs.len() {
            return Err(onnx::invalid("its inputs and outputs are not what it declares"));
        }
        let shared = Shared {
            model,
            inputs,
            outputs,
            signature,
        };
        Ok(Box::new(RtenGraph {
            shared: Arc::new(shared),
            cost,
        }))
    }
}

/// What rten could not be stopped in: a run cannot be interrupted.
fn refuse_unbounded(proto: &rten_onnx::onnx::GraphProto) -> Result<(), LoadError> {
    let looping = onnx::nodes(proto)
        .into_iter()
        .find(|node| matches!(node.op_type.as_deref(), Some("Loop" | "Scan")));
    if let Some(node) = looping {
        let op = node.op_type.as_deref().unwrap_or_default();
        return Err(onnx::unsupported(
            format!("operator '{op}' may run without end"),
            "unroll the loop when exporting the model",
        ));
    }
    let depth = onnx::depth(proto)?;
    if depth > MAX_DEPTH {
        return Err(onnx::unsupported(
            format!("its longest way has {depth} operators, {MAX_DEPTH} are allowed"),
            "simplify the model's graph",
        ));
    }
    Ok(())
}

/// Loads inside rten's own pool, where constants are folded, and counts what all its threads used. Loads
/// take turns: that pool is one for the whole process, and its CPU time could not be told apart otherwise.
fn load_model(blob: Vec<u8>, cpu_ns: &mut u64) -> Result<Model, LoadError> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (loaded, spent) = rten::thread_pool().run(|| {
        let before = pool_ns();
        let (loaded, _) = cpu::metered(|_| ModelOptions::with_all_ops().load(blob));
        (loaded, pool_ns().saturating_sub(before))
    });
    *cpu_ns += spent;
    loaded
        .map_err(|reason| LoadError::Backend { reason })?
        .map_err(|error| load_error(&error))
}

/// CPU time of all threads of the pool that the caller stands in, in nanoseconds.
fn pool_ns() -> u64 {
    rayon::broadcast(|_| cpu::thread_ns()).into_iter().sum()
}

fn load_error(error: &rten::LoadError) -> LoadError {
    match error.kind() {
        LoadErrorKind::OperatorInvalid => onnx::unsupported(
            error.to_string(),
            "export the model with operators that rten knows, or a lower opset",
        ),
        LoadErrorKind::ShapeInferenceFailed | LoadErrorKind::FormatNotEnabled => {
            onnx::unsupported(error.to_string(), "export the model as ONNX")
        }
        _ => onnx::invalid(error.to_string()),
    }
}

fn inferred_shape(model: &Model, name: &str) -> Option<Vec<Option<u32>>> {
    let dims = model.node_info(model.find_node(name)?)?.shape()?;
    let size = |dim: &Dimension| match dim {
        Dimension::Fixed(size) => u32::try_from(*size).ok(),
        Dimension::Symbolic(_) => None,
    };
    Some(dims.iter().map(size).collect())
}

/// A model and its edge.
struct Shared {
    model: Model,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    signature: Signature,
}

struct RtenGraph {
    shared: Arc<Shared>,
    cost: Cost,
}

impl Graph for RtenGraph {
    fn signature(&self) -> &Signature {
        &self.shared.signature
    }

    fn cost(&self, shapes: &[Vec<u32>]) -> u64 {
        self.cost.macs(shapes)
    }

    fn runner(&self) -> Result<Box<dyn Runner>, LoadError> {
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        Ok(Box::new(RtenRunner {
            shared: Arc::clone(&self.shared),
            pool,
        }))
    }
}

/// Runs a model on a pool of one thread. rten always enters a pool: with this one, its work is all on one
/// thread, whose clock is the meter.
struct RtenRunner {
    shared: Arc<Shared>,
    pool: Arc<ThreadPool>,
}

impl Runner for RtenRunner {
    /// Enters the pool once; from inside, rten runs on the thread that it finds itself on.
    fn drive(&mut self, serve: &mut (dyn FnMut(&mut dyn Runner) + Send)) {
        let pool = Arc::clone(&self.pool);
        pool.run(|| serve(self));
    }

    fn run(
        &mut self,
        inputs: &[Tensor],
        _cancel: &CancellationToken,
        cpu_ns: &mut u64,
    ) -> Result<Vec<Tensor>, ComputeError> {
        let _ = cpu_ns; // All on the caller's thread.
        let Shared {
            model,
            inputs: ids,
            outputs,
            signature,
        } = &*self.shared;
        let values = inputs.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        let values: Vec<(NodeId, ValueOrView<'_>)> = ids
            .iter()
            .copied()
            .zip(values.into_iter().map(ValueOrView::from))
            .collect();
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.pool)));
        let values = model
            .run(values, outputs, Some(options))
            .map_err(|error| match error.kind() {
                RunErrorKind::InvalidInput => ComputeError::Input {
                    name: None,
                    reason: error.to_string(),
                },
                _ => backend(error.to_string()),
            })?;
        signature
            .outputs
            .iter()
            .zip(values)
            .map(|(spec, value)| tensor(spec, value))
            .collect()
    }
}

fn backend(reason: impl Into<String>) -> ComputeError {
    ComputeError::Backend {
        reason: reason.into(),
    }
}

/// A tensor as rten takes it.
fn value(tensor: &Tensor) -> Result<Value, ComputeError> {
    let shape: Vec<usize> = tensor.shape().iter().map(|&dim| dim as usize).collect();
    let data = tensor.data();
    let narrow = |value: i64| {
        i32::try_from(value).map_err(|_| {
            let reason = format!(
                "input '{}' holds {value}: rten keeps INT64 in 32 bits",
                tensor.name()
            );
            ComputeError::input(tensor.name(), reason)
        })
    };
    let value = match tensor.dtype() {
        DType::Fp32 => Value::from_shape(&shape, elements(data, f32::from_le_bytes)).ok(),
        DType::I32 => Value::from_shape(&shape, elements(data, i32::from_le_bytes)).ok(),
        DType::I64 => {
            let wide = elements(data, i64::from_le_bytes);
            Value::from_shape(&shape, wide.into_iter().map(narrow).collect::<Result<_, _>>()?).ok()
        }
        DType::Bool => {
            let bits = data.iter().map(|&byte| i32::from(byte != 0)).collect();
            Value::from_shape::<i32>(&shape, bits).ok()
        }
        DType::I8 => Value::from_shape(&shape, elements(data, i8::from_le_bytes)).ok(),
        DType::U8 => Value::from_shape(&shape, data.to_vec()).ok(),
        _ => None,
    };
    value.ok_or_else(|| backend(format!("rten cannot take input '{}'", tensor.name())))
}

fn elements<T, const N: usize>(data: &[u8], decode: fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = data.as_chunks::<N>();
    chunks.iter().map(|chunk| decode(*chunk)).collect()
}

/// A value of rten's as the tensor that the model declares.
fn tensor(spec: &TensorSpec, value: Value) -> Result<Tensor, ComputeError> {
    let dims = value
        .shape()
        .iter()
        .map(|&dim| u32::try_from(dim))
        .collect::<Result<Vec<_>, _>>();
    let dims = dims.map_err(|_| backend(format!("output '{}' is too large", spec.name)))?;
    if !spec.accepts(spec.dtype, &dims) {
        let declared = check::shape(&spec.shape);
        return Err(backend(format!(
            "output '{}' has the shape {dims:?}, the model declares {declared}",
            spec.name
        )));
    }
    let data = match (spec.dtype, value) {
        (DType::Fp32, Value::FloatTensor(tensor)) => bytes(tensor.into_data(), f32::to_le_bytes),
        (DType::I32, Value::Int32Tensor(tensor)) => bytes(tensor.into_data(), i32::to_le_bytes),
        (DType::I64, Value::Int32Tensor(tensor)) => {
            bytes(tensor.into_data(), |value| i64::from(value).to_le_bytes())
        }
        (DType::Bool, Value::Int32Tensor(tensor)) => {
            bytes(tensor.into_data(), |value| [u8::from(value != 0)])
        }
        (DType::I8, Value::Int8Tensor(tensor)) => bytes(tensor.into_data(), i8::to_le_bytes),
        (DType::U8, Value::UInt8Tensor(tensor)) => tensor.into_data(),
        (declared, other) => {
            let (declared, got) = (declared.as_str(), other.dtype());
            return Err(backend(format!(
                "output '{}' is {got}, the model declares {declared}",
                spec.name
            )));
        }
    };
    Tensor::new(&spec.name, spec.dtype, dims, data).map_err(|error| backend(error.to_string()))
}

fn bytes<T, const N: usize>(data: Vec<T>, encode: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    data.into_iter().flat_map(encode).collect()
}
