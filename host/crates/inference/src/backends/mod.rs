//! The backends, one beside the other.

pub(crate) mod dense;
pub(crate) mod onnxruntime;
pub mod rten;

use std::path::PathBuf;

use domain::{DType, Signature, Tensor};
use serde::{Deserialize, Serialize};

use self::onnxruntime::OnnxRuntime;
use self::rten::Rten;
use crate::error::{ComputeError, LoadError};
use crate::worker::Stops;

/// What runs a graph in its process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Library {
    /// Is linked into every program of ours.
    Rten,
    /// Is opened there.
    OnnxRuntime(PathBuf),
}

impl Library {
    /// Whether it takes and gives tensors of a type.
    pub(crate) fn carries(&self, dtype: DType) -> bool {
        match self {
            Self::Rten => rten::carries(dtype),
            Self::OnnxRuntime(_) => onnxruntime::carries(dtype),
        }
    }

    /// Loads a model that has passed the scan, in this process.
    pub(crate) fn load(&self, blob: Vec<u8>) -> Result<Model, LoadError> {
        Ok(match self {
            Self::Rten => Model::Rten(Box::new(Rten::load(blob)?)),
            Self::OnnxRuntime(path) => Model::OnnxRuntime(OnnxRuntime::load(path, &blob)?),
        })
    }
}

/// A loaded model, in the process that runs it.
pub(crate) enum Model {
    Rten(Box<Rten>),
    OnnxRuntime(OnnxRuntime),
}

impl Model {
    /// What it takes and gives.
    pub(crate) fn signature(&self) -> &Signature {
        match self {
            Self::Rten(model) => model.signature(),
            Self::OnnxRuntime(model) => model.signature(),
        }
    }

    /// Runs once, on inputs that fit the signature and stand in its order; so do the outputs.
    pub(crate) fn run(&mut self, inputs: &[Tensor], stops: &Stops) -> Result<Vec<Tensor>, ComputeError> {
        match self {
            Self::Rten(model) => model.run(inputs),
            Self::OnnxRuntime(model) => model.run(inputs, stops),
        }
    }
}
