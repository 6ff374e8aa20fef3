//! rten: pure Rust, always there, on the processor.
//!
//! It works in `f32`, `i32`, `i8` and `u8`: INT64 and BOOL tensors are carried as `i32` and converted here,
//! with a check that no value is lost. FP64, FP16 and BF16 at a graph's edge are refused, because rten
//! would change their precision unsaid.

use domain::{DType, Signature, Tensor, TensorSpec};
use rten::{Dimension, LoadErrorKind, Model, ModelOptions, NodeId, RunErrorKind, Value, ValueOrView};
use rten_tensor::Layout as _;

use crate::backend::BackendInfo;
use crate::error::{ComputeError, LoadError};
use crate::{MAX_OUTPUT_BYTES, check, onnx};

/// rten's version, as receipts name it; `=`-pinned in the workspace.
const VERSION: &str = "0.27.0";

/// What receipts say.
pub fn info() -> BackendInfo {
    BackendInfo {
        name: "rten",
        version: VERSION.into(),
        device: "cpu".into(),
        precision: "exact",
    }
}

/// A model that rten runs, in this process: use it where nothing but the model's owner can be harmed.
pub struct Rten {
    model: Model,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    signature: Signature,
}

impl Rten {
    /// Loads a model that has passed the scan.
    ///
    /// # Errors
    /// A model that is broken or beyond rten.
    pub fn load(blob: Vec<u8>) -> Result<Self, LoadError> {
        let proto = onnx::parse(&blob)?;
        let model = ModelOptions::with_all_ops()
            .load(blob)
            .map_err(|error| load_error(&error))?;
        let signature = onnx::signature(&proto, carries, |name| inferred_shape(&model, name))?;
        let (inputs, outputs) = (model.input_ids().to_vec(), model.output_ids().to_vec());
        if inputs.len() != signature.inputs.len() || outputs.len() != signature.outputs.len() {
            return Err(onnx::invalid("its inputs and outputs are not what it declares"));
        }
        Ok(Self {
            model,
            inputs,
            outputs,
            signature,
        })
    }

    /// What it takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Runs once, on inputs that fit the signature and stand in its order; so do the outputs.
    ///
    /// # Errors
    /// Values that rten cannot carry, its refusals, outputs that are not what the model declares.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, ComputeError> {
        let values = inputs.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        let values: Vec<(NodeId, ValueOrView<'_>)> = self
            .inputs
            .iter()
            .copied()
            .zip(values.into_iter().map(ValueOrView::from))
            .collect();
        let values = self
            .model
            .run(values, &self.outputs, None)
            .map_err(|error| match error.kind() {
                RunErrorKind::InvalidInput => ComputeError::Input {
                    name: None,
                    reason: error.to_string(),
                },
                _ => backend(error.to_string()),
            })?;
        let bytes = self.signature.outputs.iter().zip(&values).map(|(spec, value)| {
            let elements = value.shape().iter().map(|&dim| dim as u64).product::<u64>();
            elements.saturating_mul(spec.dtype.size().unwrap_or(1) as u64)
        });
        let bytes = bytes.fold(0, u64::saturating_add);
        if bytes > MAX_OUTPUT_BYTES {
            return Err(ComputeError::Output {
                bytes,
                limit: MAX_OUTPUT_BYTES,
            });
        }
        self.signature
            .outputs
            .iter()
            .zip(values)
            .map(|(spec, value)| tensor(spec, value))
            .collect()
    }
}

/// Whether rten keeps every value of a type.
pub(crate) fn carries(dtype: DType) -> bool {
    use DType::{Bool, Fp32, I8, I32, I64, U8};
    matches!(dtype, Fp32 | I32 | I64 | I8 | U8 | Bool)
}

fn load_error(error: &rten::LoadError) -> LoadError {
    match error.kind() {
        LoadErrorKind::OperatorInvalid => onnx::unsupported(
            error.to_string(),
            "export the model with operators that rten knows or a lower opset, or have a host with ONNX Runtime run it",
        ),
        LoadErrorKind::ShapeInferenceFailed => onnx::unsupported(
            error.to_string(),
            "check the model with ONNX's own checker and export it again, or have a host with ONNX Runtime run it",
        ),
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
