//! The records, and their encoding: a version byte, then postcard.

use domain::energy::Reading;
use domain::posting::{Finished, Posting, Slice};
use domain::{Epoch, NodeId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::fold::Checkpoint;
use crate::{JournalError, MAX_RECORD_BYTES};

/// The version of the encoding. A change of any type below needs a new one.
pub(crate) const VERSION: u8 = 2;

/// One thing that the node must not forget.
///
/// The order that replay relies on: a call's [`Record::Finished`] comes before the
/// [`Record::Slice`] whose claim has its outcome, every slice (also the one that recovery makes)
/// comes before the [`Record::Sealed`] that covers it, and a window's [`Record::Sealed`] comes
/// before its [`Record::Drained`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A host has started and read its meters for the first time.
    EpochStarted {
        /// The start's id.
        epoch: Epoch,
        /// The node.
        node: NodeId,
        /// The boot of the machine.
        boot_id: Uuid,
        /// Wall time of the start.
        at: OffsetDateTime,
        /// The baseline.
        readings: Vec<Reading>,
    },
    /// An invocation has ended; written before its reply leaves.
    Finished(Finished),
    /// A slice was cut.
    Slice(Slice),
    /// A posting was made; it covers the slices before it if it is a window.
    Sealed(Box<Posting>),
    /// A posting is in the database.
    Drained {
        /// The posting's epoch.
        epoch: Epoch,
        /// The posting's number in it.
        seq: u64,
    },
}

/// What a frame holds.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) enum Entry {
    /// The state before the first record of a segment, so that older segments can go.
    Checkpoint(Box<Checkpoint>),
    /// A record.
    Record(Record),
}

/// [`Entry`] as it is written, without a copy.
#[derive(Serialize)]
pub(crate) enum EntryRef<'a> {
    Checkpoint(&'a Checkpoint),
    Record(&'a Record),
}

/// Why a payload with a good checksum is no entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Version(u8),
    Malformed,
}

impl EntryRef<'_> {
    /// The payload of a frame.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, JournalError> {
        let payload = postcard::to_extend(self, vec![VERSION]).map_err(JournalError::Encode)?;
        if payload.len() > MAX_RECORD_BYTES {
            return Err(JournalError::RecordTooLarge {
                bytes: payload.len() as u64,
                limit: MAX_RECORD_BYTES as u64,
            });
        }
        Ok(payload)
    }
}

impl Entry {
    /// The entry of a frame's payload.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let (&version, rest) = payload.split_first().ok_or(DecodeError::Malformed)?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        match postcard::take_from_bytes(rest) {
            Ok((entry, [])) => Ok(entry),
            _ => Err(DecodeError::Malformed),
        }
    }

    /// Whether a payload can at all be an entry of this version, told by its first two bytes.
    pub(crate) fn plausible(payload: &[u8]) -> bool {
        matches!(payload, [VERSION, 0 | 1, ..])
    }
}
