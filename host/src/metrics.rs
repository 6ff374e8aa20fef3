//! Counters for operators, in Prometheus' text form.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use domain::Outcome;
use domain::posting::Finished;
use tracing_appender::non_blocking::ErrorCounter;

/// Counters since the start.
#[derive(Default)]
pub struct Metrics {
    ended: [AtomicU64; Outcome::ALL.len()],
    fuel: AtomicU64,
    guest_ns: AtomicU64,
    model_ns: AtomicU64,
    postings_waiting: AtomicU64,
    dropped_lines: OnceLock<ErrorCounter>,
}

impl Metrics {
    /// Counts an ended call.
    pub fn ended(&self, finished: &Finished) {
        self.ended[finished.outcome as usize].fetch_add(1, Relaxed);
        self.fuel.fetch_add(finished.usage.fuel, Relaxed);
        self.guest_ns.fetch_add(finished.usage.cpu_ns, Relaxed);
        self.model_ns.fetch_add(finished.usage.model_ns(), Relaxed);
    }

    /// Notes how many sealed windows Postgres has not taken yet.
    pub fn postings_waiting(&self, count: u64) {
        self.postings_waiting.store(count, Relaxed);
    }

    /// Shows how many lines of the log were dropped because nobody read them.
    pub fn count_dropped_lines(&self, counter: ErrorCounter) {
        // A host has one log.
        let _ = self.dropped_lines.set(counter);
    }

    /// The page that Prometheus scrapes.
    pub fn render(&self, running: usize, waiting: u64, journal_bytes: u64, ledger_refuses: bool) -> String {
        let mut page = String::new();
        let seconds = |ns: &AtomicU64| ns.load(Relaxed) as f64 / 1e9;
        let mut one = |name: &str, kind: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(page, "# TYPE {name} {kind}\n{name} {value}");
        };
        one(
            "wattle_fuel_total",
            "counter",
            self.fuel.load(Relaxed).to_string(),
        );
        one(
            "wattle_guest_cpu_seconds_total",
            "counter",
            seconds(&self.guest_ns).to_string(),
        );
        one(
            "wattle_model_cpu_seconds_total",
            "counter",
            seconds(&self.model_ns).to_string(),
        );
        one("wattle_invocations_running", "gauge", running.to_string());
        one("wattle_invocations_waiting", "gauge", waiting.to_string());
        one(
            "wattle_postings_waiting",
            "gauge",
            self.postings_waiting.load(Relaxed).to_string(),
        );
        // 1 when the ledger refused a posting for what it says: nothing is posted any more.
        one(
            "wattle_ledger_refuses",
            "gauge",
            u8::from(ledger_refuses).to_string(),
        );
        one("wattle_journal_bytes", "gauge", journal_bytes.to_string());
        one(
            "wattle_log_dropped_lines_total",
            "counter",
            self.dropped_lines
                .get()
                .map_or(0, ErrorCounter::dropped_lines)
                .to_string(),
        );
        page.push_str("# TYPE wattle_invocations_total counter\n");
        for (outcome, count) in Outcome::ALL.iter().zip(&self.ended) {
            let _ = writeln!(
                page,
                "wattle_invocations_total{{outcome=\"{outcome}\"}} {}",
                count.load(Relaxed)
            );
        }
        page
    }
}
