//! Bearer keys: stored hashed, looked up before their tenant is known, revoked for good.

use domain::{KeyId, Role, TenantId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{load, parse, some, word};
use crate::{AdminTx, Cut, Db, DbError, Page, TenantStatus, TenantTx};

/// A key to be added.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// Its tenant: set for exactly the tenant roles.
    pub tenant: Option<TenantId>,
    /// What it may do.
    pub role: Role,
    /// What its owner calls it.
    pub name: String,
    /// The SHA-256 of the secret.
    pub hash: [u8; 32],
    /// When it ends.
    pub expires_at: Option<OffsetDateTime>,
}

/// A key as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id.
    pub id: KeyId,
    /// Its tenant.
    pub tenant: Option<TenantId>,
    /// What it may do.
    pub role: Role,
    /// What its owner calls it.
    pub name: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    pub revoked_at: Option<OffsetDateTime>,
}

/// A key as a caller presents it. Expiry, revocation and status are the caller's to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its id.
    pub id: KeyId,
    /// What it may do.
    pub role: Role,
    /// Its tenant.
    pub tenant: Option<TenantId>,
    /// The tenant's status, where there is a tenant.
    pub tenant_status: Option<TenantStatus>,
    /// The tenant's own concurrency; none for the host's default.
    pub concurrency_max: Option<u32>,
    /// When it ends.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    pub revoked_at: Option<OffsetDateTime>,
}

struct Row {
    id: Uuid,
    tenant: Option<Uuid>,
    role: String,
    name: String,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    revoked_at: Option<OffsetDateTime>,
}

impl TryFrom<Row> for KeyRow {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            id: KeyId(row.id),
            tenant: row.tenant.map(TenantId),
            role: parse("api_key.role", &row.role)?,
            name: row.name,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        })
    }
}

/// Which keys; what is none leaves all in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFilter {
    /// Of a tenant.
    pub tenant: Option<TenantId>,
    /// Of a role.
    pub role: Option<Role>,
    /// Whether they are revoked.
    pub revoked: Option<bool>,
}

/// The place of a key in the list of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCursor {
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Its place among those of the same instant.
    pub id: KeyId,
}

/// Keys, revoked ones included, oldest first.
async fn list(
    tx: &mut PgConnection,
    filter: &KeyFilter,
    cut: &Cut<KeyCursor>,
) -> Result<Page<KeyRow, KeyCursor>, DbError> {
    let (at, id) = cut.after.map(|after| (after.at, after.id.0)).unzip();
    let rows = sqlx::query_as!(
        Row,
        "select id, tenant, role, name, created_at, expires_at, revoked_at
             from api_key
             where ($1::uuid is null or tenant = $1) and ($2::text is null or role = $2)
                 and ($3::boolean is null or (revoked_at is not null) = $3)
                 and ($4::timestamptz is null or (created_at, id) > ($4, $5::uuid))
             order by created_at, id
             limit $6",
        filter.tenant.map(|tenant| tenant.0),
        filter.role.map(Role::as_str),
        filter.revoked,
        at,
        id,
        cut.rows()
    )
    .fetch_all(tx)
    .await?;
    Page::of(rows, cut, |row| {
        Ok(KeyCursor {
            at: row.created_at,
            id: KeyId(row.id),
        })
    })
}

/// Adds a key.
async fn insert(tx: &mut PgConnection, key: &NewKey) -> Result<KeyRow, DbError> {
    let created_at = sqlx::query_scalar!(
        "insert into api_key (id, tenant, role, name, hash, expires_at)
         values ($1, $2, $3, $4, $5, $6)
         returning created_at",
        key.id.0,
        key.tenant.map(|tenant| tenant.0),
        key.role.as_str(),
        key.name,
        &key.hash[..],
        key.expires_at
    )
    .fetch_one(tx)
    .await?;
    Ok(KeyRow {
        id: key.id,
        tenant: key.tenant,
        role: key.role,
        name: key.name.clone(),
        created_at,
        expires_at: key.expires_at,
        revoked_at: None,
    })
}

/// The key for a change of it, of `tenant` or of anyone: it stays as it is until the transaction ends.
async fn locked(tx: &mut PgConnection, id: KeyId, tenant: Option<TenantId>) -> Result<KeyRow, DbError> {
    let row = sqlx::query_as!(
        Row,
        "select id, tenant, role, name, created_at, expires_at, revoked_at
         from api_key
         where id = $1 and ($2::uuid is null or tenant = $2)
         for update",
        id.0,
        tenant.map(|tenant| tenant.0)
    );
    row.fetch_optional(tx)
        .await?
        .ok_or(DbError::NotFound("key"))?
        .try_into()
}

/// Ends a key of `tenant` or of anyone at `at`, unless it ends before.
async fn end(
    tx: &mut PgConnection,
    id: KeyId,
    at: OffsetDateTime,
    tenant: Option<TenantId>,
) -> Result<(), DbError> {
    let done = sqlx::query!(
        "update api_key set expires_at = least(expires_at, $2)
         where id = $1 and ($3::uuid is null or tenant = $3)",
        id.0,
        at,
        tenant.map(|tenant| tenant.0)
    )
    .execute(tx)
    .await?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(DbError::NotFound("key")),
    }
}

/// Revokes a key of `tenant` or of anyone.
async fn revoke(tx: &mut PgConnection, id: KeyId, tenant: Option<TenantId>) -> Result<(), DbError> {
    let done = sqlx::query!(
        "update api_key set revoked_at = coalesce(revoked_at, now())
         where id = $1 and ($2::uuid is null or tenant = $2)",
        id.0,
        tenant.map(|tenant| tenant.0)
    )
    .execute(tx)
    .await?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(DbError::NotFound("key")),
    }
}

impl AdminTx {
    /// Adds a key. A hash that is there is a conflict (`api_key_hash_key`).
    pub async fn key_insert(&mut self, key: &NewKey) -> Result<KeyRow, DbError> {
        insert(&mut self.tx, key).await
    }

    /// Keys, revoked ones included, oldest first.
    pub async fn keys_list(
        &mut self,
        filter: &KeyFilter,
        cut: &Cut<KeyCursor>,
    ) -> Result<Page<KeyRow, KeyCursor>, DbError> {
        list(&mut self.tx, filter, cut).await
    }

    /// Whether there has ever been a key for admins.
    pub async fn admin_key_exists(&mut self) -> Result<bool, DbError> {
        let exists =
            sqlx::query_scalar!(r#"select exists (select from api_key where role = 'admin') as "exists!""#)
                .fetch_one(&mut *self.tx)
                .await?;
        Ok(exists)
    }

    /// Keeps others that ask for it from making keys for admins until the transaction ends, so that what is
    /// found not to be there is made once.
    pub async fn admin_keys_lock(&mut self) -> Result<(), DbError> {
        sqlx::query!("select pg_advisory_xact_lock(hashtextextended('wattle admin keys', 0))")
            .fetch_one(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// The key for a change of it, whatever its state: it stays as it is until the transaction ends.
    pub async fn key_locked(&mut self, id: KeyId) -> Result<KeyRow, DbError> {
        locked(&mut self.tx, id, None).await
    }

    /// Ends a key at `at`, unless it ends before; every host hears of it.
    pub async fn key_end(&mut self, id: KeyId, at: OffsetDateTime) -> Result<(), DbError> {
        end(&mut self.tx, id, at, None).await
    }

    /// Revokes a key; every host hears of it. Revoking again changes nothing.
    pub async fn key_revoke(&mut self, id: KeyId) -> Result<(), DbError> {
        revoke(&mut self.tx, id, None).await
    }
}

impl TenantTx {
    /// The tenant's keys, revoked ones included, oldest first.
    pub async fn keys_list(
        &mut self,
        filter: &KeyFilter,
        cut: &Cut<KeyCursor>,
    ) -> Result<Page<KeyRow, KeyCursor>, DbError> {
        let own = KeyFilter {
            tenant: Some(self.tenant),
            ..filter.clone()
        };
        list(&mut self.tx, &own, cut).await
    }

    /// Adds a key of the tenant.
    pub async fn key_insert(&mut self, key: &NewKey) -> Result<KeyRow, DbError> {
        insert(&mut self.tx, key).await
    }

    /// A key of the tenant for a change of it, whatever its state: it stays as it is until the transaction ends.
    pub async fn key_locked(&mut self, id: KeyId) -> Result<KeyRow, DbError> {
        locked(&mut self.tx, id, Some(self.tenant)).await
    }

    /// Ends a key at `at`, unless it ends before; every host hears of it.
    pub async fn key_end(&mut self, id: KeyId, at: OffsetDateTime) -> Result<(), DbError> {
        end(&mut self.tx, id, at, Some(self.tenant)).await
    }

    /// Revokes a key of the tenant; every host hears of it. Revoking again changes nothing.
    pub async fn key_revoke(&mut self, id: KeyId) -> Result<(), DbError> {
        revoke(&mut self.tx, id, Some(self.tenant)).await
    }
}

impl Db {
    /// The key with this hash, whatever its state.
    pub async fn key_lookup(&self, hash: [u8; 32]) -> Result<Option<Key>, DbError> {
        let mut tx = self.nobody_tx().await?;
        let row = sqlx::query!(
            r#"select id as "id!", role as "role!", tenant, tenant_status, concurrency_max,
                   expires_at, revoked_at
               from wattle_key_lookup($1)"#,
            &hash[..]
        )
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Key {
            id: KeyId(row.id),
            role: parse("api_key.role", &row.role)?,
            tenant: row.tenant.map(TenantId),
            tenant_status: some(row.tenant_status, |status| word("tenant.status", &status))?,
            concurrency_max: some(row.concurrency_max, |calls| load("tenant.concurrency_max", calls))?,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        }))
    }

    /// Listens for revoked keys and changed tenants, on a connection of its own.
    pub async fn listen_keys(&self) -> Result<KeyEvents, DbError> {
        let listener = Some(listen(&self.run).await?);
        Ok(KeyEvents {
            run: self.run.clone(),
            listener,
        })
    }
}

/// Something that a host which remembers keys must hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEvent {
    /// The key was revoked, or its end brought forward.
    Key(KeyId),
    /// The tenant's status or quotas changed.
    Tenant(TenantId),
    /// The connection was away and is back: anything may have changed in between.
    Missed,
}

/// The stream of [`KeyEvent`]s.
#[derive(Debug)]
pub struct KeyEvents {
    run: PgConnectOptions,
    listener: Option<PgListener>,
}

async fn listen(run: &PgConnectOptions) -> Result<PgListener, DbError> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(run.clone())
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    // Reconnecting is done by `KeyEvents::next`, which also says so.
    listener.eager_reconnect(false);
    listener.listen("wattle_key").await?;
    Ok(listener)
}

impl KeyEvents {
    /// Waits for the next event. After [`DbError::Unavailable`] call again, not at once; it connects anew
    /// and answers [`KeyEvent::Missed`] when it is back. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<KeyEvent, DbError> {
        loop {
            let Some(listener) = &mut self.listener else {
                self.listener = Some(listen(&self.run).await?);
                return Ok(KeyEvent::Missed);
            };
            match listener.try_recv().await {
                Ok(Some(notification)) => {
                    if let Some(event) = event(notification.payload()) {
                        return Ok(event);
                    }
                }
                Ok(None) => self.listener = None,
                Err(error) => {
                    self.listener = None;
                    return Err(error.into());
                }
            }
        }
    }
}

fn event(payload: &str) -> Option<KeyEvent> {
    match payload.split_once(':')? {
        ("key", id) => Some(KeyEvent::Key(id.parse().ok()?)),
        ("tenant", id) => Some(KeyEvent::Tenant(id.parse().ok()?)),
        _ => None,
    }
}
