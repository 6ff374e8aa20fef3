//! `/api/v1/tenants`: owners of everything billed.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, put};
use axum::{Json, Router};
use domain::{Name, TenantId};
use serde::Deserialize;
use serde_json::json;

use super::auth::Principal;
use super::{Shared, body};
use crate::app::App;
use crate::flow::Error;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/tenants", get(list).post(create))
        .route("/api/v1/tenants/{id}", get(one))
        .route("/api/v1/tenants/{id}/storage", put(set_storage))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: Name,
}

async fn create(
    State(app): Shared,
    principal: Principal,
    body: body::Json,
) -> Result<impl IntoResponse, Error> {
    principal.administers()?;
    let new: New = body.read().await?;
    let mut tx = app.db.admin_tx().await?;
    let inserted = tx.tenant_insert(TenantId(app.clock.mint()), &new.name).await;
    let tenant = inserted.map_err(|error| exists(error, &new.name))?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(view(&tenant))))
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

async fn list(State(app): Shared, principal: Principal) -> Result<impl IntoResponse, Error> {
    principal.administers()?;
    let tenants = app.db.admin_tx().await?.tenants_list().await?;
    Ok(Json(
        json!({ "items": tenants.iter().map(view).collect::<Vec<_>>() }),
    ))
}

async fn one(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Error> {
    principal.administers()?;
    let missing = || Error::not_found("tenant", &id);
    let tenant = id.parse().map_err(|_| missing())?;
    let tenant = app
        .db
        .admin_tx()
        .await?
        .tenant_get(tenant)
        .await?
        .ok_or_else(missing)?;
    Ok(Json(view(&tenant)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StorageQuota {
    /// Null for the host's default; it must be said.
    #[serde(deserialize_with = "Option::deserialize")]
    max_bytes: Option<u64>,
}

async fn set_storage(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
    body: body::Json,
) -> Result<impl IntoResponse, Error> {
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
    tx.commit().await?;
    Ok(Json(view(&tenant)))
}

fn view(tenant: &db::Tenant) -> serde_json::Value {
    json!({
        "id": tenant.id,
        "name": tenant.name,
        "status": tenant.status.as_str(),
        "storage_max_bytes": tenant.storage_max_bytes,
        "created_at": super::instant(tenant.created_at),
    })
}
