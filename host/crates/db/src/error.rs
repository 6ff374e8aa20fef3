//! What can go wrong between the host and Postgres.

use std::fmt::Display;

use sqlx::error::ErrorKind;
use sqlx::migrate::MigrateError;

use crate::PostingKey;

/// A failed statement, or an answer that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Postgres is away, starting, stopping, short of something, or asks to try again. Trying later can help.
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
    /// A posting that does not follow the node's last one in the ledger: a fork, or a link is missing.
    #[error("posting {0} does not follow the last posting of its node in the ledger")]
    PostingChain(PostingKey),
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

/// Whether the server says that it cannot now what it may do later: it is going, coming, read-only, out of
/// something or lets nobody in, another transaction came in between, or this one took too long. Nothing is wrong
/// with the statement.
fn is_away(code: &str) -> bool {
    const CLASSES: [&str; 7] = ["08", "28", "3D", "40", "53", "57", "58"];
    CLASSES.iter().any(|class| code.starts_with(class))
        || ["25006", "25P03", "25P04", "55P03"].contains(&code)
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        let named = |database: &dyn sqlx::error::DatabaseError| {
            database.constraint().unwrap_or("unnamed constraint").to_owned()
        };
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            // A server that dies in the middle of a message.
            | sqlx::Error::Protocol(_)
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
            sqlx::Error::ColumnDecode { index, source } => {
                Self::inconsistent("column", format_args!("{index}: {source}"))
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_away() {
        for code in [
            "08006", "28000", "3D000", "40001", "40P01", "53100", "53300", "57014", "57P01", "57P03", "25006",
        ] {
            assert!(is_away(code), "{code}");
        }
        for code in ["23505", "23514", "22P02", "42501", "42P01", "25P02", "XX000"] {
            assert!(!is_away(code), "{code}");
        }
    }
}
