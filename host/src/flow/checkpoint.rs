//! Checkpoint: once an hour what entered the ledger is signed, and the signature is anchored outside.
//!
//! Any host of a ledger may be the one that does it; a lock in the database sees to it that none is made twice. What
//! is anchored must be in the ledger: where it is not, somebody rolled the ledger back, and nothing is signed over that
//! until an operator has looked.

use std::sync::Arc;
use std::time::Duration;

use db::Cut;
use domain::checkpoint::{MOST_POSTINGS, Record, SignedCheckpoint};
use time::OffsetDateTime;

use crate::anchors::{AnchorError, Anchors};
use crate::app::App;

/// How often it is looked whether a checkpoint is due, at most.
const LOOK: Duration = Duration::from_secs(60);

/// What keeps a checkpoint from being made or anchored.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The ledger lacks a checkpoint that was made.
    #[error(
        "the ledger was rolled back or rewritten: it has no checkpoint {number} as {anchor} says. Nothing is signed \
         until the ledger that has it is put back, or --anchors names another place"
    )]
    RolledBack {
        /// The checkpoint.
        number: u64,
        /// Where its anchor is.
        anchor: String,
    },
    /// The anchors cannot be read or written.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// Postgres failed.
    #[error(transparent)]
    Db(#[from] db::DbError),
}

/// Looks every minute, until the task is aborted.
pub async fn run(app: Arc<App>) {
    if app.config.unmetered {
        return;
    }
    loop {
        tokio::time::sleep(LOOK.min(Duration::from_secs(app.config.checkpoint_s))).await;
        let passed = pass(&app).await;
        app.metrics
            .checkpoint_fault(!matches!(passed, Ok(()) | Err(CheckpointError::Db(_))));
        match passed {
            Ok(()) => {}
            Err(CheckpointError::Db(error)) => {
                tracing::warn!(%error, "no checkpoint is made yet: tried again in a minute");
            }
            Err(error) => tracing::error!(%error, "no checkpoint is made"),
        }
    }
}

/// Makes the checkpoints that are due, and anchors what is not anchored. While the anchors cannot be read, none is
/// made: nobody knows then whether this is the ledger that they are of. The next one covers what was posted meanwhile.
pub async fn pass(app: &App) -> Result<(), CheckpointError> {
    let newest = match &app.anchors {
        Some(anchors) => confirm(app, anchors).await?,
        None => 0,
    };
    let mut goes_on = false;
    while let Some(record) = make(app, goes_on).await? {
        let checkpoint = &record.signed.checkpoint;
        tracing::info!(
            number = checkpoint.number,
            postings = checkpoint.postings,
            "made a checkpoint"
        );
        app.metrics.checkpointed(checkpoint.number);
        goes_on = checkpoint.postings >= u64::from(MOST_POSTINGS);
        if !goes_on {
            break;
        }
    }
    match &app.anchors {
        Some(anchors) => anchor(app, anchors, newest).await,
        None => Ok(()),
    }
}

/// Makes a checkpoint of what no checkpoint covers, if one is due or the last one could not take all; none if there is
/// nothing.
async fn make(app: &App, goes_on: bool) -> Result<Option<Record>, CheckpointError> {
    let signer = app.signer.lock().await;
    let mut tx = app.db.writer_tx().await?;
    tx.checkpoints_lock().await?;
    let last = tx.checkpoint_last().await?;
    let (now, period_s) = (app.clock.now(), app.config.checkpoint_s);
    let made_at = last.as_ref().map(|last| last.signed.checkpoint.at);
    if !goes_on && made_at.is_some_and(|at| !is_due(at, now, period_s)) {
        return Ok(None);
    }
    let number = last.as_ref().map(|last| last.signed.checkpoint.number);
    let postings = tx.postings_uncovered(number, MOST_POSTINGS).await?;
    if postings.is_empty() {
        return Ok(None);
    }
    let record = Record::make(last.as_ref(), &postings, now, signer.key());
    tx.checkpoint_insert(&record).await?;
    tx.commit().await?;
    Ok(Some(record))
}

/// Whether a period began since the one in which the last checkpoint was made: with an hour, at the full hour.
fn is_due(made_at: OffsetDateTime, now: OffsetDateTime, period_s: u64) -> bool {
    let period = |at: OffsetDateTime| i128::from(at.unix_timestamp()).div_euclid(i128::from(period_s.max(1)));
    period(now) > period(made_at)
}

/// Seconds until the next checkpoint may be made.
pub fn due_in_s(now: OffsetDateTime, period_s: u64) -> u64 {
    let period = i128::from(period_s.max(1));
    let past = i128::from(now.unix_timestamp()).rem_euclid(period);
    u64::try_from(period - past).unwrap_or(period_s)
}

/// Checks that the newest anchor is in the ledger, and gives its number; 0 if there is none.
async fn confirm(app: &App, anchors: &Anchors) -> Result<u64, CheckpointError> {
    let last = app.db.writer_tx().await?.checkpoint_last().await?;
    let last = last.map_or(0, |last| last.signed.checkpoint.number);
    let Some(number) = anchors.newest(last).await? else {
        return Ok(0);
    };
    let anchored = anchors.read(number).await?;
    match listed_after(app, number.saturating_sub(1), 1).await?.first() {
        Some(signed) if *signed == anchored => Ok(number),
        _ => Err(CheckpointError::RolledBack {
            number,
            anchor: anchors.name(number),
        }),
    }
}

/// Anchors every checkpoint after `newest`, one after the other: the newest anchor stands for those before it.
async fn anchor(app: &App, anchors: &Anchors, mut newest: u64) -> Result<(), CheckpointError> {
    loop {
        let missing = listed_after(app, newest, 100).await?;
        if missing.is_empty() {
            return Ok(());
        }
        for signed in &missing {
            anchors.write(signed).await?;
            newest = signed.checkpoint.number;
        }
    }
}

async fn listed_after(app: &App, number: u64, limit: u32) -> Result<Vec<SignedCheckpoint>, CheckpointError> {
    let cut = Cut {
        after: Some(i64::try_from(number).unwrap_or(i64::MAX)),
        limit,
    };
    let page = app.db.billing_tx().await?.checkpoints_list(&cut).await?;
    Ok(page.items.into_iter().map(|row| row.signed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_once_in_each_period() {
        let at = |s| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(s);
        for (made, now, due) in [
            (0, 3_599, false),
            (0, 3_600, true),
            (3_599, 3_600, true),
            (3_600, 3_600, false),
            (3_601, 7_199, false),
            (3_601, 7_200, true),
            // A clock that was set back waits until it is where it was.
            (7_200, 3_600, false),
        ] {
            assert_eq!(is_due(at(made), at(now), 3_600), due, "{made} {now}");
        }
        assert_eq!([due_in_s(at(0), 3_600), due_in_s(at(3_599), 3_600)], [3_600, 1]);
    }
}
