//! A host as a child process on a data directory and ports of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cli::client::Client;
use crate::cli::error::usage;

const READY_WITHIN: Duration = Duration::from_secs(120);
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

/// A running `wattle serve`; asked to end when dropped.
pub struct Host {
    child: Child,
    data: Data,
    listen: SocketAddr,
}

enum Data {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Host {
    /// Starts a host with 250 ms slices in 1 s windows, and waits until it is ready.
    ///
    /// Its data goes to a fresh temporary directory, or to `data`, which must be new or empty.
    pub async fn start(data: Option<&Path>) -> anyhow::Result<Self> {
        let data = match data {
            Some(dir) => Data::Given(new_directory(dir)?),
            None => Data::Temporary(temporary_directory()?),
        };
        let (listen, admin) = (free_port()?, free_port()?);
        let child = spawn(data.path(), listen, admin)?;
        let mut host = Self { child, data, listen };
        let late = |_| Err(anyhow::anyhow!("the host was not ready within {READY_WITHIN:?}"));
        let ready = tokio::time::timeout(READY_WITHIN, host.ready(admin))
            .await
            .unwrap_or_else(late);
        if let Err(error) = ready {
            eprintln!("{}", host.log_tail());
            let _ = host.stop().await; // what went wrong first is what counts
            return Err(error);
        }
        Ok(host)
    }

    /// The API's address.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The key that makes the first admin key.
    pub fn bootstrap_key(&self) -> anyhow::Result<String> {
        let path = self.data().join("bootstrap-admin-key");
        let key = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(key.trim().to_owned())
    }

    /// The last lines that the host logged.
    pub fn log_tail(&self) -> String {
        log_tail(self.data())
    }

    /// Leaves it running: its address, data directory and process id.
    pub fn leave(mut self) -> anyhow::Result<(String, PathBuf, u32)> {
        let url = self.url();
        let pid = self.child.id().context("the host has ended")?;
        let data = std::mem::replace(&mut self.data, Data::Given(PathBuf::new()));
        let path = match data {
            Data::Temporary(dir) => dir.keep(),
            Data::Given(path) => path,
        };
        std::mem::forget(self); // the drop would end it
        Ok((url, path, pid))
    }

    /// Keeps a temporary data directory when the host ends: it holds the log.
    pub fn keep_data(&mut self) {
        if let Data::Temporary(dir) = &mut self.data {
            dir.disable_cleanup(true);
        }
    }

    /// Asks it to drain, waits for its end, and removes a temporary data directory.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.terminate();
        match tokio::time::timeout(DRAINED_WITHIN, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => Ok(()),
            Ok(status) => bail!("the host ended with {}\n{}", status?, self.log_tail()),
            Err(_) => {
                self.child.kill().await?;
                bail!(
                    "the host did not drain within {DRAINED_WITHIN:?} and was killed\n{}",
                    self.log_tail()
                )
            }
        }
    }

    async fn ready(&mut self, admin: SocketAddr) -> anyhow::Result<()> {
        let client = Client::new(&format!("http://{admin}"), None)?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the host ended with {status} before it was ready");
            }
            if client.is_up("/readyz").await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn terminate(&self) {
        // `id` is none once the child was waited for, so this never hits a reused process id.
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.terminate();
    }
}

impl Data {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Given(path) => path,
        }
    }
}

fn spawn(data: &Path, listen: SocketAddr, admin: SocketAddr) -> anyhow::Result<Child> {
    let log = std::fs::File::create(data.join("host.log"))?;
    Command::new(std::env::current_exe()?)
        .arg("serve")
        .arg("--data")
        .arg(data)
        .args([
            "--listen",
            &listen.to_string(),
            "--admin-listen",
            &admin.to_string(),
        ])
        .args(["--slice-ms", "250", "--window-slices", "4"])
        // A root of its own: a host that already serves this machine keeps its meter.
        .args(["--meter-root", &format!("demo-{}", listen.port())])
        .env_remove("WATTLE_CONFIG")
        .env_remove("WATTLE_TLS_CERT")
        .env_remove("WATTLE_TLS_KEY")
        .env_remove("DATABASE_URL")
        .env_remove("DATABASE_OWNER_URL")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for the demo, which then asks the host to drain.
        .process_group(0)
        .spawn()
        .context("the host did not start")
}

/// An empty directory at `dir`, made if need be.
fn new_directory(dir: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    if std::fs::read_dir(dir)?.next().is_some() {
        return Err(usage(format!("--data {}: it is not empty", dir.display())));
    }
    Ok(std::path::absolute(dir)?)
}

/// Others may pass through but not look: Postgres runs as another user where the host is root.
fn temporary_directory() -> anyhow::Result<TempDir> {
    let mode = std::fs::Permissions::from_mode(0o711);
    Ok(tempfile::Builder::new()
        .prefix("wattle-demo-")
        .permissions(mode)
        .tempdir()?)
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The end of the log without the frames of stack traces, which the log itself keeps.
fn log_tail(data: &Path) -> String {
    const LINES: usize = 12;
    let log = std::fs::read_to_string(data.join("host.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().filter(|line| !line.starts_with(' ')).collect();
    let tail = &lines[lines.len().saturating_sub(LINES)..];
    format!("the host's last words:\n  {}", tail.join("\n  "))
}
