//! `/api/v1/tenants`: owners of everything billed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, TenantFilter, TenantStatus};
use domain::{Name, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::{Path, Query};
use super::page::{Page, asked};
use super::refusals::{Bodied, Keyed, Named, Taken};
use super::{Shared, body, schema};
use crate::app::App;
use crate::flow::Error;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_tenants, create_tenant))
        .routes(routes!(get_tenant))
        .routes(routes!(set_tenant_storage))
}

/// The owner of everything billed.
#[derive(Serialize, ToSchema)]
struct Tenant {
    /// Its id, for ever.
    #[schema(value_type = Uuid)]
    id: TenantId,
    /// Its name.
    #[schema(value_type = schema::Name)]
    name: Name,
    /// Whether it is served.
    #[schema(value_type = schema::TenantStatus)]
    status: TenantStatus,
    /// Bytes of components and graphs that it may store; null for the host's default.
    storage_max_bytes: Option<u64>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<db::Tenant> for Tenant {
    fn from(row: db::Tenant) -> Self {
        Self {
            id: row.id,
            name: row.name,
            status: row.status,
            storage_max_bytes: row.storage_max_bytes,
            created_at: row.created_at,
        }
    }
}

asked! {
    /// Which tenants.
    pub struct Asked {
        /// Only those of this status.
        #[param(value_type = Option<schema::TenantStatus>)]
        status: Option<TenantStatus>,
        /// Only those whose names begin so.
        #[param(value_type = Option<schema::Name>)]
        prefix: Option<Name>,
    }
}

/// List tenants
#[utoipa::path(
    get, path = "/api/v1/tenants", tag = "tenants",
    params(Asked),
    responses((status = 200, body = Page<Tenant>, description = "Tenants, by name."), Keyed)
)]
async fn list_tenants(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Asked>,
) -> Result<Json<Page<Tenant>>, Error> {
    principal.administers()?;
    let listing = asked.of("tenants")?;
    let filter = TenantFilter {
        status: asked.status,
        prefix: asked.prefix,
    };
    let rows = app
        .db
        .admin_tx()
        .await?
        .tenants_list(&filter, &listing.cut)
        .await?;
    Ok(listing.page(rows))
}

/// A tenant that is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    /// A name that no other tenant has.
    #[schema(value_type = schema::Name)]
    name: Name,
}

fn exists(error: db::DbError, name: &Name) -> Error {
    match error {
        db::DbError::Conflict { .. } => Error::Exists {
            what: "tenant",
            name: name.to_string(),
        },
        other => other.into(),
    }
}

/// Make a tenant
#[utoipa::path(
    post, path = "/api/v1/tenants", tag = "tenants",
    request_body = NewTenant,
    responses((status = 201, body = Tenant, description = "The tenant."), Keyed, Bodied, Taken)
)]
async fn create_tenant(
    State(app): Shared,
    principal: Principal,
    body: body::Json,
) -> Result<(StatusCode, Json<Tenant>), Error> {
    principal.administers()?;
    let new: NewTenant = body.read().await?;
    let mut tx = app.db.admin_tx().await?;
    let inserted = tx.tenant_insert(TenantId(app.clock.mint()), &new.name).await;
    let tenant = inserted.map_err(|error| exists(error, &new.name))?;
    let details = json!({ "name": tenant.name });
    tx.audit(
        principal.actor,
        Some(tenant.id),
        Action::TenantCreate,
        tenant.id,
        details,
    )
    .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(tenant.into())))
}

/// Get a tenant
#[utoipa::path(
    get, path = "/api/v1/tenants/{id}", tag = "tenants",
    params(("id" = Uuid, Path, description = "The tenant's id.")),
    responses((status = 200, body = Tenant, description = "The tenant."), Keyed, Named)
)]
async fn get_tenant(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<Tenant>, Error> {
    principal.administers()?;
    let missing = || Error::not_found("tenant", &id);
    let tenant = id.parse().map_err(|_| missing())?;
    let found = app.db.admin_tx().await?.tenant_get(tenant).await?;
    Ok(Json(found.ok_or_else(missing)?.into()))
}

/// How much a tenant may store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StorageQuota {
    /// Bytes of components and graphs; null for the host's default. It must be said.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required, maximum = 9_223_372_036_854_775_807_u64)]
    max_bytes: Option<u64>,
}

/// Set a tenant's storage quota
///
/// What is stored already stays, also where it is more.
#[utoipa::path(
    put, path = "/api/v1/tenants/{id}/storage", tag = "tenants",
    params(("id" = Uuid, Path, description = "The tenant's id.")),
    request_body = StorageQuota,
    responses((status = 200, body = Tenant, description = "The tenant."), Keyed, Named, Bodied)
)]
async fn set_tenant_storage(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
    body: body::Json,
) -> Result<Json<Tenant>, Error> {
    principal.administers()?;
    let missing = || Error::not_found("tenant", &id);
    let tenant = id.parse().map_err(|_| missing())?;
    let quota: StorageQuota = body.read().await?;
    let mut tx = app.db.admin_tx().await?;
    tx.tenant_set_storage(tenant, quota.max_bytes)
        .await
        .map_err(|error| match error {
            db::DbError::NotFound(_) => missing(),
            db::DbError::OutOfRange { .. } => Error::invalid("max_bytes", "it is over what can be counted"),
            other => other.into(),
        })?;
    let tenant = tx.tenant_get(tenant).await?.ok_or_else(missing)?;
    let details = json!({ "max_bytes": tenant.storage_max_bytes });
    tx.audit(
        principal.actor,
        Some(tenant.id),
        Action::TenantSetStorage,
        tenant.id,
        details,
    )
    .await?;
    tx.commit().await?;
    Ok(Json(tenant.into()))
}
