//! Idempotency keys: what a management call under one came to, for ever.
//!
//! A call first claims its key, in a transaction of its own. Its result is kept in the transaction of its
//! effect, so that either both are there or neither. A claim that never came to a result, because its host
//! died, is let go of when the host starts again, or after [`CLAIM`]: who has lost a claim cannot commit.

use domain::{Digest, NodeId, Role, TenantId};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::convert::{digest, load, store};
use crate::tx::begin_scope;
use crate::{AdminTx, Db, DbError, TenantTx};

/// How long a call may work on its key before another attempt takes it over.
const CLAIM: Duration = Duration::minutes(10);

/// Within what an idempotency key means one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Whose keys; none for the platform's.
    pub tenant: Option<TenantId>,
    /// The role of the caller's bearer key.
    pub role: Role,
}

/// The right to bring a call under an idempotency key to its result.
#[derive(Clone, Debug)]
pub struct Claim {
    scope: Scope,
    key: String,
    id: Uuid,
}

/// What a call under an idempotency key came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The digest of the request.
    pub request: Digest,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The answer's body.
    pub body: String,
}

/// What a call finds under its idempotency key.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// Nothing: it is the first.
    Mine(Claim),
    /// Another attempt that runs.
    Running,
    /// A result.
    Kept(Kept),
}

impl Db {
    /// Claims `key` at `at`, for `node` under the fresh `id`, or finds what is there.
    pub async fn idempotency_claim(
        &self,
        scope: Scope,
        key: &str,
        (node, id): (NodeId, Uuid),
        at: OffsetDateTime,
    ) -> Result<Claimed, DbError> {
        let mut tx = begin_scope(&self.pool, scope.tenant).await?;
        let tenant = scope.tenant.map(|tenant| tenant.0);
        let claimed = sqlx::query!(
            "insert into idempotency (tenant, role, key, claim, node, claimed_at)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (tenant, role, key) do update
             set claim = excluded.claim, node = excluded.node, claimed_at = excluded.claimed_at
             where idempotency.status is null and idempotency.claimed_at < $7",
            tenant,
            scope.role.as_str(),
            key,
            id,
            node.0,
            at,
            at - CLAIM
        )
        .execute(&mut *tx)
        .await?;
        if claimed.rows_affected() == 1 {
            tx.commit().await?;
            let key = key.to_owned();
            return Ok(Claimed::Mine(Claim { scope, key, id }));
        }
        let row = sqlx::query!(
            "select request, status, body from idempotency
             where tenant is not distinct from $1 and role = $2 and key = $3",
            tenant,
            scope.role.as_str(),
            key
        )
        .fetch_optional(&mut *tx)
        .await?;
        // One that is gone again meanwhile was still running a moment ago.
        let kept = row.and_then(|row| Some((row.request?, row.status?, row.body?)));
        let Some((request, status, body)) = kept else {
            return Ok(Claimed::Running);
        };
        Ok(Claimed::Kept(Kept {
            request: digest("idempotency.request", &request)?,
            status: load("idempotency.status", status)?,
            body,
        }))
    }

    /// Keeps the result of a call that had no effect.
    pub async fn idempotency_keep(&self, claim: &Claim, kept: &Kept) -> Result<(), DbError> {
        let mut tx = begin_scope(&self.pool, claim.scope.tenant).await?;
        keep(&mut tx, claim, kept).await?;
        Ok(tx.commit().await?)
    }

    /// Lets go of a claim, so that the next attempt is the first again; what has a result stays.
    pub async fn idempotency_release(&self, claim: &Claim) -> Result<(), DbError> {
        let mut tx = begin_scope(&self.pool, claim.scope.tenant).await?;
        sqlx::query!(
            "delete from idempotency
             where tenant is not distinct from $1 and role = $2 and key = $3 and claim = $4 and status is null",
            claim.scope.tenant.map(|tenant| tenant.0),
            claim.scope.role.as_str(),
            claim.key,
            claim.id
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }
}

/// Keeps a result. A claim that another attempt has taken over is not there any more.
async fn keep(tx: &mut PgConnection, claim: &Claim, kept: &Kept) -> Result<(), DbError> {
    let done = sqlx::query!(
        "update idempotency set request = $5, status = $6, body = $7
         where tenant is not distinct from $1 and role = $2 and key = $3 and claim = $4 and status is null",
        claim.scope.tenant.map(|tenant| tenant.0),
        claim.scope.role.as_str(),
        claim.key,
        claim.id,
        &kept.request.0[..],
        store::<u16, i16>("idempotency.status", kept.status)?,
        kept.body
    )
    .execute(tx)
    .await?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(DbError::NotFound("claim")),
    }
}

impl TenantTx {
    /// Keeps the result of the call whose effect this transaction is. [`DbError::NotFound`]: another attempt
    /// has taken the call over, and this one must not commit.
    pub async fn idempotency_keep(&mut self, claim: &Claim, kept: &Kept) -> Result<(), DbError> {
        keep(&mut self.tx, claim, kept).await
    }
}

impl AdminTx {
    /// Keeps the result of the call whose effect this transaction is. [`DbError::NotFound`]: another attempt
    /// has taken the call over, and this one must not commit.
    pub async fn idempotency_keep(&mut self, claim: &Claim, kept: &Kept) -> Result<(), DbError> {
        keep(&mut self.tx, claim, kept).await
    }

    /// Lets go of what `node` had claimed when it died; how many.
    pub async fn idempotency_release(&mut self, node: NodeId) -> Result<u64, DbError> {
        let done = sqlx::query!(
            "delete from idempotency where node = $1 and status is null",
            node.0
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(done.rows_affected())
    }
}
