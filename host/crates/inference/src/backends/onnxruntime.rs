//! ONNX Runtime: the fast one, opened at run time from where the operator put it, on the processor.
//!
//! One session in a process, on one thread that never spins: a graph's calls are one after the other, so
//! there is no second session to share prepacked weights with. Tensors keep their own type.

use std::borrow::Cow;
use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

use domain::{DType, Signature, Tensor, TensorSpec};
use ort::ErrorCode;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::Allocator;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::{DynTensor, DynTensorValueType, TensorElementType, ValueType};

use crate::backend::BackendInfo;
use crate::error::{ComputeError, LoadError};
use crate::worker::Stops;
use crate::{MAX_OUTPUT_BYTES, check, onnx};

/// What receipts say of a library of this version.
pub fn info(version: &str) -> BackendInfo {
    BackendInfo {
        name: "onnxruntime",
        version: version.to_owned(),
        device: "cpu".into(),
        precision: "exact",
    }
}

/// Opens the library and asks for its version. What it does when it is opened happens in this process.
pub(crate) fn probe(path: &Path) -> Result<String, LoadError> {
    environment(path)?;
    version(path).ok_or_else(|| failed("it does not say its version"))
}

#[expect(unsafe_code, reason = "a foreign library is asked for its version")]
fn version(path: &Path) -> Option<String> {
    // SAFETY: it was opened before by `ort`, which has asked it the same; the text is a constant in it.
    unsafe {
        let library = libloading::Library::new(path).ok()?;
        let base = library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase");
        let version = ((*base.ok()?()).GetVersionString)();
        Some(CStr::from_ptr(version).to_str().ok()?.to_owned())
    }
}

fn environment(path: &Path) -> Result<Environment, LoadError> {
    let builder = ort::init_from(path).map_err(|error| failed(error.to_string()))?;
    let environment = builder.with_telemetry(false).build();
    let environment = environment.map_err(|error| failed(error.to_string()))?;
    // Its complaints come back as errors.
    environment.set_log_level(LogLevel::Fatal);
    Ok(environment)
}

/// A model that ONNX Runtime runs, in this process: use it where nothing but the model's owner can be harmed.
pub(crate) struct OnnxRuntime {
    session: Session,
    signature: Signature,
}

impl OnnxRuntime {
    /// Loads a model that has passed the scan with the library at `path`.
    pub(crate) fn load(path: &Path, blob: &[u8]) -> Result<Self, LoadError> {
        let proto = onnx::parse(blob)?;
        let environment = environment(path)?;
        let session = session(&environment, blob).map_err(|error| load_error(&error))?;
        let signature = onnx::signature(&proto, carries, |name| inferred_shape(&session, name))?;
        Ok(Self { session, signature })
    }

    /// What it takes and gives.
    pub(crate) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Runs once, on inputs that fit the signature and stand in its order; so do the outputs. It ends between
    /// two operators when `stops` says so.
    pub(crate) fn run(&mut self, inputs: &[Tensor], stops: &Stops) -> Result<Vec<Tensor>, ComputeError> {
        let given: Result<Vec<_>, _> = inputs
            .iter()
            .map(|input| Ok((Cow::Borrowed(input.name()), value(input)?)))
            .collect();
        let given = given.map_err(|error: ort::Error| run_error(&error))?;
        let options = Arc::new(RunOptions::new().map_err(|error| run_error(&error))?);
        let _armed = stops.arm(&options);
        let outputs = self.session.run_with_options(given, &options);
        let outputs = outputs.map_err(|error| match stops.is_stopped() {
            true => ComputeError::Cancelled,
            false => run_error(&error),
        })?;
        let found: Option<Vec<_>> = self
            .signature
            .outputs
            .iter()
            .map(|spec| Some((spec, outputs.get(&spec.name)?)))
            .collect();
        let found = found.ok_or_else(|| backend("it lacks an output that the model declares"))?;
        let mut left = MAX_OUTPUT_BYTES;
        for (spec, value) in &found {
            let ValueType::Tensor { shape, .. } = value.dtype() else {
                return Err(backend(format!("output '{}' is no tensor", spec.name)));
            };
            let elements = shape.iter().map(|&dim| dim.unsigned_abs()).product::<u64>();
            let bytes = elements.saturating_mul(spec.dtype.size().unwrap_or(1) as u64);
            left = left.checked_sub(bytes).ok_or(ComputeError::Output {
                bytes: (MAX_OUTPUT_BYTES - left).saturating_add(bytes),
                limit: MAX_OUTPUT_BYTES,
            })?;
        }
        found
            .into_iter()
            .map(|(spec, value)| {
                let value = value.view().downcast::<DynTensorValueType>();
                tensor(spec, &*value.map_err(|error| run_error(&error))?)
            })
            .collect()
    }
}

fn session(environment: &Environment, blob: &[u8]) -> Result<Session, ort::Error> {
    // The scan has read ONNX: the library must not find another format in the same bytes.
    Session::builder(environment)?
        .with_config_entry("session.load_model_format", "ONNX")?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_log_level(LogLevel::Fatal)?
        .commit_from_memory(blob)
}

/// Whether it takes and gives tensors of a type.
pub(crate) fn carries(dtype: DType) -> bool {
    element(dtype).is_some()
}

fn element(dtype: DType) -> Option<TensorElementType> {
    Some(match dtype {
        DType::Bool => TensorElementType::Bool,
        DType::U8 => TensorElementType::Uint8,
        DType::I8 => TensorElementType::Int8,
        DType::U16 => TensorElementType::Uint16,
        DType::I16 => TensorElementType::Int16,
        DType::U32 => TensorElementType::Uint32,
        DType::I32 => TensorElementType::Int32,
        DType::U64 => TensorElementType::Uint64,
        DType::I64 => TensorElementType::Int64,
        DType::Fp16 => TensorElementType::Float16,
        DType::Bf16 => TensorElementType::Bfloat16,
        DType::Fp32 => TensorElementType::Float32,
        DType::Fp64 => TensorElementType::Float64,
        DType::Bytes => return None,
    })
}

/// A tensor as ONNX Runtime takes it.
fn value(tensor: &Tensor) -> Result<SessionInputValue<'static>, ort::Error> {
    let element = element(tensor.dtype()).ok_or_else(|| ort::Error::new("it does not take byte strings"))?;
    let shape: Vec<i64> = tensor.shape().iter().map(|&dim| i64::from(dim)).collect();
    let mut value = DynTensor::new(&Allocator::default(), element, shape)?;
    let data: Cow<'_, [u8]> = match tensor.dtype() {
        // Any other byte is undefined behaviour in its C++.
        DType::Bool => tensor.data().iter().map(|&byte| u8::from(byte != 0)).collect(),
        _ => Cow::Borrowed(tensor.data()),
    };
    if !data.is_empty() {
        copy_in(&mut value, &data)?;
    }
    Ok(value.into())
}

#[expect(unsafe_code, reason = "a foreign library's buffer is filled")]
fn copy_in(value: &mut DynTensor, data: &[u8]) -> Result<(), ort::Error> {
    if value.size() != Some(data.len()) {
        return Err(ort::Error::new("a tensor is not as large as its shape"));
    }
    // SAFETY: the tensor is ours alone, on the processor, and has as many bytes as `data`.
    unsafe {
        std::ptr::copy_nonoverlapping(data.as_ptr(), value.data_ptr_mut().cast(), data.len());
    }
    Ok(())
}

/// A value of ONNX Runtime's as the tensor that the model declares.
fn tensor(spec: &TensorSpec, value: &DynTensor) -> Result<Tensor, ComputeError> {
    let dims = value.shape().iter().map(|&dim| u32::try_from(dim));
    let dims = dims.collect::<Result<Vec<_>, _>>();
    let dims = dims.map_err(|_| backend(format!("output '{}' is too large", spec.name)))?;
    if element(spec.dtype) != Some(*value.data_type()) {
        let (declared, got) = (spec.dtype.as_str(), value.data_type());
        return Err(backend(format!(
            "output '{}' is {got}, the model declares {declared}",
            spec.name
        )));
    }
    if !spec.accepts(spec.dtype, &dims) {
        let declared = check::shape(&spec.shape);
        return Err(backend(format!(
            "output '{}' has the shape {dims:?}, the model declares {declared}",
            spec.name
        )));
    }
    Tensor::new(&spec.name, spec.dtype, dims, copy_out(value)).map_err(|error| backend(error.to_string()))
}

#[expect(unsafe_code, reason = "a foreign library's buffer is read")]
fn copy_out(value: &DynTensor) -> Vec<u8> {
    match value.size() {
        None | Some(0) => Vec::new(),
        // SAFETY: the tensor is on the processor and has that many bytes, which nobody else touches.
        Some(bytes) => unsafe { std::slice::from_raw_parts(value.data_ptr().cast(), bytes) }.to_vec(),
    }
}

/// The shape of an output as the library found it. One without axes may be one that it knows nothing of.
fn inferred_shape(session: &Session, name: &str) -> Option<Vec<Option<u32>>> {
    let output = session.outputs().iter().find(|output| output.name() == name)?;
    let shape = output.dtype().tensor_shape().filter(|shape| !shape.is_empty())?;
    Some(shape.iter().map(|&dim| u32::try_from(dim).ok()).collect())
}

fn load_error(error: &ort::Error) -> LoadError {
    let reason = words(error);
    let unknown = [
        "is not a registered function/op",
        "No Op registered for",
        "Could not find an implementation",
        "No opset import for domain",
    ];
    if error.code() == ErrorCode::NotImplemented || unknown.iter().any(|words| reason.contains(words)) {
        return onnx::unsupported(reason, "export the model with operators that ONNX Runtime knows");
    }
    if out_of_memory(&reason) || error.code() == ErrorCode::RuntimeException {
        return failed(reason);
    }
    onnx::invalid(reason)
}

fn run_error(error: &ort::Error) -> ComputeError {
    let reason = words(error);
    // A kernel says the same of values that it made itself.
    let of_kernel = reason.contains("Non-zero status code");
    match error.code() {
        ErrorCode::InvalidArgument if !of_kernel => ComputeError::Input { name: None, reason },
        _ => backend(reason),
    }
}

/// Whether the library got no more memory: only its words tell.
pub(crate) fn out_of_memory(reason: &str) -> bool {
    let all = [
        "Failed to allocate memory",
        "storage size overflowed",
        "bad_alloc",
        "bad allocation",
    ];
    all.iter().any(|words| reason.contains(words))
}

/// The longest complaint that is passed on: some quote the model.
const MAX_WORDS: usize = 600;

fn words(error: &ort::Error) -> String {
    error.message().chars().take(MAX_WORDS).collect()
}

fn failed(reason: impl Into<String>) -> LoadError {
    LoadError::Backend {
        reason: reason.into(),
    }
}

fn backend(reason: impl Into<String>) -> ComputeError {
    ComputeError::Backend {
        reason: reason.into(),
    }
}
