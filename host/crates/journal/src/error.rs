//! What can go wrong with a journal.

use std::io;
use std::path::{Path, PathBuf};

/// Why the journal cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("the journal cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The disk has no room. Nothing of the record is kept, and the next one is taken once there is some.
    #[error("the journal cannot {action} {path}, as its disk is full: {source}")]
    DiskFull {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process has the directory.
    #[error("the journal {0} is in use by another process")]
    Locked(PathBuf),
    /// A record is damaged, and not as a torn last write would be.
    #[error(
        "the journal is damaged in segment {segment} at byte {offset}: put the directory back from a copy, or move it \
         away to start without what it has not drained"
    )]
    Corrupt {
        /// The segment's number.
        segment: u64,
        /// Where in it the bad frame begins, in bytes.
        offset: u64,
    },
    /// A segment between others is not there.
    #[error(
        "the journal lacks segment {0}: put it back from a copy, or move the directory away to start without what it \
         has not drained"
    )]
    Missing(u64),
    /// A record was written by a host of another version.
    #[error(
        "segment {segment} has a record of version {version} at byte {offset}; this host knows version {}: start the \
         host that wrote it once more, so that it drains, then this one",
        crate::record::VERSION
    )]
    UnknownVersion {
        /// The segment's number.
        segment: u64,
        /// Where in it the frame begins, in bytes.
        offset: u64,
        /// The version found.
        version: u8,
    },
    /// A record is longer than any record may be.
    #[error("a record of {bytes} bytes is too long for the journal, which takes {limit}")]
    RecordTooLarge {
        /// The record's length.
        bytes: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// A record cannot be encoded.
    #[error("a record cannot be encoded: {0}")]
    Encode(postcard::Error),
    /// What waits to be drained has reached the journal's bound.
    #[error("the journal is full: {bytes} of {limit} bytes wait to be drained")]
    Full {
        /// Bytes on disk.
        bytes: u64,
        /// The bound that the record met.
        limit: u64,
    },
    /// An earlier write or sync failed, so nothing after it may be taken.
    #[error("the journal takes no more records since an earlier failure: {0}")]
    Poisoned(String),
    /// The journal's thread has ended.
    #[error("the journal is closed")]
    Closed,
}

impl JournalError {
    /// The stable code of the problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "journal_io",
            Self::DiskFull { .. } => "journal_disk_full",
            Self::Locked(_) => "journal_locked",
            Self::Corrupt { .. } => "journal_corrupt",
            Self::Missing(_) => "journal_segment_missing",
            Self::UnknownVersion { .. } => "journal_unknown_version",
            Self::RecordTooLarge { .. } | Self::Encode(_) => "journal_record_too_large",
            Self::Full { .. } => "journal_full",
            Self::Poisoned(_) => "journal_poisoned",
            Self::Closed => "journal_closed",
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::DiskFull { action, path, source }
                }
                _ => Self::Io { action, path, source },
            }
        }
    }
}
