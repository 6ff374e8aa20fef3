//! The supervisor of the embedded Postgres cluster. It knows no SQL client: it finds the
//! binaries, makes the cluster, starts or adopts its server, and stops it.
//!
//! The server is a process of its own that outlives the host: after a kill the next host finds
//! it running and goes on with it. It listens on a private socket only, and the kernel says who
//! the peer is, so there is no password to lose.
//!
//! Everything here blocks; call it before the async runtime starts or from a blocking thread.

mod discovery;
mod dump;
mod error;
mod identity;
mod initialise;
mod launch;
mod postmaster;
mod wait;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use crate::discovery::{Installation, discover};
pub use crate::error::PostgresError;
use crate::error::io_error;
use crate::identity::User;
use crate::launch::Launch;
use crate::postmaster::Postmaster;
use crate::wait::StartLock;

/// The bootstrap superuser: it runs migrations and owns the database. Never used to serve.
pub const OWNER_ROLE: &str = "wattle_owner";
/// The role that the host logs in as. Peer authentication allows it; migrations make it.
pub const HOST_ROLE: &str = "wattle_host";
/// The database that exists from the first start on.
pub const DATABASE: &str = "wattle";
/// How the directories around throwaway clusters begin; nothing else is ever removed.
const THROWAWAY_PREFIX: &str = "wattle-test-";

/// How to run a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster's directory, made when missing. Its parent holds the lock beside it.
    pub data_dir: PathBuf,
    /// The bin directory to use instead of searching for one.
    pub bin_dir: Option<PathBuf>,
    /// Server settings that win over ours; they bind only a server that is started, not adopted.
    pub settings: Vec<(String, String)>,
    /// Nothing is synced to disk: fast, and lost with the machine. For tests only.
    pub throwaway: bool,
}

impl Options {
    /// A cluster that keeps what it acknowledged.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            bin_dir: None,
            settings: Vec::new(),
            throwaway: false,
        }
    }

    /// A cluster for tests: no fsync.
    #[must_use]
    pub fn throwaway(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            throwaway: true,
            ..Self::new(data_dir)
        }
    }
}

/// A running cluster. Dropping it leaves the server running; [`Cluster::stop`] stops it.
#[derive(Debug, Clone)]
pub struct Cluster {
    data_dir: PathBuf,
    socket_dir: PathBuf,
    port: u16,
    adopted: bool,
}

impl Cluster {
    /// Adopts the server that runs in the data directory, or starts one, after `initdb` when the
    /// directory is new. Of two hosts that call this at once, one starts and the other adopts.
    ///
    /// # Errors
    /// Any [`PostgresError`]; its text says what to type.
    pub fn start(options: Options) -> Result<Self, PostgresError> {
        let data_dir = prepare(&options.data_dir)?;
        let _lock = StartLock::acquire(&data_dir)?;
        if let Some(cluster) = Self::adopt(&data_dir)? {
            tracing::info!(data_dir = %data_dir.display(), "adopted the running database server");
            return Ok(cluster);
        }

        let user = User::for_cluster(&data_dir)?;
        user.must_reach(&data_dir)?;
        let made = initialise::major_of(&data_dir)?;
        let installation =
            discovery::Search::from_environment(options.bin_dir.as_deref()).find(made.map(|major| {
                discovery::Made {
                    data_dir: &data_dir,
                    major,
                }
            }))?;
        user.must_reach(&installation.program("postgres"))?;
        tracing::info!(
            bin_dir = %installation.bin_dir.display(),
            major = installation.major,
            user = user.name,
            data_dir = %data_dir.display(),
            new = made.is_none(),
            "starting the database server"
        );
        if made.is_none() {
            initialise::initialise(&data_dir, &installation, &user, options.throwaway)?;
        }
        let launch = Launch {
            data_dir: &data_dir,
            installation: &installation,
            user: &user,
            options: &options,
        };
        let postmaster = launch.run()?;
        Ok(Self::of(&data_dir, postmaster, false))
    }

    /// The cluster of `data_dir` if its server runs. Starts nothing.
    ///
    /// # Errors
    /// [`PostgresError::Io`] when the directory cannot be read, [`PostgresError::Timeout`] when a
    /// server there neither starts nor stops.
    pub fn find(data_dir: &Path) -> Result<Option<Self>, PostgresError> {
        let Ok(data_dir) = data_dir.canonicalize() else {
            return Ok(None);
        };
        let found = Postmaster::settled(&data_dir)?;
        Ok(found.map(|postmaster| Self::of(&data_dir, postmaster, true)))
    }

    /// The living server, if it can be reached; one whose socket was taken away is stopped.
    fn adopt(data_dir: &Path) -> Result<Option<Self>, PostgresError> {
        let Some(postmaster) = Postmaster::settled(data_dir)? else {
            return Ok(None);
        };
        if postmaster.answers() {
            return Ok(Some(Self::of(data_dir, postmaster, true)));
        }
        tracing::warn!(pid = %postmaster.pid, "the database server lost its socket and is started again");
        postmaster.stop(data_dir)?;
        Ok(None)
    }

    fn of(data_dir: &Path, postmaster: Postmaster, adopted: bool) -> Self {
        let Postmaster { socket_dir, port, .. } = postmaster;
        Self {
            data_dir: data_dir.to_owned(),
            socket_dir,
            port,
            adopted,
        }
    }

    /// A connection string for `role` and `database`, understood by sqlx and libpq. The host
    /// before the `?` is a placeholder that the socket directory replaces.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        let socket_dir = self.socket_dir.to_string_lossy();
        format!(
            "postgres://{}@localhost:{}/{}?host={}",
            percent(role),
            self.port,
            percent(database),
            percent(&socket_dir)
        )
    }

    /// The server's process id, looked up afresh: none while it is down.
    #[must_use]
    pub fn postmaster_pid(&self) -> Option<u32> {
        let found = Postmaster::living(&self.data_dir).ok().flatten()?;
        u32::try_from(found.pid.as_raw_nonzero().get()).ok()
    }

    /// Was the server already running when we came?
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The cluster's directory, without links.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The directory of the server's socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Stops the server, started or adopted, by a fast shutdown, and waits until it is gone.
    /// Does nothing when it is down already.
    ///
    /// # Errors
    /// [`PostgresError::Io`] when the server may not be signalled, [`PostgresError::Timeout`] when
    /// it does not end.
    pub fn stop(&self) -> Result<(), PostgresError> {
        let _lock = StartLock::acquire(&self.data_dir)?;
        if let Some(postmaster) = Postmaster::living(&self.data_dir)? {
            postmaster.stop(&self.data_dir)?;
            // Only ever empty of our own making; if not, it is not ours to remove.
            let _ = std::fs::remove_dir(&self.socket_dir);
        }
        Ok(())
    }
}

/// Where the throwaway cluster known by `key` goes (a path in the workspace): in memory where
/// there is enough of it, else among temporary files. The same for every process of one user, so
/// that they share one cluster.
#[must_use]
pub fn throwaway_dir(key: &Path) -> PathBuf {
    // Containers often have 64 MiB there, less than an empty cluster. The whole size is asked
    // and not what is free, because every process must come to the same answer.
    let memory = Path::new("/dev/shm");
    let roomy = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_blocks * fs.f_frsize >= 1 << 30);
    let base = if roomy {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let key = launch::fnv1a(key.as_os_str().as_encoded_bytes());
    let uid = rustix::process::geteuid().as_raw();
    base.join(format!("{THROWAWAY_PREFIX}{uid}-{key:016x}/pg"))
}

/// Stops the throwaway cluster in `data_dir` and removes it with the directory around it.
///
/// # Errors
/// As [`Cluster::stop`]; [`PostgresError::Io`] when something cannot be removed;
/// [`PostgresError::NotACluster`] when the directory around it is not of [`throwaway_dir`]'s making.
pub fn remove_throwaway(data_dir: &Path) -> Result<(), PostgresError> {
    let around = data_dir.parent().unwrap_or(data_dir);
    if !around
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(THROWAWAY_PREFIX))
    {
        return Err(PostgresError::NotACluster {
            data_dir: data_dir.to_owned(),
        });
    }
    if let Some(cluster) = Cluster::find(data_dir)? {
        cluster.stop()?;
    }
    match std::fs::remove_dir_all(around) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", around)(error)),
        _ => Ok(()),
    }
}

/// Makes the parent of the data directory and gives the directory's path without links, which is
/// how its server is recognised.
fn prepare(data_dir: &Path) -> Result<PathBuf, PostgresError> {
    if let Ok(real) = data_dir.canonicalize() {
        return Ok(real);
    }
    let absolute = std::path::absolute(data_dir).map_err(io_error("resolve", data_dir))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(PostgresError::NotACluster { data_dir: absolute });
    };
    if !parent.is_dir() {
        std::fs::create_dir_all(parent).map_err(io_error("make the directory", parent))?;
        // Passable but not listable, whatever the umask: the server's user must get through.
        std::fs::set_permissions(parent, PermissionsExt::from_mode(0o711))
            .map_err(io_error("open", parent))?;
    }
    Ok(parent
        .canonicalize()
        .map_err(io_error("resolve", parent))?
        .join(name))
}

/// Percent-encodes everything that has a meaning in a URL.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
