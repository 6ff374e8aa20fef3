//! The running server, as its pid file and the kernel tell it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{PostgresError, io_error};
use crate::wait::{Deadline, SLOW_LIMIT};

/// The shortest question of the protocol, "do you speak TLS?": its length, then its code. The
/// server answers with one byte before it looks at anything else.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// How long an answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What the server says of itself in the last line of its pid file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Not yet open for connections, or not yet written.
    Starting,
    /// Takes connections.
    Ready,
    /// Was told to stop.
    Stopping,
}

/// A server that really lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Postmaster {
    pub(crate) pid: Pid,
    pub(crate) port: u16,
    pub(crate) socket_dir: PathBuf,
    pub(crate) status: Status,
}

/// Where the server of `data_dir` writes its pid.
pub(crate) fn pid_file(data_dir: &Path) -> PathBuf {
    data_dir.join("postmaster.pid")
}

impl Postmaster {
    /// The living server of `data_dir`. A pid file alone proves nothing: it outlives a kill, and
    /// its number may by now be another process.
    pub(crate) fn living(data_dir: &Path) -> Result<Option<Self>, PostgresError> {
        let path = pid_file(data_dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        Ok(parse(&text).filter(|found| found.serves(data_dir)))
    }

    /// Waits until the server has made up its mind: ready, or gone.
    pub(crate) fn settled(data_dir: &Path) -> Result<Option<Self>, PostgresError> {
        let deadline = Deadline::after(SLOW_LIMIT);
        loop {
            match Self::living(data_dir)? {
                Some(found) if found.status != Status::Ready => {
                    deadline.pause(|| format!("the server with pid {} to settle", found.pid))?;
                }
                settled => return Ok(settled),
            }
        }
    }

    /// Does it answer at its socket? Something that cleans temporary files may have taken the
    /// socket, or the server is dying of a kill. One that is only slow counts as answering.
    pub(crate) fn answers(&self) -> bool {
        let ask = || {
            let mut stream = UnixStream::connect(socket(&self.socket_dir, self.port))?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            stream.write_all(&SSL_REQUEST)?;
            stream.read_exact(&mut [0])
        };
        match ask() {
            Ok(()) => true,
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Fast shutdown: clients are cut off, everything is written, then the process ends.
    pub(crate) fn stop(&self, data_dir: &Path) -> Result<(), PostgresError> {
        match kill_process(self.pid, Signal::INT) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(io_error("signal the server of", data_dir)(errno.into())),
        }
        let deadline = Deadline::after(SLOW_LIMIT);
        while self.serves(data_dir) {
            deadline.pause(|| format!("the server with pid {} to stop", self.pid))?;
        }
        Ok(())
    }

    /// Is this pid a living postmaster of that directory?
    #[cfg(target_os = "linux")]
    fn serves(&self, data_dir: &Path) -> bool {
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        let Ok(stat) = std::fs::read_to_string(process.join("stat")) else {
            return false;
        };
        // `pid (name) state …`; the name may hold parentheses itself. Z and X are dead.
        let Some((head, tail)) = stat.rsplit_once(") ") else {
            return false;
        };
        let named = ["(postgres", "(postmaster"]
            .iter()
            .any(|name| head.ends_with(name));
        if !named || tail.starts_with(['Z', 'X']) {
            return false;
        }
        // A postmaster stays in its data directory. Where the kernel does not tell us (root
        // without CAP_SYS_PTRACE in a container), its arguments do.
        match std::fs::read_link(process.join("cwd")) {
            Ok(cwd) => cwd == data_dir,
            Err(_) => std::fs::read(process.join("cmdline")).is_ok_and(|line| {
                line.split(|b| *b == 0)
                    .any(|word| word == data_dir.as_os_str().as_encoded_bytes())
            }),
        }
    }

    /// Is this pid a living postmaster of that directory?
    #[cfg(not(target_os = "linux"))]
    fn serves(&self, data_dir: &Path) -> bool {
        let pid = self.pid.to_string();
        let Ok(output) = std::process::Command::new("ps")
            .args(["-ww", "-o", "stat=,command=", "-p", &pid])
            .output()
        else {
            return false;
        };
        let line = String::from_utf8_lossy(&output.stdout);
        !line.trim_start().starts_with('Z')
            && line.contains("postgres")
            && line.contains(&*data_dir.to_string_lossy())
    }
}

/// The socket's path, as libpq and the server both form it.
pub(crate) fn socket(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!(".s.PGSQL.{port}"))
}

/// The pid file's lines: pid, data directory, start time, port, socket directory, listen address,
/// shared memory key, status. A young file lacks the later ones. A negative pid is a server in
/// single-user mode, which nobody can connect to.
fn parse(text: &str) -> Option<Postmaster> {
    let mut lines = text.lines();
    let pid = lines
        .next()?
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw)?;
    let port = lines
        .nth(2)
        .and_then(|line| line.trim().parse().ok())
        .unwrap_or(0);
    let socket_dir = PathBuf::from(lines.next().unwrap_or_default());
    let status = match lines.nth(2).map(str::trim) {
        Some("ready" | "standby") => Status::Ready,
        Some("stopping") => Status::Stopping,
        _ => Status::Starting,
    };
    Some(Postmaster {
        pid,
        port,
        socket_dir,
        status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = "4711\n/data/pg\n1700000000\n5432\n/run/wattle/x\n\n  1234 5\nready   \n";

    #[test]
    fn pid_files_are_read_at_every_age() {
        let ready = parse(READY).unwrap();
        assert_eq!((ready.port, ready.status), (5432, Status::Ready));
        assert_eq!(ready.socket_dir, Path::new("/run/wattle/x"));
        assert_eq!(
            parse(&READY.replace("ready   ", "starting")).unwrap().status,
            Status::Starting
        );
        assert_eq!(
            parse(&READY.replace("ready   ", "stopping")).unwrap().status,
            Status::Stopping
        );
        assert_eq!(
            parse("4711\n/data/pg\n1700000000\n5432\n").unwrap().status,
            Status::Starting
        );
        assert_eq!(parse(""), None);
        assert_eq!(parse("-4711\n"), None);
    }

    #[test]
    fn a_living_process_that_is_no_server_is_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            pid_file(dir.path()),
            READY.replace("4711", &std::process::id().to_string()),
        )
        .unwrap();
        assert_eq!(Postmaster::living(dir.path()).unwrap(), None);
    }
}
