//! `/api/v1/graphs`: models that pipelines load by name.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use db::Action;
use domain::{Digest, Name, Signature};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::{Path, Query};
use super::idempotency::Act;
use super::page::{Page, Part, Prefixed};
use super::refusals::{Keyed, Named, Running, Uploading};
use super::{Charged, Shared, named, schema, uploads};
use crate::app::App;
use crate::flow::{Error, publish};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_graphs))
        .routes(routes!(list_versions, upload_graph))
        .routes(routes!(delete_graph))
        .routes(routes!(delete_version))
}

/// A graph: every model that was uploaded under one name.
#[derive(Serialize, ToSchema)]
struct Graph {
    /// Its name.
    #[schema(value_type = schema::Name)]
    graph: Name,
    /// How many versions it has.
    versions: u64,
    /// The newest of them.
    #[schema(value_type = schema::Digest)]
    newest: Digest,
    /// When that was uploaded.
    #[serde(with = "time::serde::rfc3339")]
    uploaded_at: OffsetDateTime,
}

impl From<db::Graph> for Graph {
    fn from(row: db::Graph) -> Self {
        Self {
            graph: row.name,
            versions: row.versions,
            newest: row.newest,
            uploaded_at: row.uploaded_at,
        }
    }
}

/// One upload of a graph; it never changes.
#[derive(Serialize, ToSchema)]
struct GraphVersion {
    /// The graph's name.
    #[schema(value_type = schema::Name)]
    graph: Name,
    /// The digest of its bytes.
    #[schema(value_type = schema::Digest)]
    version: Digest,
    /// How many bytes it has.
    bytes: u64,
    /// The file's format.
    #[schema(example = "onnx")]
    encoding: String,
    /// What it takes and gives.
    #[schema(value_type = schema::Signature)]
    signature: Signature,
    /// When it was uploaded.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<db::GraphVersion> for GraphVersion {
    fn from(row: db::GraphVersion) -> Self {
        Self {
            graph: row.graph,
            version: row.digest,
            bytes: row.bytes,
            encoding: row.encoding,
            signature: row.signature,
            created_at: row.created_at,
        }
    }
}

/// List graphs
#[utoipa::path(
    get, path = "/api/v1/graphs", tag = "graphs",
    params(Prefixed),
    responses((status = 200, body = Page<Graph>, description = "The tenant's graphs, by name."), Keyed)
)]
async fn list_graphs(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Prefixed>,
) -> Result<Json<Page<Graph>>, Error> {
    let mut tx = app.db.tenant_tx(principal.reads()?).await?;
    let listing = asked.of("graphs")?;
    let rows = tx.graphs_list(asked.prefix.as_ref(), &listing.cut).await?;
    Ok(listing.page(rows))
}

/// List a graph's versions
#[utoipa::path(
    get, path = "/api/v1/graphs/{name}/versions", tag = "graphs",
    params(("name" = schema::Name, Path, description = "The graph's name."), Part),
    responses((status = 200, body = Page<GraphVersion>, description = "Its versions, the newest first."), Keyed, Named)
)]
async fn list_versions(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
    Query(asked): Query<Part>,
) -> Result<Json<Page<GraphVersion>>, Error> {
    let mut tx = app.db.tenant_tx(principal.reads()?).await?;
    let name = named(&name)?;
    let listing = asked.of(format!("graphs/{name}"))?;
    let rows = tx.graph_versions_list(&name, &listing.cut).await?;
    listing.some("graph", &name, rows)
}

/// Upload a graph
///
/// The body is an ONNX model in one file. It is loaded once before it is kept, and the tenant is charged for
/// that work. The same bytes again are the same version.
#[utoipa::path(
    post, path = "/api/v1/graphs/{name}/versions", tag = "graphs",
    params(("name" = schema::Name, Path, description = "The graph's name; the first upload makes it.")),
    request_body(content = schema::File, content_type = "application/octet-stream", description = "The model's bytes."),
    responses(
        (status = 201, body = Charged<GraphVersion>, description = "A new version."),
        (status = 200, body = Charged<GraphVersion>, description = "These bytes were there already."),
        Keyed, Uploading, Running
    )
)]
async fn upload_graph(
    State(app): Shared,
    act: Act,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Error> {
    let limit_bytes = app.config.graph_max_mib << 20;
    uploads::take::<GraphVersion, _, _>(&app, &act, &name, body, limit_bytes, publish::graph).await
}

/// Delete a graph
///
/// It is hidden with all its versions, and no release can be made of it any more. Releases that are deployed go on.
/// Its bytes go when no deployment needs them; until then an upload of the same bytes brings them back.
#[utoipa::path(
    delete, path = "/api/v1/graphs/{name}", tag = "graphs",
    params(("name" = schema::Name, Path, description = "The graph's name.")),
    responses((status = 204, description = "It is gone."), Keyed, Named)
)]
async fn delete_graph(State(app): Shared, act: Act, Path(name): Path<String>) -> Result<StatusCode, Error> {
    let tenant = act.manages()?;
    let name = named(&name)?;
    let missing = || Error::not_found("graph", &name);
    let hide = async |tx: &mut db::TenantTx| {
        tx.graph_delete(&name).await?;
        tx.audit(act.actor, Action::GraphHide, &name, json!({})).await
    };
    uploads::hide(&app, &act, tenant, missing, hide).await
}

/// Delete a graph's version
///
/// As with the whole graph; the others stay.
#[utoipa::path(
    delete, path = "/api/v1/graphs/{name}/versions/{version}", tag = "graphs",
    params(
        ("name" = schema::Name, Path, description = "The graph's name."),
        ("version" = schema::Digest, Path, description = "The version's digest."),
    ),
    responses((status = 204, description = "It is gone."), Keyed, Named)
)]
async fn delete_version(
    State(app): Shared,
    act: Act,
    Path((name, version)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    let tenant = act.manages()?;
    let name = named(&name)?;
    let missing = || Error::not_found("version", format!("{name}/{version}"));
    let digest: Digest = version.parse().map_err(|_| missing())?;
    let hide = async |tx: &mut db::TenantTx| {
        tx.graph_version_delete(&name, digest).await?;
        tx.audit(act.actor, Action::GraphHide, &name, json!({ "version": digest }))
            .await
    };
    uploads::hide(&app, &act, tenant, missing, hide).await
}
