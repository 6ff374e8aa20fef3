//! Why a graph does not load or does not answer.

use crate::Target;

/// Why a graph cannot be loaded. Nothing of a failed load is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The model is larger than this host takes.
    #[error("the model has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// The backend failed; the model may be sound.
    #[error("the backend failed while loading: {reason}")]
    Backend {
        /// What it said.
        reason: String,
    },
}

impl LoadError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidModel { .. } => "invalid_model",
            Self::UnsupportedModel { .. } => "unsupported_model",
            Self::TargetUnavailable { .. } => "target_unavailable",
            Self::TooLarge { .. } => "model_too_large",
            Self::Backend { .. } => "backend_failed",
        }
    }
}

/// Why a graph does not answer a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The backend failed, or its answer is not what the model declares.
    #[error("the backend failed: {reason}")]
    Backend {
        /// What it said.
        reason: String,
    },
}

impl ComputeError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Input { .. } => "invalid_input",
            Self::QueueFull { .. } => "queue_full",
            Self::Cancelled => "cancelled",
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
