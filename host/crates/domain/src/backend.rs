//! Which backend runs the graphs of a release, and what is known of its answers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The backend that a deployment asks for. A named one that is not there is refused, never replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// For each graph the fastest, as measured, of those whose answers agree with the reference's.
    #[default]
    Auto,
    /// rten: always there, and the reference for the others.
    Rten,
    /// ONNX Runtime: where the host's operator has installed it.
    OnnxRuntime,
    /// Dense: small dense networks alone, worked out within the call.
    Dense,
}

/// Text that names no backend.
#[derive(Debug, thiserror::Error)]
#[error("a backend is one of auto, rten, onnxruntime, dense")]
pub struct ParseBackendError;

impl BackendChoice {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Rten, Self::OnnxRuntime, Self::Dense];

    /// Its name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Rten => "rten",
            Self::OnnxRuntime => "onnxruntime",
            Self::Dense => "dense",
        }
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BackendChoice {
    type Err = ParseBackendError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|choice| choice.as_str() == text)
            .ok_or(ParseBackendError)
    }
}

/// What a release's proof found for one of its graphs: it holds for this backend and version alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Backend and version, such as `rten 0.27.0`.
    pub backend: String,
    /// What the golden check said of it.
    pub check: GoldenCheck,
}

/// What came of comparing a backend's answers to fixed inputs with the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GoldenCheck {
    /// They agree.
    Agrees,
    /// Another backend's did not agree, so the reference serves.
    Differs,
    /// It is the reference, and was asked for by name: nothing was compared.
    Reference,
    /// No other backend of the host loads the graph: there was nothing to compare with.
    Alone,
    /// The graph draws random numbers: types and shapes agree, values were not compared.
    Random,
    /// None of the inputs that were tried has an answer: there was nothing to compare.
    Untried,
}

impl GoldenCheck {
    /// Every outcome.
    pub const ALL: [Self; 6] = [
        Self::Agrees,
        Self::Differs,
        Self::Reference,
        Self::Alone,
        Self::Random,
        Self::Untried,
    ];

    /// Its name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Differs => "differs",
            Self::Reference => "reference",
            Self::Alone => "alone",
            Self::Random => "random",
            Self::Untried => "untried",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_has_one_name() {
        for choice in BackendChoice::ALL {
            assert_eq!(choice.as_str().parse::<BackendChoice>().unwrap(), choice);
        }
        assert!("tract".parse::<BackendChoice>().is_err());
    }
}
