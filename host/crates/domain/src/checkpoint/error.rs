//! What can be wrong with a checkpoint.

use crate::signature::PublicKey;
use crate::{Digest, Epoch, NodeId};

/// The first thing that does not fit in a checkpoint, or in the ledger under it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// One is missing, or stands twice.
    #[error("checkpoint {found} stands where {expected} should")]
    Number {
        /// The number that belongs there.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// It does not name the hash of the one before it.
    #[error("checkpoint {number} follows {stated}, not {before}")]
    Link {
        /// Its number.
        number: u64,
        /// What it names.
        stated: Digest,
        /// The hash of the one before it.
        before: Digest,
    },
    /// It is older than the one before it.
    #[error("checkpoint {number} is older than the one before it")]
    Time {
        /// Its number.
        number: u64,
    },
    /// Its signature is not its signer's.
    #[error("the signature of checkpoint {number} is not that of {signer}")]
    Signature {
        /// Its number.
        number: u64,
        /// Who should have signed it.
        signer: PublicKey,
    },
    /// Nobody trusts its signer.
    #[error("checkpoint {number} is signed by {signer}, which is none of the keys that are trusted")]
    Signer {
        /// Its number.
        number: u64,
        /// Who signed it.
        signer: PublicKey,
    },
    /// Its signer had handed over before.
    #[error("checkpoint {number} is signed by {signer}, which another key had followed by then")]
    Retired {
        /// Its number.
        number: u64,
        /// Who signed it.
        signer: PublicKey,
    },
    /// The heads kept with it are not those that are signed.
    #[error("the heads of checkpoint {number} have the Merkle root {computed}, not {stated}")]
    Heads {
        /// Its number.
        number: u64,
        /// What it says.
        stated: Digest,
        /// What its heads give.
        computed: Digest,
    },
    /// The leaves kept with it are not those that are signed.
    #[error("the {leaves} leaves of checkpoint {number} have the Merkle root {computed}, not {stated}")]
    Leaves {
        /// Its number.
        number: u64,
        /// How many there are.
        leaves: usize,
        /// What it says.
        stated: Digest,
        /// What its leaves give.
        computed: Digest,
    },
    /// A posting is not the one that was covered in its place.
    #[error("posting {node}/{epoch}/{seq} is not the one that checkpoint {number} covers in its place")]
    Posting {
        /// The checkpoint.
        number: u64,
        /// The posting's node.
        node: NodeId,
        /// Its epoch.
        epoch: Epoch,
        /// Its number.
        seq: u64,
    },
    /// Postings that were covered are gone, or there are more than were covered.
    #[error("checkpoint {number} covers {stated} postings, and the ledger has {found} in their place")]
    Count {
        /// The checkpoint.
        number: u64,
        /// What it says.
        stated: u64,
        /// What there is.
        found: u64,
    },
    /// A node's head is not what the postings give.
    #[error(
        "checkpoint {number} says that node {node} ends at posting {epoch}/{seq}, which the ledger does not"
    )]
    Head {
        /// The checkpoint.
        number: u64,
        /// The node.
        node: NodeId,
        /// The epoch of the head.
        epoch: Epoch,
        /// Its number.
        seq: u64,
    },
}
