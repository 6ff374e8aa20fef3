//! Transactions that have taken a role. Dropped without a commit, they roll back.

use domain::TenantId;
use sqlx::{PgPool, Postgres, Transaction};

use crate::{Db, DbError};

type Tx = Transaction<'static, Postgres>;

/// A transaction as `wattle_tenant`: one tenant's own things.
#[derive(Debug)]
pub struct TenantTx {
    pub(crate) tx: Tx,
    pub(crate) tenant: TenantId,
}

/// A transaction as `wattle_writer`: adds to the ledger.
#[derive(Debug)]
pub struct WriterTx {
    pub(crate) tx: Tx,
}

/// A transaction as `wattle_billing`: reads the whole ledger, all statements in one snapshot.
#[derive(Debug)]
pub struct BillingTx {
    pub(crate) tx: Tx,
}

/// A transaction as `wattle_admin`: nodes, tenants and keys.
#[derive(Debug)]
pub struct AdminTx {
    pub(crate) tx: Tx,
}

/// Role and tenant are `set local`: they end with the transaction, whoever uses the connection next.
async fn begin(
    pool: &PgPool,
    statement: &'static str,
    role: &str,
    tenant: Option<TenantId>,
) -> Result<Tx, DbError> {
    let mut tx = pool.begin_with(statement).await?;
    let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
    sqlx::query!(
        "select set_config('role', $1, true) as role, set_config('wattle.tenant', $2, true) as tenant",
        role,
        tenant
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(tx)
}

/// Begins a transaction as a tenant, or for the platform's own rows as the administration.
pub(crate) async fn begin_scope(pool: &PgPool, tenant: Option<TenantId>) -> Result<Tx, DbError> {
    let role = match tenant {
        Some(_) => "wattle_tenant",
        None => "wattle_admin",
    };
    begin(pool, "begin", role, tenant).await
}

/// The lock comes before the snapshot, so that no receipt lines are dropped between the two: they are in the database
/// or in an archive, as the snapshot says.
const BILLING: &str = "begin isolation level repeatable read, read only; set local role wattle_billing; \
     lock table only receipt_block in access share mode";

impl Db {
    /// Begins a transaction as `tenant`.
    pub async fn tenant_tx(&self, tenant: TenantId) -> Result<TenantTx, DbError> {
        Ok(TenantTx {
            tx: begin(&self.pool, "begin", "wattle_tenant", Some(tenant)).await?,
            tenant,
        })
    }

    /// Begins a transaction that adds to the ledger.
    pub async fn writer_tx(&self) -> Result<WriterTx, DbError> {
        Ok(WriterTx {
            tx: begin(&self.pool, "begin", "wattle_writer", None).await?,
        })
    }

    /// Begins a transaction that reads the ledger in one snapshot.
    pub async fn billing_tx(&self) -> Result<BillingTx, DbError> {
        Ok(BillingTx {
            tx: begin(&self.pool, BILLING, "wattle_billing", None).await?,
        })
    }

    /// Begins a transaction of the administration.
    pub async fn admin_tx(&self) -> Result<AdminTx, DbError> {
        Ok(AdminTx {
            tx: begin(&self.pool, "begin", "wattle_admin", None).await?,
        })
    }

    /// Begins a transaction of a tenant that is not known yet: it sees no row of anyone.
    pub(crate) async fn nobody_tx(&self) -> Result<Tx, DbError> {
        begin(&self.pool, "begin", "wattle_tenant", None).await
    }
}

impl TenantTx {
    /// Commits.
    pub async fn commit(self) -> Result<(), DbError> {
        Ok(self.tx.commit().await?)
    }
}

impl WriterTx {
    /// Commits.
    pub async fn commit(self) -> Result<(), DbError> {
        Ok(self.tx.commit().await?)
    }
}

impl AdminTx {
    /// Commits.
    pub async fn commit(self) -> Result<(), DbError> {
        Ok(self.tx.commit().await?)
    }
}
