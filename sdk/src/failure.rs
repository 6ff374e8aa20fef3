use crate::nn::errors::{Error, ErrorCode};
use crate::{Failure, Parameter};

impl Failure {
    /// A failure with a stable word for programs and a sentence for people. It is not retryable.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: false,
            parameters: Vec::new(),
        }
    }

    /// The same failure, saying that the same call may succeed later.
    pub fn retryable(self) -> Self {
        Self {
            retryable: true,
            ..self
        }
    }

    /// The same failure with a detail for programs; see [`Parameter::json`].
    pub fn with(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }
}

impl From<Error> for Failure {
    /// `graph-` and wasi-nn's own word, such as `graph-not-found`.
    fn from(error: Error) -> Self {
        let code = match error.code() {
            ErrorCode::InvalidArgument => "graph-invalid-argument",
            ErrorCode::InvalidEncoding => "graph-invalid-encoding",
            ErrorCode::Timeout => "graph-timeout",
            ErrorCode::RuntimeError => "graph-runtime-error",
            ErrorCode::UnsupportedOperation => "graph-unsupported-operation",
            ErrorCode::TooLarge => "graph-too-large",
            ErrorCode::NotFound => "graph-not-found",
            ErrorCode::Security => "graph-security",
            ErrorCode::Unknown => "graph-unknown",
        };
        let failure = Self::new(code, error.data());
        if code == "graph-timeout" {
            failure.retryable()
        } else {
            failure
        }
    }
}
