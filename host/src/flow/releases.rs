//! Releases in memory: what a deployment points to, with its pipeline and graphs loaded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use db::GraphRef;
use domain::{BackendChoice, Digest, Limits, Name, Signature, TenantId, UsageCell};
use inference::{GraphHandle, Source, Target};
use runtime::{CompileError, Graphs, Pipeline};

use super::Error;
use super::brief::Habit;
use super::loaded::{Bounds, Loaded};
use crate::app::App;
use crate::fresh::Fresh;

/// A release that is ready to be called.
pub struct Release {
    /// The row.
    pub row: Arc<db::Release>,
    /// What the guest reads through `config`.
    pub settings: Arc<BTreeMap<String, String>>,
    /// The code.
    pub body: Body,
    /// How long its calls are.
    pub habit: Habit,
}

/// What answers a call.
#[derive(Clone)]
pub enum Body {
    /// A component, with the graphs it may load by name.
    Pipeline(Arc<Pipeline>, Graphs),
    /// A graph as it is, without a guest.
    Graph(Arc<GraphHandle>),
}

/// A deployment's release, by number.
type Id = (Name, u32);

/// The most releases that stay loaded, however small they are: each has a process for every graph.
const MAX_LOADED: usize = 256;

/// The releases of this node: rows that are a second fresh, code that stays loaded within bounds.
pub struct Releases {
    current: Fresh<(TenantId, Name), u32>,
    rows: Fresh<(TenantId, Name, u32), Arc<db::Release>>,
    loaded: Mutex<Loaded<Id, Release>>,
    loads: AtomicU64,
}

impl Releases {
    /// None yet; at most so many bytes of them stay loaded.
    pub fn new(max_bytes: u64) -> Self {
        let bounds = Bounds {
            count: MAX_LOADED,
            bytes: max_bytes,
        };
        Self {
            current: Fresh::default(),
            rows: Fresh::default(),
            loaded: Mutex::new(Loaded::new(bounds)),
            loads: AtomicU64::new(0),
        }
    }

    /// The row of a release: the named one, or the one that the deployment points to.
    pub async fn row(
        &self,
        app: &App,
        tenant: TenantId,
        deployment: &Name,
        number: Option<u32>,
    ) -> Result<Arc<db::Release>, Error> {
        let missing = || Error::not_found("deployment", deployment);
        let current = async || {
            let mut tx = app.db.tenant_tx(tenant).await?;
            Ok(tx
                .deployment_get(deployment)
                .await?
                .ok_or_else(missing)?
                .current
                .number)
        };
        let current = self.current.get((tenant, deployment.clone()), current).await?;
        let number = number.unwrap_or(current);
        let row = async || {
            let mut tx = app.db.tenant_tx(tenant).await?;
            let row = tx.release_get(deployment, number).await?;
            let missing = || Error::not_found("release", format!("{deployment}/{number}"));
            row.map(Arc::new).ok_or_else(missing)
        };
        self.rows.get((tenant, deployment.clone(), number), row).await
    }

    /// A release, if it is loaded.
    pub fn ready(&self, tenant: TenantId, row: &db::Release) -> Option<Arc<Release>> {
        self.loaded().get(tenant, (row.deployment.clone(), row.number))
    }

    /// Loads a release once, however many ask at the same time; `cell` pays for what it takes.
    pub async fn load(
        &self,
        app: &App,
        tenant: TenantId,
        row: &Arc<db::Release>,
        cell: &UsageCell,
    ) -> Result<Arc<Release>, Error> {
        let key = (row.deployment.clone(), row.number);
        let slot = self.loaded().slot(tenant, key.clone());
        let mut loaded_bytes = None;
        let load = async || {
            self.loads.fetch_add(1, Relaxed);
            let component = row.spec.component.as_ref().map(|(_, digest)| *digest);
            // Where a backend has changed since the release was made, its graphs are checked again.
            let (mut graphs, backend) = (row.spec.graphs.clone(), row.spec.backend);
            let (body, bytes) = body(app, tenant, component, &mut graphs, backend, cell).await?;
            loaded_bytes = Some(bytes);
            Ok(Arc::new(Release::new(row.clone(), body)))
        };
        let release = slot.get_or_try_init(load).await.cloned();
        drop(slot);
        match loaded_bytes {
            Some(bytes) => self.loaded().sized(tenant, key, bytes),
            None if release.is_err() => self.loaded().drop_empty(tenant, key),
            None => {}
        }
        release
    }

    /// Takes over what was loaded to prove a new release, so that its first call need not load it; the
    /// deployment's older releases are the first to go.
    pub fn adopt(&self, tenant: TenantId, row: Arc<db::Release>, body: Body, bytes: u64) {
        let (deployment, number) = (row.deployment.clone(), row.number);
        let mut loaded = self.loaded();
        loaded.supersede(tenant, |(name, older)| *name == deployment && *older < number);
        let slot = loaded.slot(tenant, (deployment.clone(), number));
        // A call that was faster has loaded it already.
        let _ = slot.set(Arc::new(Release::new(row, body)));
        drop(slot);
        loaded.sized(tenant, (deployment, number), bytes);
    }

    /// Asks again, on this node at once, where a deployment points.
    pub fn ask_again(&self) {
        self.current.ask_again();
        self.rows.ask_again();
    }

    /// Forgets a tenant's deployment, on this node at once; its code is let go.
    pub fn forget(&self, tenant: TenantId, deployment: &Name) {
        self.ask_again();
        self.loaded().forget(tenant, |(name, _)| name == deployment);
    }

    /// Forgets all of a tenant, on this node at once; its code is let go.
    pub fn forget_all(&self, tenant: TenantId) {
        self.ask_again();
        self.loaded().forget(tenant, |_| true);
    }

    /// What each tenant keeps loaded, in bytes, about.
    pub fn resident(&self) -> BTreeMap<TenantId, u64> {
        self.loaded().resident()
    }

    /// How many times a release was loaded because a call found it missing.
    pub fn loads(&self) -> u64 {
        self.loads.load(Relaxed)
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded<Id, Release>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Release {
    fn new(row: Arc<db::Release>, body: Body) -> Self {
        Self {
            settings: Arc::new(row.spec.settings.clone()),
            row,
            body,
            habit: Habit::default(),
        }
    }
}

/// Loads a component and graphs by digest; with the bytes that they take, about. Graphs note which backend
/// they were placed on and how that was checked.
pub async fn body(
    app: &App,
    tenant: TenantId,
    component: Option<Digest>,
    graphs: &mut BTreeMap<String, GraphRef>,
    backend: BackendChoice,
    cell: &UsageCell,
) -> Result<(Body, u64), Error> {
    let (mut handles, mut bytes) = (BTreeMap::new(), 0);
    for (alias, graph) in graphs {
        let source = Source {
            tenant,
            digest: graph.version,
            blob: app.blobs.get(graph.version).await?,
            target: Target::Cpu,
        };
        let known = graph.placement.as_ref();
        let (handle, placement) = app.inference.place(&source, backend, known, cell).await?;
        graph.placement = Some(placement);
        bytes += handle.resident_bytes();
        handles.insert(alias.clone(), handle);
    }
    match component {
        Some(digest) => {
            let pipeline = pipeline(app, tenant, digest, cell).await?;
            bytes += pipeline.code_bytes();
            Ok((Body::Pipeline(pipeline, Arc::new(handles)), bytes))
        }
        None => {
            let only = handles.into_values().next();
            only.map(|graph| (Body::Graph(graph), bytes))
                .ok_or_else(|| Error::invalid("graphs", "name a component or one graph"))
        }
    }
}

/// The compiled pipeline; compiled again from the blob where this node has no valid artefact.
async fn pipeline(
    app: &App,
    tenant: TenantId,
    component: Digest,
    cell: &UsageCell,
) -> Result<Arc<Pipeline>, Error> {
    let id = code_id(tenant, component);
    match app.runtime.load(id).await {
        Err(CompileError::Missing) => {
            let blob = app.blobs.get(component).await?;
            Ok(app.runtime.compile(id, blob, cell).await?)
        }
        other => Ok(other?),
    }
}

/// Under what a tenant's compiled component is kept. The tenant is part of it: were code shared, an upload
/// that need not be compiled would tell a tenant, by its time and its bill, that another one has the same.
/// Blobs are shared by digest: what that saves, one write of a file, is lost in inspecting and compiling it.
pub fn code_id(tenant: TenantId, component: Digest) -> Digest {
    Digest::of(&[tenant.0.as_bytes().as_slice(), &component.0].concat())
}

impl Body {
    /// What the release takes and gives, asked once when it is made.
    pub async fn describe(&self, invocation: runtime::Invocation) -> Result<Signature, runtime::Failure> {
        match self {
            Self::Pipeline(pipeline, _) => pipeline.describe(invocation).await,
            Self::Graph(graph) => Ok(graph.signature().clone()),
        }
    }

    /// The graphs that a guest may load by name.
    pub fn graphs(&self) -> Graphs {
        match self {
            Self::Pipeline(_, graphs) => graphs.clone(),
            Self::Graph(_) => Graphs::default(),
        }
    }
}

/// The limits of `describe`: it only answers, so a tenth of a second of work is plenty.
pub fn describe_limits(limits: &Limits) -> Limits {
    Limits {
        fuel: limits.fuel.min(1_000_000_000),
        deadline_ms: limits.deadline_ms.min(10_000),
        ..limits.clone()
    }
}
