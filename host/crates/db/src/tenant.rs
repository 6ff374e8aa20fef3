//! Tenants.

use std::fmt;

use domain::{Name, TenantId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{load, parse, some, store, word};
use crate::{AdminTx, Cut, DbError, Page};

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
    /// When it was made.
    pub created_at: OffsetDateTime,
}

struct Row {
    id: Uuid,
    name: String,
    status: String,
    storage_max_bytes: Option<i64>,
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
            "select id, name, status, storage_max_bytes, created_at from tenant " + $tail,
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
             returning id, name, status, storage_max_bytes, created_at",
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

    /// Changes a tenant's status; every host hears of it.
    pub async fn tenant_set_status(&mut self, id: TenantId, status: TenantStatus) -> Result<(), DbError> {
        let done = sqlx::query!(
            "update tenant set status = $2 where id = $1",
            id.0,
            status.as_str()
        )
        .execute(&mut *self.tx)
        .await?;
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(DbError::NotFound("tenant"))
        }
    }

    /// Changes how many bytes a tenant may store; none for the host's default. What is over it stays.
    pub async fn tenant_set_storage(&mut self, id: TenantId, max_bytes: Option<u64>) -> Result<(), DbError> {
        let max_bytes = some(max_bytes, |bytes| {
            store::<u64, i64>("tenant.storage_max_bytes", bytes)
        })?;
        let done = sqlx::query!(
            "update tenant set storage_max_bytes = $2 where id = $1",
            id.0,
            max_bytes
        )
        .execute(&mut *self.tx)
        .await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(DbError::NotFound("tenant")),
        }
    }
}
