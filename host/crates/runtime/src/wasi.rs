//! WASI without authority: no files, sockets, environment or arguments; coarse clocks; bounded output.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domain::{InvocationId, Outcome};
use rustix::time::{ClockId, clock_getres, clock_gettime};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx};

use crate::outcome::Stop;

/// What a note costs of the budget beside its text, so that empty ones run out too.
const LINE_BYTES: usize = 16;

/// The most random bytes of one call: more would be work without fuel.
const MAX_RANDOM_BYTES: u64 = 4 << 10;

/// A context that grants nothing but notes, time and randomness. The builder's defaults are closed, and
/// nothing is ever inherited from the host.
pub(crate) fn context(notes: &Notes) -> WasiCtx {
    let mut builder = WasiCtx::builder();
    builder
        .stdout(Output {
            notes: notes.clone(),
            stream: "stdout",
        })
        .stderr(Output {
            notes: notes.clone(),
            stream: "stderr",
        })
        .max_random_size(MAX_RANDOM_BYTES)
        .monotonic_clock(CoarseClock(ClockId::MonotonicCoarse))
        .wall_clock(CoarseClock(ClockId::RealtimeCoarse))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    builder.build()
}

/// Where a guest's log, standard output and standard error go, within one budget.
#[derive(Clone)]
pub(crate) struct Notes {
    invocation: InvocationId,
    limit: u64,
    used: Arc<AtomicU64>,
}

impl Notes {
    pub(crate) fn new(invocation: InvocationId, limit: u64) -> Self {
        Self {
            invocation,
            limit,
            used: Arc::default(),
        }
    }

    /// Takes a note of `bytes` out of the budget, its line included, or says that the call must end.
    pub(crate) fn take(&self, bytes: usize) -> Result<InvocationId, Stop> {
        let bytes = bytes.saturating_add(LINE_BYTES);
        let used = self
            .used
            .fetch_add(bytes as u64, Ordering::Relaxed)
            .saturating_add(bytes as u64);
        if used > self.limit {
            let message = format!("the guest may write {} bytes of log and output", self.limit);
            return Err(Stop::new(Outcome::LogExceeded, message));
        }
        Ok(self.invocation)
    }
}

/// A guest's standard output or error: written to the log, never buffered.
#[derive(Clone)]
struct Output {
    notes: Notes,
    stream: &'static str,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 and preview 1 ask for this form, and neither is linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let invocation = self
            .notes
            .take(bytes.len())
            .map_err(|stop| StreamError::Trap(stop.into()))?;
        // Debug formatting escapes control characters: tenants do not draw on the operator's terminal.
        let text = String::from_utf8_lossy(&bytes);
        tracing::info!(target: "guest", %invocation, stream = self.stream, text = ?text.trim_end());
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(4096)
    }
}

/// A clock of some milliseconds' grain: enough for dates, too coarse to spy on neighbours by timing.
struct CoarseClock(ClockId);

impl CoarseClock {
    fn read(&self) -> Duration {
        duration(clock_gettime(self.0))
    }

    fn grain(&self) -> Duration {
        duration(clock_getres(self.0))
    }
}

fn duration(time: rustix::time::Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl HostMonotonicClock for CoarseClock {
    fn resolution(&self) -> u64 {
        nanoseconds(self.grain())
    }

    fn now(&self) -> u64 {
        nanoseconds(self.read())
    }
}

impl HostWallClock for CoarseClock {
    fn resolution(&self) -> Duration {
        self.grain()
    }

    fn now(&self) -> Duration {
        self.read()
    }
}
