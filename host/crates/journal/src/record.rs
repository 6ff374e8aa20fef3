//! The records, and their encoding: a version byte, then postcard.

use domain::energy::Reading;
use domain::posting::{Finished, Posting, Slice};
use domain::{Epoch, NodeId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::fold::Checkpoint;
use crate::{JournalError, MAX_RECORD_BYTES, second};

/// The version of the encoding. A change of any type below needs a new one.
pub(crate) const VERSION: u8 = 3;

/// The version before it, in which transfers did not say what they cite. It is still read.
pub(crate) const SECOND: u8 = 2;

/// How a sealed posting begins: an [`Entry::Record`] of [`Record::Sealed`].
const SEALED: [u8; 2] = [1, 3];

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
        match (version, rest.strip_prefix(&SEALED)) {
            (SECOND, Some(posting)) => {
                let posting: second::Posting = whole(posting)?;
                Ok(Self::Record(Record::Sealed(Box::new(posting.into()))))
            }
            (VERSION | SECOND, _) => whole(rest),
            _ => Err(DecodeError::Version(version)),
        }
    }

    /// Whether a payload can at all be an entry of a version that is read, told by its first two bytes.
    pub(crate) fn plausible(payload: &[u8]) -> bool {
        matches!(payload, [VERSION | SECOND, 0 | 1, ..])
    }
}

/// What all of `bytes` encode.
fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(DecodeError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{line, sealed, started, window};

    #[test]
    fn what_the_version_before_wrote_is_read() {
        let posting = window(1, 0, 2, 50, vec![line(3, 0, 7, None)]);
        let sealed = sealed(posting.clone());
        let payload = EntryRef::Record(&sealed).encode().unwrap();
        assert_eq!(payload[1..3], SEALED);
        let old = postcard::to_extend(&second::Posting::from(posting), Vec::new()).unwrap();
        assert!(old.len() < payload.len());
        let old = [&[SECOND][..], &SEALED, &old].concat();
        assert_eq!(Entry::decode(&old), Ok(Entry::Record(sealed)));
        assert_eq!(Entry::decode(&old[..old.len() - 1]), Err(DecodeError::Malformed));
        assert!(Entry::plausible(&old));

        // All else is as it was.
        let started = started(1, 0, 100);
        let mut payload = EntryRef::Record(&started).encode().unwrap();
        payload[0] = SECOND;
        assert_eq!(Entry::decode(&payload), Ok(Entry::Record(started)));
        payload[0] = 1;
        assert_eq!(Entry::decode(&payload), Err(DecodeError::Version(1)));
    }
}
