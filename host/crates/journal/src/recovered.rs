//! What replay hands to recovery.

use domain::energy::Reading;
use domain::posting::{Finished, Posting, Slice};
use domain::window::{OpenReceipts, Sealer};
use domain::{Digest, Epoch, NodeId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::Torn;

/// The newest posting of the node: what the next one links to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The node.
    pub node: NodeId,
    /// The posting's epoch.
    pub epoch: Epoch,
    /// Its number in it.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
    /// Wall time where it ends.
    pub to: OffsetDateTime,
}

/// What is left to be sealed under the newest epoch of the journal. All of it may be empty, but the
/// energy since the baseline still wants a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsealed {
    /// The newest epoch.
    pub epoch: Epoch,
    /// The node.
    pub node: NodeId,
    /// The number of the epoch's next posting.
    pub next_seq: u64,
    /// Wall time at the baseline.
    pub from: OffsetDateTime,
    /// The readings where the last sealed window ended, or of the epoch's start if none was.
    pub baseline: Vec<Reading>,
    /// The slices after the baseline, in order.
    pub slices: Vec<Slice>,
    /// Ended calls whose end no slice has claimed, by invocation.
    pub finished: Vec<Finished>,
    /// Receipts that sealed windows have begun and not ended.
    pub open: OpenReceipts,
}

/// What a journal holds when it is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// The newest posting; none before the first.
    pub head: Option<Head>,
    /// Postings that are not known to be in the database, in order.
    pub undrained: Vec<Posting>,
    /// The newest epoch and what it left unsealed; none before the first start.
    pub unsealed: Option<Unsealed>,
    /// The newest readings, for meters to go on from.
    pub last_readings: Vec<Reading>,
    /// What was cut off the end.
    pub torn: Option<Torn>,
}

impl Recovered {
    /// The hash that the node's next posting links to.
    pub fn prev_hash(&self) -> Digest {
        self.head.as_ref().map_or(Digest::ZERO, |head| head.hash)
    }

    /// The sealer of the epoch that ended, to seal what it left; none if there was no epoch.
    pub fn sealer(&self) -> Option<Sealer> {
        let left = self.unsealed.as_ref()?;
        let (baseline, open) = (left.baseline.clone(), left.open.clone());
        let prev_hash = self.prev_hash();
        Some(Sealer::new(
            left.node,
            left.epoch,
            left.next_seq,
            prev_hash,
            left.from,
            baseline,
            open,
        ))
    }
}
