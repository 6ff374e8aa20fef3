//! The limits of one invocation, each with a problem code of its own when it is crossed.

use serde::{Deserialize, Serialize};

/// What one invocation of a release may use. A deployment states what differs from the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Units of fuel, guest instructions and host calls together.
    pub fuel: u64,
    /// Wall time of the whole call, queue included, in milliseconds.
    pub deadline_ms: u64,
    /// Linear memory of the guest, all memories together, in bytes.
    pub memory_bytes: u64,
    /// Elements of all the guest's tables together.
    pub table_elements: u64,
    /// Handles that the guest may hold at once.
    pub handles: u64,
    /// Tensor bytes that the host holds for the guest at once, and the largest single transfer: a request's
    /// elements and parameters too.
    pub tensor_bytes: u64,
    /// Bytes of the answer: elements, names, shapes and parameters. As text it may have a few times as many.
    pub output_bytes: u64,
    /// Bytes of log, standard output and standard error together.
    pub log_bytes: u64,
    /// Invocations of the deployment that run at once.
    pub concurrency: u64,
    /// Invocations of the tenant that wait.
    pub queue: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: 10_000_000_000,
            deadline_ms: 30_000,
            memory_bytes: 256 << 20,
            table_elements: 100_000,
            handles: 4_096,
            tensor_bytes: 64 << 20,
            output_bytes: 16 << 20,
            log_bytes: 64 << 10,
            concurrency: 16,
            queue: 256,
        }
    }
}

/// A limit above what this host allows, or at zero.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limits.{field} must be from 1 to {ceiling}, not {value}")]
pub struct LimitError {
    /// The field's name.
    pub field: &'static str,
    /// What was asked for.
    pub value: u64,
    /// The most that the host allows.
    pub ceiling: u64,
}

impl Limits {
    /// The most that any release may ask for, whatever its tenant.
    pub const CEILING: Self = Self {
        fuel: 1_000_000_000_000,
        deadline_ms: 600_000,
        memory_bytes: 4 << 30,
        table_elements: 1_000_000,
        handles: 65_536,
        tensor_bytes: 1 << 30,
        output_bytes: 256 << 20,
        log_bytes: 1 << 20,
        concurrency: 256,
        queue: 4_096,
    };

    /// Checks every field against `ceiling`; the first that does not fit is named.
    pub fn check(&self, ceiling: &Self) -> Result<(), LimitError> {
        let fields = [
            ("fuel", self.fuel, ceiling.fuel),
            ("deadline_ms", self.deadline_ms, ceiling.deadline_ms),
            ("memory_bytes", self.memory_bytes, ceiling.memory_bytes),
            ("table_elements", self.table_elements, ceiling.table_elements),
            ("handles", self.handles, ceiling.handles),
            ("tensor_bytes", self.tensor_bytes, ceiling.tensor_bytes),
            ("output_bytes", self.output_bytes, ceiling.output_bytes),
            ("log_bytes", self.log_bytes, ceiling.log_bytes),
            ("concurrency", self.concurrency, ceiling.concurrency),
            ("queue", self.queue, ceiling.queue),
        ];
        for (field, value, ceiling) in fields {
            if value == 0 || value > ceiling {
                return Err(LimitError {
                    field,
                    value,
                    ceiling,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_floor_and_a_ceiling() {
        let ceiling = Limits::CEILING;
        assert_eq!(Limits::default().check(&ceiling), Ok(()));
        assert_eq!(ceiling.check(&ceiling), Ok(()));
        type Field = fn(&mut Limits) -> &mut u64;
        let cases: [(&str, Field); 10] = [
            ("fuel", |l| &mut l.fuel),
            ("deadline_ms", |l| &mut l.deadline_ms),
            ("memory_bytes", |l| &mut l.memory_bytes),
            ("table_elements", |l| &mut l.table_elements),
            ("handles", |l| &mut l.handles),
            ("tensor_bytes", |l| &mut l.tensor_bytes),
            ("output_bytes", |l| &mut l.output_bytes),
            ("log_bytes", |l| &mut l.log_bytes),
            ("concurrency", |l| &mut l.concurrency),
            ("queue", |l| &mut l.queue),
        ];
        for (name, field) in cases {
            let over = *field(&mut ceiling.clone()) + 1;
            for value in [0, over] {
                let mut limits = Limits::default();
                *field(&mut limits) = value;
                assert_eq!(limits.check(&ceiling).unwrap_err().field, name);
            }
        }
    }
}
