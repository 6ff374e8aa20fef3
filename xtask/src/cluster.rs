//! Throwaway database clusters for tests and chores.

use std::path::PathBuf;

use anyhow::Result;
use postgres::{
    Cluster, DATABASE, Installation, OWNER_ROLE, Options, discover, remove_throwaway, throwaway_dir,
};

use crate::packages::apt_install;
use crate::setup::{root, step};

/// The server's programs, by apt where there are none.
pub fn ensure_binaries() -> Result<Installation> {
    if let Ok(installation) = discover() {
        return Ok(installation);
    }
    apt_install(&["postgresql"])?;
    Ok(discover()?)
}

/// A cluster that is gone when this is dropped, unless it was running before.
pub struct Throwaway {
    cluster: Cluster,
    data_dir: PathBuf,
}

impl Throwaway {
    /// Starts the cluster of a purpose, or takes the one that runs; one purpose never disturbs another.
    pub fn start(purpose: &str) -> Result<Self> {
        ensure_binaries()?;
        step("start a throwaway database", "1 to 5 s", || {
            let data_dir = throwaway_dir(&root().join(purpose));
            let cluster = Cluster::start(Options::throwaway(&data_dir))?;
            Ok(Self { cluster, data_dir })
        })
    }

    /// A connection string for the role that owns everything.
    pub fn owner_url(&self) -> String {
        self.cluster.url(OWNER_ROLE, DATABASE)
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        // A cluster that was there before may be in use by somebody else.
        if self.cluster.adopted() {
            return;
        }
        if let Err(error) = remove_throwaway(&self.data_dir) {
            eprintln!("xtask: the throwaway database stays behind: {error}");
        }
    }
}
