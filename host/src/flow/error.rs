//! What can go wrong in a use case; `http::problem` turns each into an answer.

use runtime::Failure;

use super::metered::Recorded;

/// A use case that could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is missing, unknown, expired or revoked.
    #[error("send a valid key as `authorization: Bearer <key>`")]
    Unauthorised,
    /// The key may not do this.
    #[error("this needs a key with the role {0}")]
    Forbidden(&'static str),
    /// The bootstrap key is refused once there has been an admin key.
    #[error(
        "the bootstrap key is only for making the first admin key: use an admin key, or, if all are lost, \
         `wattle key recover` on the host's machine"
    )]
    BootstrapSpent,
    /// A secret of the data directory, which makes one admin key and nothing else.
    #[error("this key only makes an admin key: `wattle key create <name> --role admin`, then use that one")]
    FirstAdminOnly,
    /// The tenant is suspended.
    #[error(
        "the tenant is suspended: it can read what it has, and calls and changes are refused until the \
         operator resumes it"
    )]
    TenantSuspended,
    /// The tenant is closed, which is final.
    #[error("the tenant is closed for good: its keys are refused and its uploads are gone")]
    TenantClosed,
    /// There is no such thing, or it is another tenant's.
    #[error("there is no {what} '{name}'")]
    NotFound {
        /// The kind of thing.
        what: &'static str,
        /// How it was named.
        name: String,
    },
    /// It is there already.
    #[error("{what} '{name}' exists already")]
    Exists {
        /// The kind of thing.
        what: &'static str,
        /// How it was named.
        name: String,
    },
    /// A field that does not fit.
    #[error("{field}: {message}")]
    Invalid {
        /// The field, as a path into the body.
        field: String,
        /// What is wrong and what would fit.
        message: String,
    },
    /// A body that says to be of another kind.
    #[error("send JSON, with `content-type: application/json`")]
    MediaType,
    /// A body over its cap.
    #[error("the body is over {limit_bytes} bytes")]
    TooLarge {
        /// The cap.
        limit_bytes: u64,
    },
    /// A body that comes too slowly, or not at all.
    #[error("the body came too slowly: nothing for {stall_ms} ms, or far less than 16 KiB a second")]
    BodyTimeout {
        /// How long nothing may come.
        stall_ms: u64,
    },
    /// An upload over what the tenant may store.
    #[error(
        "the upload has {bytes} bytes, and {used_bytes} of the tenant's {limit_bytes} are in use: \
         ask the operator for more"
    )]
    StorageQuota {
        /// Bytes of the upload.
        bytes: u64,
        /// Bytes that the tenant stores.
        used_bytes: u64,
        /// Bytes that it may store.
        limit_bytes: u64,
    },
    /// An upload for which bytes must be collected first.
    #[error(
        "{waiting_bytes} bytes of what was deleted are still on the disk: they are collected within half an \
         hour, try again then"
    )]
    StorageWaits {
        /// Bytes that wait to be collected.
        waiting_bytes: u64,
    },
    /// An upload beyond what the tenant may upload in an hour.
    #[error(
        "the tenant may upload {max} components and graphs an hour: try again in {retry_after_s} seconds"
    )]
    UploadQuota {
        /// Uploads in an hour.
        max: u32,
        /// Seconds until the next hour.
        retry_after_s: u64,
    },
    /// A change of a tenant that is closed.
    #[error("the tenant is closed for good: create another one")]
    ClosedIsFinal,
    /// A key that has ended and cannot be made to go on.
    #[error("key {0} has ended: create another one")]
    KeyEnded(domain::KeyId),
    /// An idempotency key that another request had.
    #[error(
        "this idempotency key was sent with another request: send each request under a key of its own, and \
         only a retry under the same"
    )]
    IdempotencyKeyReused,
    /// An idempotency key whose request still runs.
    #[error("the request under this idempotency key still runs: try again in a second")]
    IdempotencyKeyInUse,
    /// An idempotency key on an invocation.
    #[error(
        "each invocation is run and charged, so it takes no idempotency key: leave the header out, and know \
         that a retry costs"
    )]
    IdempotencyKeyRefused,
    /// An upload that is no pipeline.
    #[error(transparent)]
    Inspect(#[from] runtime::InspectError),
    /// A component that does not compile here.
    #[error(transparent)]
    Compile(#[from] runtime::CompileError),
    /// A graph that does not load.
    #[error(transparent)]
    Load(#[from] inference::LoadError),
    /// Too many calls of the tenant wait.
    #[error("{queue} calls of this tenant wait already: try again in a second")]
    QueueFull {
        /// The bound.
        queue: u64,
    },
    /// The call would start after its deadline.
    #[error("no place was free within {deadline_ms} ms: try again later or raise limits.deadline_ms")]
    QueueTimeout {
        /// The deadline.
        deadline_ms: u64,
    },
    /// Postgres has been away for so long that the journal has no room for the records of new calls.
    #[error("the journal is filling because Postgres does not take its windows: try again later")]
    JournalFilling,
    /// The journal has no room, because the ledger refuses what is in it.
    #[error(
        "the host cannot record calls because its ledger refuses a posting: its operator must look at /readyz"
    )]
    LedgerRefuses,
    /// The journal's disk had no room for the last record.
    #[error(
        "the host's disk has no room for the records of calls: try again once its operator has made some"
    )]
    DiskFull,
    /// The journal cannot be written, so that no call could be recorded.
    #[error("the host cannot keep records of calls: the operator must look after its disk and restart it")]
    JournalBroken,
    /// The host is going down.
    #[error("the host is draining: try again in a moment")]
    Draining,
    /// A call that ran and did not answer.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// An accepted call that came to nothing, for whatever cause: it has a receipt all the same.
    #[error("{cause}")]
    Accepted {
        /// What was recorded of it.
        recorded: Box<Recorded>,
        /// Why; never of this kind itself.
        cause: Box<Self>,
    },
    /// A proof of a receipt that may still change.
    #[error("receipt {0} is provisional: its proof can be had once it is final and a checkpoint covers it")]
    ReceiptNotFinal(domain::InvocationId),
    /// A proof of a receipt that nothing has signed yet.
    #[error(
        "no checkpoint covers all of receipt {receipt} yet: the next one is made within {retry_after_s} seconds, \
         try again a minute later"
    )]
    ReceiptNotProven {
        /// The receipt.
        receipt: domain::InvocationId,
        /// Seconds until the next checkpoint.
        retry_after_s: u64,
    },
    /// An archive that is not there or not what was archived, or lines that cannot be archived.
    #[error(transparent)]
    Archive(#[from] super::archived::ArchiveError),
    /// A valuation that cannot be counted.
    #[error(transparent)]
    Carbon(#[from] domain::carbon::CarbonError),
    /// More use than is valued at once, or more factors than that takes.
    #[error("that is over {limit} {what}: ask for a shorter time, one tenant or one deployment")]
    TooMuchUse {
        /// Rows of what.
        what: &'static str,
        /// The most rows.
        limit: u32,
    },
    /// A month that cannot be closed, or is.
    #[error(transparent)]
    Period(#[from] super::close::PeriodError),
    /// A bill that cannot be counted.
    #[error(transparent)]
    Money(#[from] domain::billing::TooMuchMoney),
    /// The ledger cannot keep a record, so nothing is run.
    #[error(transparent)]
    Journal(#[from] journal::JournalError),
    /// Postgres failed.
    #[error(transparent)]
    Db(#[from] db::DbError),
    /// The blob store failed.
    #[error(transparent)]
    Blob(#[from] crate::blobs::BlobError),
    /// The machine failed us.
    #[error("input or output failed: {0}")]
    Io(#[from] std::io::Error),
    /// A task of the host panicked or was cut off.
    #[error("the host failed")]
    Internal,
}

impl Error {
    /// A field that does not fit.
    pub fn invalid(field: impl Into<String>, message: impl ToString) -> Self {
        Self::Invalid {
            field: field.into(),
            message: message.to_string(),
        }
    }

    /// A thing that is not there.
    pub fn not_found(what: &'static str, name: impl ToString) -> Self {
        Self::NotFound {
            what,
            name: name.to_string(),
        }
    }

    /// What was recorded, where a call was accepted.
    pub fn recorded(&self) -> Option<&Recorded> {
        match self {
            Self::Accepted { recorded, .. } => Some(recorded),
            _ => None,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Recorded {
    /// What the recorded call came to, with the record: beside its value, or inside its error.
    pub fn with<T>(self, result: Result<T, Error>) -> Result<(T, Self), Error> {
        match result {
            Ok(value) => Ok((value, self)),
            Err(cause) => Err(Error::Accepted {
                recorded: Box::new(self),
                cause: Box::new(cause),
            }),
        }
    }
}
