//! `/api/v1/components`: what tenants upload to run.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use db::Action;
use domain::{Digest, Name};
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
        .routes(routes!(list_components))
        .routes(routes!(list_revisions, upload_component))
        .routes(routes!(delete_component))
        .routes(routes!(delete_revision))
}

/// A component: everything that was uploaded under one name.
#[derive(Serialize, ToSchema)]
struct Component {
    /// Its name.
    #[schema(value_type = schema::Name)]
    component: Name,
    /// How many revisions it has.
    revisions: u64,
    /// The newest of them.
    #[schema(value_type = schema::Digest)]
    newest: Digest,
    /// When that was uploaded.
    #[serde(with = "time::serde::rfc3339")]
    uploaded_at: OffsetDateTime,
}

impl From<db::Component> for Component {
    fn from(row: db::Component) -> Self {
        Self {
            component: row.name,
            revisions: row.revisions,
            newest: row.newest,
            uploaded_at: row.uploaded_at,
        }
    }
}

/// One upload of a component; it never changes.
#[derive(Serialize, ToSchema)]
struct Revision {
    /// The component's name.
    #[schema(value_type = schema::Name)]
    component: Name,
    /// The digest of its bytes.
    #[schema(value_type = schema::Digest)]
    revision: Digest,
    /// How many bytes it has.
    bytes: u64,
    /// When it was uploaded.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<db::Revision> for Revision {
    fn from(row: db::Revision) -> Self {
        Self {
            component: row.component,
            revision: row.digest,
            bytes: row.bytes,
            created_at: row.created_at,
        }
    }
}

/// List components
#[utoipa::path(
    get, path = "/api/v1/components", tag = "components",
    params(Prefixed),
    responses((status = 200, body = Page<Component>, description = "The tenant's components, by name."), Keyed)
)]
async fn list_components(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Prefixed>,
) -> Result<Json<Page<Component>>, Error> {
    let mut tx = app.db.tenant_tx(principal.reads()?).await?;
    let listing = asked.of("components")?;
    let rows = tx.components_list(asked.prefix.as_ref(), &listing.cut).await?;
    Ok(listing.page(rows))
}

/// List a component's revisions
#[utoipa::path(
    get, path = "/api/v1/components/{name}/revisions", tag = "components",
    params(("name" = schema::Name, Path, description = "The component's name."), Part),
    responses((status = 200, body = Page<Revision>, description = "Its revisions, the newest first."), Keyed, Named)
)]
async fn list_revisions(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
    Query(asked): Query<Part>,
) -> Result<Json<Page<Revision>>, Error> {
    let mut tx = app.db.tenant_tx(principal.reads()?).await?;
    let name = named(&name)?;
    let listing = asked.of(format!("components/{name}"))?;
    let rows = tx.revisions_list(&name, &listing.cut).await?;
    listing.some("component", &name, rows)
}

/// Upload a component
///
/// The body is a WebAssembly component, or a core module with its WIT embedded. It is inspected and compiled
/// before it is kept, and the tenant is charged for that work. The same bytes again are the same revision.
#[utoipa::path(
    post, path = "/api/v1/components/{name}/revisions", tag = "components",
    params(("name" = schema::Name, Path, description = "The component's name; the first upload makes it.")),
    request_body(content = schema::File, content_type = "application/octet-stream", description = "The component's bytes."),
    responses(
        (status = 201, body = Charged<Revision>, description = "A new revision."),
        (status = 200, body = Charged<Revision>, description = "These bytes were there already."),
        Keyed, Uploading, Running
    )
)]
async fn upload_component(
    State(app): Shared,
    act: Act,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Error> {
    let limit_bytes = app.config.component_max_mib << 20;
    uploads::take::<Revision, _, _>(&app, &act, &name, body, limit_bytes, publish::component).await
}

/// Delete a component
///
/// It is hidden with all its revisions, and no release can be made of it any more. Releases that are deployed go on.
/// Its bytes go when no deployment needs them; until then an upload of the same bytes brings them back.
#[utoipa::path(
    delete, path = "/api/v1/components/{name}", tag = "components",
    params(("name" = schema::Name, Path, description = "The component's name.")),
    responses((status = 204, description = "It is gone."), Keyed, Named)
)]
async fn delete_component(
    State(app): Shared,
    act: Act,
    Path(name): Path<String>,
) -> Result<StatusCode, Error> {
    let tenant = act.manages()?;
    let name = named(&name)?;
    let missing = || Error::not_found("component", &name);
    let hide = async |tx: &mut db::TenantTx| {
        tx.component_delete(&name).await?;
        tx.audit(act.actor, Action::ComponentHide, &name, json!({})).await
    };
    uploads::hide(&app, &act, tenant, missing, hide).await
}

/// Delete a component's revision
///
/// As with the whole component; the others stay.
#[utoipa::path(
    delete, path = "/api/v1/components/{name}/revisions/{revision}", tag = "components",
    params(
        ("name" = schema::Name, Path, description = "The component's name."),
        ("revision" = schema::Digest, Path, description = "The revision's digest."),
    ),
    responses((status = 204, description = "It is gone."), Keyed, Named)
)]
async fn delete_revision(
    State(app): Shared,
    act: Act,
    Path((name, revision)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    let tenant = act.manages()?;
    let name = named(&name)?;
    let missing = || Error::not_found("revision", format!("{name}/{revision}"));
    let digest: Digest = revision.parse().map_err(|_| missing())?;
    let hide = async |tx: &mut db::TenantTx| {
        tx.revision_delete(&name, digest).await?;
        tx.audit(
            act.actor,
            Action::ComponentHide,
            &name,
            json!({ "revision": digest }),
        )
        .await
    };
    uploads::hide(&app, &act, tenant, missing, hide).await
}
