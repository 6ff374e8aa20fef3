//! Seal: slices are cut and journalled, windows are sealed, and a poster brings them to Postgres.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use domain::Digest;
use domain::allocation::Allocation;
use domain::correction::Correction;
use domain::energy::{Activity, FaultKind, MeterFault, Reading};
use domain::posting::{Posting, PostingKind, Slice};
use domain::window::Sealer;
use energy::{ActivityProbe, Guarded, Metered};
use journal::Record;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::fault;

/// How long the poster waits before it tries Postgres again.
const RETRY: Duration = Duration::from_millis(500);

/// Meters whose counters follow what happens within some milliseconds: from these it is learnt between slices
/// too, in so many parts, which tells more of who costs what (see `domain::estimator`).
const PROMPT: [&str; 2] = ["rapl", "nvml"];
const PARTS: u64 = 10;
/// A part is no shorter, in milliseconds: their counters move in steps.
const PART_MS: u64 = 100;

/// How long it takes at least, from one time that what was learnt is written down to the next.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// A window that ends before its time is no shorter: tenants see totals of such a span and of no shorter one.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

/// Partitions are made this far ahead of the windows that go into them.
const PARTITIONS_AHEAD: time::Duration = time::Duration::days(45);

/// What cuts and seals: the meters, the last activity and the open window.
pub struct Seal {
    /// Away while they are read.
    meters: Option<Guarded>,
    probe: ActivityProbe,
    activity: Activity,
    sealer: Sealer,
    slices: Vec<Slice>,
    next_index: u64,
    /// What was wrong with meters since the last cut.
    faults: Vec<MeterFault>,
    glanced: Glance,
    window_began: Instant,
    /// Whether a slice of the window was cut before its time.
    hurried: bool,
    kept_at: Instant,
    /// The windows of the last allocation.
    allocated: HashSet<Digest>,
    /// The corrections that this run of the host has sealed.
    corrected: HashSet<Digest>,
    cut_at: Instant,
}

/// What moves between accounts without a meter, to be sealed between windows.
pub struct Moves {
    /// Idle energy that is allocated.
    pub allocations: mpsc::Receiver<Allocation>,
    /// Repairs.
    pub corrections: mpsc::Receiver<Correction>,
}

/// Where the last part ended that was learnt from.
#[derive(Default)]
struct Glance {
    activity: Activity,
    readings: Vec<Reading>,
}

impl Seal {
    /// A sealing that begins at the baseline of `sealer`, with the machine's `activity` at that instant.
    pub fn new(meters: Guarded, probe: ActivityProbe, activity: Activity, sealer: Sealer) -> Self {
        Self {
            meters: Some(meters),
            probe,
            activity,
            sealer,
            slices: Vec::new(),
            next_index: 0,
            faults: Vec::new(),
            glanced: Glance::default(),
            window_began: Instant::now(),
            hurried: false,
            kept_at: Instant::now(),
            allocated: HashSet::new(),
            corrected: HashSet::new(),
            cut_at: Instant::now(),
        }
    }

    /// Cuts a slice every `config.slice_ms` until `stop`, then cuts and seals what is left.
    pub async fn run(
        mut self,
        app: Arc<App>,
        postings: mpsc::UnboundedSender<Arc<Posting>>,
        mut moves: Moves,
        stop: CancellationToken,
    ) {
        if app.config.unmetered {
            return stop.cancelled().await;
        }
        let parts = self.parts(&app);
        let mut ticks = tokio::time::interval(app.config.slice() / parts);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut part = 0;
        loop {
            let stopping = tokio::select! {
                _ = ticks.tick() => false,
                () = app.live.full() => {
                    ticks.reset();
                    (part, self.hurried) = (parts, true);
                    false
                }
                Some(allocation) = moves.allocations.recv() => {
                    self.allocate(&app, &allocation, &postings).await;
                    continue;
                }
                Some(correction) = moves.corrections.recv() => {
                    self.correct(&app, &correction, &postings).await;
                    continue;
                }
                () = stop.cancelled() => true,
            };
            part += 1;
            if part < parts && !stopping {
                self.glance(&app).await;
                continue;
            }
            part = 0;
            let full = self.cut(&app, &postings).await && self.is_full(&app);
            if (full || stopping) && !self.slices.is_empty() {
                self.seal(&app, &postings).await;
            }
            if stopping {
                app.learnt.keep();
                return;
            }
        }
    }

    /// Whether the window has all its slices, or claims enough.
    fn is_full(&self, app: &App) -> bool {
        let claims: usize = self.slices.iter().map(|slice| slice.claims.len()).sum();
        let has_all = self.slices.len() as u64 >= app.config.window_slices;
        let is_crowded = claims >= app.config.window_claims as usize;
        has_all && !self.hurried
            || (has_all || is_crowded) && self.cut_at - self.window_began >= SHORTEST_WINDOW
    }

    /// Seals an allocation, unless it cites what the last one cited: that may be on its way to Postgres still,
    /// where the next one was made from.
    async fn allocate(
        &mut self,
        app: &App,
        allocation: &Allocation,
        postings: &mpsc::UnboundedSender<Arc<Posting>>,
    ) {
        let cited: HashSet<Digest> = allocation.cited.iter().map(|cited| cited.posting).collect();
        if cited.is_disjoint(&self.allocated) {
            let posting = self.sealer.allocate(allocation);
            self.allocated = cited;
            send(app, posting, postings).await;
        }
    }

    /// Seals a correction, unless this run has done so: its posting may be on its way to Postgres still.
    async fn correct(
        &mut self,
        app: &App,
        correction: &Correction,
        postings: &mpsc::UnboundedSender<Arc<Posting>>,
    ) {
        if self.corrected.insert(correction.digest()) {
            let posting = self.sealer.correct(correction, app.clock.now());
            send(app, posting, postings).await;
        }
    }

    /// In how many parts slices are learnt from: one where a meter is slow, since all are read each time.
    fn parts(&self, app: &App) -> u32 {
        let slice_ms = app.config.slice_ms;
        let is_prompt = self.sealer.baseline().iter().all(prompt) && !app.meters.calibrates();
        let parts = if is_prompt {
            (slice_ms / PART_MS).clamp(1, PARTS)
        } else {
            1
        };
        parts as u32
    }

    /// Learns from a part of a slice; nothing of it is kept.
    async fn glance(&mut self, app: &App) {
        let Ok(activity) = self.probe.read() else {
            // The cut says so.
            return;
        };
        let Metered { readings, faults, .. } = self.meter(app, activity.machine_ns).await;
        self.learn(app, &readings, &faults, activity);
        self.faults.extend(faults);
    }

    /// Learns what prompt meters tell of the time since the last glance.
    fn learn(&mut self, app: &App, readings: &[Reading], faults: &[MeterFault], activity: Activity) {
        let prompt: Vec<_> = readings
            .iter()
            .filter(|reading| prompt(reading))
            .cloned()
            .collect();
        let before = std::mem::replace(
            &mut self.glanced,
            Glance {
                activity,
                readings: prompt.clone(),
            },
        );
        if prompt.is_empty() {
            return;
        }
        let part = Slice {
            index: 0,
            at: app.clock.now(),
            readings: prompt,
            activity: activity.since(&before.activity),
            claims: app.live.glance(),
            faults: faults.to_vec(),
            weights: Vec::new(),
        };
        let ns = |readings: &[Reading]| readings.first().map_or(0, |reading| reading.at_ns);
        let length = Duration::from_nanos(ns(&part.readings).saturating_sub(ns(&before.readings)));
        // What a slice that is cut early leaves of a part may be too short for counters to have moved.
        if length >= app.config.slice() / self.parts(app) / 2 {
            app.learnt.observe(&before.readings, &part);
        }
    }

    /// Reads the meters and takes what every call used since the last cut. A meter that does not answer is
    /// missing in the slice; where nobody knows who used the CPU, the slice stays open and the next cut covers
    /// both.
    async fn cut(&mut self, app: &Arc<App>, postings: &mpsc::UnboundedSender<Arc<Posting>>) -> bool {
        let activity = match self.probe.read() {
            Ok(activity) => activity,
            Err(error) => {
                tracing::warn!(%error, "it is not known who used the CPU: the next slice covers this one too");
                return false;
            }
        };
        let Metered { readings, faults, .. } = self.meter(app, activity.machine_ns).await;
        self.learn(app, &readings, &faults, activity);
        self.faults.extend(faults);
        self.faults.sort();
        self.faults.dedup();
        // A posting has one row per root, and a row counts within one boot.
        if !self.slices.is_empty() && self.sealer.boots_anew(&self.slices, &readings) {
            self.seal(app, postings).await;
        }
        let mut slice = Slice {
            index: self.next_index,
            at: app.clock.now(),
            readings,
            activity: activity.since(&self.activity),
            claims: app.live.cut(),
            faults: std::mem::take(&mut self.faults),
            weights: Vec::new(),
        };
        let cut_at = std::mem::replace(&mut self.cut_at, Instant::now());
        app.reservations
            .note(slice.at, cut_at.elapsed(), &app.releases.resident());
        self.activity = activity;
        self.next_index += 1;
        let before = self
            .slices
            .last()
            .map_or(self.sealer.baseline(), |slice| &slice.readings);
        // By what was learnt up to here. The slice carries it, so that sealing it again needs nothing else.
        slice.weights = app.learnt.weights(before, &slice);
        let slow: Vec<_> = before
            .iter()
            .filter(|reading| !prompt(reading))
            .cloned()
            .collect();
        app.learnt.observe(&slow, &slice);
        let record = Record::Slice(slice);
        if !keep(app, &record).await {
            return false;
        }
        if let Record::Slice(slice) = record {
            self.slices.push(slice);
        }
        true
    }

    /// Reads the meters where they may take their time.
    async fn meter(&mut self, app: &App, machine_ns: u64) -> Metered {
        let Some(mut meters) = self.meters.take() else {
            return self.lost();
        };
        let read = tokio::task::spawn_blocking(move || {
            let metered = meters.read(machine_ns);
            (meters, metered)
        });
        match read.await {
            Ok((meters, metered)) => {
                app.meters.note(&metered);
                self.meters = Some(meters);
                metered
            }
            Err(error) => {
                tracing::error!(%error, "the meters are lost: no more energy is charged until the host starts again");
                self.lost()
            }
        }
    }

    /// What a slice says when nothing can be read any more.
    fn lost(&self) -> Metered {
        let fault = |reading: &Reading| MeterFault {
            root: reading.root.name.clone(),
            kind: FaultKind::Unreadable,
        };
        Metered {
            faults: self.sealer.baseline().iter().map(fault).collect(),
            ..Metered::default()
        }
    }

    async fn seal(&mut self, app: &Arc<App>, postings: &mpsc::UnboundedSender<Arc<Posting>>) {
        let posting = self.sealer.seal(&self.slices);
        self.slices.clear();
        send(app, posting, postings).await;
        (self.window_began, self.hurried) = (self.cut_at, false);
        if self.kept_at.elapsed() >= KEEP_EVERY {
            self.kept_at = Instant::now();
            let app = app.clone();
            // It waits for the disk.
            tokio::task::spawn_blocking(move || app.learnt.keep());
        }
    }
}

/// Whether the reading is of a meter that follows at once.
fn prompt(reading: &Reading) -> bool {
    PROMPT.contains(&reading.root.kind.as_str())
}

/// Journals a sealed posting and gives it to the poster.
async fn send(app: &App, posting: Posting, postings: &mpsc::UnboundedSender<Arc<Posting>>) {
    let posting = Arc::new(posting);
    if !keep(app, &Record::Sealed(posting.clone())).await {
        return;
    }
    app.metrics.sealed(&posting);
    app.metrics.posting_queued();
    fault::point(match posting.kind {
        PostingKind::Allocation => "after-allocation-seal",
        PostingKind::Window | PostingKind::Correction => "after-seal",
    });
    // The poster lives until this sender is dropped.
    let _ = postings.send(posting);
}

/// Journals what must not be lost, and waits while there is no room for it; whether it is kept. A broken
/// journal keeps nothing more: then nothing may be posted either, or the next start would seal it again.
async fn keep(app: &App, record: &Record) -> bool {
    while let Err(error) = app.journal.append(record).await {
        tracing::error!(%error, "the journal does not take a record");
        if app.journal.poisoned().is_some() {
            return false;
        }
        tokio::time::sleep(RETRY).await;
    }
    true
}

/// The most postings of one transaction. When Postgres was away or the host was, many wait, and each commit is a
/// wait for the disk.
const TOGETHER: usize = 16;

/// Brings postings to Postgres in their order, however long it is away, until the sender is dropped.
///
/// A posting that Postgres refuses for what it says ends the posting for good: those after it chain on it.
/// They stay in the journal, the host says so and serves on while there is room.
pub async fn post(
    app: Arc<App>,
    mut postings: mpsc::UnboundedReceiver<Arc<Posting>>,
    give_up: CancellationToken,
) {
    let mut waiting = Vec::new();
    while postings.recv_many(&mut waiting, TOGETHER).await > 0 {
        if let Err(error) = app.journal.flush().await {
            // After a power cut the ledger must hold nothing that the journal lost, or the host would not start.
            tracing::error!(%error, "nothing is posted while the journal does not last");
            return;
        }
        let posted = tokio::select! {
            biased;
            posted = until_posted(&app, &waiting, &postings) => posted,
            () = give_up.cancelled() => {
                let left = postings.len() + waiting.len();
                tracing::warn!(left, "postings stay in the journal for the next start");
                return;
            }
        };
        if let Err(Refused { key, error }) = posted {
            tracing::error!(%error, posting = %key, "the ledger refuses a posting: it and all after it stay in the journal");
            app.ledger_refused(format!("posting {key} is refused: {error}"));
            return;
        }
        waiting.clear();
        app.metrics.postings_waiting(postings.len() as u64);
    }
}

/// A posting that Postgres does not take for what it says.
struct Refused {
    key: db::PostingKey,
    error: db::DbError,
}

/// Tries until Postgres takes all postings, in one transaction, or refuses one for what it says: then one by one,
/// so that those before it enter the ledger.
async fn until_posted(
    app: &App,
    batch: &[Arc<Posting>],
    behind: &mpsc::UnboundedReceiver<Arc<Posting>>,
) -> Result<(), Refused> {
    let waiting = || app.metrics.postings_waiting((behind.len() + batch.len()) as u64);
    waiting();
    loop {
        let Err(error) = put(app, batch).await else {
            return Ok(());
        };
        match (error, batch) {
            (error @ db::DbError::Unavailable(_), _) => {
                waiting();
                let seq = batch.first().map(|posting| posting.seq);
                tracing::warn!(%error, seq, "postings wait for Postgres");
                tokio::time::sleep(RETRY).await;
            }
            (error, [posting]) => {
                let (node, epoch, seq) = (posting.node, posting.epoch, posting.seq);
                let key = db::PostingKey { node, epoch, seq };
                return Err(Refused { key, error });
            }
            (_, many) => {
                for posting in many {
                    Box::pin(until_posted(app, std::slice::from_ref(posting), behind)).await?;
                }
                return Ok(());
            }
        }
    }
}

/// Inserts postings, which adds nothing of those that are there, and journals that they are drained.
async fn put(app: &App, postings: &[Arc<Posting>]) -> Result<(), db::DbError> {
    let mut tx = app.db.writer_tx().await?;
    for posting in postings {
        tx.make_partitions(posting.to + PARTITIONS_AHEAD).await?;
        tx.posting_insert(posting).await?;
    }
    fault::point("inside-posting");
    tx.commit().await?;
    fault::point("after-commit");
    for posting in postings {
        app.live.posted(posting);
        let drained = Record::Drained {
            epoch: posting.epoch,
            seq: posting.seq,
        };
        // A lost mark costs one insert that adds nothing at the next start.
        keep(app, &drained).await;
    }
    let now = app.clock.now();
    if let Err(error) = app.journal.prune(now).await {
        tracing::warn!(%error, "drained segments could not be removed");
    }
    Ok(())
}
