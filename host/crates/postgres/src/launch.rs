//! Starting the server on a cluster that exists.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc;

use crate::discovery::Installation;
use crate::error::{PostgresError, io_error};
use crate::identity::User;
use crate::initialise::last_lines;
use crate::postmaster::{Postmaster, Status, pid_file, socket};
use crate::wait::{Deadline, RETRY_LIMIT, SLOW_LIMIT, nap};
use crate::{HOST_ROLE, OWNER_ROLE, Options};

/// Only names the socket: the server has no TCP port.
const PORT: u16 = 5432;
/// The shortest limit of any system that we run on (macOS; Linux has 107).
const LONGEST_SOCKET_BYTES: usize = 103;
/// A log longer than this is set aside when the server starts.
const LOG_LIMIT_BYTES: u64 = 8 << 20;
/// The name of the map from system users to roles.
const MAP: &str = "wattle";

/// What is needed to start, and to start again.
pub(crate) struct Launch<'a> {
    pub(crate) data_dir: &'a Path,
    pub(crate) installation: &'a Installation,
    pub(crate) user: &'a User,
    pub(crate) options: &'a Options,
}

enum Attempt {
    Ready(Postmaster),
    Ended(ExitStatus),
}

impl Launch<'_> {
    /// Starts the server and waits until it takes connections. A killed predecessor keeps the
    /// directory for some seconds, so a refusal is tried again; its pid file is never removed,
    /// because it is what keeps two servers from writing to one directory.
    pub(crate) fn run(&self) -> Result<Postmaster, PostgresError> {
        self.write_access()?;
        let socket_dir = self.prepare_socket_dir()?;
        let log = self.data_dir.join("postgres.log");
        self.set_aside(&log)?;
        let deadline = Deadline::after(RETRY_LIMIT);
        loop {
            let from_bytes = std::fs::metadata(&log).map_or(0, |m| m.len());
            let status = match self.attempt(&socket_dir, &log)? {
                Attempt::Ready(postmaster) => return Ok(postmaster),
                Attempt::Ended(status) => status,
            };
            // Somebody may have started it by hand meanwhile.
            if let Some(other) = Postmaster::settled(self.data_dir)? {
                return Ok(other);
            }
            let tail = read_tail(&log, from_bytes);
            let pid_file = pid_file(self.data_dir);
            if !pid_file.exists() {
                return Err(PostgresError::Start {
                    log,
                    tail: format!("{tail} ({status})"),
                });
            }
            if deadline.passed() {
                return Err(PostgresError::Held {
                    pid_file,
                    seconds: RETRY_LIMIT.as_secs(),
                    tail,
                });
            }
            tracing::debug!(%tail, "the data directory is still held; trying again");
            nap(200);
        }
    }

    fn attempt(&self, socket_dir: &Path, log: &Path) -> Result<Attempt, PostgresError> {
        let program = self.installation.program("postgres");
        let output = self.user.append_to(log)?;
        let errors = output.try_clone().map_err(io_error("open", log))?;
        let mut command = self.user.command(&program);
        command.arg("-D").arg(self.data_dir);
        for (name, value) in self.settings(socket_dir) {
            let mut setting = OsString::from(name);
            setting.push("=");
            setting.push(value);
            command.arg("-c").arg(setting);
        }
        // In a process group of its own, so that ^C on the host does not reach the server: the
        // host drains first and then stops it.
        command.process_group(0).stdout(output).stderr(errors);
        let mut child = command.spawn().map_err(io_error("run", &program))?;
        let pid = child.id();

        // The child must be waited for, or a killed server would stay as a zombie whose pid
        // counts as alive. The thread ends with the server or with the host.
        let (sender, ended) = mpsc::channel();
        std::thread::Builder::new()
            .name("postgres-reaper".to_owned())
            .spawn(move || {
                if let Ok(status) = child.wait() {
                    tracing::debug!(pid, %status, "the database server ended");
                    let _ = sender.send(status);
                }
            })
            .map_err(io_error("watch", &program))?;

        let deadline = Deadline::after(SLOW_LIMIT);
        loop {
            if let Ok(status) = ended.try_recv() {
                return Ok(Attempt::Ended(status));
            }
            match Postmaster::living(self.data_dir)? {
                Some(found) if found.status == Status::Ready => return Ok(Attempt::Ready(found)),
                _ => deadline.pause(|| format!("the server with pid {pid} to start"))?,
            }
        }
    }

    /// The later of two settings with the same name wins.
    fn settings(&self, socket_dir: &Path) -> Vec<(String, OsString)> {
        let mut settings = vec![
            ("listen_addresses", ""),
            ("unix_socket_permissions", "0700"),
            ("max_connections", "100"),
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("logging_collector", "off"),
            ("log_checkpoints", "off"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ];
        if cfg!(target_os = "linux") {
            // After a crash the default opens every file of the directory to sync it.
            settings.push(("recovery_init_sync_method", "syncfs"));
        }
        if self.options.throwaway {
            // Many test processes share one server.
            settings.extend([
                ("fsync", "off"),
                ("synchronous_commit", "off"),
                ("full_page_writes", "off"),
            ]);
            settings.push(("max_connections", "400"));
        }
        let mut settings: Vec<(String, OsString)> = settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        settings.push(("port".to_owned(), PORT.to_string().into()));
        settings.push(("unix_socket_directories".to_owned(), socket_dir.into()));
        settings.extend(
            self.options
                .settings
                .iter()
                .map(|(name, value)| (name.clone(), value.into())),
        );
        settings
    }

    /// Who may connect: over the socket, and as whom is decided by the kernel's word on the
    /// peer. No password exists. Written at each start, so that nothing weaker stays behind.
    fn write_access(&self) -> Result<(), PostgresError> {
        let hba = format!("local all all peer map={MAP}\n");
        self.user.replace_file(&self.data_dir.join("pg_hba.conf"), &hba)?;

        let mut users = vec!["root".to_owned(), User::current().name, self.user.name.clone()];
        users.sort();
        users.dedup();
        let mut ident = String::new();
        for user in users {
            for role in [OWNER_ROLE, HOST_ROLE] {
                // Writing to a string cannot fail.
                let _ = writeln!(ident, "{MAP} \"{user}\" {role}");
            }
        }
        self.user
            .replace_file(&self.data_dir.join("pg_ident.conf"), &ident)
    }

    /// A short private directory of this cluster for the socket: the data directory's own path
    /// may be too long. Which one it is stands in the pid file, so nobody has to guess it.
    fn prepare_socket_dir(&self) -> Result<PathBuf, PostgresError> {
        let metadata = std::fs::metadata(self.data_dir).map_err(io_error("look at", self.data_dir))?;
        let mut key = self.data_dir.as_os_str().as_encoded_bytes().to_vec();
        // The same path may be another directory in another container that shares /tmp.
        key.extend(metadata.dev().to_le_bytes());
        key.extend(metadata.ino().to_le_bytes());
        let name = format!("wattle-pg-{:016x}", fnv1a(&key));

        let mut reason = "every candidate's path is too long".to_owned();
        for base in self.socket_bases() {
            let dir = base.join(&name);
            if socket(&dir, PORT).as_os_str().len() > LONGEST_SOCKET_BYTES {
                continue;
            }
            match self
                .user
                .must_reach(&dir)
                .and_then(|()| self.user.private_dir(&dir))
            {
                Ok(()) => {
                    // No server lives here (the caller looked, under the lock), but the pid in a
                    // stale lock may be somebody else's by now and would stop the start.
                    let stale = socket(&dir, PORT);
                    let _ = std::fs::remove_file(stale.with_added_extension("lock"));
                    let _ = std::fs::remove_file(stale);
                    return Ok(dir);
                }
                Err(error) => reason = error.to_string(),
            }
        }
        Err(PostgresError::SocketDir { reason })
    }

    fn socket_bases(&self) -> Vec<PathBuf> {
        let mut bases = vec![PathBuf::from("/tmp"), std::env::temp_dir()];
        let run = PathBuf::from("/run/wattle");
        let open = |dir: &Path| std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).is_ok();
        if self.user.steps_down && std::fs::create_dir_all(&run).is_ok() && open(&run) {
            bases.insert(0, run);
        }
        bases
    }

    /// Keeps the last long log and begins a new one.
    fn set_aside(&self, log: &Path) -> Result<(), PostgresError> {
        if std::fs::symlink_metadata(log).is_ok_and(|m| m.len() > LOG_LIMIT_BYTES) {
            std::fs::rename(log, log.with_added_extension("1")).map_err(io_error("set aside", log))?;
        }
        Ok(())
    }
}

/// What the server wrote since `from_bytes`, shortened.
fn read_tail(log: &Path, from_bytes: u64) -> String {
    let mut text = Vec::new();
    let read = std::fs::File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(from_bytes))?;
        file.take(64 << 10).read_to_end(&mut text)
    });
    match read {
        Ok(_) => last_lines(&String::from_utf8_lossy(&text), 6),
        Err(error) => format!("(unreadable: {error})"),
    }
}

/// FNV-1a, 64 bits: a short name, the same in every build; nothing is trusted to it.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
