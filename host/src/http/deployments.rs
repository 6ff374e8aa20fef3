//! `/api/v1/deployments`: named routes and their releases.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use db::Action;
use domain::{BackendChoice, Digest, Limits, Name, Placement, Signature, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::{Path, Query};
use super::idempotency::Act;
use super::json::Object;
use super::page::{Page, Part, Prefixed};
use super::problem::cost;
use super::refusals::{Bodied, Keyed, Named, Running, Taken};
use super::{Charged, Shared, body, json, named, schema};
use crate::app::App;
use crate::flow::Error;
use crate::flow::deploy::{Made, Pick, Spec, release};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_deployments, create_deployment))
        .routes(routes!(get_deployment, delete_deployment))
        .routes(routes!(list_releases, create_release))
        .routes(routes!(get_release))
}

/// A named route, as a list shows it.
#[derive(Serialize, ToSchema)]
struct Deployment {
    /// Its name.
    #[schema(value_type = schema::Name)]
    name: Name,
    /// The release that it points to.
    release: u32,
    /// When the deployment was made.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<db::Deployment> for Deployment {
    fn from(row: db::Deployment) -> Self {
        Self {
            name: row.name,
            release: row.current.number,
            created_at: row.created_at,
        }
    }
}

/// What a deployment runs; it never changes.
#[derive(Serialize, ToSchema)]
struct Release {
    /// The deployment's name.
    #[schema(value_type = schema::Name)]
    name: Name,
    /// Counts the deployment's releases from 1.
    release: u32,
    /// The code; null where the one graph is served as it is.
    component: Option<ComponentRef>,
    /// Graphs by the alias under which the code loads them.
    graphs: BTreeMap<String, GraphRef>,
    /// What the code reads as its configuration.
    settings: BTreeMap<String, String>,
    /// What one call may use.
    #[schema(value_type = schema::Limits)]
    limits: Limits,
    /// What runs the graphs, as it was asked for.
    #[schema(value_type = schema::BackendChoice)]
    backend: BackendChoice,
    /// What it takes and gives.
    #[schema(value_type = schema::Signature)]
    signature: Signature,
    /// When the release was made.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

/// One revision of a component.
#[derive(Serialize, ToSchema)]
struct ComponentRef {
    /// The component's name.
    #[schema(value_type = schema::Name)]
    name: Name,
    /// The digest of its bytes.
    #[schema(value_type = schema::Digest)]
    revision: Digest,
}

/// One version of a graph.
#[derive(Serialize, ToSchema)]
struct GraphRef {
    /// The graph's name.
    #[schema(value_type = schema::Name)]
    name: Name,
    /// The digest of its bytes.
    #[schema(value_type = schema::Digest)]
    version: Digest,
    /// What was found when the release was made; null in releases from before there was a choice.
    #[schema(value_type = Option<schema::Placement>)]
    placement: Option<Placement>,
}

impl From<&db::Release> for Release {
    fn from(row: &db::Release) -> Self {
        row.clone().into()
    }
}

impl From<db::Release> for Release {
    fn from(row: db::Release) -> Self {
        let spec = row.spec;
        let graph = |graph: db::GraphRef| GraphRef {
            name: graph.name,
            version: graph.version,
            placement: graph.placement,
        };
        Self {
            name: row.deployment,
            release: row.number,
            component: spec
                .component
                .map(|(name, revision)| ComponentRef { name, revision }),
            graphs: spec
                .graphs
                .into_iter()
                .map(|(alias, at)| (alias, graph(at)))
                .collect(),
            settings: spec.settings,
            limits: spec.limits,
            backend: spec.backend,
            signature: spec.signature,
            created_at: row.created_at,
        }
    }
}

/// List deployments
#[utoipa::path(
    get, path = "/api/v1/deployments", tag = "deployments",
    params(Prefixed),
    responses((status = 200, body = Page<Deployment>, description = "The tenant's deployments, by name."), Keyed)
)]
async fn list_deployments(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Prefixed>,
) -> Result<Json<Page<Deployment>>, Error> {
    let mut tx = app.db.tenant_tx(principal.reads()?).await?;
    let listing = asked.of("deployments")?;
    let rows = tx.deployments_list(asked.prefix.as_ref(), &listing.cut).await?;
    Ok(listing.page(rows))
}

/// What a deployment is to run.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRelease {
    /// The code; without it exactly one graph is served as it is.
    #[serde(default)]
    #[schema(value_type = Option<schema::ComponentPick>)]
    component: Option<Object<Pick>>,
    /// Graphs by the alias under which the code loads them, at most 16.
    #[serde(default)]
    #[schema(value_type = HashMap<schema::Name, schema::GraphPick>)]
    graphs: BTreeMap<Name, Object<Pick>>,
    /// What the code reads as its configuration: at most 64 KiB, keys and values together.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// What differs from the default limits.
    #[serde(default)]
    #[schema(value_type = schema::Limits)]
    limits: Object<Limits>,
    /// What runs the graphs.
    #[serde(default, deserialize_with = "json::word")]
    #[schema(value_type = schema::BackendChoice)]
    backend: BackendChoice,
}

impl TryFrom<NewRelease> for Spec {
    type Error = Error;

    fn try_from(new: NewRelease) -> Result<Self, Error> {
        for (key, value) in &new.settings {
            if key.contains('\0') || value.contains('\0') {
                return Err(Error::invalid(
                    format!("settings.{key}"),
                    "it holds a NUL character",
                ));
            }
        }
        Ok(Self {
            component: new.component.map(|Object(pick)| pick),
            graphs: new
                .graphs
                .into_iter()
                .map(|(alias, Object(pick))| (alias, pick))
                .collect(),
            settings: new.settings,
            limits: new.limits.0,
            backend: new.backend,
        })
    }
}

/// A deployment that is to be. [`NewRelease`] with a name; spelled out, since a flattened one would not say
/// where an error is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(description = "A deployment that is to be, and what it is to run.")]
struct NewDeployment {
    /// A name that no other deployment of the tenant has.
    #[schema(value_type = schema::Name)]
    name: Name,
    /// The code; without it exactly one graph is served as it is.
    #[serde(default)]
    #[schema(value_type = Option<schema::ComponentPick>)]
    component: Option<Object<Pick>>,
    /// Graphs by the alias under which the code loads them, at most 16.
    #[serde(default)]
    #[schema(value_type = HashMap<schema::Name, schema::GraphPick>)]
    graphs: BTreeMap<Name, Object<Pick>>,
    /// What the code reads as its configuration: at most 64 KiB, keys and values together.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// What differs from the default limits.
    #[serde(default)]
    #[schema(value_type = schema::Limits)]
    limits: Object<Limits>,
    /// What runs the graphs.
    #[serde(default, deserialize_with = "json::word")]
    #[schema(value_type = schema::BackendChoice)]
    backend: BackendChoice,
}

/// A new release, and what making it cost.
async fn released(app: &App, act: &Act, tenant: TenantId, made: Made) -> Result<Response, Error> {
    let charged = Charged {
        made: Release::from(&*made.row),
        invocation: made.recorded.finished.call.invocation,
    };
    let committed = act.commit(made.tx, StatusCode::CREATED, &charged).await;
    let ((), recorded) = made.recorded.with(committed)?;
    made.loaded.adopt(app, tenant, made.row);
    Ok((StatusCode::CREATED, cost(&recorded, None), Json(charged)).into_response())
}

/// Make a deployment
///
/// Its graphs are loaded and its code is asked for its signature before the deployment is there; the tenant
/// is charged for that work. Call it at `/v2/models/{name}/infer`.
#[utoipa::path(
    post, path = "/api/v1/deployments", tag = "deployments",
    request_body = NewDeployment,
    responses(
        (status = 201, body = Charged<Release>, description = "The deployment's first release."),
        Keyed, Named, Bodied, Taken, Running
    )
)]
async fn create_deployment(State(app): Shared, act: Act, body: body::Json) -> Result<Response, Error> {
    let tenant = act.manages()?;
    let _turn = app.admission.turn(tenant).await?;
    let NewDeployment {
        name,
        component,
        graphs,
        settings,
        limits,
        backend,
    } = body.read().await?;
    let what = NewRelease {
        component,
        graphs,
        settings,
        limits,
        backend,
    };
    let made = release(&app, act.actor, tenant, &name, what.try_into()?, true).await?;
    released(&app, &act, tenant, made).await
}

/// Get a deployment
///
/// The answer is the release that it points to.
#[utoipa::path(
    get, path = "/api/v1/deployments/{name}", tag = "deployments",
    params(("name" = schema::Name, Path, description = "The deployment's name.")),
    responses((status = 200, body = Release, description = "What it runs."), Keyed, Named)
)]
async fn get_deployment(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<Json<Release>, Error> {
    let tenant = principal.reads()?;
    let row = app.releases.row(&app, tenant, &named(&name)?, None).await?;
    Ok(Json(Release::from(&*row)))
}

/// Delete a deployment
///
/// It takes no more calls, and its name is free again. What the ledger says of it stays.
#[utoipa::path(
    delete, path = "/api/v1/deployments/{name}", tag = "deployments",
    params(("name" = schema::Name, Path, description = "The deployment's name.")),
    responses((status = 204, description = "It is gone."), Keyed, Named)
)]
async fn delete_deployment(
    State(app): Shared,
    act: Act,
    Path(name): Path<String>,
) -> Result<StatusCode, Error> {
    let tenant = act.manages()?;
    let name = named(&name)?;
    let mut tx = app.db.tenant_tx(tenant).await?;
    tx.deployment_delete(&name).await.map_err(|error| match error {
        db::DbError::NotFound(_) => Error::not_found("deployment", &name),
        other => other.into(),
    })?;
    tx.audit(act.actor, Action::DeploymentHide, &name, json!({}))
        .await?;
    act.commit(tx, StatusCode::NO_CONTENT, &()).await?;
    app.releases.forget(tenant, &name);
    Ok(StatusCode::NO_CONTENT)
}

/// List a deployment's releases
#[utoipa::path(
    get, path = "/api/v1/deployments/{name}/releases", tag = "deployments",
    params(("name" = schema::Name, Path, description = "The deployment's name."), Part),
    responses((status = 200, body = Page<Release>, description = "Its releases, the newest first."), Keyed, Named)
)]
async fn list_releases(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
    Query(asked): Query<Part>,
) -> Result<Json<Page<Release>>, Error> {
    let mut tx = app.db.tenant_tx(principal.reads()?).await?;
    let name = named(&name)?;
    let listing = asked.of(format!("deployments/{name}"))?;
    let rows = tx.releases_list(&name, &listing.cut).await?;
    listing.some("deployment", &name, rows)
}

/// Make a release
///
/// The deployment points to it as soon as it is there; a release that cannot start changes nothing.
#[utoipa::path(
    post, path = "/api/v1/deployments/{name}/releases", tag = "deployments",
    params(("name" = schema::Name, Path, description = "The deployment's name.")),
    request_body = NewRelease,
    responses(
        (status = 201, body = Charged<Release>, description = "The release."),
        Keyed, Named, Bodied, Running
    )
)]
async fn create_release(
    State(app): Shared,
    act: Act,
    Path(name): Path<String>,
    body: body::Json,
) -> Result<Response, Error> {
    let tenant = act.manages()?;
    let name = named(&name)?;
    let _turn = app.admission.turn(tenant).await?;
    let what: NewRelease = body.read().await?;
    let made = release(&app, act.actor, tenant, &name, what.try_into()?, false).await?;
    released(&app, &act, tenant, made).await
}

/// Get a release
#[utoipa::path(
    get, path = "/api/v1/deployments/{name}/releases/{number}", tag = "deployments",
    params(
        ("name" = schema::Name, Path, description = "The deployment's name."),
        ("number" = u32, Path, description = "The release's number."),
    ),
    responses((status = 200, body = Release, description = "The release."), Keyed, Named)
)]
async fn get_release(
    State(app): Shared,
    principal: Principal,
    Path((name, number)): Path<(String, String)>,
) -> Result<Json<Release>, Error> {
    let missing = |_| Error::not_found("release", format!("{name}/{number}"));
    let (tenant, number) = (principal.reads()?, number.parse().map_err(missing)?);
    let row = app
        .releases
        .row(&app, tenant, &named(&name)?, Some(number))
        .await?;
    Ok(Json(Release::from(&*row)))
}
