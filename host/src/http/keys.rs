//! `/api/v1/keys`: bearer keys, shown once and stored hashed.

mod tx;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, Actor, AdminTx, DbError, KeyFilter, KeyRow};
use domain::{KeyId, Role, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{Duration, OffsetDateTime, UtcOffset};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::tx::KeysTx;
use super::auth::Principal;
use super::extract::{Path, Query};
use super::idempotency::Act;
use super::page::{Page, asked};
use super::refusals::{Bodied, Ended, Keyed, Named};
use super::{Shared, body, json, schema};
use crate::app::App;
use crate::flow::Error;
use crate::keys::Secret;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_keys, create_key))
        .routes(routes!(revoke_key))
        .routes(routes!(rotate_key))
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
    /// What to send as `authorization: Bearer <secret>`. It is shown this once: a retry under the same idempotency
    /// key gets the key without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// In place of a secret that was shown before: how to get another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
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
/// The oldest first. An admin sees all, a tenant's `tenant:manage` key those of the tenant.
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
    let own = principal.keeps_keys()?;
    let listing = asked.of("keys")?;
    let filter = KeyFilter {
        tenant: asked.tenant,
        role: asked.role,
        revoked: asked.revoked,
    };
    let mut tx = KeysTx::begin(&app, own).await?;
    let rows = tx.list(&filter, &listing.cut).await?;
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
    /// Whose it is to be: needed with the tenant roles, and with them alone. A tenant's key makes keys of its own
    /// tenant only, and may leave it out.
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

    /// What a key of the tenant `own` may make: keys of this tenant.
    fn narrow(&mut self, own: TenantId) -> Result<(), Error> {
        if !self.role.is_tenants() {
            return Err(Error::Forbidden("admin"));
        }
        match *self.tenant.get_or_insert(own) {
            tenant if tenant == own => Ok(()),
            other => Err(Error::not_found("tenant", other)),
        }
    }
}

/// A tenant's key makes no key that outlives it: what was lent for a time would be kept for ever.
fn outlives(act: &Act, own: Option<TenantId>, expires_at: Option<OffsetDateTime>) -> Result<(), Error> {
    match act.expires_at.filter(|_| own.is_some()) {
        Some(mine) if expires_at.is_none_or(|at| at > mine) => {
            let message = "this key ends itself, so it can only make keys that end no later";
            Err(Error::invalid("expires_at", message))
        }
        _ => Ok(()),
    }
}

/// Sees that a tenant is there and not closed.
async fn open(tx: &mut AdminTx, tenant: TenantId) -> Result<(), Error> {
    let found = tx.tenant_get(tenant).await?;
    let found = found.ok_or_else(|| Error::not_found("tenant", tenant))?;
    match found.status {
        db::TenantStatus::Closed => Err(Error::ClosedIsFinal),
        _ => Ok(()),
    }
}

/// Sees that a key may be made for a tenant, and that a secret of the data directory makes one admin key.
async fn admit(app: &App, tx: &mut KeysTx, act: &Act, new: &NewKey) -> Result<(), Error> {
    let KeysTx::All(tx) = tx else { return Ok(()) };
    if let Some(tenant) = new.tenant {
        open(tx, tenant).await?;
    }
    if new.role != Role::Admin {
        return Ok(());
    }
    tx.admin_keys_lock().await?;
    let exists = tx.admin_key_exists().await?;
    let recovered = app.keys.recovered()?;
    match act.actor {
        Actor::Bootstrap if exists => Err(Error::BootstrapSpent),
        Actor::Recovery if !recovered => Err(Error::Unauthorised),
        _ => Ok(()),
    }
}

/// Make a key
///
/// The answer shows the secret, this once: only its hash is kept. An admin makes keys of every role, a tenant's
/// `tenant:manage` key those of its tenant, which end no later than itself.
#[utoipa::path(
    post, path = "/api/v1/keys", tag = "keys",
    request_body = NewKey,
    responses((status = 201, body = MintedKey, description = "The key and its secret."), Keyed, Named, Bodied, Ended)
)]
async fn create_key(
    State(app): Shared,
    act: Act,
    body: body::Json,
) -> Result<(StatusCode, Json<MintedKey>), Error> {
    let own = match act.actor {
        Actor::Bootstrap | Actor::Recovery => None,
        Actor::Key { .. } => act.keeps_keys()?,
    };
    let mut new: NewKey = body.read().await?;
    if let Some(own) = own {
        new.narrow(own)?;
    } else if new.role != Role::Admin {
        act.administers()?;
    }
    new.check(app.clock.now())?;
    outlives(&act, own, new.expires_at)?;
    let mut tx = KeysTx::begin(&app, own).await?;
    admit(&app, &mut tx, &act, &new).await?;
    let secret = Secret::mint()?;
    let row = db::NewKey {
        id: KeyId(app.clock.mint()),
        tenant: new.tenant,
        role: new.role,
        name: new.name,
        hash: secret.hash(),
        expires_at: new.expires_at,
    };
    let key = tx.insert(&row).await?;
    let details = json!({ "name": key.name, "role": key.role });
    tx.audit(&act, Action::KeyCreate, &key, details).await?;
    minted(&act, tx, key, &secret).await
}

/// Commits a new key. The secret is in the answer, and in nothing that is kept.
async fn minted(
    act: &Act,
    tx: KeysTx,
    key: KeyRow,
    secret: &Secret,
) -> Result<(StatusCode, Json<MintedKey>), Error> {
    let note = format!(
        "the secret was shown once, in the first answer: if it is lost, POST /api/v1/keys/{}/rotate makes another",
        key.id
    );
    let mut minted = MintedKey {
        key: key.into(),
        secret: None,
        note: Some(note),
    };
    act.commit(tx, StatusCode::CREATED, &minted).await?;
    minted.note = None;
    minted.secret = Some(secret.reveal().to_owned());
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
async fn revoke_key(State(app): Shared, act: Act, Path(id): Path<String>) -> Result<StatusCode, Error> {
    let own = act.keeps_keys()?;
    let id = id.parse().map_err(|_| Error::not_found("key", &id))?;
    let mut tx = KeysTx::begin(&app, own).await?;
    let key = tx.locked(id).await.map_err(|error| missing(error, id))?;
    tx.revoke(id).await?;
    tx.audit(&act, Action::KeyRevoke, &key, json!({})).await?;
    act.commit(tx, StatusCode::NO_CONTENT, &()).await?;
    app.keys.ask_again();
    Ok(StatusCode::NO_CONTENT)
}

fn missing(error: DbError, id: KeyId) -> Error {
    match error {
        DbError::NotFound(_) => Error::not_found("key", id),
        other => other.into(),
    }
}

/// The longest time for which an old secret may go on beside the new one, in seconds: a week.
const OVERLAP_MAX_S: u32 = 7 * 24 * 3600;

/// How a key's secret is to be replaced.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// Seconds for which the old secret works beside the new one.
    #[serde(default)]
    #[schema(maximum = 604_800)]
    overlap_s: u32,
}

/// Rotate a key
///
/// Makes a key of the same name, role, tenant and end, with another id and secret. The old one is revoked, or ends
/// after the overlap. Who may make such a key may rotate it.
#[utoipa::path(
    post, path = "/api/v1/keys/{id}/rotate", tag = "keys",
    params(("id" = Uuid, Path, description = "The id of the key to replace.")),
    request_body = Rotation,
    responses((status = 201, body = MintedKey, description = "The new key and its secret."), Keyed, Named, Bodied, Ended)
)]
async fn rotate_key(
    State(app): Shared,
    act: Act,
    Path(id): Path<String>,
    body: body::Json,
) -> Result<(StatusCode, Json<MintedKey>), Error> {
    let own = act.keeps_keys()?;
    let id = id.parse().map_err(|_| Error::not_found("key", &id))?;
    let Rotation { overlap_s } = body.read().await?;
    if overlap_s > OVERLAP_MAX_S {
        return Err(Error::invalid(
            "overlap_s",
            format!("ask for {OVERLAP_MAX_S} at most"),
        ));
    }
    let mut tx = KeysTx::begin(&app, own).await?;
    let old = tx.locked(id).await.map_err(|error| missing(error, id))?;
    let now = app.clock.now();
    if old.revoked_at.is_some() || old.expires_at.is_some_and(|at| at <= now) {
        return Err(Error::KeyEnded(id));
    }
    outlives(&act, own, old.expires_at)?;
    if let (KeysTx::All(tx), Some(tenant)) = (&mut tx, old.tenant) {
        open(tx, tenant).await?;
    }
    let secret = Secret::mint()?;
    let row = db::NewKey {
        id: KeyId(app.clock.mint()),
        tenant: old.tenant,
        role: old.role,
        name: old.name.clone(),
        hash: secret.hash(),
        expires_at: old.expires_at,
    };
    let key = tx.insert(&row).await?;
    match overlap_s {
        0 => tx.revoke(id).await?,
        seconds => tx.end(id, now + Duration::seconds(seconds.into())).await?,
    }
    let details = json!({ "by": key.id, "overlap_s": overlap_s });
    tx.audit(&act, Action::KeyRotate, &old, details).await?;
    let answer = minted(&act, tx, key, &secret).await?;
    app.keys.ask_again();
    Ok(answer)
}
