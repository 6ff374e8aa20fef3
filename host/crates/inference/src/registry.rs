//! The loaded graphs, by tenant, digest, backend and target.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use bytes::Bytes;
use domain::{Digest, TenantId, UsageCell};
use tokio::sync::oneshot;

use crate::backend::{Backend, BackendInfo, Caps, Target};
use crate::error::LoadError;
use crate::handle::GraphHandle;
use crate::{backends, cpu, scan};

/// How graphs are held.
#[derive(Clone, Debug)]
pub struct Options {
    /// Calls that may wait for one graph.
    pub queue_capacity: usize,
    /// The largest model taken, in bytes.
    pub max_model_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_capacity: 256,
            max_model_bytes: 512 << 20,
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
    backends: Vec<(Caps, Arc<dyn Backend>)>,
    graphs: Mutex<HashMap<Key, Slot>>,
}

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
    /// With every backend of this crate.
    pub fn new(options: Options) -> Self {
        Self::with_backends(options, vec![Arc::new(backends::rten::Rten)])
    }

    /// With these backends, the preferred first.
    pub fn with_backends(options: Options, backends: Vec<Arc<dyn Backend>>) -> Self {
        let backends = backends
            .into_iter()
            .map(|backend| (backend.probe(), backend))
            .collect();
        Self {
            shared: Arc::new(Shared {
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

    /// The graph of `blob`, whose digest is `digest`; loads it if it is not there. Callers that come while
    /// it loads wait for the same load. It stays as long as anyone holds it; its thread ends with the last.
    ///
    /// CPU time of loading goes to `cell`, also when it fails. A caller that drops this future loses that
    /// figure: let it run to its end.
    ///
    /// # Errors
    /// No backend for the target, a model that is too large, broken or beyond the backend, a fault of the
    /// backend. A failure is not kept: the next caller tries again.
    pub async fn load(
        &self,
        tenant: TenantId,
        digest: Digest,
        blob: Bytes,
        target: Target,
        cell: &UsageCell,
    ) -> Result<Arc<GraphHandle>, LoadError> {
        let found = self
            .shared
            .backends
            .iter()
            .find(|(caps, _)| caps.targets.contains(&target));
        let (caps, backend) = found.ok_or(LoadError::TargetUnavailable { target })?;
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
        let load = Load {
            digest,
            blob,
            target,
            backend: Arc::clone(backend),
            info: caps.info.clone(),
            queue_capacity: self.shared.options.queue_capacity,
        };
        let graph = load.run(cell).await?;
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

/// One load, on a thread of its own: it may take seconds.
struct Load {
    digest: Digest,
    blob: Bytes,
    target: Target,
    backend: Arc<dyn Backend>,
    info: BackendInfo,
    queue_capacity: usize,
}

impl Load {
    async fn run(self, cell: &UsageCell) -> Result<Arc<GraphHandle>, LoadError> {
        let (reply, answer) = oneshot::channel();
        thread::Builder::new()
            .name("graph-load".into())
            .spawn(move || {
                let (loaded, cpu_ns) = cpu::metered(|elsewhere| self.load(elsewhere));
                let loaded = loaded.unwrap_or_else(|reason| Err(LoadError::Backend { reason }));
                // The caller may be gone: then the handle is dropped with the message.
                let _ = reply.send((loaded, cpu_ns));
            })
            .map_err(|error| LoadError::Backend {
                reason: format!("no thread to load on: {error}"),
            })?;
        let Ok((loaded, cpu_ns)) = answer.await else {
            return Err(LoadError::Backend {
                reason: "the loading thread has ended".into(),
            });
        };
        cell.add_cpu_ns(cpu_ns);
        loaded.map(Arc::new)
    }

    fn load(self, elsewhere: &mut u64) -> Result<GraphHandle, LoadError> {
        scan::check(&self.blob)?;
        let graph = self.backend.load(&self.blob, self.target, elsewhere)?;
        GraphHandle::start(self.digest, self.info, graph, self.queue_capacity)
    }
}
