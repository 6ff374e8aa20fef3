//! The node's durable record before Postgres: what was used, what was metered, what was sealed.
//!
//! An append-only file in segments, one process per directory. [`Journal::append`] returns when the
//! record survives a kill of the host ([`Mode::Standard`]) or a power cut too ([`Mode::Strict`]);
//! [`Journal::open`] replays all of it into [`Recovered`], by the pure fold in `fold`.
//!
//! What may go wrong, and what becomes of it; each has a test:
//!
//! | | |
//! |---|---|
//! | the bound is reached | calls are refused first, then sealing waits: [`JournalError::Full`] |
//! | a torn tail | it is cut off and said: [`Recovered::torn`] |
//! | a flipped bit, a segment that is missing | it is not opened, and left as it is: [`JournalError::Corrupt`], [`JournalError::Missing`] |
//! | a full disk | drained segments go, then records are refused until there is room: [`JournalError::DiskFull`] |
//! | a disk that cannot be written | it is not opened, or takes nothing more: [`JournalError::Io`], [`JournalError::Poisoned`] |
//! | a clock that jumps | drained segments go sooner, or are kept for the whole time from then on |
//! | two hosts on one directory | the second one does not start: [`JournalError::Locked`] |
//!
//! Whatever may wait for a disk (a sync, a new segment) is done by a thread of the journal's own; a record
//! that is one `write` into the page cache is written by whoever brings it, if nobody else is writing.

mod baseline;
mod error;
mod fold;
mod frame;
mod handle;
mod older;
mod record;
mod recovered;
mod segment;
mod sync;
#[cfg(test)]
mod testing;
mod writer;

pub use error::JournalError;
pub use handle::{Journal, Mode, Options};
pub use record::Record;
pub use recovered::{Head, Recovered, Unsealed};
pub use segment::Torn;

/// The most bytes that one record may have, encoded. A window of half a million lines fits.
pub const MAX_RECORD_BYTES: usize = 128 << 20;
