//! A host as a process of its own on an embedded Postgres, for tests that kill either.

use std::fs::{File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use domain::posting::{Posting, PostingKind};
use journal::Journal;
use postgres::Cluster;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{Client, guests};

/// How long a start may take: Postgres may have a crash of its own to recover from.
const READY_WITHIN: Duration = Duration::from_secs(90);
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// A data directory with a `wattle serve` on it, started and killed as often as a test likes.
/// Dropping it ends the host and its Postgres and removes the directory.
pub struct HostProcess {
    data: tempfile::TempDir,
    meter_root: String,
    running: Option<Running>,
    log_unread: bool,
    flags: Vec<String>,
    environment: Vec<(&'static str, String)>,
    windows: &'static [&'static str],
}

struct Running {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

/// What a journal holds that the database may lack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Left {
    /// Sealed postings.
    pub undrained: usize,
    /// Those of them that are allocations.
    pub allocations: usize,
    /// Slices of the open window.
    pub slices: usize,
    /// Calls that no slice has claimed.
    pub finished: usize,
}

impl HostProcess {
    /// A fresh directory with nothing running.
    pub fn new() -> anyhow::Result<Self> {
        // The server's user has to get through when the tests run as root.
        let data = tempfile::Builder::new()
            .prefix("wattle-process-")
            .permissions(Permissions::from_mode(0o711))
            .tempdir()?;
        let meter_root = format!("test-{}", uuid::Uuid::new_v4().simple());
        Ok(Self {
            data,
            meter_root,
            running: None,
            log_unread: false,
            flags: Vec::new(),
            environment: Vec::new(),
            windows: &["--slice-ms", "100", "--window-slices", "4"],
        })
    }

    /// A fresh directory for a host that goes on where this one ended: it bills the same root.
    pub fn heir(&self) -> anyhow::Result<Self> {
        let mut heir = Self::new()?;
        heir.meter_root.clone_from(&self.meter_root);
        heir.flags.clone_from(&self.flags);
        heir.environment.clone_from(&self.environment);
        heir.windows = self.windows;
        Ok(heir)
    }

    /// From the next start on, standard error is a pipe that nobody reads.
    pub fn leave_log_unread(&mut self) {
        self.log_unread = true;
    }

    /// From the next start on, the host has more flags.
    pub fn add_flags(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
    }

    /// From the next start on, the host has these variables too.
    pub fn add_environment(&mut self, variables: Vec<(&'static str, String)>) {
        self.environment.extend(variables);
    }

    /// From the next start on, slices and windows are as long as in production: tests have short ones.
    pub fn keep_default_windows(&mut self) {
        self.windows = &[];
    }

    /// Starts a host, with a journal mode and what `WATTLE_FAULT` is to be, and waits until it is ready.
    /// False if it killed itself at the fault before it was.
    pub async fn start(&mut self, journal: &str, fault: Option<&str>) -> anyhow::Result<bool> {
        ensure!(self.running.is_none(), "a host runs already");
        let (listen, admin) = (free_port()?, free_port()?);
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(guests::wattle()?);
        command
            .arg("serve")
            .args(self.windows)
            .args(["--meter-idle-w", "40", "--meter-max-w", "120"])
            .args(["--meter-root", &self.meter_root, "--journal", journal])
            .args(["--listen", &listen.to_string()])
            .args(["--admin-listen", &admin.to_string()])
            .arg("--data")
            .arg(self.data.path())
            .args(&self.flags)
            .env_remove("WATTLE_CONFIG")
            .env_remove("DATABASE_URL")
            .env_remove("DATABASE_OWNER_URL")
            .env_remove("WATTLE_FAULT")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(match self.log_unread {
                true => Stdio::piped(),
                false => log.into(),
            });
        if let Some(fault) = fault {
            command.env("WATTLE_FAULT", fault);
        }
        let child = command.spawn().context("the host did not start")?;
        self.running = Some(Running { child, listen, admin });
        let late = |_| Err(anyhow::anyhow!("the host was not ready within {READY_WITHIN:?}"));
        let ready = tokio::time::timeout(READY_WITHIN, self.ready()).await;
        match ready.unwrap_or_else(late)? {
            None => Ok(true),
            Some(status) if fault.is_some() && killed(status) => {
                self.running = None;
                Ok(false)
            }
            Some(status) => {
                self.running = None;
                bail!(
                    "the host ended with {status} before it was ready:\n{}",
                    self.log_tail()
                )
            }
        }
    }

    /// Runs `wattle calibrate` on the data directory and the meters of the host.
    pub async fn calibrate(&self, args: &[&str]) -> anyhow::Result<std::process::Output> {
        let mut command = tokio::process::Command::new(guests::wattle()?);
        command
            .arg("calibrate")
            .args(args)
            .args(["--meter-idle-w", "40", "--meter-max-w", "120"])
            .args(["--meter-root", &self.meter_root])
            .arg("--data")
            .arg(self.data.path())
            .args(&self.flags)
            .env_clear();
        Ok(command.output().await?)
    }

    /// Waits until the host is ready, or gives how it ended instead.
    async fn ready(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let ops = Client::new(format!("http://{}", self.running()?.admin), None);
        loop {
            if let Some(status) = self.running()?.child.try_wait()? {
                return Ok(Some(status));
            }
            if ops.get("/readyz").await.is_ok_and(|answer| answer.status == 200) {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn running(&mut self) -> anyhow::Result<&mut Running> {
        self.running.as_mut().context("no host runs")
    }

    /// A caller of the running host.
    pub fn client(&self, key: Option<&str>) -> anyhow::Result<Client> {
        let running = self.running.as_ref().context("no host runs")?;
        let base = format!("http://{}", running.listen);
        Ok(Client::new(base, key.map(ToOwned::to_owned)))
    }

    /// A caller of the running host's operators' listener.
    pub fn ops(&self) -> anyhow::Result<Client> {
        let running = self.running.as_ref().context("no host runs")?;
        Ok(Client::new(format!("http://{}", running.admin), None))
    }

    /// A number on the operators' page.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let request = self.ops()?.request(reqwest::Method::GET, "/metrics");
        let page = request.send().await?.text().await?;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .with_context(|| format!("no {name}"))?
            .parse()
            .context("no number")
    }

    /// Waits until no call runs.
    pub async fn until_idle(&self) -> anyhow::Result<()> {
        while self.metric("wattle_invocations_running").await? > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The key that makes the first admin key.
    pub fn bootstrap_key(&self) -> anyhow::Result<String> {
        let key = std::fs::read_to_string(self.data().join("bootstrap-admin-key"))?;
        Ok(key.trim().to_owned())
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The process id of the running host.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.running.as_ref().context("no host runs")?.child.id())
    }

    /// Whether the host still runs.
    pub fn is_alive(&mut self) -> anyhow::Result<bool> {
        Ok(self.running()?.child.try_wait()?.is_none())
    }

    /// Kills the host as `kill -9` does.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("no host runs")?;
        running.child.kill()?;
        let status = running.child.wait()?;
        ensure!(killed(status), "the host had ended by itself with {status}");
        Ok(())
    }

    /// Waits until the host has killed itself at the fault that it was started with.
    pub async fn until_killed(&mut self) -> anyhow::Result<()> {
        let status = self.until_ended().await?;
        ensure!(killed(status), "the host ended with {status}");
        Ok(())
    }

    /// Makes the first admin key.
    pub async fn admin(&self) -> anyhow::Result<Client> {
        let bootstrap = self.client(Some(&self.bootstrap_key()?))?;
        let key = json!({ "name": "admin", "role": "admin" });
        let key = bootstrap.post("/api/v1/keys", &key).await?.expect(201)?;
        Ok(bootstrap.with_key(text(&key, "secret")?))
    }

    /// Makes the first admin key, then a tenant with a key that may upload, deploy and call.
    pub async fn manager(&self) -> anyhow::Result<Client> {
        tenant(&self.admin().await?, "acacia").await
    }

    /// Asks the host to drain and waits until it and its Postgres have ended.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        kill(self.running()?.child.id(), Signal::TERM)?;
        let status = self.until_ended().await?;
        ensure!(status.success(), "the host ended with {status}");
        ensure!(
            self.postmaster_pid().is_none(),
            "the host left its Postgres running"
        );
        Ok(())
    }

    async fn until_ended(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = tokio::time::timeout(ENDED_WITHIN, async {
            loop {
                if let Some(status) = self.running()?.child.try_wait()? {
                    return anyhow::Ok(status);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let status = ended
            .await
            .with_context(|| format!("the host did not end within {ENDED_WITHIN:?}"))??;
        self.running = None;
        Ok(status)
    }

    /// Kills Postgres, all its processes at once.
    pub fn kill_postgres(&self) -> anyhow::Result<()> {
        let postmaster = self.postmaster_pid().context("Postgres does not run")?;
        let children = children(postmaster)?;
        kill(postmaster, Signal::KILL)?;
        for child in children {
            // It may have ended since, by itself or because its parent is gone.
            let _ = kill(child, Signal::KILL);
        }
        Ok(())
    }

    /// The process id of Postgres while it runs.
    pub fn postmaster_pid(&self) -> Option<u32> {
        Cluster::find(&self.pg()).ok().flatten()?.postmaster_pid()
    }

    /// The database as its owner.
    pub fn owner_url(&self) -> anyhow::Result<String> {
        let cluster = Cluster::find(&self.pg())?.context("Postgres does not run")?;
        Ok(cluster.url(postgres::OWNER_ROLE, postgres::DATABASE))
    }

    /// What the journal holds now, read from a copy as the next start would read it.
    pub fn left(&self) -> anyhow::Result<Left> {
        let copy = tempfile::tempdir()?;
        for entry in std::fs::read_dir(self.data().join("journal"))? {
            let entry = entry?;
            std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
        }
        let options = wattle::app::journal_options(&crate::host::flags(self.data(), &[])?);
        let (_journal, recovered) = Journal::open(copy.path(), options)?;
        let unsealed = recovered.unsealed.as_ref();
        let is_allocation = |posting: &&Posting| posting.kind == PostingKind::Allocation;
        Ok(Left {
            undrained: recovered.undrained.len(),
            allocations: recovered.undrained.iter().filter(is_allocation).count(),
            slices: unsealed.map_or(0, |unsealed| unsealed.slices.len()),
            finished: unsealed.map_or(0, |unsealed| unsealed.finished.len()),
        })
    }

    /// Asks the host to read its certificate again.
    pub fn hang_up(&mut self) -> anyhow::Result<()> {
        kill(self.running()?.child.id(), Signal::HUP)
    }

    /// All that the hosts logged.
    pub fn whole_log(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The last lines that the hosts logged.
    pub fn log_tail(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn log(&self) -> PathBuf {
        self.data().join("host.log")
    }

    fn pg(&self) -> PathBuf {
        self.data().join("pg")
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        let stopped = Cluster::find(&self.pg()).and_then(|cluster| cluster.map_or(Ok(()), |c| c.stop()));
        if let Err(error) = stopped {
            eprintln!("the Postgres of a test stays behind: {error}");
        }
    }
}

/// Makes a tenant with a key that may upload, deploy and call.
pub async fn tenant(admin: &Client, name: &str) -> anyhow::Result<Client> {
    let tenant = json!({ "name": name });
    let tenant = admin.post("/api/v1/tenants", &tenant).await?.expect(201)?;
    let key = json!({ "name": "manage", "role": "tenant:manage", "tenant": tenant["id"] });
    let key = admin.post("/api/v1/keys", &key).await?.expect(201)?;
    Ok(admin.with_key(text(&key, "secret")?))
}

fn text(body: &Value, key: &str) -> anyhow::Result<String> {
    body[key].as_str().map(ToOwned::to_owned).context("text")
}

fn killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

fn kill(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("no process id")?;
    Ok(kill_process(pid, signal)?)
}

/// The processes whose parent is `pid`.
pub fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // `pid (name) state parent …`; one that has ended meanwhile has no parent.
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, tail)| tail.split(' ').nth(1));
        if parent.and_then(|parent| parent.parse().ok()) == Some(pid) {
            found.push(child);
        }
    }
    Ok(found)
}

/// An address that nobody listens on. It is none of those that the kernel gives to connections, as it would a moment later
/// to one of another test.
fn free_port() -> anyhow::Result<SocketAddr> {
    let ports = std::iter::repeat_with(|| 10_000 + (uuid::Uuid::new_v4().as_u128() % 20_000) as u16);
    let listening = ports
        .take(100)
        .find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    Ok(listening.context("no port is free")?.local_addr()?)
}
