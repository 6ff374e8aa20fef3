//! Why a graph does not load or does not answer.

use serde::{Deserialize, Serialize};

use crate::Target;

/// Why a graph cannot be loaded. Nothing of a failed load is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LoadError {
    /// The bytes are no model, or a broken one.
    #[error("not a valid model: {reason}")]
    InvalidModel {
        /// What is wrong, in a sentence's part.
        reason: String,
    },
    /// The model is sound but asks for something that no backend here offers.
    #[error("{reason}; {advice}")]
    UnsupportedModel {
        /// What it asks for.
        reason: String,
        /// What its owner can do.
        advice: String,
    },
    /// No backend here runs on this target. It is never replaced by another.
    #[error("no backend of this host runs on target '{target}'")]
    TargetUnavailable {
        /// The target asked for.
        target: Target,
    },
    /// The backend that was asked for is not on this host. It is never replaced by another.
    #[error(
        "this host has no backend '{backend}' for target '{target}': ask its operator to install it \
         (`wattle doctor` says how), or deploy with backend auto"
    )]
    BackendUnavailable {
        /// The backend asked for.
        backend: String,
        /// The target asked for.
        target: Target,
    },
    /// The backend that was asked for answers otherwise than the reference, so it serves nobody.
    #[error("{backend} does not answer as {reference} does: {reason}; deploy with backend auto")]
    Disagrees {
        /// The backend asked for, with its version.
        backend: String,
        /// The reference, with its version.
        reference: String,
        /// Where they differ.
        reason: String,
    },
    /// The model is larger than this host takes.
    #[error("the model has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// Loading needs more memory than a graph may use.
    #[error(
        "loading the model needs more than the {} MiB that a graph may use: make it smaller, or ask the \
         operator for more",
        limit_bytes >> 20
    )]
    Memory {
        /// The most that it may use.
        limit_bytes: u64,
    },
    /// Loading takes longer than is allowed.
    #[error("loading the model took more than {limit}: simplify its graph, or fold its constants on export")]
    Expensive {
        /// What it used up.
        limit: String,
    },
    /// The host could not start a process for the graph. The model may be sound.
    #[error("no process for the graph: {reason}")]
    Unavailable {
        /// Why, for the operator.
        reason: String,
    },
    /// The backend failed; the model may be sound.
    #[error("the backend failed while loading: {reason}")]
    Backend {
        /// What it said.
        reason: String,
    },
}

impl LoadError {
    /// Whether another backend may load what this one did not.
    pub(crate) fn is_of_one_backend(&self) -> bool {
        matches!(
            self,
            Self::InvalidModel { .. } | Self::UnsupportedModel { .. } | Self::Backend { .. }
        )
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidModel { .. } => "invalid_model",
            Self::UnsupportedModel { .. } => "unsupported_model",
            Self::TargetUnavailable { .. } => "target_unavailable",
            Self::BackendUnavailable { .. } => "backend_unavailable",
            Self::Disagrees { .. } => "backend_disagrees",
            Self::TooLarge { .. } => "model_too_large",
            Self::Memory { .. } => MEMORY_EXCEEDED,
            Self::Expensive { .. } => "load_too_expensive",
            Self::Unavailable { .. } => "graph_process_unavailable",
            Self::Backend { .. } => "backend_failed",
        }
    }
}

/// The code of both kinds of memory that is too little.
const MEMORY_EXCEEDED: &str = "model_memory_exceeded";

/// Why a graph does not answer a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ComputeError {
    /// The tensors are not what the graph's signature asks for.
    #[error("{reason}")]
    Input {
        /// The tensor at fault, where it is one.
        name: Option<String>,
        /// What is wrong with it; names it.
        reason: String,
    },
    /// Too many calls wait for the graph.
    #[error("{waiting} calls wait for this graph already")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// The caller's token fired.
    #[error("the call was cancelled")]
    Cancelled,
    /// The run needs more memory than a graph may use.
    #[error(
        "the run needs more than the {} MiB that a graph may use: send fewer rows, use a smaller model, or \
         ask the operator for more",
        limit_bytes >> 20
    )]
    Memory {
        /// The most that it may use.
        limit_bytes: u64,
    },
    /// The outputs are larger than a graph may give.
    #[error("the outputs have {bytes} bytes, {limit} are allowed: send fewer rows")]
    Output {
        /// Their length.
        bytes: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// The backend failed, or its answer is not what the model declares.
    #[error("the backend failed: {reason}")]
    Backend {
        /// What it said.
        reason: String,
    },
    /// The host cannot start a process for the graph now. The cause is in its log.
    #[error("the host has no process for the graph now: try again")]
    Unavailable,
}

impl ComputeError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Input { .. } => "invalid_input",
            Self::QueueFull { .. } => "queue_full",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "graph_process_unavailable",
            Self::Memory { .. } => MEMORY_EXCEEDED,
            Self::Output { .. } => "model_output_exceeded",
            Self::Backend { .. } => "backend_failed",
        }
    }

    pub(crate) fn input(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Input {
            name: Some(name.into()),
            reason: reason.into(),
        }
    }
}

impl From<LoadError> for ComputeError {
    /// Of a graph that had to be loaded again for a call.
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Memory { limit_bytes } => Self::Memory { limit_bytes },
            LoadError::Unavailable { reason } => {
                tracing::error!(reason, "a graph's process does not start");
                Self::Unavailable
            }
            error => Self::Backend {
                reason: error.to_string(),
            },
        }
    }
}
