//! Archived: receipt lines that left the database, read from their files in the blob store.

use std::collections::{BTreeMap, HashMap};

use db::{ArchiveRow, BillingTx, Cut, PostingKey, ReceiptLineRow};
use domain::archive::{LineSum, sums};
use domain::checkpoint::CheckedPosting;
use domain::posting::{Posting, ReceiptLine};
use domain::{Digest, InvocationId, TenantId, merkle};

use super::Error;
use crate::app::App;
use crate::archives::{self, Archived, FileError};
use crate::blobs::{BlobError, Blobs};

/// What is wrong with an archive, or keeps lines out of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The blob store does not have it.
    #[error("archive {archive} is missing: the blob store has no {digest}. Put the file back from a backup")]
    Missing {
        /// Its number.
        archive: i64,
        /// The digest of its bytes.
        digest: Digest,
    },
    /// It is not what was archived.
    #[error("archive {archive} ({digest}) is not what was archived: {what}. Put the file back from a backup")]
    Damaged {
        /// Its number.
        archive: i64,
        /// The digest of its bytes.
        digest: Digest,
        /// What does not fit.
        what: String,
    },
    /// What stands in the ledger does not fit, or a file did not keep it.
    #[error("posting {posting} cannot be archived: {what}. `wattle ledger verify` says more")]
    Unsound {
        /// The posting.
        posting: PostingKey,
        /// What does not fit.
        what: String,
    },
}

impl ArchiveError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "archive_missing",
            Self::Damaged { .. } => "archive_damaged",
            Self::Unsound { .. } => "archive_unsound",
        }
    }
}

/// The postings of an archive, as the blob store has them.
pub async fn read(blobs: &Blobs, archive: &ArchiveRow) -> Result<Vec<Archived>, Error> {
    let (id, digest) = (archive.id, archive.digest);
    let damaged = |what: String| ArchiveError::Damaged {
        archive: id,
        digest,
        what,
    };
    let bytes = match blobs.get(digest).await {
        Ok(bytes) => bytes,
        Err(BlobError::Missing(_)) => return Err(ArchiveError::Missing { archive: id, digest }.into()),
        Err(BlobError::Damaged(_)) => return Err(damaged("its bytes have another digest".to_owned()).into()),
        Err(error) => return Err(error.into()),
    };
    let read: Result<Vec<Archived>, FileError> = blocking(move || archives::read(bytes)).await?;
    Ok(read.map_err(|error| damaged(error.to_string()))?)
}

/// The lines of postings, wherever they are. The archive that was read last is kept.
pub struct Lines<'a> {
    blobs: &'a Blobs,
    last: Option<(i64, HashMap<PostingKey, Vec<ReceiptLine>>)>,
}

impl<'a> Lines<'a> {
    /// Of archives in this store.
    pub fn of(blobs: &'a Blobs) -> Self {
        Self { blobs, last: None }
    }

    /// The lines of a posting of which the database has none; none if no archive has any.
    pub async fn archived(
        &mut self,
        tx: &mut BillingTx,
        key: PostingKey,
    ) -> Result<Option<Vec<ReceiptLine>>, Error> {
        let Some(archive) = tx.archive_of(key).await? else {
            return Ok(None);
        };
        if self.last.as_ref().is_none_or(|(id, _)| *id != archive.id) {
            let read = read(self.blobs, &archive).await?;
            let lines = read.into_iter().map(|posting| (posting.key, posting.lines));
            self.last = Some((archive.id, lines.collect()));
        }
        let found = self.last.as_ref().and_then(|(_, postings)| postings.get(&key));
        let missing = || ArchiveError::Damaged {
            archive: archive.id,
            digest: archive.digest,
            what: format!("it does not have posting {key}"),
        };
        Ok(Some(found.cloned().ok_or_else(missing)?))
    }

    /// The lines of a posting, by their calls, as the leaves of its Merkle tree.
    pub async fn leaves(
        &mut self,
        tx: &mut BillingTx,
        posting: &CheckedPosting,
    ) -> Result<Vec<(InvocationId, Digest)>, Error> {
        let hot = tx.posting_leaves(posting).await?;
        if !hot.is_empty() {
            return Ok(hot);
        }
        let (node, epoch, seq) = (posting.node, posting.epoch, posting.seq);
        let archived = self.archived(tx, PostingKey { node, epoch, seq }).await?;
        let leaf = |line: &ReceiptLine| (line.call.invocation, line.leaf());
        Ok(archived.unwrap_or_default().iter().map(leaf).collect())
    }

    /// A posting as the database has it, with its lines, wherever they are.
    pub async fn whole(&mut self, tx: &mut BillingTx, mut posting: Posting) -> Result<Posting, Error> {
        let (node, epoch, seq) = (posting.node, posting.epoch, posting.seq);
        if posting.lines.is_empty()
            && posting.merkle_root != merkle::root(&[])
            && let Some(lines) = self.archived(tx, PostingKey { node, epoch, seq }).await?
        {
            posting.lines = lines;
        }
        Ok(posting)
    }
}

/// The lines of a tenant's receipt in their order, and whether one of them is archived. Files are long to read, and an id
/// that there is none of is looked for in them: `turn`, of [`Admission::read`](super::admit::Admission::read), is awaited
/// before.
pub async fn receipt<T>(
    app: &App,
    tenant: TenantId,
    invocation: InvocationId,
    turn: impl Future<Output = Result<T, Error>>,
) -> Result<(Vec<ReceiptLineRow>, bool), Error> {
    let mut rows = app.db.tenant_tx(tenant).await?.receipt_get(invocation).await?;
    let whole = rows.last().is_some_and(|last| {
        last.line.outcome.is_some() && rows.len() as u64 == u64::from(last.line.ordinal) + 1
    });
    if whole {
        return Ok((rows, false));
    }
    let hot = rows.len();
    let archives = app
        .db
        .billing_tx()
        .await?
        .archives_around(tenant, invocation)
        .await?;
    if archives.is_empty() {
        return Ok((rows, false));
    }
    let _turn = turn.await?;
    for archive in &archives {
        for posting in read(&app.blobs, archive).await? {
            let (key, from, to, fuel_schedule) =
                (posting.key, posting.from, posting.to, posting.fuel_schedule);
            let own = posting
                .lines
                .into_iter()
                .filter(|line| line.call.invocation == invocation && line.call.tenant == tenant);
            for line in own {
                // It may have left the database since it was asked.
                if rows.iter().all(|row| row.line.ordinal != line.ordinal) {
                    rows.push(ReceiptLineRow {
                        posting: key,
                        from,
                        to,
                        fuel_schedule,
                        line,
                    });
                }
            }
        }
    }
    let archived = rows.len() > hot;
    rows.sort_by_key(|row| row.line.ordinal);
    Ok((rows, archived))
}

/// The last of the checkpoints that cover lines, wherever these are; none while one is not covered.
pub async fn checkpoint(app: &App, rows: &[ReceiptLineRow]) -> Result<Option<u64>, Error> {
    let mut tx = app.db.billing_tx().await?;
    let mut last = None;
    for row in rows {
        let checked = tx.posting_checked(row.posting).await?;
        let Some(number) = checked.and_then(|(_, number)| number) else {
            return Ok(None);
        };
        last = last.max(Some(number));
    }
    Ok(last)
}

/// Something that is wrong with an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFault {
    /// The archive's number.
    pub archive: i64,
    /// The stable code.
    pub code: &'static str,
    /// What is wrong with it.
    pub what: String,
}

/// Reads every archive and compares it with the sums that were kept of it: how many there are, and what is wrong with
/// which.
pub async fn check(app: &App) -> Result<(u64, Vec<ArchiveFault>), Error> {
    let (mut archives, mut faults, mut cut) = (0, Vec::new(), Cut::first(100));
    loop {
        let page = app.db.billing_tx().await?.archives_list(&cut).await?;
        for archive in &page.items {
            archives += 1;
            match check_one(app, archive).await {
                Ok(()) => {}
                Err(Error::Archive(error)) => faults.push(ArchiveFault {
                    archive: archive.id,
                    code: error.code(),
                    what: error.to_string(),
                }),
                Err(error) => return Err(error),
            }
        }
        cut.after = page.next;
        if cut.after.is_none() {
            return Ok((archives, faults));
        }
    }
}

async fn check_one(app: &App, archive: &ArchiveRow) -> Result<(), Error> {
    let read = read(&app.blobs, archive).await?;
    let kept = app.db.billing_tx().await?.archive_sums(archive.id).await?;
    let mut by_posting = BTreeMap::<PostingKey, Vec<LineSum>>::new();
    for (key, sum) in kept {
        by_posting.entry(key).or_default().push(sum);
    }
    let differs = |what: String| ArchiveError::Damaged {
        archive: archive.id,
        digest: archive.digest,
        what,
    };
    for posting in &read {
        if by_posting.remove(&posting.key).as_deref() != Some(&sums(&posting.lines)[..]) {
            let key = posting.key;
            return Err(differs(format!(
                "the sums that the ledger keeps of posting {key} are others"
            ))
            .into());
        }
    }
    match by_posting.pop_first() {
        Some((key, _)) => Err(differs(format!("it does not have posting {key}")).into()),
        None => Ok(()),
    }
}

/// Does what would keep others from their turn.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Internal)
}
