//! The one transaction of the key routes, whoever keeps the keys.

use db::{Action, AdminTx, Claim, Cut, DbError, Kept, KeyCursor, KeyFilter, KeyRow, TenantTx};
use domain::{KeyId, TenantId};
use serde_json::Value;
use time::OffsetDateTime;

use crate::app::App;
use crate::http::idempotency::{Act, Effect};

/// A transaction of who keeps keys: of one tenant, or of everyone.
pub enum KeysTx {
    /// Of one tenant.
    Own(TenantTx),
    /// Of everyone.
    All(AdminTx),
}

impl KeysTx {
    /// Begins one: of the tenant `own`, or of everyone.
    pub async fn begin(app: &App, own: Option<TenantId>) -> Result<Self, DbError> {
        Ok(match own {
            Some(tenant) => Self::Own(app.db.tenant_tx(tenant).await?),
            None => Self::All(app.db.admin_tx().await?),
        })
    }

    /// A page of keys, the oldest first.
    pub async fn list(
        &mut self,
        filter: &KeyFilter,
        cut: &Cut<KeyCursor>,
    ) -> Result<db::Page<KeyRow, KeyCursor>, DbError> {
        match self {
            Self::Own(tx) => tx.keys_list(filter, cut).await,
            Self::All(tx) => tx.keys_list(filter, cut).await,
        }
    }

    /// Adds a key.
    pub async fn insert(&mut self, key: &db::NewKey) -> Result<KeyRow, DbError> {
        match self {
            Self::Own(tx) => tx.key_insert(key).await,
            Self::All(tx) => tx.key_insert(key).await,
        }
    }

    /// A key that nobody else changes until the transaction ends.
    pub async fn locked(&mut self, id: KeyId) -> Result<KeyRow, DbError> {
        match self {
            Self::Own(tx) => tx.key_locked(id).await,
            Self::All(tx) => tx.key_locked(id).await,
        }
    }

    /// Ends a key at `at`, unless it ends before.
    pub async fn end(&mut self, id: KeyId, at: OffsetDateTime) -> Result<(), DbError> {
        match self {
            Self::Own(tx) => tx.key_end(id, at).await,
            Self::All(tx) => tx.key_end(id, at).await,
        }
    }

    /// Revokes a key. Revoking again changes nothing.
    pub async fn revoke(&mut self, id: KeyId) -> Result<(), DbError> {
        match self {
            Self::Own(tx) => tx.key_revoke(id).await,
            Self::All(tx) => tx.key_revoke(id).await,
        }
    }

    /// Writes down what was done to a key.
    pub async fn audit(
        &mut self,
        act: &Act,
        action: Action,
        key: &KeyRow,
        details: Value,
    ) -> Result<(), DbError> {
        match self {
            Self::Own(tx) => tx.audit(act.actor, action, key.id, details).await,
            Self::All(tx) => tx.audit(act.actor, key.tenant, action, key.id, details).await,
        }
    }
}

impl Effect for KeysTx {
    async fn keep(&mut self, claim: &Claim, kept: &Kept) -> Result<(), DbError> {
        match self {
            Self::Own(tx) => tx.keep(claim, kept).await,
            Self::All(tx) => tx.keep(claim, kept).await,
        }
    }

    async fn commit(self) -> Result<(), DbError> {
        match self {
            Self::Own(tx) => tx.commit().await,
            Self::All(tx) => tx.commit().await,
        }
    }
}
