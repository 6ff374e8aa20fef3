//! Checkpoints: signed statements of what the ledger holds, each naming the one before.
//!
//! A checkpoint covers every posting that entered the ledger since the one before it, as the leaves of a Merkle tree,
//! and names the head of every node's chain. A leaf binds a posting's hash, so that nothing under it can change, and
//! the root of its receipt lines, so that a tenant can follow a line up to the signature. It binds them without the
//! counters and transfers, which are not every tenant's to see.

mod error;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::error::CheckpointError;
use crate::encoding::{CHECKED_POSTING, CHECKPOINT, Encoder, NODE_HEAD};
use crate::posting::Posting;
use crate::signature::{PublicKey, Signature, Signer, SigningKey};
use crate::{Digest, Epoch, NodeId, merkle};

/// The version of the encoding of everything here.
const VERSION: u8 = 1;

/// Most postings under one checkpoint: what is over is covered by the next, made at once. It bounds what a proof
/// costs.
pub const MOST_POSTINGS: u32 = 8_192;

/// What a checkpoint says of one posting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckedPosting {
    /// The node.
    pub node: NodeId,
    /// The start of the host that sealed it.
    pub epoch: Epoch,
    /// Counts the postings of an epoch from 0.
    pub seq: u64,
    /// Where it begins.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// Where it ends.
    #[serde(with = "time::serde::rfc3339")]
    pub to: OffsetDateTime,
    /// The fuel schedule of its lines.
    pub fuel_schedule: u32,
    /// The Merkle root of its receipt lines.
    pub merkle_root: Digest,
    /// The hash of all that it says.
    pub hash: Digest,
}

impl CheckedPosting {
    /// Its hash as a leaf of its checkpoint's tree.
    pub fn leaf(&self) -> Digest {
        let mut to = Encoder::new(Some(CHECKED_POSTING), VERSION);
        to.uuid(&self.node.0);
        to.uuid(&self.epoch.0);
        to.u64(self.seq);
        to.time(self.from);
        to.time(self.to);
        to.u32(self.fuel_schedule);
        to.digest(&self.merkle_root);
        to.digest(&self.hash);
        merkle::leaf(&to.bytes)
    }

    fn head(&self) -> NodeHead {
        NodeHead {
            node: self.node,
            epoch: self.epoch,
            seq: self.seq,
            hash: self.hash,
        }
    }
}

impl From<&Posting> for CheckedPosting {
    fn from(posting: &Posting) -> Self {
        Self {
            node: posting.node,
            epoch: posting.epoch,
            seq: posting.seq,
            from: posting.from,
            to: posting.to,
            fuel_schedule: posting.fuel_schedule,
            merkle_root: posting.merkle_root,
            hash: posting.hash,
        }
    }
}

/// Where a node's chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeHead {
    /// The node.
    pub node: NodeId,
    /// The start of the host that sealed its last posting.
    pub epoch: Epoch,
    /// That posting's number.
    pub seq: u64,
    /// That posting's hash.
    pub hash: Digest,
}

impl NodeHead {
    fn leaf(&self) -> Digest {
        let mut to = Encoder::new(Some(NODE_HEAD), VERSION);
        to.uuid(&self.node.0);
        to.uuid(&self.epoch.0);
        to.u64(self.seq);
        to.digest(&self.hash);
        merkle::leaf(&to.bytes)
    }
}

/// The Merkle root over the heads, which are in the order of their nodes.
pub fn heads_root(heads: &[NodeHead]) -> Digest {
    let leaves: Vec<_> = heads.iter().map(NodeHead::leaf).collect();
    merkle::root(&leaves)
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Counts the checkpoints of a ledger from 1.
    pub number: u64,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The hash of the one before it; [`Digest::ZERO`] for the first.
    pub prev_hash: Digest,
    /// How many postings entered the ledger since the one before.
    pub postings: u64,
    /// The Merkle root over these.
    pub merkle_root: Digest,
    /// The Merkle root over the heads of every node.
    pub heads_root: Digest,
    /// Who signs it.
    pub signer: PublicKey,
}

impl Checkpoint {
    /// The bytes that are signed.
    pub fn bytes(&self) -> Vec<u8> {
        let mut to = Encoder::new(Some(CHECKPOINT), VERSION);
        to.u64(self.number);
        to.time(self.at);
        to.digest(&self.prev_hash);
        to.u64(self.postings);
        to.digest(&self.merkle_root);
        to.digest(&self.heads_root);
        to.raw(&self.signer.0);
        to.bytes
    }

    /// The hash of these, which the next one names.
    pub fn hash(&self) -> Digest {
        Digest::of(&self.bytes())
    }
}

/// A checkpoint with its signature: it stands for itself wherever it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedCheckpoint {
    /// What is signed.
    pub checkpoint: Checkpoint,
    /// The signer's signature.
    pub signature: Signature,
}

impl SignedCheckpoint {
    /// Checks what a checkpoint says by itself and of the one `before` it, if it is not the first that is asked for.
    pub fn verify(&self, before: Option<&Checkpoint>, signers: &[Signer]) -> Result<(), CheckpointError> {
        let Checkpoint {
            number, signer, at, ..
        } = self.checkpoint;
        if let Some(before) = before {
            self.follows(before)?;
        }
        if !signer.verifies(&self.checkpoint.bytes(), &self.signature) {
            return Err(CheckpointError::Signature { number, signer });
        }
        if signers.iter().all(|known| known.key != signer) {
            return Err(CheckpointError::Signer { number, signer });
        }
        let handed_over = |next: &Signer| {
            let follows = next.succession.is_some_and(|by| by.follows == signer);
            follows && next.is_endorsed() && next.since < at
        };
        if signers.iter().any(handed_over) {
            return Err(CheckpointError::Retired { number, signer });
        }
        Ok(())
    }

    /// Checks that it comes right after `before`.
    pub fn follows(&self, before: &Checkpoint) -> Result<(), CheckpointError> {
        let found = self.checkpoint.number;
        let expected = before.number.saturating_add(1);
        if found != expected {
            return Err(CheckpointError::Number { expected, found });
        }
        let (stated, hash) = (self.checkpoint.prev_hash, before.hash());
        if stated != hash {
            return Err(CheckpointError::Link {
                number: found,
                stated,
                before: hash,
            });
        }
        if self.checkpoint.at < before.at {
            return Err(CheckpointError::Time { number: found });
        }
        Ok(())
    }

    /// Checks that it is the first of a ledger.
    pub fn begins(&self) -> Result<(), CheckpointError> {
        let (number, stated) = (self.checkpoint.number, self.checkpoint.prev_hash);
        if number != 1 {
            return Err(CheckpointError::Number {
                expected: 1,
                found: number,
            });
        }
        if stated != Digest::ZERO {
            return Err(CheckpointError::Link {
                number,
                stated,
                before: Digest::ZERO,
            });
        }
        Ok(())
    }
}

/// A checkpoint with what it was made of, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The checkpoint.
    pub signed: SignedCheckpoint,
    /// The head of every node, in the order of the nodes.
    pub heads: Vec<NodeHead>,
    /// The leaves of its tree: the postings in the order in which they entered the ledger.
    pub leaves: Vec<Digest>,
}

impl Record {
    /// The checkpoint after `before` over `postings`, which entered the ledger since.
    pub fn make(
        before: Option<&Self>,
        postings: &[CheckedPosting],
        at: OffsetDateTime,
        key: &SigningKey,
    ) -> Self {
        let last = before.map(|before| &before.signed.checkpoint);
        let at = last.map_or(at, |last| at.max(last.at));
        let heads = heads_after(before, postings);
        let leaves: Vec<_> = postings.iter().map(CheckedPosting::leaf).collect();
        let checkpoint = Checkpoint {
            number: last.map_or(1, |last| last.number.saturating_add(1)),
            at: at.replace_microsecond(at.microsecond()).unwrap_or(at),
            prev_hash: last.map_or(Digest::ZERO, Checkpoint::hash),
            postings: leaves.len() as u64,
            merkle_root: merkle::root(&leaves),
            heads_root: heads_root(&heads),
            signer: key.public(),
        };
        let signature = key.sign(&checkpoint.bytes());
        Self {
            signed: SignedCheckpoint {
                checkpoint,
                signature,
            },
            heads,
            leaves,
        }
    }

    /// Checks it by itself and against the one `before` it: none where it is the first of the ledger.
    pub fn verify(&self, before: Option<&Self>, signers: &[Signer]) -> Result<(), CheckpointError> {
        if before.is_none() {
            self.signed.begins()?;
        }
        let last = before.map(|before| &before.signed.checkpoint);
        self.signed.verify(last, signers)?;
        let Checkpoint {
            number, merkle_root, ..
        } = self.signed.checkpoint;
        let (stated, computed) = (self.signed.checkpoint.heads_root, heads_root(&self.heads));
        if stated != computed {
            return Err(CheckpointError::Heads {
                number,
                stated,
                computed,
            });
        }
        let (computed, leaves) = (merkle::root(&self.leaves), self.leaves.len());
        if merkle_root != computed || self.signed.checkpoint.postings != leaves as u64 {
            return Err(CheckpointError::Leaves {
                number,
                leaves,
                stated: merkle_root,
                computed,
            });
        }
        Ok(())
    }

    /// Checks the ledger against it: `postings` are those that stand where it covers some, in their order, and
    /// `before` is the checkpoint before it. [`Record::verify`] has checked all else.
    pub fn verify_ledger(
        &self,
        before: Option<&Self>,
        postings: &[CheckedPosting],
    ) -> Result<(), CheckpointError> {
        let number = self.signed.checkpoint.number;
        for (posting, leaf) in postings.iter().zip(&self.leaves) {
            if posting.leaf() != *leaf {
                return Err(CheckpointError::Posting {
                    number,
                    node: posting.node,
                    epoch: posting.epoch,
                    seq: posting.seq,
                });
            }
        }
        let (stated, found) = (self.leaves.len() as u64, postings.len() as u64);
        if stated != found {
            return Err(CheckpointError::Count {
                number,
                stated,
                found,
            });
        }
        let computed = heads_after(before, postings);
        let wrong = self.heads.iter().find(|head| !computed.contains(head));
        let wrong = wrong.or_else(|| computed.iter().find(|head| !self.heads.contains(head)));
        wrong.map_or(Ok(()), |head| {
            Err(CheckpointError::Head {
                number,
                node: head.node,
                epoch: head.epoch,
                seq: head.seq,
            })
        })
    }
}

/// The heads once `postings` came after those of `before`, in the order of the nodes.
fn heads_after(before: Option<&Record>, postings: &[CheckedPosting]) -> Vec<NodeHead> {
    let before = before.iter().flat_map(|before| before.heads.iter().copied());
    let heads: std::collections::BTreeMap<_, _> = before
        .chain(postings.iter().map(CheckedPosting::head))
        .map(|head| (head.node, head))
        .collect();
    heads.into_values().collect()
}

#[cfg(test)]
mod tests;
