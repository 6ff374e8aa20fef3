//! The records, and their encoding: a version byte, then postcard.

use std::sync::Arc;

use domain::energy::Reading;
use domain::posting::{Finished, Posting, Slice, Transfer};
use domain::{Epoch, NodeId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::fold::Checkpoint;
use crate::{JournalError, MAX_RECORD_BYTES, frame, older};

/// The version of the encoding. A change of any type below needs a new one.
pub(crate) const VERSION: u8 = 4;

/// The versions before it, which are still read: see [`older`].
const SECOND: u8 = 2;
const THIRD: u8 = 3;

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
    Finished(Arc<Finished>),
    /// A slice was cut.
    Slice(Slice),
    /// A posting was made; it covers the slices before it if it is a window.
    Sealed(Arc<Posting>),
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
    /// The frame of an entry.
    pub(crate) fn frame(&self) -> Result<Vec<u8>, JournalError> {
        frame::encode(|frame| self.encode(frame))
    }

    /// Appends the payload of a frame.
    fn encode(&self, mut to: Vec<u8>) -> Result<Vec<u8>, JournalError> {
        let begun = to.len();
        to.push(VERSION);
        let to = postcard::to_extend(self, to).map_err(JournalError::Encode)?;
        let bytes = to.len() - begun;
        if bytes > MAX_RECORD_BYTES {
            return Err(JournalError::RecordTooLarge {
                bytes: bytes as u64,
                limit: MAX_RECORD_BYTES as u64,
            });
        }
        Ok(to)
    }
}

impl Entry {
    /// The entry of a frame's payload.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let (&version, rest) = payload.split_first().ok_or(DecodeError::Malformed)?;
        match version {
            VERSION => whole(rest),
            THIRD => whole::<older::Entry<Transfer>>(rest).map(Self::from),
            SECOND => whole::<older::Entry<older::Transfer>>(rest).map(Self::from),
            _ => Err(DecodeError::Version(version)),
        }
    }

    /// Whether a payload can at all be an entry of a version that is read, told by its first two bytes.
    pub(crate) fn plausible(payload: &[u8]) -> bool {
        matches!(payload, [SECOND..=VERSION, 0 | 1, ..])
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
    use domain::usage::CPU;
    use domain::{Digest, Work};
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::testing::{claim, drained, finished, line, sealed, slice, started, window};

    /// What `version` wrote of a record. Types of earlier versions have the names of today's, and fewer of them.
    fn written<T: DeserializeOwned + Serialize>(version: u8, record: &Record) -> Vec<u8> {
        let json = serde_json::to_value(EntryRef::Record(record)).unwrap();
        let old: older::Entry<T> = serde_json::from_value(json).unwrap();
        postcard::to_extend(&old, vec![version]).unwrap()
    }

    fn records() -> Vec<Record> {
        let mut finished = finished(3, 7);
        finished.usage.work.push(Work {
            graph: Digest([5; 32]),
            backend: "rten 0.27.0".into(),
            device: CPU.into(),
            precision: "exact".into(),
            runs: 1,
            rows: 2,
            cpu_ns: 30,
            busy_ns: 20,
            tokens: 0,
        });
        let (mut claim, mut line) = (claim(3, 7, None), line(3, 0, 7, None));
        claim.usage = finished.usage.clone();
        line.usage = finished.usage.clone();
        vec![
            started(1, 0, 100),
            Record::Finished(finished.into()),
            Record::Slice(slice(0, 1, 100, vec![claim])),
            sealed(window(1, 0, 2, 50, vec![line])),
            drained(1, 0),
        ]
    }

    #[test]
    fn what_earlier_versions_wrote_is_read() {
        for record in records() {
            let third = written::<Transfer>(THIRD, &record);
            let second = written::<older::Transfer>(SECOND, &record);
            let new = EntryRef::Record(&record).encode(Vec::new()).unwrap();
            for old in [third, second, new] {
                assert!(Entry::plausible(&old));
                assert_eq!(Entry::decode(&old[..old.len() - 1]), Err(DecodeError::Malformed));
                assert_eq!(Entry::decode(&old), Ok(Entry::Record(record.clone())));
            }
        }
        let checkpoint = postcard::to_extend(&EntryRef::Checkpoint(&Checkpoint::default()), vec![SECOND]);
        let read = Entry::decode(&checkpoint.unwrap());
        assert_eq!(read, Ok(Entry::Checkpoint(Box::default())));
    }

    #[test]
    fn another_version_is_named() {
        for version in [1, VERSION + 1] {
            let mut payload = EntryRef::Record(&started(1, 0, 100)).encode(Vec::new()).unwrap();
            payload[0] = version;
            assert_eq!(Entry::decode(&payload), Err(DecodeError::Version(version)));
            assert!(!Entry::plausible(&payload));
        }
    }
}
