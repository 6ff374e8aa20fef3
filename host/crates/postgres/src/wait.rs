//! Waiting for another process: the only clock and the only sleep of this crate.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{PostgresError, io_error};

/// How long a start or a stop may take: recovery after a crash can last minutes.
pub(crate) const SLOW_LIMIT: Duration = Duration::from_secs(600);
/// How long a refused start is tried again. A killed server's children and its pid
/// linger for some seconds, and until then the data directory counts as held.
pub(crate) const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// A point after which waiting ends.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self {
            at: now() + limit,
            limit,
        }
    }

    pub(crate) fn passed(&self) -> bool {
        now() >= self.at
    }

    /// Sleeps a little, or fails when the time is over.
    pub(crate) fn pause(&self, what: impl FnOnce() -> String) -> Result<(), PostgresError> {
        if self.passed() {
            return Err(PostgresError::Timeout {
                what: what(),
                seconds: self.limit.as_secs(),
            });
        }
        nap(20);
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "bounds how long another process is waited for; never billed or stored"
)]
fn now() -> Instant {
    Instant::now()
}

/// Postgres tells its state only through a file, and the file's readers can only look again.
pub(crate) fn nap(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Held while a cluster is being started or stopped, so that of two hosts one acts and the other
/// finds the result. Freed by the kernel when the holder dies.
pub(crate) struct StartLock {
    _file: std::fs::File,
}

impl StartLock {
    /// Waits for the lock of the cluster in `data_dir`; the file lies beside the directory.
    pub(crate) fn acquire(data_dir: &Path) -> Result<Self, PostgresError> {
        let path = data_dir.with_added_extension("lock");
        let file = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io_error("open the lock", &path))?;
        let deadline = Deadline::after(SLOW_LIMIT);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    deadline.pause(|| format!("the lock {}", path.display()))?;
                }
                Err(errno) => return Err(io_error("lock", &path)(errno.into())),
            }
        }
    }
}
