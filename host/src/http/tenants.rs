//! `/api/v1/tenants`: owners of everything billed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, AdminTx, DbError, TenantFilter, TenantStatus};
use domain::{Name, TenantId};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::{Path, Query};
use super::idempotency::Act;
use super::page::{Page, asked};
use super::refusals::{Bodied, Ended, Keyed, Named, Taken};
use super::{Shared, body, schema};
use crate::app::App;
use crate::flow::Error;
use crate::flow::quota::{self, Use};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_tenants, create_tenant))
        .routes(routes!(get_tenant, change_tenant))
        .routes(routes!(get_own_tenant))
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
    /// Calls that may run at once on a node; null for the host's default.
    concurrency_max: Option<u32>,
    /// Components and graphs that it may upload in an hour; null for the host's default.
    uploads_max_per_hour: Option<u32>,
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
            concurrency_max: row.concurrency_max,
            uploads_max_per_hour: row.uploads_max_per_hour,
            created_at: row.created_at,
        }
    }
}

/// A tenant with its quotas.
#[derive(Serialize, ToSchema)]
struct QuotedTenant {
    #[serde(flatten)]
    tenant: Tenant,
    /// The quotas in force, and how much of them is used.
    quotas: Quotas,
}

/// Quotas in force, and how much of them is used.
#[derive(Serialize, ToSchema)]
struct Quotas {
    /// Bytes of components and graphs that are visible or deployed.
    storage_used_bytes: u64,
    /// Bytes that they may have.
    storage_max_bytes: u64,
    /// Calls that may run at once on a node.
    concurrency_max: u32,
    /// Uploads in this hour, refused ones too.
    uploads_used: u32,
    /// Uploads that there may be in an hour.
    uploads_max_per_hour: u32,
    /// When the next hour begins.
    #[serde(with = "time::serde::rfc3339")]
    uploads_reset_at: OffsetDateTime,
}

impl QuotedTenant {
    fn new(app: &App, row: db::Tenant, storage_used_bytes: u64, uploads_used: u32) -> Self {
        let used = Use::new(app, &row, storage_used_bytes, uploads_used);
        Self {
            tenant: row.into(),
            quotas: Quotas {
                storage_used_bytes: used.storage_used_bytes,
                storage_max_bytes: used.storage_max_bytes,
                concurrency_max: used.concurrency_max,
                uploads_used: used.uploads_used,
                uploads_max_per_hour: used.uploads_max_per_hour,
                uploads_reset_at: used.uploads_reset_at,
            },
        }
    }

    async fn load(app: &App, tx: &mut AdminTx, row: db::Tenant) -> Result<Self, Error> {
        let storage_used_bytes = tx.storage_used(row.id).await?;
        let uploads_used = tx.uploads(row.id, quota::hour(app)).await?;
        Ok(Self::new(app, row, storage_used_bytes, uploads_used))
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
    act: Act,
    body: body::Json,
) -> Result<(StatusCode, Json<Tenant>), Error> {
    act.administers()?;
    let new: NewTenant = body.read().await?;
    let mut tx = app.db.admin_tx().await?;
    let inserted = tx.tenant_insert(TenantId(app.clock.mint()), &new.name).await;
    let tenant = inserted.map_err(|error| exists(error, &new.name))?;
    let details = json!({ "name": tenant.name });
    tx.audit(
        act.actor,
        Some(tenant.id),
        Action::TenantCreate,
        tenant.id,
        details,
    )
    .await?;
    let tenant = Tenant::from(tenant);
    act.commit(tx, StatusCode::CREATED, &tenant).await?;
    Ok((StatusCode::CREATED, Json(tenant)))
}

/// Get a tenant
#[utoipa::path(
    get, path = "/api/v1/tenants/{id}", tag = "tenants",
    params(("id" = Uuid, Path, description = "The tenant's id.")),
    responses((status = 200, body = QuotedTenant, description = "The tenant, with its quotas."), Keyed, Named)
)]
async fn get_tenant(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<QuotedTenant>, Error> {
    principal.administers()?;
    let missing = || Error::not_found("tenant", &id);
    let tenant = id.parse().map_err(|_| missing())?;
    let mut tx = app.db.admin_tx().await?;
    let found = tx.tenant_get(tenant).await?.ok_or_else(missing)?;
    Ok(Json(QuotedTenant::load(&app, &mut tx, found).await?))
}

/// Get one's own tenant
///
/// What the caller's key belongs to, with its quotas; also while it is suspended.
#[utoipa::path(
    get, path = "/api/v1/tenant", tag = "tenants",
    responses((status = 200, body = QuotedTenant, description = "The tenant, with its quotas."), Keyed)
)]
async fn get_own_tenant(State(app): Shared, principal: Principal) -> Result<Json<QuotedTenant>, Error> {
    let mut tx = app.db.tenant_tx(principal.belongs()?).await?;
    let row = tx.tenant().await?;
    let storage_used_bytes = tx.storage_used().await?;
    let uploads_used = tx.uploads(quota::hour(&app)).await?;
    Ok(Json(QuotedTenant::new(
        &app,
        row,
        storage_used_bytes,
        uploads_used,
    )))
}

/// What is to change of a tenant. What is left out stays; a quota of null is the host's default.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TenantChange {
    /// `suspended`: calls and changes are refused, what there is can be read and is kept. `active`: served again.
    /// `closed`: its keys are refused for good, and its uploads are removed; its name stays taken.
    #[serde(default, deserialize_with = "word", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::TenantStatus>)]
    status: Option<TenantStatus>,
    /// Bytes of components and graphs that it may store. What is stored already stays, also where it is more.
    #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, maximum = 9_223_372_036_854_775_807_u64)]
    storage_max_bytes: Option<Option<u64>>,
    /// Calls that may run at once on a node.
    #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 2_147_483_647)]
    concurrency_max: Option<Option<u32>>,
    /// Components and graphs that it may upload in an hour.
    #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, maximum = 2_147_483_647)]
    uploads_max_per_hour: Option<Option<u32>>,
}

/// A status as a word; serde by itself takes one from an object, too.
fn word<'de, D: Deserializer<'de>>(field: D) -> Result<Option<TenantStatus>, D::Error> {
    let word = Option::<String>::deserialize(field)?;
    word.map(|word| TenantStatus::deserialize(word.into_deserializer()))
        .transpose()
}

/// Tells a null from a field that is left out.
fn said<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// Change a tenant
///
/// Suspends, resumes or closes it, or sets its quotas. Every host heeds it within a second. Calls that run already
/// end by their own limits and are recorded.
#[utoipa::path(
    patch, path = "/api/v1/tenants/{id}", tag = "tenants",
    params(("id" = Uuid, Path, description = "The tenant's id.")),
    request_body = TenantChange,
    responses((status = 200, body = QuotedTenant, description = "The tenant as it is now."), Keyed, Named, Bodied, Ended)
)]
async fn change_tenant(
    State(app): Shared,
    act: Act,
    Path(id): Path<String>,
    body: body::Json,
) -> Result<Json<QuotedTenant>, Error> {
    act.administers()?;
    let missing = || Error::not_found("tenant", &id);
    let tenant = id.parse().map_err(|_| missing())?;
    let asked: TenantChange = body.read().await?;
    if asked.concurrency_max == Some(Some(0)) {
        let message = "a tenant that may run nothing is a suspended one: set the status";
        return Err(Error::invalid("concurrency_max", message));
    }
    let change = db::TenantChange {
        status: asked.status,
        storage_max_bytes: asked.storage_max_bytes,
        concurrency_max: asked.concurrency_max,
        uploads_max_per_hour: asked.uploads_max_per_hour,
    };
    let mut tx = app.db.admin_tx().await?;
    let changed = tx.tenant_update(tenant, &change).await;
    let changed = changed.map_err(|error| match error {
        DbError::NotFound(_) => missing(),
        DbError::Check { .. } => Error::ClosedIsFinal,
        DbError::OutOfRange { field, .. } => Error::invalid(
            field.trim_start_matches("tenant."),
            "it is over what can be counted",
        ),
        other => other.into(),
    })?;
    tx.audit(
        act.actor,
        Some(tenant),
        Action::TenantUpdate,
        tenant,
        json!(asked),
    )
    .await?;
    let changed = QuotedTenant::load(&app, &mut tx, changed).await?;
    act.commit(tx, StatusCode::OK, &changed).await?;
    app.keys.ask_again();
    Ok(Json(changed))
}
