//! Releases in memory: what a deployment points to, with its pipeline and graphs loaded.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use db::GraphRef;
use domain::{Digest, Limits, Name, Signature, TenantId, UsageCell};
use inference::{GraphHandle, Target};
use runtime::{CompileError, Graphs, Pipeline};
use tokio::sync::OnceCell;

use super::Error;
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
}

/// What answers a call.
#[derive(Clone)]
pub enum Body {
    /// A component, with the graphs it may load by name.
    Pipeline(Arc<Pipeline>, Graphs),
    /// A graph as it is, without a guest.
    Graph(Arc<GraphHandle>),
}

type Id = (TenantId, Name, u32);
type Slot = Arc<OnceCell<Arc<Release>>>;

/// The releases of this node: rows that are a second fresh, code that stays loaded.
#[derive(Default)]
pub struct Releases {
    current: Fresh<(TenantId, Name), u32>,
    rows: Fresh<Id, Arc<db::Release>>,
    loaded: Mutex<HashMap<Id, Slot>>,
}

impl Releases {
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

    /// Loads a release once, however many ask at the same time; `cell` pays for what it takes.
    pub async fn load(
        &self,
        app: &App,
        tenant: TenantId,
        row: &Arc<db::Release>,
        cell: &UsageCell,
    ) -> Result<Arc<Release>, Error> {
        let slot = {
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            loaded
                .entry((tenant, row.deployment.clone(), row.number))
                .or_default()
                .clone()
        };
        let load = async || {
            let body = body(
                app,
                tenant,
                row.spec.component.as_ref().map(|(_, digest)| *digest),
                &row.spec.graphs,
                cell,
            );
            Ok(Arc::new(Release {
                settings: Arc::new(row.spec.settings.clone()),
                row: row.clone(),
                body: body.await?,
            }))
        };
        slot.get_or_try_init(load).await.cloned()
    }

    /// Forgets what the tenant's deployment pointed to, on this node at once; older code is let go.
    pub fn forget(&self, tenant: TenantId, deployment: &Name) {
        self.current.ask_again();
        self.rows.ask_again();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|(owner, name, _), _| (*owner, name) != (tenant, deployment));
    }
}

/// Loads a component and graphs by digest.
pub async fn body(
    app: &App,
    tenant: TenantId,
    component: Option<Digest>,
    graphs: &BTreeMap<String, GraphRef>,
    cell: &UsageCell,
) -> Result<Body, Error> {
    let mut handles = BTreeMap::new();
    for (alias, graph) in graphs {
        let blob = app.blobs.get(graph.version).await?;
        let handle = app
            .inference
            .load(tenant, graph.version, blob, Target::Cpu, cell)
            .await?;
        handles.insert(alias.clone(), handle);
    }
    match component {
        Some(digest) => Ok(Body::Pipeline(
            pipeline(app, digest, cell).await?,
            Arc::new(handles),
        )),
        None => {
            let only = handles.into_values().next();
            only.map(Body::Graph)
                .ok_or_else(|| Error::invalid("graphs", "name a component or one graph"))
        }
    }
}

/// The compiled pipeline; compiled again from the blob where this node has no valid artefact.
async fn pipeline(app: &App, digest: Digest, cell: &UsageCell) -> Result<Arc<Pipeline>, Error> {
    match app.runtime.load(digest).await {
        Err(CompileError::Missing) => {
            app.runtime
                .compile(digest, app.blobs.get(digest).await?, cell)
                .await?;
            Ok(app.runtime.load(digest).await?)
        }
        other => Ok(other?),
    }
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
