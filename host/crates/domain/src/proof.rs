//! A receipt that proves itself: its lines, the way from each up to a signed checkpoint, and nothing of anyone else.
//!
//! A line is a leaf of its posting's tree; the posting, by its root and its hash, is a leaf of a checkpoint's tree; the
//! checkpoint is signed. Whoever has the signer's public key needs nothing else. What a proof says of others is a few
//! digests over their lines, which have random ids in them, and by the number of steps how many calls fell into the
//! window, to within a power of two.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::checkpoint::{CheckedPosting, SignedCheckpoint};
use crate::merkle::{self, Step};
use crate::posting::{Call, CallKind, ReceiptLine};
use crate::signature::PublicKey;
use crate::{InvocationId, Name, Outcome, TenantId, Usage};

/// The version of the form of a proof.
pub const VERSION: u32 = 1;

/// A receipt with all that it takes to verify it offline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptProof {
    /// The version of this form.
    pub version: u32,
    /// The call, whose id is the receipt's.
    pub receipt: InvocationId,
    /// What it was for.
    pub kind: CallKind,
    /// Who pays.
    pub tenant: TenantId,
    /// The deployment; none for a publish.
    pub deployment: Option<Name>,
    /// The release's number; none for a publish.
    pub release: Option<u32>,
    /// When it was admitted.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Its lines, in their order.
    pub lines: Vec<ProvenLine>,
    /// The checkpoints that they lead to, each once.
    pub checkpoints: Vec<SignedCheckpoint>,
}

/// A line with the way up from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenLine {
    /// Counts the lines of a receipt from 0.
    pub ordinal: u32,
    /// How the call ended, on the last line only.
    pub outcome: Option<Outcome>,
    /// What was used in the window.
    pub usage: Usage,
    /// Dynamic energy in microjoules; none where no reading covers the use.
    pub energy_uj: Option<u64>,
    /// From the line to the Merkle root of its posting.
    pub to_posting: Vec<Step>,
    /// The posting.
    pub posting: CheckedPosting,
    /// From the posting to the Merkle root of its checkpoint.
    pub to_checkpoint: Vec<Step>,
    /// The checkpoint.
    pub checkpoint: u64,
}

/// What a proof has proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// How the call ended.
    pub outcome: Outcome,
    /// The sum of its lines.
    pub usage: Usage,
    /// The sum of their energy in microjoules; none where a line has none.
    pub energy_uj: Option<u64>,
    /// Who signed the checkpoints.
    pub signers: BTreeSet<PublicKey>,
}

/// The first thing in a proof that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// A form that is not known.
    #[error("it is a proof of version {0}, and this program knows version {VERSION}")]
    Version(u32),
    /// There are no lines.
    #[error("it has no lines")]
    Empty,
    /// A line is missing, or stands in another's place.
    #[error("line {found} stands where line {expected} should")]
    Order {
        /// The number that belongs there.
        expected: u32,
        /// The number that is there.
        found: u32,
    },
    /// The last line does not say how the call ended, or another one does.
    #[error("line {ordinal} should be the last one and only it say how the call ended: lines are missing")]
    Incomplete {
        /// The line.
        ordinal: u32,
    },
    /// A line does not lead to its posting.
    #[error("line {ordinal} is not in posting {node}/{epoch}/{seq}: the line or the posting was changed")]
    Line {
        /// The line.
        ordinal: u32,
        /// The posting's node.
        node: crate::NodeId,
        /// Its epoch.
        epoch: crate::Epoch,
        /// Its number.
        seq: u64,
    },
    /// A posting does not lead to its checkpoint.
    #[error("the posting of line {ordinal} is not in checkpoint {number}: one of the two was changed")]
    Posting {
        /// The line.
        ordinal: u32,
        /// The checkpoint.
        number: u64,
    },
    /// A line names a checkpoint that is not there, or one is there that no line names, or twice.
    #[error("checkpoint {number} is missing, stands twice, or belongs to no line")]
    Checkpoint {
        /// The checkpoint.
        number: u64,
    },
    /// The signer is not trusted.
    #[error("checkpoint {number} is signed by {signer}, which is not a key that was given")]
    Signer {
        /// The checkpoint.
        number: u64,
        /// Who signed it.
        signer: PublicKey,
    },
    /// The signature is not the signer's.
    #[error("the signature of checkpoint {number} is not that of {signer}: the checkpoint was changed")]
    Signature {
        /// The checkpoint.
        number: u64,
        /// Who should have signed it.
        signer: PublicKey,
    },
}

impl ReceiptProof {
    /// Verifies everything, or names the first thing that does not fit: that no line is missing, that each is in its
    /// posting, each posting in its checkpoint, and that each checkpoint is signed by one of `keys`.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<Proven, ProofError> {
        if self.version != VERSION {
            return Err(ProofError::Version(self.version));
        }
        let outcome = self.verify_order()?;
        for line in &self.lines {
            self.verify_line(line)?;
        }
        self.verify_checkpoints(keys)?;
        let mut usage = Usage::default();
        self.lines.iter().for_each(|line| usage.absorb(&line.usage));
        let energy_uj = self
            .lines
            .iter()
            .try_fold(0_u64, |sum, line| Some(sum.saturating_add(line.energy_uj?)));
        Ok(Proven {
            outcome,
            usage,
            energy_uj,
            signers: self
                .checkpoints
                .iter()
                .map(|signed| signed.checkpoint.signer)
                .collect(),
        })
    }

    fn verify_order(&self) -> Result<Outcome, ProofError> {
        for (expected, line) in (0..).zip(&self.lines) {
            let found = line.ordinal;
            if found != expected {
                return Err(ProofError::Order { expected, found });
            }
            let is_last = found as usize + 1 == self.lines.len();
            if line.outcome.is_some() != is_last {
                return Err(ProofError::Incomplete { ordinal: found });
            }
        }
        let last = self.lines.last().ok_or(ProofError::Empty)?;
        last.outcome.ok_or(ProofError::Incomplete {
            ordinal: last.ordinal,
        })
    }

    fn verify_line(&self, line: &ProvenLine) -> Result<(), ProofError> {
        let posting = &line.posting;
        if merkle::climb(self.line(line).leaf(), &line.to_posting) != posting.merkle_root {
            return Err(ProofError::Line {
                ordinal: line.ordinal,
                node: posting.node,
                epoch: posting.epoch,
                seq: posting.seq,
            });
        }
        let number = line.checkpoint;
        let mut found = self.checkpoints.iter().map(|signed| &signed.checkpoint);
        let checkpoint = found
            .find(|checkpoint| checkpoint.number == number)
            .ok_or(ProofError::Checkpoint { number })?;
        if merkle::climb(posting.leaf(), &line.to_checkpoint) != checkpoint.merkle_root {
            return Err(ProofError::Posting {
                ordinal: line.ordinal,
                number,
            });
        }
        Ok(())
    }

    fn verify_checkpoints(&self, keys: &[PublicKey]) -> Result<(), ProofError> {
        let named: BTreeSet<_> = self.lines.iter().map(|line| line.checkpoint).collect();
        let mut seen = BTreeSet::new();
        for signed in &self.checkpoints {
            let (number, signer) = (signed.checkpoint.number, signed.checkpoint.signer);
            if !named.contains(&number) || !seen.insert(number) {
                return Err(ProofError::Checkpoint { number });
            }
            if !keys.contains(&signer) {
                return Err(ProofError::Signer { number, signer });
            }
            if !signer.verifies(&signed.checkpoint.bytes(), &signed.signature) {
                return Err(ProofError::Signature { number, signer });
            }
        }
        Ok(())
    }

    /// The line as it was sealed.
    fn line(&self, line: &ProvenLine) -> ReceiptLine {
        ReceiptLine {
            call: Call {
                invocation: self.receipt,
                kind: self.kind,
                tenant: self.tenant,
                deployment: self.deployment.clone(),
                release: self.release,
                started_at: self.started_at,
            },
            ordinal: line.ordinal,
            outcome: line.outcome,
            usage: line.usage.clone(),
            energy_uj: line.energy_uj,
        }
    }
}

#[cfg(test)]
mod tests;
