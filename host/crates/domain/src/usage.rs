//! What an invocation used: a live cell that is added to while it runs, and snapshots of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::{Digest, Label};

/// The version of the rule that turns work into fuel; every record names it.
///
/// Version 1: one unit per WebAssembly operator and per byte or element of a bulk operation
/// (wasmtime 48's default costs), 250 per page that is asked of `memory.grow`, 1,000 per call of
/// `wasi:nn` or `wattle:pipeline` and 1 per 8 bytes that it moves, and 1 per 1,000
/// multiply-accumulates of a graph's static cost.
pub const FUEL_SCHEDULE: u32 = 1;

/// The device of work on the host's own CPU.
pub const CPU: &str = "cpu";

/// The graph's input whose elements are tokens: what transformers' exports call it. Padding counts, since it is
/// computed.
pub const TOKENS: &str = "input_ids";

/// Fuel of any host call: [`FUEL_SCHEDULE`] version 1.
pub const FUEL_PER_HOST_CALL: u64 = 1_000;

/// Fuel of moving `bytes` between guest and host.
pub fn transfer_fuel(bytes: u64) -> u64 {
    bytes / 8
}

/// Fuel of one run of a graph of `macs` multiply-accumulates that takes `bytes` of tensors, call included.
pub fn compute_fuel(macs: u64, bytes: u64) -> u64 {
    (FUEL_PER_HOST_CALL + transfer_fuel(bytes)).saturating_add(macs / 1_000)
}

/// Model work of one invocation on one (graph, backend, device, precision).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The graph's digest.
    pub graph: Digest,
    /// Backend and version, such as `rten 0.27.0`.
    pub backend: Label,
    /// Device, such as `cpu`.
    pub device: Label,
    /// Precision, such as `exact`.
    pub precision: Label,
    /// Runs of the graph.
    pub runs: u64,
    /// Rows over all runs.
    pub rows: u64,
    /// CPU time of the backend's threads, in nanoseconds.
    pub cpu_ns: u64,
    /// Time for which the device worked, in nanoseconds. On the CPU, that for which at least one thread did; 0 in
    /// older records.
    #[serde(default)]
    pub busy_ns: u64,
    /// Tokens over all runs: the positions of the input that is called [`TOKENS`]. 0 where there is none, and in older
    /// records.
    #[serde(default)]
    pub tokens: u64,
}

impl Work {
    fn same_place(&self, other: &Self) -> bool {
        self.graph == other.graph
            && self.backend == other.backend
            && self.device == other.device
            && self.precision == other.precision
    }
}

/// What an invocation used, up to an instant or between two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Fuel, by [`FUEL_SCHEDULE`].
    pub fuel: u64,
    /// CPU time of the guest and of host calls on its behalf, in nanoseconds.
    pub cpu_ns: u64,
    /// Bytes of the request and of tensors that the guest sent to graphs.
    pub bytes_in: u64,
    /// Bytes of the answer and of tensors that graphs gave back.
    pub bytes_out: u64,
    /// The most linear memory that the guest had at once, in bytes. A level, not a sum.
    pub peak_memory_bytes: u64,
    /// Model work.
    pub work: Vec<Work>,
}

impl Usage {
    /// What was used after `earlier`, an earlier snapshot of the same cell.
    pub fn since(&self, earlier: &Self) -> Self {
        let work = self.work.iter().filter_map(|now| {
            let mut delta = now.clone();
            if let Some(then) = earlier.work.iter().find(|then| then.same_place(now)) {
                delta.runs = now.runs.saturating_sub(then.runs);
                delta.rows = now.rows.saturating_sub(then.rows);
                delta.cpu_ns = now.cpu_ns.saturating_sub(then.cpu_ns);
                delta.busy_ns = now.busy_ns.saturating_sub(then.busy_ns);
                delta.tokens = now.tokens.saturating_sub(then.tokens);
            }
            (delta.runs > 0 || delta.cpu_ns > 0 || delta.busy_ns > 0).then_some(delta)
        });
        Self {
            fuel: self.fuel.saturating_sub(earlier.fuel),
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
            peak_memory_bytes: self.peak_memory_bytes,
            work: work.collect(),
        }
    }

    /// Adds the usage of a later span of the same invocation.
    pub fn absorb(&mut self, later: &Self) {
        self.fuel = self.fuel.saturating_add(later.fuel);
        self.cpu_ns = self.cpu_ns.saturating_add(later.cpu_ns);
        self.bytes_in = self.bytes_in.saturating_add(later.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(later.bytes_out);
        self.peak_memory_bytes = self.peak_memory_bytes.max(later.peak_memory_bytes);
        for work in &later.work {
            add_work(&mut self.work, work);
        }
    }

    /// CPU time of all model work, in nanoseconds.
    pub fn model_ns(&self) -> u64 {
        self.work
            .iter()
            .map(|work| work.cpu_ns)
            .fold(0, u64::saturating_add)
    }

    /// Time for which models worked on the CPU, in nanoseconds: less than their CPU time where several threads
    /// did. 0 where nobody noted it.
    pub fn cpu_busy_ns(&self) -> u64 {
        let on_cpu = self.work.iter().filter(|work| work.device == *CPU);
        on_cpu.map(|work| work.busy_ns).fold(0, u64::saturating_add)
    }

    /// CPU time of guest and models together, in nanoseconds: the weight in attribution.
    pub fn total_cpu_ns(&self) -> u64 {
        self.cpu_ns.saturating_add(self.model_ns())
    }
}

fn add_work(all: &mut Vec<Work>, more: &Work) {
    match all.iter_mut().find(|work| work.same_place(more)) {
        Some(work) => {
            work.runs = work.runs.saturating_add(more.runs);
            work.rows = work.rows.saturating_add(more.rows);
            work.cpu_ns = work.cpu_ns.saturating_add(more.cpu_ns);
            work.busy_ns = work.busy_ns.saturating_add(more.busy_ns);
            work.tokens = work.tokens.saturating_add(more.tokens);
        }
        None => all.push(more.clone()),
    }
}

/// The live usage of a running invocation: shared by whoever works for it, read at any time.
#[derive(Debug, Default)]
pub struct UsageCell {
    fuel: AtomicU64,
    cpu_ns: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    peak_memory_bytes: AtomicU64,
    work: Mutex<Vec<Work>>,
    /// The part of model work that the call's own threads did.
    models_here_ns: AtomicU64,
    /// Whether it counts fuel and nothing else.
    fuel_only: bool,
}

impl UsageCell {
    /// One that counts fuel and nothing else.
    pub fn of_fuel() -> Self {
        Self {
            fuel_only: true,
            ..Self::default()
        }
    }

    /// Whether it counts fuel and nothing else: then nobody need look at a clock for it.
    pub fn is_of_fuel(&self) -> bool {
        self.fuel_only
    }

    /// Adds fuel.
    pub fn add_fuel(&self, fuel: u64) {
        self.fuel.fetch_add(fuel, Relaxed);
    }

    /// Adds CPU time of the guest or of the host on its behalf.
    pub fn add_cpu_ns(&self, cpu_ns: u64) {
        self.cpu_ns.fetch_add(cpu_ns, Relaxed);
    }

    /// CPU time of the guest and of the host on its behalf up to now, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        self.cpu_ns.load(Relaxed)
    }

    /// Notes CPU time of model work that the call's own threads did, in nanoseconds: [`UsageCell::add_work`] adds it.
    pub fn note_work_here(&self, cpu_ns: u64) {
        self.models_here_ns.fetch_add(cpu_ns, Relaxed);
    }

    /// CPU time of the call's own threads up to now, in nanoseconds: of the guest, of the host on its behalf, and of
    /// models that ran there.
    pub fn here_ns(&self) -> u64 {
        self.cpu_ns().saturating_add(self.models_here_ns.load(Relaxed))
    }

    /// Adds bytes that came in.
    pub fn add_bytes_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    /// Adds bytes that went out.
    pub fn add_bytes_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
    }

    /// Bytes that went out up to now.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Relaxed)
    }

    /// Notes how much linear memory the guest has now.
    pub fn note_memory(&self, bytes: u64) {
        self.peak_memory_bytes.fetch_max(bytes, Relaxed);
    }

    /// Adds model work.
    pub fn add_work(&self, work: &Work) {
        if self.fuel_only {
            return;
        }
        add_work(
            &mut self.work.lock().unwrap_or_else(PoisonError::into_inner),
            work,
        );
    }

    /// What was used up to now.
    pub fn snapshot(&self) -> Usage {
        Usage {
            fuel: self.fuel.load(Relaxed),
            cpu_ns: self.cpu_ns.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            peak_memory_bytes: self.peak_memory_bytes.load(Relaxed),
            work: self.work.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(graph: &[u8], cpu_ns: u64) -> Work {
        Work {
            graph: Digest::of(graph),
            backend: "rten".into(),
            device: "cpu".into(),
            precision: "exact".into(),
            runs: 1,
            rows: 2,
            cpu_ns,
            busy_ns: cpu_ns / 2,
            tokens: cpu_ns * 3,
        }
    }

    #[test]
    fn deltas_add_up_to_the_whole() {
        let cell = UsageCell::default();
        cell.add_fuel(10);
        cell.add_work(&work(b"a", 5));
        let first = cell.snapshot();
        cell.add_fuel(3);
        cell.add_cpu_ns(7);
        cell.add_work(&work(b"a", 6));
        cell.add_work(&work(b"b", 1));
        let whole = cell.snapshot();
        let mut sum = first.since(&Usage::default());
        sum.absorb(&whole.since(&first));
        assert_eq!(sum, whole);
        assert_eq!(whole.total_cpu_ns(), 19);
    }
}
