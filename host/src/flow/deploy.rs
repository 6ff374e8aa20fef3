//! Deploy: a named route gets an immutable, numbered release.

use std::collections::BTreeMap;
use std::sync::Arc;

use db::{Action, Actor, DbError, GraphRef, ReleaseSpec};
use domain::posting::CallKind;
use domain::{BackendChoice, Digest, Limits, Name, Signature, TenantId, UsageCell};
use runtime::Failure;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::invoke::invocation;
use super::metered::{Recorded, Where, call, metered};
use super::publish::graded;
use super::releases::Body;
use super::{Error, releases};
use crate::app::App;

/// What a release is to consist of.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The code; without it the one graph is served as it is.
    #[serde(default)]
    pub component: Option<Pick>,
    /// Graphs by the alias under which the guest loads them.
    #[serde(default)]
    pub graphs: BTreeMap<Name, Pick>,
    /// What the guest reads through `config`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// What differs from the default limits.
    #[serde(default)]
    pub limits: Limits,
    /// The backend that runs the graphs.
    #[serde(default)]
    pub backend: BackendChoice,
}

/// An upload by name, the newest unless a digest is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pick {
    /// The component's or graph's name.
    pub name: Name,
    /// Which upload.
    #[serde(default, alias = "revision", alias = "version")]
    pub digest: Option<Digest>,
}

/// Most graphs in a release.
const GRAPHS: usize = 16;
/// Most bytes of settings, keys and values together.
const SETTINGS_BYTES: usize = 64 << 10;

/// A release, once it is committed with the answer.
pub struct Made {
    /// The row.
    pub row: Arc<db::Release>,
    /// The record of the work.
    pub recorded: Recorded,
    /// The open transaction.
    pub tx: db::TenantTx,
    /// What was loaded to prove it; it serves the first calls.
    pub loaded: Proven,
}

/// What was loaded to prove a release, and its bytes.
pub struct Proven {
    body: Body,
    bytes: u64,
}

impl Proven {
    /// Takes over what was loaded, once the release is committed.
    pub fn adopt(self, app: &App, tenant: TenantId, row: Arc<db::Release>) {
        app.releases.ask_again();
        app.releases.adopt(tenant, row, self.body, self.bytes);
    }
}

/// Makes a release of `deployment` and points the deployment to it; the tenant pays for the work also when it
/// is refused.
pub async fn release(
    app: &Arc<App>,
    actor: Actor,
    tenant: TenantId,
    deployment: &Name,
    spec: Spec,
    first: bool,
) -> Result<Made, Error> {
    check(&spec)?;
    let resolved = resolve(app, tenant, spec).await?;
    // `describe` runs like a call, but a deployment whose places are all taken must still be replaceable.
    let limits = Limits {
        concurrency: u64::MAX,
        ..resolved.limits.clone()
    };
    let _place = app.admission.place(tenant, deployment, &limits).await?;
    let ((spec, loaded), recorded) = prove(app, tenant, deployment, resolved).await?;
    let stored = store(app, actor, tenant, deployment, &spec, first).await;
    let ((row, tx), recorded) = recorded.with(stored)?;
    Ok(Made {
        row,
        recorded,
        tx,
        loaded,
    })
}

async fn store(
    app: &App,
    actor: Actor,
    tenant: TenantId,
    deployment: &Name,
    spec: &ReleaseSpec,
    first: bool,
) -> Result<(Arc<db::Release>, db::TenantTx), Error> {
    let mut tx = app.db.tenant_tx(tenant).await?;
    let (number, action) = match first {
        true => (
            tx.deployment_create(deployment, spec).await,
            Action::DeploymentCreate,
        ),
        false => (
            tx.release_insert(deployment, spec).await,
            Action::DeploymentRelease,
        ),
    };
    let number = number.map_err(|error| match error {
        DbError::Conflict { .. } => Error::Exists {
            what: "deployment",
            name: deployment.to_string(),
        },
        DbError::NotFound(_) => Error::not_found("deployment", deployment),
        DbError::Reference { .. } => deleted(spec),
        other => other.into(),
    })?;
    tx.audit(actor, action, deployment, json!({ "release": number }))
        .await?;
    let row = tx.release_get(deployment, number).await?.ok_or(Error::Internal)?;
    Ok((Arc::new(row), tx))
}

/// What to say when something of a release was deleted while the release was made.
fn deleted(spec: &ReleaseSpec) -> Error {
    let component = spec.component.iter().map(|(name, _)| name.as_str());
    let graphs = spec.graphs.values().map(|graph| graph.name.as_str());
    let names: Vec<&str> = component.chain(graphs).collect();
    Error::not_found("upload", names.join("' or '"))
}

fn check(spec: &Spec) -> Result<(), Error> {
    spec.limits
        .check(&Limits::CEILING)
        .map_err(|error| Error::invalid(format!("limits.{}", error.field), &error))?;
    if spec.component.is_none() && spec.graphs.len() != 1 {
        return Err(Error::invalid(
            "graphs",
            "a deployment without a component serves exactly one graph",
        ));
    }
    if spec.graphs.len() > GRAPHS {
        return Err(Error::invalid(
            "graphs",
            format!("a release holds at most {GRAPHS} graphs"),
        ));
    }
    let settings_bytes: usize = spec
        .settings
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if settings_bytes > SETTINGS_BYTES {
        return Err(Error::invalid(
            "settings",
            format!("keys and values are over {SETTINGS_BYTES} bytes"),
        ));
    }
    Ok(())
}

/// Names become digests, once and for all; the signature and the backends are still to be asked.
async fn resolve(app: &App, tenant: TenantId, spec: Spec) -> Result<ReleaseSpec, Error> {
    let mut tx = app.db.tenant_tx(tenant).await?;
    let component = match &spec.component {
        None => None,
        Some(Pick { name, digest }) => {
            let found = match digest {
                Some(digest) => tx.revision_get(name, *digest).await?,
                None => tx.revision_newest(name).await?,
            };
            let found = found.ok_or_else(|| Error::not_found("component", name))?;
            Some((name.clone(), found.digest))
        }
    };
    let mut graphs = BTreeMap::new();
    for (alias, Pick { name, digest }) in spec.graphs {
        let found = match digest {
            Some(digest) => tx.graph_version_get(&name, digest).await?,
            None => tx.graph_version_newest(&name).await?,
        };
        let version = found.ok_or_else(|| Error::not_found("graph", &name))?.digest;
        let placement = None;
        let graph = GraphRef {
            name,
            version,
            placement,
        };
        graphs.insert(alias.into(), graph);
    }
    let (settings, limits, backend) = (spec.settings, spec.limits, spec.backend);
    Ok(ReleaseSpec {
        component,
        graphs,
        settings,
        limits,
        backend,
        signature: Signature::default(),
    })
}

/// Loads everything and asks the component to describe itself: a release that cannot start is refused.
async fn prove(
    app: &Arc<App>,
    tenant: TenantId,
    deployment: &Name,
    mut spec: ReleaseSpec,
) -> Result<((ReleaseSpec, Proven), Recorded), Error> {
    let call = call(app, CallKind::Deploy, tenant, Some((deployment, 0)));
    let id = call.invocation;
    let host = app.clone();
    let work = move |cell: Arc<UsageCell>| async move {
        let describe = async {
            let component = spec.component.as_ref().map(|(_, digest)| *digest);
            let (graphs, backend) = (&mut spec.graphs, spec.backend);
            let (body, bytes) = releases::body(&host, tenant, component, graphs, backend, &cell).await?;
            let limits = releases::describe_limits(&spec.limits);
            let settings = Arc::new(spec.settings.clone());
            let inv = invocation(
                id,
                tenant,
                &limits,
                &cell,
                CancellationToken::new(),
                body.graphs(),
                settings,
            );
            let signature = body.describe(inv).await.map_err(|failure| Failure {
                message: format!("the component's describe() failed: {}", failure.message),
                ..failure
            })?;
            Ok((ReleaseSpec { signature, ..spec }, Proven { body, bytes }))
        };
        graded(describe.await)
    };
    let (proven, recorded) = metered(app, call, Where::Guests, work).await?;
    recorded.with(proven.unwrap_or(Err(Error::Internal)))
}
