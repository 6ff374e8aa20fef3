//! The databases that tests use.
//!
//! Nextest runs each test in a process of its own, so the server cannot belong to one of them:
//! the first process starts it, the others adopt it, and it stays when they end. `cargo xtask
//! test` starts it before the tests and removes it after them; after a bare `cargo nextest run`
//! it goes on running, in memory and without a port, until [`stop_shared`] is called, the next
//! run finds it, or the machine restarts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use postgres::{Cluster, Options, remove_throwaway, throwaway_dir};

/// Where the shared cluster lives. `xtask test` forms the same key.
#[must_use]
pub fn shared_dir() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    throwaway_dir(&manifest.parent().unwrap_or(manifest).join("test"))
}

/// The server that all tests share; nothing in it is ever synced to disk. A test makes a
/// database of its own there, named by [`fresh_database_name`].
///
/// # Errors
/// When no server can be started; the text says what to install.
pub fn shared_cluster() -> Result<Cluster> {
    Cluster::start(Options::throwaway(shared_dir())).context("the tests' shared database server")
}

/// Stops the shared server and removes everything in it. For the end of a run: tests that are
/// still running lose their databases.
///
/// # Errors
/// When the server does not stop or its files cannot be removed.
pub fn stop_shared() -> Result<()> {
    remove_throwaway(&shared_dir()).context("the tests' shared database server")
}

/// A name that no other test uses, in this run or a broken-off one before it.
#[must_use]
pub fn fresh_database_name() -> String {
    format!("test_{}", uuid::Uuid::new_v4().simple())
}

/// A server of a test's own, synced to disk as in earnest: for tests that kill it or stop it.
#[derive(Debug)]
pub struct PrivateCluster {
    cluster: Cluster,
    options: Options,
    _dir: tempfile::TempDir,
}

impl PrivateCluster {
    /// Makes and starts one (1 to 5 s).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("wattle-private-").tempdir()?;
        // The server's user has to get through when the tests run as root.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        let options = Options::new(dir.path().join("pg"));
        let cluster = Cluster::start(options.clone()).context("a test's own database server")?;
        Ok(Self {
            cluster,
            options,
            _dir: dir,
        })
    }

    /// The cluster, for its addresses.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Kills the server as a fault would: nothing is written any more, and clients are cut off.
    ///
    /// # Errors
    /// When it is not running, or may not be killed.
    pub fn kill(&self) -> Result<()> {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = self
            .cluster
            .postmaster_pid()
            .context("the server is not running")?;
        let pid = Pid::from_raw(pid.cast_signed()).context("the server has no pid")?;
        kill_process(pid, Signal::KILL).context("killing the server")
    }

    /// Starts it again after a kill or a stop, with the same addresses.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.cluster = Cluster::start(self.options.clone()).context("a test's own database server")?;
        Ok(())
    }
}

impl Drop for PrivateCluster {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.stop() {
            eprintln!("a test's own database server stays behind: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_comes_to_the_same_server() {
        let one = shared_cluster().unwrap();
        let two = shared_cluster().unwrap();
        assert!(two.adopted());
        assert_eq!(one.postmaster_pid(), two.postmaster_pid());
        assert_ne!(fresh_database_name(), fresh_database_name());
    }

    #[test]
    fn a_killed_private_server_comes_back_at_the_same_address() {
        let mut private = PrivateCluster::start().unwrap();
        let before = private.cluster().url("role", "name");
        private.kill().unwrap();
        private.restart().unwrap();
        assert!(private.cluster().postmaster_pid().is_some());
        assert_eq!(private.cluster().url("role", "name"), before);
        assert_ne!(private.cluster().data_dir(), shared_dir());
    }
}
