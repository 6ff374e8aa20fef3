//! Recover: what a crash left in the journal goes to the ledger before the first call is served.
//!
//! The journal and the ledger of a node are two ends of one chain of postings. Where they meet decides:
//!
//! | journal | ledger | outcome |
//! |---|---|---|
//! | empty, or of another node | nothing of this node | a chain begins |
//! | empty, or of another node | has a chain | it goes on from there, in a new epoch |
//! | has a chain | ends where the undrained postings begin, or within them | these are drained |
//! | has a chain | ends before them, at a posting that is still on disk: an older copy was restored | all after it are drained again, and it is said |
//! | has a chain | has postings of the journal's newest epoch that are not in it: an older disk was restored, or a power cut took the journal's end | refused: [`RecoverError::Behind`] |
//! | has a chain | ends elsewhere, or too long ago | refused: [`RecoverError::Apart`] |
//!
//! What is refused is never guessed at: to seal it could bill the same use twice. In the first four rows
//! what the last run left unsealed is sealed as its last postings.

use std::sync::Arc;

use domain::energy::Reading;
use domain::posting::Posting;
use domain::window::{Crash, OpenReceipts, Sealer};
use domain::{Digest, Epoch, NodeId};
use journal::{Journal, JournalError, Record, Recovered, Unsealed};
use time::OffsetDateTime;

/// What keeps a host from taking up its journal.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The ledger cannot be asked.
    #[error(transparent)]
    Db(#[from] db::DbError),
    /// The ledger has what should still be to come.
    #[error(
        "the journal is older than the ledger, which has posting {0} already: was a disk restored? Put the \
         newer journal back, or move the folder `journal` out of the data directory: the node then goes on from \
         the ledger's last posting, and what only this journal holds stays unbilled"
    )]
    Behind(db::PostingKey),
    /// The two chains do not meet.
    #[error(
        "the ledger's chain of node {node} ends at {ledger}, which nothing in the journal follows: is this \
         another database, does another host serve under this node's name, or is the ledger's copy too old? \
         Put the right one back, or move the folder `journal` out of the data directory: the node then goes on \
         from the ledger's last posting, and what only this journal holds stays unbilled"
    )]
    Apart {
        /// The node.
        node: NodeId,
        /// Its last posting there; [`Digest::ZERO`] if there is none.
        ledger: Digest,
    },
}

/// Where the new epoch begins.
pub struct Start {
    /// Postings that Postgres may lack, in their order.
    pub undrained: Vec<Posting>,
    /// The sealer of the new epoch.
    pub sealer: Sealer,
}

/// Who starts, when, and where the meters stand.
pub struct Restart {
    /// The node.
    pub node: NodeId,
    /// The epoch that begins.
    pub epoch: Epoch,
    /// Wall time.
    pub at: OffsetDateTime,
    /// The boot of the machine.
    pub boot_id: uuid::Uuid,
    /// The first readings.
    pub readings: Vec<Reading>,
}

/// Seals what the epoch before left open and begins a new one, both in the journal, if the journal and the
/// ledger fit each other.
pub async fn recover(
    journal: &Journal,
    recovered: Recovered,
    restart: Restart,
    db: &db::Db,
) -> Result<Start, RecoverError> {
    let mut tx = db.writer_tx().await?;
    if let Some(unsealed) = &recovered.unsealed {
        let Unsealed {
            node,
            epoch,
            next_seq: seq,
            ..
        } = *unsealed;
        if tx.posting_reached(node, epoch, seq).await? {
            return Err(RecoverError::Behind(db::PostingKey { node, epoch, seq }));
        }
    }
    let mut chains = Chains::meet(journal, &recovered, &mut tx).await?;
    if let Some(unsealed) = recovered.unsealed {
        let last_hash = chains.last_of(unsealed.node, &mut tx).await?;
        for posting in seal_rest(unsealed, last_hash, &restart) {
            let posting = Arc::new(posting);
            journal.append(&Record::Sealed(posting.clone())).await?;
            chains.push(Arc::unwrap_or_clone(posting));
        }
    }
    let last_hash = chains.last_of(restart.node, &mut tx).await?;
    let begun = Record::EpochStarted {
        epoch: restart.epoch,
        node: restart.node,
        boot_id: restart.boot_id,
        at: restart.at,
        readings: restart.readings.clone(),
    };
    journal.append(&begun).await?;
    let Restart {
        node,
        epoch,
        at,
        readings,
        ..
    } = restart;
    let sealer = Sealer::new(node, epoch, 0, last_hash, at, readings, OpenReceipts::default());
    Ok(Start {
        undrained: chains.undrained,
        sealer,
    })
}

/// The chains of the journal's nodes: one, but for a data directory whose node was renamed.
struct Chains {
    /// What the ledger may lack.
    undrained: Vec<Posting>,
    /// The newest posting of each node in the journal.
    last: Vec<(NodeId, Digest)>,
}

impl Chains {
    /// Finds for each node where the ledger's chain ends in the journal's.
    async fn meet(
        journal: &Journal,
        recovered: &Recovered,
        tx: &mut db::WriterTx,
    ) -> Result<Self, RecoverError> {
        let head = recovered.head.as_ref().map(|head| (head.node, head.hash));
        let mut nodes: Vec<NodeId> = recovered.undrained.iter().map(|posting| posting.node).collect();
        nodes.extend(head.map(|(node, _)| node));
        let mut chains = Self {
            undrained: Vec::new(),
            last: Vec::new(),
        };
        for node in nodes {
            if chains.last.iter().any(|(known, _)| *known == node) {
                continue;
            }
            let undrained = recovered.undrained.iter().filter(|posting| posting.node == node);
            let undrained: Vec<Posting> = undrained.cloned().collect();
            let newest = undrained.last().map(|posting| posting.hash);
            let newest = newest.or(head.map(|(_, hash)| hash)).unwrap_or(Digest::ZERO);
            chains.last.push((node, newest));
            let ledger = tx
                .posting_head(node)
                .await?
                .map_or(Digest::ZERO, |head| head.hash);
            let begins = undrained.first().map_or(newest, |posting| posting.prev_hash);
            let meet = begins == ledger || undrained.iter().any(|posting| posting.hash == ledger);
            chains.undrained.extend(match meet {
                true => undrained,
                false => kept_after(journal, node, ledger)?,
            });
        }
        Ok(chains)
    }

    /// The hash that the node's next posting names.
    async fn last_of(&self, node: NodeId, tx: &mut db::WriterTx) -> Result<Digest, RecoverError> {
        if let Some((_, hash)) = self.last.iter().rfind(|(of, _)| *of == node) {
            return Ok(*hash);
        }
        Ok(tx
            .posting_head(node)
            .await?
            .map_or(Digest::ZERO, |head| head.hash))
    }

    fn push(&mut self, posting: Posting) {
        self.last.push((posting.node, posting.hash));
        self.undrained.push(posting);
    }
}

/// The node's postings that the journal keeps beyond their draining, from the one after `ledger` on.
fn kept_after(journal: &Journal, node: NodeId, ledger: Digest) -> Result<Vec<Posting>, RecoverError> {
    let mut kept: Vec<Posting> = Vec::new();
    journal.visit_postings(|posting| {
        if posting.node == node && (!kept.is_empty() || posting.prev_hash == ledger) {
            kept.push(posting);
        }
    })?;
    if kept.is_empty() {
        return Err(RecoverError::Apart { node, ledger });
    }
    tracing::warn!(%node, %ledger, postings = kept.len(), "an older ledger: drained postings go to it again");
    Ok(kept)
}

/// The last postings of an epoch that ended.
fn seal_rest(unsealed: Unsealed, last_hash: Digest, restart: &Restart) -> Vec<Posting> {
    let crash = Crash {
        at: restart.at,
        readings: restart.readings.clone(),
        finished: unsealed.finished,
    };
    let mut sealer = Sealer::new(
        unsealed.node,
        unsealed.epoch,
        unsealed.next_seq,
        last_hash,
        unsealed.from,
        unsealed.baseline,
        unsealed.open,
    );
    let (slices, finished) = (unsealed.slices.len(), crash.finished.len());
    tracing::info!(slices, finished, "sealing what the last run left");
    // Two postings: a root may have booted in between, and a posting has one row for each root.
    let mut left = Vec::new();
    if slices > 0 {
        left.push(sealer.seal(&unsealed.slices));
    }
    left.push(sealer.seal_crash(&[], &crash));
    left
}
