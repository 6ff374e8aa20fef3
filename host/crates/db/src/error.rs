//! What can go wrong between the host and Postgres.

use std::fmt::Display;

use sqlx::error::ErrorKind;
use sqlx::migrate::MigrateError;

use crate::PostingKey;

/// A failed statement, or an answer that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Postgres is away, starting, stopping, or has no connection left. Trying later can help.
    #[error("postgres is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// There is such a row already.
    #[error("there is one already ({constraint})")]
    Conflict {
        /// The unique constraint, such as `tenant_name_key`.
        constraint: String,
    },
    /// The key of a posting that is in the ledger with another content.
    #[error("posting {0} is in the ledger with another content")]
    PostingConflict(PostingKey),
    /// What the row refers to is not there.
    #[error("it refers to something that is not there ({constraint})")]
    Reference {
        /// The foreign key, such as `release_tenant_component_revision_fkey`.
        constraint: String,
    },
    /// The row breaks a rule of its table.
    #[error("it breaks a rule ({constraint})")]
    Check {
        /// The check constraint, such as `transfer_amount_check`.
        constraint: String,
    },
    /// The row to be changed is not there, or not the caller's.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A value that the database cannot hold exactly.
    #[error("{field} cannot be stored exactly: {value}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A stored row that cannot be understood, or a statement that touched too few or too many rows.
    #[error("inconsistent {field}: {value}")]
    Inconsistent {
        /// The field or the table.
        field: &'static str,
        /// What was found there.
        value: String,
    },
    /// The migrations cannot be run, or the database is newer than this host.
    #[error("the migrations do not fit the database")]
    Migrate(#[source] MigrateError),
    /// Anything else that the driver reports: a defect of a statement.
    #[error("a statement failed")]
    Statement(#[source] sqlx::Error),
}

impl DbError {
    pub(crate) fn out_of_range(field: &'static str, value: impl Display) -> Self {
        Self::OutOfRange {
            field,
            value: value.to_string(),
        }
    }

    pub(crate) fn inconsistent(field: &'static str, value: impl Display) -> Self {
        Self::Inconsistent {
            field,
            value: value.to_string(),
        }
    }
}

/// Whether the server says that it is going, coming or full (classes 08 and 57P, and 53300).
fn is_away(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P") || code == "53300"
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        let named = |database: &dyn sqlx::error::DatabaseError| {
            database.constraint().unwrap_or("unnamed constraint").to_owned()
        };
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            sqlx::Error::Database(database) => match database.kind() {
                ErrorKind::UniqueViolation => Self::Conflict {
                    constraint: named(database.as_ref()),
                },
                ErrorKind::ForeignKeyViolation => Self::Reference {
                    constraint: named(database.as_ref()),
                },
                ErrorKind::CheckViolation => Self::Check {
                    constraint: named(database.as_ref()),
                },
                _ if database.code().is_some_and(|code| is_away(&code)) => Self::Unavailable(error),
                _ => Self::Statement(error),
            },
            _ => Self::Statement(error),
        }
    }
}

impl From<MigrateError> for DbError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) => match Self::from(error) {
                Self::Unavailable(error) => Self::Unavailable(error),
                Self::Statement(error) => Self::Migrate(MigrateError::Execute(error)),
                other => other,
            },
            other => Self::Migrate(other),
        }
    }
}
