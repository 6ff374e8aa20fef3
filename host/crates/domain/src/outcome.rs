//! How an invocation ended.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// How an invocation ended. Each has a stable code, and each leaves a record of what was used.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Outcome {
            $($(#[$doc])* $name,)*
        }

        impl Outcome {
            /// Every outcome.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable code: in problems, receipts and the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
        }
    };
}

outcomes! {
    /// It answered.
    Ok = "ok",
    /// The guest answered with a failure of its own.
    GuestFailure = "guest_failure",
    /// The guest's answer breaks the contract.
    InvalidOutput = "invalid_output",
    /// It used up its fuel.
    FuelExhausted = "fuel_exhausted",
    /// Its deadline passed.
    DeadlineExceeded = "deadline_exceeded",
    /// It asked for more linear memory than its limit.
    MemoryExceeded = "memory_exceeded",
    /// It asked for more table elements than its limit.
    TableExceeded = "table_exceeded",
    /// It held more handles than its limit.
    HandlesExceeded = "handles_exceeded",
    /// It moved or held more tensor bytes than its limit.
    TensorsExceeded = "tensors_exceeded",
    /// Its answer is longer than its limit.
    OutputExceeded = "output_exceeded",
    /// It logged more than its limit.
    LogExceeded = "log_exceeded",
    /// The guest trapped: an `unreachable`, a bad access, a stack overflow.
    Trapped = "trapped",
    /// A graph could not run the call.
    ModelFailed = "model_failed",
    /// The caller went away.
    Cancelled = "cancelled",
    /// The host failed; the tenant did nothing wrong.
    HostFault = "host_fault",
    /// The host died during the call; written by recovery.
    HostLost = "host_lost",
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that is no outcome.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no outcome")]
pub struct ParseOutcomeError(String);

impl FromStr for Outcome {
    type Err = ParseOutcomeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().copied().find(|outcome| outcome.as_str() == text);
        found.ok_or_else(|| ParseOutcomeError(text.to_owned()))
    }
}
