//! Everything that a running host holds, built once and passed to all.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use db::Db;
use domain::NodeId;
use domain::allocation::Allocation;
use domain::correction::Correction;
use domain::posting::Posting;
use energy::{ActivityProbe, Found, Guarded};
use inference::{Inference, WorkerOptions};
use journal::Journal;
use runtime::{CompilerCommand, Runtime};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::anchors::{AnchorError, Anchors};
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::config::{JournalMode, ServeArgs};
use crate::flow::admit::Admission;
use crate::flow::allocate::{self, Reservations};
use crate::flow::archive;
use crate::flow::carbon;
use crate::flow::checkpoint;
use crate::flow::collect;
use crate::flow::correct;
use crate::flow::learnt::Learnt;
use crate::flow::live::Live;
use crate::flow::meters::Meters;
use crate::flow::recover::{RecoverError, Restart, recover};
use crate::flow::releases::Releases;
use crate::flow::seal::{Moves, Seal, post};
use crate::keys::{self, Keys};
use crate::metrics::Metrics;
use crate::secret_file;
use crate::signer::{self, Signer};

/// A running host.
pub struct App {
    /// What it was told.
    pub config: ServeArgs,
    /// Time and ids.
    pub clock: Arc<dyn Clock>,
    /// Postgres.
    pub db: Db,
    /// Uploads.
    pub blobs: Blobs,
    /// Usage and postings until Postgres has them.
    pub journal: Journal,
    /// The sandbox.
    pub runtime: Runtime,
    /// Graphs.
    pub inference: Inference,
    /// Calls that are not final.
    pub live: Live,
    /// Places and queues.
    pub admission: Admission,
    /// Bearer keys.
    pub keys: Keys,
    /// Releases in memory.
    pub releases: Releases,
    /// Counters for operators.
    pub metrics: Metrics,
    /// The threads on which guests run, apart from those that serve HTTP.
    pub guests: tokio::runtime::Handle,
    /// This node.
    pub node: NodeId,
    /// What meters it.
    pub meters: Meters,
    /// What use costs, as was learnt from them.
    pub learnt: Learnt,
    /// What tenants keep ready here.
    pub reservations: Reservations,
    /// Idle energy that is to be sealed as allocated.
    pub allocations: mpsc::Sender<Allocation>,
    /// Corrections that are to be sealed.
    pub corrections: mpsc::Sender<Correction>,
    /// That there is a correction to be sealed.
    pub correction_asked: Notify,
    /// Signs checkpoints.
    pub signer: Mutex<Signer>,
    /// Where they are anchored.
    pub anchors: Option<Anchors>,
    ledger_refused: OnceLock<String>,
}

/// What the host is built on: replaced in tests.
pub struct Ground {
    /// Time and ids.
    pub clock: Arc<dyn Clock>,
    /// The energy meters, and what might have been one.
    pub meters: Found,
    /// Who used the CPU.
    pub probe: ActivityProbe,
    /// Postgres, migrated.
    pub db: Db,
    /// The threads for guests.
    pub guests: tokio::runtime::Handle,
    /// The program that compiles components.
    pub compiler: CompilerCommand,
    /// The program that runs graphs; the memory limit is the flags' to say.
    pub graph_worker: WorkerOptions,
}

/// The tasks of a running host; ended by [`Tasks::drain`].
pub struct Tasks {
    stop: CancellationToken,
    give_up: CancellationToken,
    seal: JoinHandle<()>,
    post: JoinHandle<()>,
    revocations: JoinHandle<()>,
    collector: JoinHandle<()>,
    allocate: JoinHandle<()>,
    correct: JoinHandle<()>,
    carbon: JoinHandle<()>,
    checkpoint: JoinHandle<()>,
    archive: JoinHandle<()>,
}

/// What keeps a host from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error("the data directory {path}: {error}")]
    Data {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The sandbox.
    #[error(transparent)]
    Runtime(#[from] runtime::RuntimeError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] journal::JournalError),
    /// The meter.
    #[error(transparent)]
    Meter(#[from] energy::MeterError),
    /// The database.
    #[error(transparent)]
    Db(#[from] db::DbError),
    /// The blob store.
    #[error(transparent)]
    Blob(#[from] crate::blobs::BlobError),
    /// The place of anchors.
    #[error(transparent)]
    Anchors(#[from] AnchorError),
    /// Recovery.
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

impl App {
    /// Opens the data directory, recovers what a crash left, and starts metering.
    pub async fn start(config: ServeArgs, mut ground: Ground) -> Result<(Arc<Self>, Tasks), StartError> {
        let data = config.data.clone();
        let folder = |name: &str| make_dir(&data.join(name));
        let (journal, recovered) = Journal::open(&folder("journal")?, journal_options(&config))?;
        let mac_key = secret(&folder("keys")?.join("artefact-mac"))?;
        let node = node_id(&ground, &config).await?;
        let signer = Signer::open(&folder("keys")?, &ground.db, node, ground.clock.now()).await;
        let signer = signer.map_err(|error| unsigned(error, &data))?;

        let activity = ground.probe.read()?;
        let Found { meters, candidates } = ground.meters;
        let patience = config.slice() / 2;
        let (guarded, first) =
            Guarded::start(meters, &recovered.last_readings, activity.machine_ns, patience)?;
        let meters = Meters::new(candidates, &guarded.describe());
        meters.note(&first);
        let restart = Restart {
            node,
            epoch: ground.clock.epoch(),
            at: ground.clock.now(),
            boot_id: energy::boot_id()?,
            readings: first.readings,
        };
        let start = recover(&journal, recovered, restart, &ground.db).await?;

        let (allocate, allocations) = mpsc::channel(1);
        let (correct, corrections) = mpsc::channel(1);
        let app = Arc::new(Self {
            blobs: Blobs::open(&folder("blobs")?)?,
            runtime: Runtime::new(runtime_options(
                &config,
                folder("compiled")?,
                mac_key,
                ground.compiler,
                ground.guests.metrics().num_workers(),
            ))?,
            inference: inference(&config, ground.graph_worker),
            live: Live::new(config.slice_calls()),
            admission: Admission::new(
                config.concurrency,
                config.tenant_share(),
                config.body_max_mib << 20,
            ),
            keys: keys(&data)?,
            releases: Releases::new(config.loaded_max_mib << 20),
            metrics: Metrics::default(),
            guests: ground.guests,
            meters,
            learnt: Learnt::open(data.join("learnt")),
            reservations: Reservations::default(),
            allocations: allocate,
            corrections: correct,
            correction_asked: Notify::new(),
            signer: Mutex::new(signer),
            anchors: config.anchors()?,
            ledger_refused: OnceLock::new(),
            clock: ground.clock,
            db: ground.db,
            config,
            journal,
            node,
        });
        let seal = Seal::new(guarded, ground.probe, activity, start.sealer);
        let moves = Moves {
            allocations,
            corrections,
        };
        let tasks = Tasks::spawn(&app, seal, moves, start.undrained);
        Ok((app, tasks))
    }

    /// Why the host should get no calls, as a stable code and in words: it is going down, cannot keep books,
    /// or has no provisional figure to give yet. None when it is ready.
    pub fn unready(&self) -> Option<(&'static str, String)> {
        if self.draining() {
            Some(("draining", "the host is going down".into()))
        } else if let Some(reason) = self.journal.poisoned() {
            Some(("journal_broken", reason.to_owned()))
        } else if self.journal.is_disk_full() {
            let reason = "the disk has no room for the journal: the host goes on as soon as there is some";
            Some(("journal_disk_full", reason.into()))
        } else if let Some(reason) = self.ledger_fault() {
            Some(("ledger_refuses", reason.to_owned()))
        } else if !self.learnt.has_begun() && !self.config.unmetered {
            Some(("starting", "no slice is cut yet".into()))
        } else {
            None
        }
    }

    /// Whether the host should get calls.
    pub fn ready(&self) -> bool {
        self.unready().is_none()
    }

    /// Notes that the ledger refuses what the journal holds; the first reason stays.
    pub fn ledger_refused(&self, reason: String) {
        let _ = self.ledger_refused.set(reason);
    }

    /// Why no more windows are posted, if they are not.
    pub fn ledger_fault(&self) -> Option<&str> {
        self.ledger_refused.get().map(String::as_str)
    }

    /// Whether the host is going down.
    pub fn draining(&self) -> bool {
        self.live.draining()
    }

    /// Refuses calls of every kind from now on; those that run go on.
    pub fn begin_drain(&self) {
        self.live.begin_drain();
    }
}

impl Tasks {
    /// Begins to cut slices and to post windows, `undrained` postings first.
    fn spawn(app: &Arc<App>, seal: Seal, moves: Moves, undrained: Vec<Posting>) -> Self {
        let (send, receive) = mpsc::unbounded_channel();
        // Said before anyone asks whether one of them may be on its way still.
        app.metrics.postings_waiting(undrained.len() as u64);
        for posting in undrained {
            // What it moves must not be taken for idle still: nothing is allocated while it waits.
            app.metrics.posting_queued();
            // The receiver is right here.
            let _ = send.send(Arc::new(posting));
        }
        let (stop, give_up) = (CancellationToken::new(), CancellationToken::new());
        Self {
            seal: tokio::spawn(seal.run(app.clone(), send, moves, stop.clone())),
            allocate: tokio::spawn(allocate::run(app.clone())),
            correct: tokio::spawn(correct::run(app.clone())),
            post: tokio::spawn(post(app.clone(), receive, give_up.clone())),
            revocations: tokio::spawn(keys::heed_revocations(app.clone())),
            collector: tokio::spawn(collect::run(app.clone())),
            carbon: tokio::spawn(carbon::run(app.clone())),
            checkpoint: tokio::spawn(checkpoint::run(app.clone())),
            archive: tokio::spawn(archive::run(app.clone())),
            stop,
            give_up,
        }
    }

    /// Waits for the running calls, seals the last window and posts it, each within a bounded time.
    pub async fn drain(self, app: &App) {
        app.begin_drain();
        self.revocations.abort();
        self.collector.abort();
        self.allocate.abort();
        self.correct.abort();
        self.carbon.abort();
        self.checkpoint.abort();
        self.archive.abort();
        let patience = Duration::from_secs(app.config.drain_s);
        let ended = tokio::time::timeout(patience, async {
            while app.live.running() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        if ended.await.is_err() {
            tracing::warn!(
                calls = app.live.running(),
                "calls were still running when the drain ended"
            );
        }
        self.stop.cancel();
        let mut seal = self.seal;
        if tokio::time::timeout(patience, &mut seal).await.is_err() {
            tracing::warn!("the last window could not be sealed: the next start does it from the journal");
            seal.abort();
        }
        let mut post = self.post;
        if tokio::time::timeout(patience, &mut post).await.is_err() {
            self.give_up.cancel();
            let _ = post.await;
        }
        if let Err(error) = app.journal.flush().await {
            tracing::error!(%error, "the journal could not be flushed");
        }
    }
}

/// How the journal is kept.
pub fn journal_options(config: &ServeArgs) -> journal::Options {
    journal::Options {
        mode: match config.journal {
            JournalMode::Standard => journal::Mode::Standard,
            JournalMode::Strict => journal::Mode::Strict,
        },
        segment_bytes: 64 << 20,
        max_bytes: config.journal_max_mib << 20,
        keep: Duration::from_secs(6 * 3600),
    }
}

fn runtime_options(
    config: &ServeArgs,
    compiled_dir: std::path::PathBuf,
    mac_key: [u8; 32],
    compiler: CompilerCommand,
    threads: usize,
) -> runtime::Options {
    let compile_limits = runtime::CompileLimits::default();
    runtime::Options {
        compiled_dir,
        mac_key,
        max_concurrency: config.concurrency,
        threads,
        compiler,
        compile_limits,
    }
}

fn inference(config: &ServeArgs, worker: WorkerOptions) -> Inference {
    let options = inference::Options {
        max_model_bytes: config.graph_max_mib << 20,
        // Calls begin on these threads too: the answer comes to where it is waited for.
        runtime: Some(tokio::runtime::Handle::current()),
        ..inference::Options::default()
    };
    let worker = WorkerOptions {
        memory_bytes: config.graph_memory_mib << 20,
        ..worker
    };
    Inference::new(options, worker)
}

/// The node's id: minted when its name is first seen in the database. What the node worked on under an
/// idempotency key when it died may be tried again.
async fn node_id(ground: &Ground, config: &ServeArgs) -> Result<NodeId, StartError> {
    let mut tx = ground.db.admin_tx().await?;
    let node = tx
        .node_ensure(NodeId(ground.clock.mint()), config.node.as_str())
        .await?;
    tx.idempotency_release(node).await?;
    tx.commit().await?;
    Ok(node)
}

fn make_dir(path: &Path) -> Result<std::path::PathBuf, StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|error| StartError::Data {
        path: shown(path),
        error,
    })?;
    Ok(path.to_owned())
}

fn secret(path: &Path) -> Result<[u8; 32], StartError> {
    secret_file::key(path).map_err(|error| StartError::Data {
        path: shown(path),
        error,
    })
}

/// The keys that are known on this node.
fn keys(data: &Path) -> Result<Keys, StartError> {
    Keys::open(data).map_err(|error| StartError::Data {
        path: shown(data),
        error,
    })
}

fn unsigned(error: signer::OpenError, data: &Path) -> StartError {
    match error {
        signer::OpenError::Db(error) => error.into(),
        signer::OpenError::File(error) => StartError::Data {
            path: shown(&data.join("keys")),
            error,
        },
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
