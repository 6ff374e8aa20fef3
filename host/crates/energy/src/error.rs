//! What can go wrong with a meter.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum MeterError {
    /// A file cannot be read or locked.
    #[error("the meter cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file does not say what it should.
    #[error("{path} has no {expected}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is missing from it.
        expected: &'static str,
    },
    /// A counter fell without a new boot: nothing can be said about the energy since.
    #[error("the counter of root '{root}' fell from {before_uj} to {now_uj} µJ")]
    Fell {
        /// The root.
        root: String,
        /// The counter before, in microjoules.
        before_uj: u64,
        /// The counter now, in microjoules.
        now_uj: u64,
    },
    /// Another process bills this root.
    #[error("the energy root '{root}' is held by another process, see {path}")]
    RootHeld {
        /// The root.
        root: String,
        /// The lock.
        path: PathBuf,
    },
    /// A root's name cannot stand in a file name.
    #[error(
        "a root's name has 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit, not '{0}'"
    )]
    RootName(String),
    /// A power model that no machine has.
    #[error(
        "the power model takes {idle_uw} µW idle and {max_uw} µW at most: idle must be above 0 and below most"
    )]
    Model {
        /// Power with nothing to do, in microwatts.
        idle_uw: u64,
        /// Power with all CPUs busy, in microwatts.
        max_uw: u64,
    },
    /// A scripted meter was told to fail.
    #[error("the scripted meter was told to fail")]
    Scripted,
}

impl MeterError {
    /// The stable code of the problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "meter_io",
            Self::Malformed { .. } => "meter_malformed",
            Self::Fell { .. } => "meter_fell",
            Self::RootHeld { .. } => "meter_root_held",
            Self::RootName(_) => "meter_root_name",
            Self::Model { .. } => "meter_model",
            Self::Scripted => "meter_scripted",
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
