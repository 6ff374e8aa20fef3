//! Counters for operators, in Prometheus' text form.

mod energy;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use domain::Outcome;
use domain::posting::{Finished, Posting};
use tracing_appender::non_blocking::ErrorCounter;

pub use self::energy::LastWindow;
use self::energy::{Energy, joules};
use crate::app::App;

/// Counters since the start.
#[derive(Default)]
pub struct Metrics {
    ended: [AtomicU64; Outcome::ALL.len()],
    fuel: AtomicU64,
    guest_ns: AtomicU64,
    model_ns: AtomicU64,
    postings_waiting: AtomicU64,
    checkpoint: AtomicU64,
    checkpoint_fault: AtomicU64,
    dropped_lines: OnceLock<ErrorCounter>,
    energy: Mutex<Energy>,
}

impl Metrics {
    /// Counts an ended call.
    pub fn ended(&self, finished: &Finished) {
        self.ended[finished.outcome as usize].fetch_add(1, Relaxed);
        self.fuel.fetch_add(finished.usage.fuel, Relaxed);
        self.guest_ns.fetch_add(finished.usage.cpu_ns, Relaxed);
        self.model_ns.fetch_add(finished.usage.model_ns(), Relaxed);
    }

    /// Counts the energy of a sealed posting.
    pub fn sealed(&self, posting: &Posting) {
        self.energy().sealed(posting);
    }

    /// Where the last window's energy went.
    pub fn last_window(&self) -> LastWindow {
        self.energy().last().clone()
    }

    fn energy(&self) -> MutexGuard<'_, Energy> {
        self.energy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how many sealed windows Postgres has not taken yet.
    pub fn postings_waiting(&self, count: u64) {
        self.postings_waiting.store(count, Relaxed);
    }

    /// Counts a sealed posting that is on its way to Postgres.
    pub fn posting_queued(&self) {
        self.postings_waiting.fetch_add(1, Relaxed);
    }

    /// Whether sealed postings wait for Postgres.
    pub fn are_postings_waiting(&self) -> bool {
        self.postings_waiting.load(Relaxed) > 0
    }

    /// Notes the last checkpoint that this host made.
    pub fn checkpointed(&self, number: u64) {
        self.checkpoint.store(number, Relaxed);
    }

    /// Notes whether something other than an absent Postgres keeps checkpoints from being made or anchored.
    pub fn checkpoint_fault(&self, is_faulty: bool) {
        self.checkpoint_fault.store(u64::from(is_faulty), Relaxed);
    }

    /// Shows how many lines of the log were dropped because nobody read them.
    pub fn count_dropped_lines(&self, counter: ErrorCounter) {
        // A host has one log.
        let _ = self.dropped_lines.set(counter);
    }

    /// The page that Prometheus scrapes.
    pub fn render(&self, app: &App) -> String {
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
        one(
            "wattle_invocations_running",
            "gauge",
            app.live.running().to_string(),
        );
        one(
            "wattle_invocations_waiting",
            "gauge",
            app.admission.waiting().to_string(),
        );
        one(
            "wattle_postings_waiting",
            "gauge",
            self.postings_waiting.load(Relaxed).to_string(),
        );
        // 1 when the ledger refused a posting for what it says: nothing is posted any more.
        one(
            "wattle_ledger_refuses",
            "gauge",
            u8::from(app.ledger_fault().is_some()).to_string(),
        );
        // The last one that this host made; 0 while it made none.
        one(
            "wattle_checkpoint_number",
            "gauge",
            self.checkpoint.load(Relaxed).to_string(),
        );
        // 1 when the ledger lacks what is anchored, or the anchors cannot be written.
        one(
            "wattle_checkpoint_fault",
            "gauge",
            self.checkpoint_fault.load(Relaxed).to_string(),
        );
        one("wattle_journal_bytes", "gauge", app.journal.bytes().to_string());
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
        let _ = self.energy().render(&mut page);
        roots(app, &mut page);
        page
    }
}

/// The power of each root, whether its meter is well, and how they compare with the whole machine's.
fn roots(app: &App, page: &mut String) {
    let roots = app.meters.roots();
    page.push_str("# TYPE wattle_node_power_watts gauge\n");
    for (root, power_uw) in roots
        .iter()
        .filter_map(|(root, seen)| Some((root, seen.power_uw?)))
    {
        let _ = writeln!(
            page,
            "wattle_node_power_watts{{root=\"{root}\"}} {}",
            joules(power_uw)
        );
    }
    page.push_str("# TYPE wattle_meter_fault gauge\n");
    for (root, seen) in &roots {
        let _ = writeln!(
            page,
            "wattle_meter_fault{{root=\"{root}\"}} {}",
            u8::from(seen.fault.is_some())
        );
    }
    let Some(compared) = app.meters.compared() else {
        return;
    };
    let (wall, ratio) = (&compared.wall, compared.ratio_ppm as f64 / 1e6);
    let _ = writeln!(
        page,
        "# TYPE wattle_meter_roots_to_wall_ratio gauge\nwattle_meter_roots_to_wall_ratio{{wall=\"{wall}\"}} {ratio}"
    );
    let exceeds = u8::from(compared.exceeds);
    let _ = writeln!(
        page,
        "# TYPE wattle_meter_roots_exceed_wall gauge\nwattle_meter_roots_exceed_wall{{wall=\"{wall}\"}} {exceeds}"
    );
}
