//! Archive: receipt lines that are older than the limit leave the database for files in the blob store, whole partitions
//! at once. Postings, their roots and transfers stay.
//!
//! | step | a crash after it leaves | the next pass |
//! |---|---|---|
//! | a file is written | a blob without a row | writes the same bytes, or the collector removes them |
//! | it is read back, compared, and its row and sums added | lines in both; the database's count | goes on behind it |
//! | all of a partition are in files, and it is dropped | lines in files alone | finds nothing more to do |
//!
//! The database drops nothing that is not in files as it is, or too young, whoever asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use db::{Candidate, DbError, Leaf, NewArchive, PostingKey};
use domain::archive::sums;
use domain::posting::Posting;
use domain::{Digest, InvocationId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Error;
use super::archived::{ArchiveError, blocking};
use crate::app::App;
use crate::archives::{self, Archived};
use crate::fault;

/// Lines after which a file is closed: what is read to find the lines of one call.
const FILE_LINES: u64 = 20_000;

/// Postings that are asked for at once.
const CANDIDATES: u32 = 2_000;

/// The time between two passes.
const PERIOD: Duration = Duration::from_secs(600);

/// How often a partition is tried to be dropped while others hold it.
const TRIES: u32 = 5;

/// What a pass did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Lines of before this instant were looked for.
    pub before: OffsetDateTime,
    /// Files that were added.
    pub archives: u64,
    /// Lines in them.
    pub lines: u64,
    /// Lines that left the database.
    pub dropped: u64,
}

/// Archives now and again, until the task is aborted.
pub async fn run(app: Arc<App>) {
    if app.config.unmetered {
        return;
    }
    loop {
        tokio::time::sleep(PERIOD).await;
        match pass(&app).await {
            Ok(Passed { dropped: 0, .. }) => {}
            Ok(passed) => tracing::info!(
                archives = passed.archives,
                lines = passed.dropped,
                "archived receipt lines"
            ),
            Err(error) => tracing::warn!(%error, "receipt lines stay: the next pass tries again"),
        }
    }
}

/// Archives what is older than the limit and drops it from the database.
pub async fn pass(app: &App) -> Result<Passed, Error> {
    let before = app.clock.now() - Duration::from_secs(app.config.receipts_hot_s);
    let mut passed = Passed {
        before,
        archives: 0,
        lines: 0,
        dropped: 0,
    };
    let leaves = app.db.billing_tx().await?.archive_due(before).await?;
    for leaf in leaves {
        let mut from = leaf.first_at;
        while let Some((last_at, lines)) = file(app, &leaf, from).await? {
            from = last_at;
            passed.archives += 1;
            passed.lines += lines;
        }
        fault::point("archived");
        passed.dropped += drop_leaf(app, &leaf, before).await?;
    }
    Ok(passed)
}

/// Adds a file with the next postings of a partition: where the last of them ends, and how many lines it has. None if
/// all are in files.
async fn file(app: &App, leaf: &Leaf, from: OffsetDateTime) -> Result<Option<(OffsetDateTime, u64)>, Error> {
    let mut tx = app.db.writer_tx().await?;
    // Another host's file is seen by the question that comes next.
    tx.archives_lock().await?;
    let (ids, postings) = next(app, leaf, from).await?;
    let (Some(first), Some(last)) = (postings.first(), postings.last()) else {
        return Ok(None);
    };
    let (key, span) = (key(first), (first.to, last.to));
    let unsound = |what: String| ArchiveError::Unsound { posting: key, what };
    let archived: Vec<_> = postings.iter().map(Archived::from).collect();
    let written = blocking(move || {
        let bytes = archives::written(&archived)?;
        Ok((archived, Bytes::from(bytes)))
    });
    let written: Result<_, archives::FileError> = written.await?;
    let (archived, bytes) = written.map_err(|error| unsound(error.to_string()))?;
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    tx.blob_hold(digest).await?;
    app.blobs.put(digest, bytes).await?;
    fault::point("archive-written");
    let bytes = app.blobs.get(digest).await?;
    let read = blocking(move || archives::read(bytes)).await?;
    let read = read.map_err(|error| unsound(error.to_string()))?;
    if read != archived {
        return Err(unsound("its file reads otherwise".to_owned()).into());
    }
    compare(postings, &read)?;
    let lines = read.iter().map(|posting| posting.lines.len() as u64).sum();
    let sums = read.iter().map(|posting| sums(&posting.lines));
    let new = NewArchive {
        digest,
        bytes: size,
        span,
        calls: calls(&read),
        postings: ids.into_iter().zip(sums).collect(),
    };
    tx.archive_insert(&new).await?;
    tx.commit().await?;
    Ok(Some((span.1, lines)))
}

/// The next postings for a file, with their places in the ledger, each of them sound.
async fn next(app: &App, leaf: &Leaf, from: OffsetDateTime) -> Result<(Vec<i64>, Vec<Posting>), Error> {
    let mut tx = app.db.billing_tx().await?;
    let (mut ids, mut postings, mut lines) = (Vec::new(), Vec::new(), 0);
    for Candidate {
        id, key, lines: more, ..
    } in tx.archive_candidates(leaf, from, CANDIDATES).await?
    {
        if lines > 0 && lines + more > FILE_LINES {
            break;
        }
        lines += more;
        let unsound = |what: String| ArchiveError::Unsound { posting: key, what };
        let posting = tx.posting_get(key).await?;
        let posting = posting.ok_or_else(|| unsound("it is gone".to_owned()))?;
        posting.verify().map_err(|error| unsound(error.to_string()))?;
        ids.push(id);
        postings.push(posting);
    }
    Ok((ids, postings))
}

/// Compares what was read back with the postings: the Merkle roots of its lines, and their sums against the transfers.
fn compare(postings: Vec<Posting>, read: &[Archived]) -> Result<(), ArchiveError> {
    for (mut posting, read) in postings.into_iter().zip(read) {
        posting.lines.clone_from(&read.lines);
        posting.verify().map_err(|error| ArchiveError::Unsound {
            posting: read.key,
            what: error.to_string(),
        })?;
    }
    Ok(())
}

/// The least and the greatest id of the calls in a file.
fn calls(read: &[Archived]) -> (InvocationId, InvocationId) {
    let lines = read.iter().flat_map(|posting| &posting.lines);
    let (least, greatest) = (InvocationId(Uuid::max()), InvocationId(Uuid::nil()));
    lines.fold((least, greatest), |(least, greatest), line| {
        let call = line.call.invocation;
        (least.min(call), greatest.max(call))
    })
}

fn key(posting: &Posting) -> PostingKey {
    let (node, epoch, seq) = (posting.node, posting.epoch, posting.seq);
    PostingKey { node, epoch, seq }
}

/// Drops a partition whose lines are all in files: how many they were. It waits for whoever reads it, and lets them in
/// again where they take long.
async fn drop_leaf(app: &App, leaf: &Leaf, before: OffsetDateTime) -> Result<u64, Error> {
    let mut tries = 1;
    loop {
        let mut tx = app.db.writer_tx().await?;
        match tx.archive_drop(&leaf.name, before).await {
            Ok(dropped) => {
                tx.commit().await?;
                return Ok(dropped);
            }
            Err(DbError::Unavailable(error)) if tries < TRIES => {
                tracing::info!(%error, leaf = leaf.name, "receipt lines are read: they are dropped a little later");
                drop(tx);
                tokio::time::sleep(Duration::from_millis(500)).await;
                tries += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
