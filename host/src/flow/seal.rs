//! Seal: slices are cut and journalled, windows are sealed, and a poster brings them to Postgres.

use std::sync::Arc;
use std::time::Duration;

use domain::energy::Activity;
use domain::posting::{Posting, Slice};
use domain::window::Sealer;
use energy::{ActivityProbe, Guarded, Metered};
use journal::{JournalError, Record};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::fault;

/// How long the poster waits before it tries Postgres again.
const RETRY: Duration = Duration::from_millis(500);

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
        }
    }

    /// Cuts a slice every `config.slice_ms` until `stop`, then cuts and seals what is left.
    pub async fn run(
        mut self,
        app: Arc<App>,
        postings: mpsc::UnboundedSender<Posting>,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(app.config.slice());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            let stopping = tokio::select! {
                _ = ticks.tick() => false,
                () = stop.cancelled() => true,
            };
            let full =
                self.cut(&app, &postings).await && self.slices.len() as u64 >= app.config.window_slices;
            if (full || stopping) && !self.slices.is_empty() {
                self.seal(&app, &postings).await;
            }
            if stopping {
                return;
            }
        }
    }

    /// Reads the meters and takes what every call used since the last cut. A meter that does not answer is
    /// missing in the slice; where nobody knows who used the CPU, the slice stays open and the next cut covers
    /// both.
    async fn cut(&mut self, app: &App, postings: &mpsc::UnboundedSender<Posting>) -> bool {
        let activity = match self.probe.read() {
            Ok(activity) => activity,
            Err(error) => {
                tracing::warn!(%error, "it is not known who used the CPU: the next slice covers this one too");
                return false;
            }
        };
        let Metered { readings, faults, .. } = self.meter(app, activity.machine_ns).await;
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
            faults,
            weights: Vec::new(),
        };
        self.activity = activity;
        self.next_index += 1;
        let before = self
            .slices
            .last()
            .map_or(self.sealer.baseline(), |slice| &slice.readings);
        // From earlier slices only: what it is shared by must not depend on what it shares.
        slice.weights = app.weights(before, &slice);
        app.observe(before, &slice);
        if !keep(app, &Record::Slice(slice.clone())).await {
            return false;
        }
        self.slices.push(slice);
        true
    }

    /// Reads the meters where they may take their time.
    async fn meter(&mut self, app: &App, machine_ns: u64) -> Metered {
        let Some(mut meters) = self.meters.take() else {
            return Metered::default();
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
                Metered::default()
            }
        }
    }

    async fn seal(&mut self, app: &App, postings: &mpsc::UnboundedSender<Posting>) {
        let posting = self.sealer.seal(&self.slices);
        self.slices.clear();
        if !keep(app, &Record::Sealed(Box::new(posting.clone()))).await {
            return;
        }
        app.metrics.sealed(&posting);
        fault::point("after-seal");
        // The poster lives until this sender is dropped.
        let _ = postings.send(posting);
    }
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

/// Brings postings to Postgres in their order, however long it is away, until the sender is dropped.
///
/// A posting that Postgres refuses for what it says ends the posting for good: those after it chain on it.
/// They stay in the journal, the host says so and serves on while there is room.
pub async fn post(app: Arc<App>, mut postings: mpsc::UnboundedReceiver<Posting>, give_up: CancellationToken) {
    while let Some(posting) = postings.recv().await {
        if let Err(error) = app.journal.flush().await {
            // After a power cut the ledger must hold nothing that the journal lost, or the host would not start.
            tracing::error!(%error, "nothing is posted while the journal does not last");
            return;
        }
        let posted = tokio::select! {
            biased;
            posted = until_posted(&app, &posting, &postings) => posted,
            () = give_up.cancelled() => {
                tracing::warn!(left = postings.len() + 1, "postings stay in the journal for the next start");
                return;
            }
        };
        if let Err(error) = posted {
            let (node, epoch, seq) = (posting.node, posting.epoch, posting.seq);
            let key = db::PostingKey { node, epoch, seq };
            tracing::error!(%error, posting = %key, "the ledger refuses a posting: it and all after it stay in the journal");
            app.ledger_refused(format!("posting {key} is refused: {error}"));
            return;
        }
        app.metrics.postings_waiting(postings.len() as u64);
    }
}

/// Tries until Postgres takes the posting, or refuses it for what it says.
async fn until_posted(
    app: &App,
    posting: &Posting,
    behind: &mpsc::UnboundedReceiver<Posting>,
) -> Result<(), db::DbError> {
    app.metrics.postings_waiting(behind.len() as u64 + 1);
    while let Err(error) = put(app, posting).await {
        if !matches!(error, db::DbError::Unavailable(_)) {
            return Err(error);
        }
        app.metrics.postings_waiting(behind.len() as u64 + 1);
        tracing::warn!(%error, seq = posting.seq, "a posting waits for Postgres");
        tokio::time::sleep(RETRY).await;
    }
    Ok(())
}

/// Inserts a posting, which adds nothing when it is there, and journals that it is drained.
pub async fn put(app: &App, posting: &Posting) -> Result<(), db::DbError> {
    let mut tx = app.db.writer_tx().await?;
    tx.make_partitions(posting.to + PARTITIONS_AHEAD).await?;
    tx.posting_insert(posting).await?;
    fault::point("inside-posting");
    tx.commit().await?;
    fault::point("after-commit");
    app.live.posted(posting);
    let drained = Record::Drained {
        epoch: posting.epoch,
        seq: posting.seq,
    };
    // A lost mark costs one insert that adds nothing at the next start.
    app.journal
        .append(&drained)
        .await
        .unwrap_or_else(|error: JournalError| {
            tracing::warn!(%error, "a posting could not be marked as drained");
        });
    let now = app.clock.now();
    if let Err(error) = app.journal.prune(now).await {
        tracing::warn!(%error, "drained segments could not be removed");
    }
    Ok(())
}
