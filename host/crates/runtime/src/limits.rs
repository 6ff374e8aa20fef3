//! Memory and tables of a guest, within its limits.

use std::sync::Arc;

use domain::{InvocationId, Limits, Outcome, UsageCell};
use wasmtime::ResourceLimiter;

/// Counts memory and table elements over all of a guest's instances.
pub(crate) struct Limiter {
    memory: Gauge,
    tables: Gauge,
    /// The first limit that the guest met. It may carry on; if it traps, this is why.
    denied: Option<Outcome>,
    cell: Arc<UsageCell>,
    /// For the log.
    invocation: InvocationId,
}

struct Gauge {
    used: u64,
    limit: u64,
    /// The last growth, to be taken back if it fails after all.
    last: u64,
}

impl Gauge {
    fn new(limit: u64) -> Self {
        Self {
            used: 0,
            limit,
            last: 0,
        }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let growth = desired.saturating_sub(current) as u64;
        let wanted = self.used.saturating_add(growth);
        if wanted > self.limit {
            return false;
        }
        (self.used, self.last) = (wanted, growth);
        true
    }

    fn take_back(&mut self) {
        self.used = self.used.saturating_sub(std::mem::take(&mut self.last));
    }
}

impl Limiter {
    pub(crate) fn new(limits: &Limits, cell: Arc<UsageCell>, invocation: InvocationId) -> Self {
        Self {
            memory: Gauge::new(limits.memory_bytes),
            tables: Gauge::new(limits.table_elements),
            denied: None,
            cell,
            invocation,
        }
    }

    pub(crate) fn denied(&self) -> Option<Outcome> {
        self.denied
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = self.memory.grow(current, desired);
        if granted {
            self.cell.note_memory(self.memory.used);
        } else {
            self.denied.get_or_insert(Outcome::MemoryExceeded);
        }
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let invocation = self.invocation;
        tracing::debug!(%invocation, error = format!("{error:#}"), "a guest's memory did not grow");
        self.memory.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = self.tables.grow(current, desired);
        if !granted {
            self.denied.get_or_insert(Outcome::TableExceeded);
        }
        Ok(granted)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let invocation = self.invocation;
        tracing::debug!(%invocation, error = format!("{error:#}"), "a guest's table did not grow");
        self.tables.take_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn limits_hold_over_all_memories_together() {
        let cell = Arc::new(UsageCell::default());
        let limits = Limits {
            memory_bytes: 100,
            table_elements: 10,
            ..Limits::default()
        };
        let mut limiter = Limiter::new(&limits, Arc::clone(&cell), InvocationId(Uuid::nil()));
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert_eq!(limiter.denied(), None);
        assert!(!limiter.memory_growing(40, 41, None).unwrap());
        assert_eq!(limiter.denied(), Some(Outcome::MemoryExceeded));
        assert_eq!(cell.snapshot().peak_memory_bytes, 100);

        limiter
            .memory_grow_failed(wasmtime::Error::msg("no memory"))
            .unwrap();
        assert!(
            limiter.memory_growing(0, 40, None).unwrap(),
            "a failed growth is given back"
        );
        assert!(!limiter.table_growing(0, 11, None).unwrap());
        assert_eq!(
            limiter.denied(),
            Some(Outcome::MemoryExceeded),
            "the first limit met is named"
        );
    }
}
