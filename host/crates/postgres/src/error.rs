//! What may go wrong, said so that the reader knows what to type next.

use std::io;
use std::path::{Path, PathBuf};

/// Why the cluster could not be found, made, started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No usable installation was found anywhere.
    #[error("no PostgreSQL 14 or later was found (its `postgres` and `initdb`); to get one: {command}")]
    NoBinaries {
        /// The one command that mends it.
        command: String,
    },
    /// The directory that was named explicitly holds no usable installation.
    #[error("{} is named as PostgreSQL's bin directory, but {reason}", bin_dir.display())]
    BinDir {
        /// The named directory.
        bin_dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data directory belongs to a major version that is not installed.
    #[error(
        "{} was made by PostgreSQL {needed}, but only {found} was found; \
         set WATTLE_PG_BIN to the bin directory of {needed}, or: {command}",
        data_dir.display()
    )]
    WrongMajor {
        /// The data directory.
        data_dir: PathBuf,
        /// The major version it needs.
        needed: u32,
        /// The versions that are installed, for people.
        found: String,
        /// The one command that mends it.
        command: String,
    },
    /// The data directory holds something else.
    #[error("{} is not empty and not a PostgreSQL data directory; name another one", data_dir.display())]
    NotACluster {
        /// The directory.
        data_dir: PathBuf,
    },
    /// The data directory belongs to a user that we can or may not become.
    #[error("{} belongs to uid {owner}; {remedy}", data_dir.display())]
    WrongOwner {
        /// The directory.
        data_dir: PathBuf,
        /// Its owner.
        owner: u32,
        /// What to do.
        remedy: &'static str,
    },
    /// Root needs an ordinary user for the server, and there is none.
    #[error("PostgreSQL must not run as root, and no user for it exists; type: useradd --system {user}")]
    NoUser {
        /// The name of the dedicated user.
        user: &'static str,
    },
    /// The server's user cannot walk to a path.
    #[error(
        "user {user} cannot reach {} because {} is closed to it; type: chmod o+x {}, or name another place",
        path.display(), closed.display(), closed.display()
    )]
    Unreachable {
        /// The server's user.
        user: String,
        /// What it has to reach.
        path: PathBuf,
        /// The ancestor that stops it.
        closed: PathBuf,
    },
    /// No place for the socket could be made.
    #[error("no directory for the server's socket: {reason}")]
    SocketDir {
        /// Why the last candidate failed.
        reason: String,
    },
    /// A helper program of the installation failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Which one.
        program: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// The server ended instead of coming up.
    #[error("the server did not start; {} ends with: {tail}", log.display())]
    Start {
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// Another process still holds the data directory, as far as Postgres can tell.
    #[error(
        "{} is still held after {seconds} s, and its process is not this cluster's server ({tail}); \
         only when you are certain that none runs there: rm {}",
        pid_file.display(), pid_file.display()
    )]
    Held {
        /// The pid file, which is never removed here.
        pid_file: PathBuf,
        /// How long it was tried.
        seconds: u64,
        /// What the server said last.
        tail: String,
    },
    /// Something took longer than it ever should.
    #[error("gave up after {seconds} s waiting for {what}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
    },
}

/// Adds the action and the path to a system error.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    let path = path.to_owned();
    move |source| PostgresError::Io { action, path, source }
}
