//! The loaded graphs, by tenant, digest, backend and target.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use domain::{Digest, TenantId, UsageCell};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::context::TokioContext;

use crate::backend::{Backend, Caps, Target};
use crate::backends::dense::Dense;
use crate::error::LoadError;
use crate::handle::GraphHandle;
use crate::placement::Source;
use crate::scan;
use crate::turns::Turns;
use crate::worker::{WorkerOptions, Workers, blocking};

/// How graphs are held.
#[derive(Clone, Debug)]
pub struct Options {
    /// Calls that may wait for one graph.
    pub queue_capacity: usize,
    /// The largest model taken, in bytes.
    pub max_model_bytes: u64,
    /// Loads that may run at once on this node.
    pub loads: usize,
    /// Loads of one tenant that may run at once.
    pub tenant_loads: usize,
    /// How long a process is kept that runs a graph only where its runs are not short.
    pub linger: Duration,
    /// The runtime that talks to the graphs' processes; none for that of whoever loads.
    pub runtime: Option<Handle>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_capacity: 256,
            max_model_bytes: 512 << 20,
            loads: 8,
            tenant_loads: 2,
            linger: Duration::from_secs(30),
            runtime: None,
        }
    }
}

/// The loaded graphs. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Inference {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    backends: Vec<Installed>,
    graphs: Mutex<HashMap<Key, Slot>>,
    /// Places to load on, the node's and those of tenants that have graphs or load some.
    loads: Arc<Semaphore>,
    tenant_loads: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// A backend with what it said when it was probed.
pub(crate) type Installed = (Caps, Arc<dyn Backend>);

/// A graph is never shared by tenants, even where its bytes are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    tenant: TenantId,
    digest: Digest,
    backend: &'static str,
    target: Target,
}

/// A graph lives as long as a release or a call holds it; here it is only found.
type Slot = Arc<tokio::sync::Mutex<Weak<GraphHandle>>>;

/// Whether a graph is loaded in the slot, or being loaded.
fn is_used(slot: &Slot) -> bool {
    slot.try_lock().map_or(true, |held| held.strong_count() > 0)
}

impl Inference {
    /// With every backend that `worker` has, each graph in a process that it starts, and one for short runs here.
    pub fn new(options: Options, worker: WorkerOptions) -> Self {
        let worker = Arc::new(worker);
        let mut backends: Vec<Arc<dyn Backend>> = vec![Arc::new(Workers::rten(Arc::clone(&worker)))];
        if let Some(onnxruntime) = Workers::onnxruntime(Arc::clone(&worker)) {
            backends.push(Arc::new(onnxruntime));
        }
        backends.push(Arc::new(Dense::new(worker)));
        Self::with_backends(options, backends)
    }

    /// With these backends, first the one that the others are compared with.
    pub fn with_backends(options: Options, backends: Vec<Arc<dyn Backend>>) -> Self {
        let backends = backends
            .into_iter()
            .map(|backend| (backend.probe(), backend))
            .collect();
        Self {
            shared: Arc::new(Shared {
                loads: Arc::new(Semaphore::new(options.loads)),
                tenant_loads: Mutex::default(),
                options,
                backends,
                graphs: Mutex::default(),
            }),
        }
    }

    /// What the backends can do.
    pub fn caps(&self) -> Vec<Caps> {
        self.shared
            .backends
            .iter()
            .map(|(caps, _)| caps.clone())
            .collect()
    }

    /// The graph of `blob`, whose digest is `digest`, on the first backend that can load it. Callers that come while
    /// it loads wait for the same load. It stays as long as anyone holds it; its process ends with the last.
    /// Loads of one tenant take turns, and so do all loads of the node.
    ///
    /// CPU time of loading goes to `cell` while it is used, also when loading fails. A load ends when this
    /// future is dropped.
    ///
    /// # Errors
    /// No backend for the target, a model that is too large, broken or beyond every backend, one that takes
    /// too much memory or time to load, a fault of the backend. A failure is not kept: the next caller tries
    /// again.
    pub async fn load(
        &self,
        tenant: TenantId,
        digest: Digest,
        blob: Bytes,
        target: Target,
        cell: &UsageCell,
    ) -> Result<Arc<GraphHandle>, LoadError> {
        let source = Source {
            tenant,
            digest,
            blob,
            target,
        };
        self.load_first(&source, cell).await
    }

    /// The same on the first backend that can, of those made for any graph.
    pub(crate) async fn load_first(
        &self,
        source: &Source,
        cell: &UsageCell,
    ) -> Result<Arc<GraphHandle>, LoadError> {
        let target = source.target;
        let mut refused = LoadError::TargetUnavailable { target };
        for backend in self.installed(target).filter(|(caps, _)| !caps.narrow) {
            match self.load_on(backend, source, cell).await {
                Err(error) if error.is_of_one_backend() => refused = error,
                loaded => return loaded,
            }
        }
        Err(refused)
    }

    /// The backends that run on a target; the first is the reference.
    pub(crate) fn installed(&self, target: Target) -> impl Iterator<Item = &Installed> {
        let backends = self.shared.backends.iter();
        backends.filter(move |(caps, _)| caps.targets.contains(&target))
    }

    /// The same on this backend.
    pub(crate) async fn load_on(
        &self,
        (caps, backend): &Installed,
        source: &Source,
        cell: &UsageCell,
    ) -> Result<Arc<GraphHandle>, LoadError> {
        let &Source {
            tenant,
            digest,
            ref blob,
            target,
        } = source;
        let (bytes, limit) = (blob.len() as u64, self.shared.options.max_model_bytes);
        if bytes > limit {
            return Err(LoadError::TooLarge { bytes, limit });
        }
        let key = Key {
            tenant,
            digest,
            backend: caps.info.name,
            target,
        };
        let slot = self.slot(key);
        // Whoever comes first loads, the others wait for it here.
        let mut held = slot.lock().await;
        if let Some(graph) = held.upgrade() {
            return Ok(graph);
        }
        let turns = self.turns(tenant);
        let turn = turns.take().await;
        let scanned = blob.clone();
        blocking(cell, move || scan::check(&scanned)).await?;
        let (info, options) = (caps.info.clone(), &self.shared.options);
        let start = async {
            let graph = backend.load(blob.clone(), target, cell).await?;
            drop(turn);
            let (capacity, linger) = (options.queue_capacity, options.linger);
            GraphHandle::start(digest, info, graph, turns.clone(), capacity, linger, cell).await
        };
        let graph = Arc::new(match &self.shared.options.runtime {
            Some(runtime) => TokioContext::new(start, runtime.clone()).await?,
            None => start.await?,
        });
        *held = Arc::downgrade(&graph);
        Ok(graph)
    }

    /// How many graphs are loaded.
    pub fn loaded(&self) -> usize {
        self.graphs().values().filter(|slot| is_used(slot)).count()
    }

    /// The slot of a graph. What nobody holds any more is forgotten meanwhile.
    fn slot(&self, key: Key) -> Slot {
        let mut graphs = self.graphs();
        graphs.retain(|_, slot| is_used(slot));
        Arc::clone(graphs.entry(key).or_default())
    }

    /// The tenant's places to load on. Those that nobody holds any more are forgotten meanwhile.
    fn turns(&self, tenant: TenantId) -> Turns {
        let places = &self.shared.tenant_loads;
        let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| place.strong_count() > 0);
        let held = places.get(&tenant).and_then(Weak::upgrade);
        let own = held.unwrap_or_else(|| Arc::new(Semaphore::new(self.shared.options.tenant_loads)));
        places.insert(tenant, Arc::downgrade(&own));
        Turns {
            tenant: own,
            node: Arc::clone(&self.shared.loads),
        }
    }

    fn graphs(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.shared.graphs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inference")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}
