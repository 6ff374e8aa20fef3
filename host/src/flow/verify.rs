//! Verify: the whole ledger recomputed, row by row, until the first that does not fit.

use db::{BillingTx, Cut, Db, DbError, Found, LedgerSpan, PostingPlace};
use domain::checkpoint::CheckpointError;
use domain::signature::Signer;

use super::Error;
use super::archived::{ArchiveError, Lines};
use crate::blobs::Blobs;

/// How many postings are read at once, and how many receipt lines of them, unless one posting has more.
const TOGETHER: usize = 64;
const MOST_LINES: u32 = 20_000;

/// The first thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The row.
    pub row: String,
    /// What is wrong with it.
    pub what: String,
    /// The stable code, where it is an archive.
    pub code: Option<&'static str>,
}

impl Fault {
    fn new(row: String, what: String) -> Self {
        let code = None;
        Self { row, what, code }
    }
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        let row = match &error {
            ArchiveError::Missing { archive, .. } | ArchiveError::Damaged { archive, .. } => {
                format!("archive {archive}")
            }
            ArchiveError::Unsound { posting, .. } => format!("posting {posting}"),
        };
        Self {
            row,
            what: error.to_string(),
            code: Some(error.code()),
        }
    }
}

/// What came of a part of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many rows fit.
    pub checked: u64,
    /// The first that does not.
    pub fault: Option<Fault>,
    /// The last row of the part, if there are more behind it and all fit so far.
    pub next: Option<i64>,
}

/// Recomputes postings in the order of the ledger: each by itself, from its lines, wherever they are, up to its hash,
/// and that it follows the one before it.
pub async fn postings(db: &Db, blobs: &Blobs, span: LedgerSpan, cut: &Cut<i64>) -> Result<Verified, Error> {
    let mut tx = db.billing_tx().await?;
    let page = tx.posting_places(span, cut).await?;
    let mut verified = Verified {
        checked: 0,
        fault: None,
        next: None,
    };
    let (mut left, mut lines) = (&page.items[..], Lines::of(blobs));
    while !left.is_empty() {
        let keys: Vec<_> = left.iter().take(TOGETHER).map(|place| place.key).collect();
        let found = tx.postings_get(&keys, MOST_LINES).await?;
        let (these, behind) = left.split_at(found.len());
        for (place, found) in these.iter().zip(found) {
            verified.fault = match unfit(&mut tx, &mut lines, place, found).await {
                Err(Error::Archive(error)) => Some(error.into()),
                other => other?.map(|what| Fault::new(format!("posting {}", place.key), what)),
            };
            if verified.fault.is_some() {
                return Ok(verified);
            }
            verified.checked += 1;
        }
        left = behind;
    }
    verified.next = page.next;
    Ok(verified)
}

/// What is wrong with a posting that was found in its place.
async fn unfit(
    tx: &mut BillingTx,
    lines: &mut Lines<'_>,
    place: &PostingPlace,
    found: Found,
) -> Result<Option<String>, Error> {
    let posting = match found {
        Ok(Some(posting)) => lines.whole(tx, posting).await?,
        Ok(None) => return Ok(Some("it is gone".to_owned())),
        // Somebody wrote what no host writes.
        Err(error @ DbError::Inconsistent { .. }) => return Ok(Some(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    if let Err(error) = posting.verify() {
        return Ok(Some(error.to_string()));
    }
    let (follows, before) = (posting.prev_hash, place.before);
    Ok((follows != before)
        .then(|| format!("it follows {follows}, and the node's posting before it in the ledger is {before}")))
}

/// Recomputes the checkpoints of a span: each by itself, that it follows the one before it, and that the ledger has
/// the postings that it covers. `cut.after` is the number of the last one that was looked at.
pub async fn checkpoints(db: &Db, span: LedgerSpan, cut: &Cut<i64>) -> Result<Verified, Error> {
    let mut tx = db.billing_tx().await?;
    let mut verified = Verified {
        checked: 0,
        fault: None,
        next: None,
    };
    let Some((first, last)) = tx.checkpoints_of(span).await? else {
        return Ok(verified);
    };
    let after = cut.after.and_then(|number| u64::try_from(number).ok());
    let first = after.map_or(first, |number| number.saturating_add(1));
    let end = last.min(first.saturating_add(u64::from(cut.limit)).saturating_sub(1));
    let signers: Vec<_> = tx.signers().await?.into_iter().map(|row| row.signer).collect();
    for number in first..=end {
        let what = match checkpoint(&mut tx, number, &signers).await {
            // Somebody wrote what no host writes.
            Err(error @ DbError::Inconsistent { .. }) => Some(error.to_string()),
            other => other?,
        };
        if let Some(what) = what {
            verified.fault = Some(Fault::new(format!("checkpoint {number}"), what));
            return Ok(verified);
        }
        verified.checked += 1;
    }
    if end < last {
        verified.next = i64::try_from(end).ok();
    }
    Ok(verified)
}

async fn checkpoint(tx: &mut BillingTx, number: u64, signers: &[Signer]) -> Result<Option<String>, DbError> {
    let missing = |number| Some(format!("checkpoint {number} is missing"));
    let Some(record) = tx.checkpoint_get(number).await? else {
        return Ok(missing(number));
    };
    let before = match number.saturating_sub(1) {
        0 => None,
        before => match tx.checkpoint_get(before).await? {
            None => return Ok(missing(before)),
            found => found,
        },
    };
    let before = before.as_ref();
    if let Err(error) = record.verify(before, signers) {
        return Ok(Some(error.to_string()));
    }
    let postings = tx.postings_covered(number).await?;
    let fits: Result<(), CheckpointError> = record.verify_ledger(before, &postings);
    Ok(fits.err().map(|error| error.to_string()))
}

/// Looks for rows that no posting accounts for.
pub async fn rest(db: &Db, span: LedgerSpan) -> Result<Verified, Error> {
    let stray = db.billing_tx().await?.stray_row(span).await?;
    let fault = stray.map(|stray| {
        let row = format!("{} {} of posting {}", stray.table, stray.row, stray.posting);
        let what = "no posting accounts for it, or it contradicts the posting";
        Fault::new(row, what.to_owned())
    });
    Ok(Verified {
        checked: 0,
        fault,
        next: None,
    })
}
