//! `/api/v1/keys`: bearer keys, shown once and stored hashed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, KeyFilter};
use domain::{KeyId, Role, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{OffsetDateTime, UtcOffset};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::{Path, Query};
use super::page::{Page, asked};
use super::refusals::{Bodied, Keyed, Named};
use super::{Shared, body, json, schema};
use crate::app::App;
use crate::flow::Error;
use crate::keys::Secret;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_keys, create_key))
        .routes(routes!(revoke_key))
}

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
struct Key {
    /// Its id: not secret.
    #[schema(value_type = Uuid)]
    id: KeyId,
    /// What people call it.
    name: String,
    /// What it may do.
    #[schema(value_type = schema::Role)]
    role: Role,
    /// Whose it is; null where its role belongs to no tenant.
    #[schema(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// When it stops working by itself; null for never.
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    /// When it was revoked; null if it was not.
    #[serde(with = "time::serde::rfc3339::option")]
    revoked_at: Option<OffsetDateTime>,
}

impl From<db::KeyRow> for Key {
    fn from(row: db::KeyRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            role: row.role,
            tenant: row.tenant,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        }
    }
}

/// A new key, with what opens doors.
#[derive(Serialize, ToSchema)]
struct MintedKey {
    #[serde(flatten)]
    key: Key,
    /// What to send as `authorization: Bearer <secret>`. It is shown this once.
    secret: String,
}

asked! {
    /// Which keys.
    pub struct Asked {
        /// Only those of this tenant.
        #[param(value_type = Option<Uuid>)]
        tenant: Option<TenantId>,
        /// Only those of this role.
        #[param(value_type = Option<schema::Role>)]
        role: Option<Role>,
        /// Only those that are revoked, or only those that are not.
        revoked: Option<bool>,
    }
}

/// List keys
///
/// The oldest first.
#[utoipa::path(
    get, path = "/api/v1/keys", tag = "keys",
    params(Asked),
    responses((status = 200, body = Page<Key>, description = "Keys, also those that no longer work."), Keyed)
)]
async fn list_keys(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Asked>,
) -> Result<Json<Page<Key>>, Error> {
    principal.administers()?;
    let listing = asked.of("keys")?;
    let filter = KeyFilter {
        tenant: asked.tenant,
        role: asked.role,
        revoked: asked.revoked,
    };
    let rows = app.db.admin_tx().await?.keys_list(&filter, &listing.cut).await?;
    Ok(listing.page(rows))
}

/// A key that is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewKey {
    /// What people are to call it.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    name: String,
    /// What it is to be able to do.
    #[serde(deserialize_with = "json::word")]
    #[schema(value_type = schema::Role)]
    role: Role,
    /// Whose it is to be: needed with the tenant roles, and with them alone.
    #[serde(default)]
    #[schema(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// When it is to stop working; without it, when it is revoked.
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
}

impl NewKey {
    fn check(&self, now: OffsetDateTime) -> Result<(), Error> {
        let fits = (1..=100).contains(&self.name.chars().count());
        if !fits || self.name.contains(char::is_control) {
            let message = "give the key a name of 1 to 100 characters, none of them a control character";
            return Err(Error::invalid("name", message));
        }
        if self.role.is_tenants() != self.tenant.is_some() {
            let message =
                "the roles tenant:manage, tenant:invoke and tenant:read need a tenant, the others have none";
            return Err(Error::invalid("tenant", message));
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(Error::invalid("expires_at", "it has passed already"));
        }
        if self
            .expires_at
            .is_some_and(|at| at.checked_to_offset(UtcOffset::UTC).is_none())
        {
            return Err(Error::invalid("expires_at", "it is after the year 9999"));
        }
        Ok(())
    }
}

/// Make a key
///
/// The answer shows the secret, this once: only its hash is kept.
#[utoipa::path(
    post, path = "/api/v1/keys", tag = "keys",
    request_body = NewKey,
    responses((status = 201, body = MintedKey, description = "The key and its secret."), Keyed, Named, Bodied)
)]
async fn create_key(
    State(app): Shared,
    principal: Principal,
    body: body::Json,
) -> Result<(StatusCode, Json<MintedKey>), Error> {
    principal.administers()?;
    let new: NewKey = body.read().await?;
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
    let details = json!({ "name": key.name, "role": key.role });
    tx.audit(principal.actor, key.tenant, Action::KeyCreate, key.id, details)
        .await?;
    if new.role == Role::Admin {
        app.keys.recovered()?;
    }
    tx.commit().await?;
    let minted = MintedKey {
        key: key.into(),
        secret: secret.reveal().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(minted)))
}

/// Revoke a key
///
/// It stops working within a second, for ever.
#[utoipa::path(
    delete, path = "/api/v1/keys/{id}", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id.")),
    responses((status = 204, description = "It is revoked."), Keyed, Named)
)]
async fn revoke_key(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    principal.administers()?;
    let missing = || Error::not_found("key", &id);
    let key = id.parse().map_err(|_| missing())?;
    let mut tx = app.db.admin_tx().await?;
    let tenant = tx.key_revoke(key).await.map_err(|error| match error {
        db::DbError::NotFound(_) => missing(),
        other => other.into(),
    })?;
    tx.audit(principal.actor, tenant, Action::KeyRevoke, key, json!({}))
        .await?;
    tx.commit().await?;
    app.keys.ask_again();
    Ok(StatusCode::NO_CONTENT)
}
