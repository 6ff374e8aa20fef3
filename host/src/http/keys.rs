//! `/api/v1/keys`: bearer keys, shown once and stored hashed.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{delete, get};
use axum::{Json, Router};
use domain::{KeyId, Role, TenantId};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::auth::Principal;
use super::{Shared, body};
use crate::app::App;
use crate::flow::Error;
use crate::keys::Secret;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/keys", get(list).post(create))
        .route("/api/v1/keys/{id}", delete(revoke))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: String,
    role: Role,
    #[serde(default)]
    tenant: Option<TenantId>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
}

impl New {
    fn check(&self, now: OffsetDateTime) -> Result<(), Error> {
        if self.name.is_empty() || self.name.len() > 100 {
            return Err(Error::invalid("name", "give the key a name of 1 to 100 bytes"));
        }
        if self.role.is_tenants() != self.tenant.is_some() {
            let message =
                "the roles tenant:manage, tenant:invoke and tenant:read need a tenant, the others have none";
            return Err(Error::invalid("tenant", message));
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(Error::invalid("expires_at", "it has passed already"));
        }
        Ok(())
    }
}

async fn create(
    State(app): Shared,
    principal: Principal,
    body: body::Json,
) -> Result<impl IntoResponse, Error> {
    principal.administers()?;
    let new: New = body.read().await?;
    new.check(app.clock.now())?;
    let mut tx = app.db.admin_tx().await?;
    if let Some(tenant) = new.tenant {
        tx.tenant_get(tenant)
            .await?
            .ok_or_else(|| Error::not_found("tenant", tenant))?;
    }
    let secret = Secret::mint()?;
    let row = db::NewKey {
        id: KeyId(app.clock.mint()),
        tenant: new.tenant,
        role: new.role,
        name: new.name,
        hash: secret.hash(),
        expires_at: new.expires_at,
    };
    let key = tx.key_insert(&row).await?;
    if new.role == Role::Admin {
        app.keys.recovered()?;
    }
    tx.commit().await?;
    let mut view = view(&key);
    view["secret"] = json!(secret.reveal());
    Ok((StatusCode::CREATED, Json(view)))
}

async fn list(State(app): Shared, principal: Principal) -> Result<impl IntoResponse, Error> {
    principal.administers()?;
    let keys = app.db.admin_tx().await?.keys_list().await?;
    Ok(Json(
        json!({ "items": keys.iter().map(view).collect::<Vec<_>>() }),
    ))
}

async fn revoke(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Error> {
    principal.administers()?;
    let missing = || Error::not_found("key", &id);
    let key = id.parse().map_err(|_| missing())?;
    let mut tx = app.db.admin_tx().await?;
    tx.key_revoke(key).await.map_err(|error| match error {
        db::DbError::NotFound(_) => missing(),
        other => other.into(),
    })?;
    tx.commit().await?;
    app.keys.ask_again();
    Ok(StatusCode::NO_CONTENT)
}

fn view(key: &db::KeyRow) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "tenant": key.tenant,
        "created_at": super::instant(key.created_at),
        "expires_at": key.expires_at.map(super::instant),
        "revoked_at": key.revoked_at.map(super::instant),
    })
}
