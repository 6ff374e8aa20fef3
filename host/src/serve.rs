//! Serve: from flags to a running host, until a signal ends it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use db::Db;
use energy::{ActivityProbe, Found, Machine, MeterError, PowerModel, RootLock, Site};
use inference::WorkerOptions;
use postgres::Cluster;
use runtime::CompilerCommand;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, registry};

use crate::app::{App, Ground};
use crate::clock::SystemClock;
use crate::config::{LogFormat, ServeArgs};
use crate::http::{self, Reloader, Tls};
use crate::notify;
use crate::onnxruntime;

/// Runs the host until SIGTERM or SIGINT, then drains.
pub fn serve(config: ServeArgs) -> anyhow::Result<()> {
    config.check()?;
    // Dropped last: it writes what is left of the log.
    let (log, _log_writer) = log_writer();
    let dropped_lines = log.error_counter();
    log_to(log, &config)?;
    let tls = config.tls()?;
    let data = config.data.clone();
    data_dir(&data).with_context(|| format!("the data directory {}", data.display()))?;
    let _directory = lock(&data)?;
    let found = meters(&config)?;
    let _roots = lock_roots(&found)?;
    let database = Database::start(&config, &data)?;
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let guests = tokio::runtime::Builder::new_multi_thread()
        // One tenant's guests take half of them, so that a thread is free when another's call comes.
        .worker_threads(2 * threads)
        .thread_name("guest")
        .enable_all()
        .build()?;
    let service = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("service")
        .enable_all()
        .build()?;
    let revival = service.spawn(keep_up(database.embedded.clone()));
    let served = service.block_on(run(
        config,
        tls,
        &database,
        found,
        guests.handle().clone(),
        dropped_lines,
    ));
    revival.abort();
    guests.shutdown_background();
    service.shutdown_timeout(Duration::from_secs(5));
    database.stop();
    served
}

/// Most lines that wait for standard error; those that come when it is full are dropped and counted.
const LOG_LINES: usize = 8_192;

/// Standard error behind a thread of its own: whoever logs, a guest included, never waits for who reads it.
fn log_writer() -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES)
        .thread_name("log")
        .finish(std::io::stderr())
}

/// Structured logs. Every line of an invocation is in a span that has its id.
fn log_to(writer: NonBlocking, config: &ServeArgs) -> anyhow::Result<()> {
    use std::io::IsTerminal as _;
    let text = match config.log_format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let wanted: Targets = config.log_filter.parse()?;
    let (lines, logs) = (fmt::layer().with_writer(writer), registry().with(wanted));
    // A second start in one process, as tests do, keeps the first subscriber.
    let _ = match text {
        true => logs
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        false => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            logs.with(lines).try_init()
        }
    };
    // The default hook would wait for standard error.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a panic")));
    Ok(())
}

async fn run(
    config: ServeArgs,
    tls: Option<(Tls, Reloader)>,
    database: &Database,
    meters: Found,
    guests: tokio::runtime::Handle,
    dropped_lines: ErrorCounter,
) -> anyhow::Result<()> {
    let mut graph_worker = graph_worker()?;
    graph_worker.onnxruntime = onnxruntime::find(config.onnxruntime.as_deref(), &graph_worker).await?;
    let ground = Ground {
        clock: Arc::new(SystemClock),
        meters,
        probe: database.probe(),
        db: Db::open(&database.owner_url, &database.run_url, &db::Options::default())
            .await
            .context("the database could not be opened")?,
        guests,
        compiler: CompilerCommand {
            program: this_program()?,
            args: vec!["compile-child".into()],
        },
        graph_worker,
    };
    let listener = bind(config.listen).await?;
    let admin_listener = bind(config.admin_listen).await?;
    let (app, tasks) = App::start(config, ground).await?;
    app.metrics.count_dropped_lines(dropped_lines);
    if app.config.unmetered {
        tracing::error!("nothing but fuel is metered and nothing is billed: this is for a bench alone");
    }
    for energy::Candidate {
        source,
        subject,
        verdict,
        reason,
    } in app.meters.candidates()
    {
        tracing::info!(source, subject, verdict = verdict.as_str(), "meter: {reason}");
    }
    for backend in app.inference.caps() {
        tracing::info!(backend = backend.info.label(), "graphs can run on this backend");
    }
    tracing::info!(address = %listener.local_addr()?, meters = app.meters.description(), node = %app.node, "serving");

    let stop = CancellationToken::new();
    let (router, ops) = (http::router(app.clone()), http::ops_router(app.clone()));
    let (tls, reloader) = tls.unzip();
    let reloading = tokio::spawn(reload(reloader));
    // A certificate names the host that others see; on loopback operators and probes ask an address.
    let ops_tls = tls
        .clone()
        .filter(|_| !app.config.admin_listen.ip().is_loopback());
    let allowed = app.config.connections();
    let serving = tokio::spawn(http::serve(listener, tls, router, allowed, stop.clone()));
    let (allowed, admin_stop) = (app.config.admin_connections(), CancellationToken::new());
    let admin = tokio::spawn(http::serve(admin_listener, ops_tls, ops, allowed, admin_stop));
    let announcing = tokio::spawn(announce(app.clone()));
    signalled().await?;
    tracing::info!("draining");
    announcing.abort();
    notify::tell(notify::STOPPING);
    app.begin_drain();
    stop.cancel();
    let patience = Duration::from_secs(app.config.drain_s);
    let ((), replied) = tokio::join!(tasks.drain(&app), tokio::time::timeout(patience, serving));
    if replied.is_err() {
        tracing::warn!("connections were still open when the drain ended");
    }
    admin.abort();
    reloading.abort();
    app.db.close().await;
    Ok(())
}

/// How the process of a graph is started.
pub fn graph_worker() -> std::io::Result<WorkerOptions> {
    Ok(WorkerOptions::new(this_program()?, vec!["graph-worker".into()]))
}

/// The program that runs now, also when another has taken its place on the disk: what it starts must speak as
/// it does.
fn this_program() -> std::io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        Ok("/proc/self/exe".into())
    } else {
        std::env::current_exe()
    }
}

async fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another address"))
}

/// Tells the service manager once the host has started, also when it then has a reason to refuse calls.
async fn announce(app: Arc<App>) {
    while app.unready().is_some_and(|(code, _)| code == "starting") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    notify::tell(notify::READY);
}

/// Heeds SIGHUP: the certificate is read again, if there is one. Nothing else is.
async fn reload(reloader: Option<Reloader>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let asked = Notify::new();
    let heed = async {
        while hangup.recv().await.is_some() {
            asked.notify_one();
        }
    };
    match reloader {
        Some(reloader) => {
            tokio::join!(reloader.run(&asked), heed);
        }
        None => heed.await,
    }
    Ok(())
}

async fn signalled() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Makes the data directory. The user of the embedded Postgres must pass through it; what is inside is
/// closed to others.
pub(crate) fn data_dir(data: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(data)
}

/// One host per data directory.
pub(crate) fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("the lock {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!(
                "another host serves from {}: stop it or choose another --data",
                data.display()
            )
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).context(format!("the lock {}", path.display()))
        }
    }
}

/// Where hosts of this machine agree who bills which root.
fn lock_dir() -> PathBuf {
    let shared = PathBuf::from("/run/lock");
    if shared.is_dir() {
        shared
    } else {
        std::env::temp_dir()
    }
}

/// Where the kernel says who uses the CPUs.
const PROC: &str = "/proc";

/// How long counters are watched that may be two faces of one: some of these.
const MIRROR_PAUSE: Duration = Duration::from_millis(20);

/// The meters that a host with these flags uses, and what is said of every other.
pub(crate) fn meters(config: &ServeArgs) -> Result<Found, MeterError> {
    let class = config.meter_sys.join("class");
    let files = config.meter_files.clone().map_or_else(Vec::new, |files| files.0);
    let site = Site {
        powercap: class.join("powercap"),
        hwmon: class.join("hwmon"),
        nvml: config.meter_nvml.clone(),
        files,
        ..Site::new(config.meter_root.as_str(), power_model(config)?)
    };
    energy::discover(&site, &mut || std::thread::sleep(MIRROR_PAUSE))
}

/// No other host of this machine bills what this one does.
pub(crate) fn lock_roots(found: &Found) -> Result<Vec<RootLock>, MeterError> {
    let roots = found.roots().into_iter();
    roots.map(|root| RootLock::acquire(&lock_dir(), &root)).collect()
}

fn power_model(config: &ServeArgs) -> Result<PowerModel, MeterError> {
    // `ServeArgs::check` has bounded them.
    let microwatts = |watts: f64| (watts * 1e6).round() as u64;
    match (config.meter_idle_w, config.meter_max_w) {
        (Some(idle), Some(max)) => PowerModel::from_ends(microwatts(idle), microwatts(max)),
        _ => PowerModel::of(&Machine::read(Path::new(PROC))?),
    }
}

/// How often the host looks whether its own Postgres still runs.
const POSTGRES_CHECK: Duration = Duration::from_millis(250);

/// Starts the host's own Postgres again when it dies under the host.
async fn keep_up(embedded: Option<Arc<Embedded>>) {
    let Some(embedded) = embedded else {
        return;
    };
    loop {
        tokio::time::sleep(POSTGRES_CHECK).await;
        let embedded = embedded.clone();
        // A start waits for processes. When the host ends meanwhile, its stop waits for the start.
        let _ = tokio::task::spawn_blocking(move || embedded.revive()).await;
    }
}

/// The given Postgres, or the host's own.
struct Database {
    owner_url: String,
    run_url: String,
    embedded: Option<Arc<Embedded>>,
}

/// The host's own Postgres. The cluster stands for its directory and socket, which stay the same
/// whichever server runs there.
struct Embedded {
    cluster: Cluster,
    options: postgres::Options,
}

impl Embedded {
    fn start(options: postgres::Options) -> Result<Self, postgres::PostgresError> {
        let cluster = Cluster::start(options.clone())?;
        Ok(Self { cluster, options })
    }

    fn revive(&self) {
        if self.cluster.postmaster_pid().is_some() {
            return;
        }
        tracing::warn!("the embedded Postgres is gone and is started again");
        if let Err(error) = Cluster::start(self.options.clone()) {
            tracing::error!(%error, "the embedded Postgres did not start again");
        }
    }
}

impl Database {
    fn start(config: &ServeArgs, data: &Path) -> anyhow::Result<Self> {
        if let (Some(run), Some(owner)) = (&config.database_url, &config.database_owner_url) {
            return Ok(Self {
                owner_url: owner.reveal().to_owned(),
                run_url: run.reveal().to_owned(),
                embedded: None,
            });
        }
        let mut options = postgres::Options::new(data.join("pg"));
        options.bin_dir.clone_from(&config.pg_bin);
        let embedded = Embedded::start(options).context("the embedded Postgres did not start")?;
        let cluster = &embedded.cluster;
        tracing::info!(adopted = cluster.adopted(), "embedded Postgres is up");
        Ok(Self {
            owner_url: cluster.url("wattle_owner", "wattle"),
            run_url: cluster.url("wattle_host", "wattle"),
            embedded: Some(Arc::new(embedded)),
        })
    }

    /// Watches the CPU time of the host and, if it is its own, of Postgres.
    fn probe(&self) -> ActivityProbe {
        let embedded = self.embedded.clone();
        ActivityProbe::new(move || embedded.as_ref()?.cluster.postmaster_pid())
    }

    fn stop(&self) {
        if let Some(embedded) = &self.embedded
            && let Err(error) = embedded.cluster.stop()
        {
            tracing::warn!(%error, "Postgres goes on; the next start adopts it");
        }
    }
}
