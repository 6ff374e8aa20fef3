//! Recover: what a crash left in the journal goes to the ledger before the first call is served.

use domain::energy::Reading;
use domain::posting::Posting;
use domain::window::{Crash, OpenReceipts, Sealer};
use domain::{Digest, Epoch, NodeId};
use journal::{Journal, Record, Recovered};
use time::OffsetDateTime;

use super::Error;

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

/// Seals what the epoch before left open and begins a new one, both in the journal.
///
/// `head` is the hash of the node's last posting in Postgres, for a journal that was lost.
pub async fn recover(
    journal: &Journal,
    recovered: Recovered,
    restart: Restart,
    head: Option<Digest>,
) -> Result<Start, Error> {
    let journal_head = recovered.head.as_ref().map(|head| (head.node, head.hash));
    // Each node has a chain of its own; a data directory whose node was renamed begins or goes on with
    // that of the new name.
    let in_postgres = (restart.node, head.unwrap_or(Digest::ZERO));
    let last_of = |node| {
        let known = journal_head.into_iter().chain([in_postgres]);
        known
            .filter(|(of, _)| *of == node)
            .map(|(_, hash)| hash)
            .next()
            .unwrap_or(Digest::ZERO)
    };
    let mut last_hash = last_of(restart.node);
    let mut undrained = recovered.undrained;
    if let Some(unsealed) = recovered.unsealed {
        let crash = Crash {
            at: restart.at,
            readings: restart.readings.clone(),
            finished: unsealed.finished,
        };
        let mut sealer = Sealer::new(
            unsealed.node,
            unsealed.epoch,
            unsealed.next_seq,
            last_of(unsealed.node),
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
        for posting in left {
            journal.append(&Record::Sealed(Box::new(posting.clone()))).await?;
            if posting.node == restart.node {
                last_hash = posting.hash;
            }
            undrained.push(posting);
        }
    }
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
    Ok(Start { undrained, sealer })
}
