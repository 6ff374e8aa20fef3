//! Tenants: their status and their quotas.

use std::fmt;

use domain::{Name, TenantId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{load, parse, some, store, word};
use crate::{AdminTx, Cut, DbError, Page, TenantTx};

/// Whether a tenant is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantStatus {
    /// Served.
    Active,
    /// Calls are refused, data is kept.
    Suspended,
    /// Gone; the ledger keeps its id.
    Closed,
}

impl TenantStatus {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for TenantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: Name,
    /// Whether it is served.
    pub status: TenantStatus,
    /// Bytes of components and graphs that it may store; none for the host's default.
    pub storage_max_bytes: Option<u64>,
    /// Calls of it that run at once on a node; none for the host's default.
    pub concurrency_max: Option<u32>,
    /// Components and graphs that it may upload in an hour; none for the host's default.
    pub uploads_max_per_hour: Option<u32>,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// What is to change of a tenant; none leaves it, an inner none goes back to the host's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct TenantChange {
    /// Its status. Closed is final (`tenant_closed_is_final`).
    pub status: Option<TenantStatus>,
    /// Bytes that it may store. What is over it stays.
    pub storage_max_bytes: Option<Option<u64>>,
    /// Calls that run at once on a node, at least 1.
    pub concurrency_max: Option<Option<u32>>,
    /// Uploads in an hour.
    pub uploads_max_per_hour: Option<Option<u32>>,
}

struct Row {
    id: Uuid,
    name: String,
    status: String,
    storage_max_bytes: Option<i64>,
    concurrency_max: Option<i32>,
    uploads_max_per_hour: Option<i32>,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Tenant {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            id: TenantId(row.id),
            name: parse("tenant.name", &row.name)?,
            status: word("tenant.status", &row.status)?,
            storage_max_bytes: some(row.storage_max_bytes, |bytes| {
                load("tenant.storage_max_bytes", bytes)
            })?,
            concurrency_max: some(row.concurrency_max, |calls| load("tenant.concurrency_max", calls))?,
            uploads_max_per_hour: some(row.uploads_max_per_hour, |uploads| {
                load("tenant.uploads_max_per_hour", uploads)
            })?,
            created_at: row.created_at,
        })
    }
}

/// Which tenants; what is none leaves all in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantFilter {
    /// Of a status.
    pub status: Option<TenantStatus>,
    /// Whose names begin so.
    pub prefix: Option<Name>,
}

/// Tenants by what stands after `from tenant`.
macro_rules! tenants {
    ($tail:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            Row,
            "select id, name, status, storage_max_bytes, concurrency_max, uploads_max_per_hour, created_at
             from tenant " + $tail,
            $($argument),*
        )
    };
}

impl AdminTx {
    /// Adds an active tenant. A name that is taken is a conflict (`tenant_name_key`).
    pub async fn tenant_insert(&mut self, id: TenantId, name: &Name) -> Result<Tenant, DbError> {
        let row = sqlx::query_as!(
            Row,
            "insert into tenant (id, name) values ($1, $2)
             returning id, name, status, storage_max_bytes, concurrency_max, uploads_max_per_hour, created_at",
            id.0,
            name.as_str()
        );
        row.fetch_one(&mut *self.tx).await?.try_into()
    }

    /// The tenant, if there is one.
    pub async fn tenant_get(&mut self, id: TenantId) -> Result<Option<Tenant>, DbError> {
        let row = tenants!("where id = $1", id.0)
            .fetch_optional(&mut *self.tx)
            .await?;
        some(row, Tenant::try_from)
    }

    /// Tenants by name.
    pub async fn tenants_list(
        &mut self,
        filter: &TenantFilter,
        cut: &Cut<Name>,
    ) -> Result<Page<Tenant, Name>, DbError> {
        let rows = tenants!(
            "where name > coalesce($1, '') and starts_with(name, coalesce($2, ''))
                 and ($3::text is null or status = $3)
             order by name
             limit $4",
            cut.after.as_ref().map(Name::as_str),
            filter.prefix.as_ref().map(Name::as_str),
            filter.status.map(TenantStatus::as_str),
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| parse("tenant.name", &row.name))
    }

    /// Changes a tenant; every host hears of it.
    pub async fn tenant_update(&mut self, id: TenantId, change: &TenantChange) -> Result<Tenant, DbError> {
        let TenantChange {
            status,
            storage_max_bytes,
            concurrency_max,
            uploads_max_per_hour,
        } = *change;
        let bytes: Option<i64> = stored("tenant.storage_max_bytes", storage_max_bytes.flatten())?;
        let calls: Option<i32> = stored("tenant.concurrency_max", concurrency_max.flatten())?;
        let uploads: Option<i32> = stored("tenant.uploads_max_per_hour", uploads_max_per_hour.flatten())?;
        let row = sqlx::query_as!(
            Row,
            "update tenant
             set status = coalesce($2, status),
                 storage_max_bytes = case when $3 then $4 else storage_max_bytes end,
                 concurrency_max = case when $5 then $6 else concurrency_max end,
                 uploads_max_per_hour = case when $7 then $8 else uploads_max_per_hour end
             where id = $1
             returning id, name, status, storage_max_bytes, concurrency_max, uploads_max_per_hour, created_at",
            id.0,
            status.map(TenantStatus::as_str),
            storage_max_bytes.is_some(),
            bytes,
            concurrency_max.is_some(),
            calls,
            uploads_max_per_hour.is_some(),
            uploads
        );
        let row = row.fetch_optional(&mut *self.tx).await?;
        row.ok_or(DbError::NotFound("tenant"))?.try_into()
    }

    /// The tenants that are closed.
    pub async fn tenants_closed(&mut self) -> Result<Vec<TenantId>, DbError> {
        let ids = sqlx::query_scalar!("select id from tenant where status = 'closed'")
            .fetch_all(&mut *self.tx)
            .await?;
        Ok(ids.into_iter().map(TenantId).collect())
    }
}

fn stored<T: Copy + fmt::Display, U: TryFrom<T>>(
    field: &'static str,
    value: Option<T>,
) -> Result<Option<U>, DbError> {
    value.map(|value| store(field, value)).transpose()
}

impl TenantTx {
    /// The tenant itself.
    pub async fn tenant(&mut self) -> Result<Tenant, DbError> {
        let row = sqlx::query_as!(
            Row,
            "select id, name, status, storage_max_bytes, concurrency_max, uploads_max_per_hour, created_at
             from tenant
             where id = $1",
            self.tenant.0
        );
        let row = row.fetch_optional(&mut *self.tx).await?;
        row.ok_or(DbError::NotFound("tenant"))?.try_into()
    }
}
