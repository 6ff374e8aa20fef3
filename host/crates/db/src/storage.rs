//! What a tenant stores: the bytes of its components and graphs, each digest once.

use domain::Digest;

use crate::convert::{load, some};
use crate::{DbError, TenantTx};

/// A tenant's storage, without the upload that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Bytes stored, hidden ones included: they are there until they are collected.
    pub used_bytes: u64,
    /// Whether the upload is among them already, so that it takes no room.
    pub known: bool,
    /// The tenant's own bound; none for the host's default.
    pub max_bytes: Option<u64>,
}

impl TenantTx {
    /// The tenant's storage. Until the transaction ends no other upload of the tenant passes here, so what
    /// is found to have room still has it when it is inserted.
    pub async fn storage(&mut self, upload: Digest) -> Result<Storage, DbError> {
        sqlx::query!(
            "select pg_advisory_xact_lock(hashtextextended('wattle storage ' || $1, 0))",
            self.tenant.to_string()
        )
        .fetch_one(&mut *self.tx)
        .await?;
        let row = sqlx::query!(
            r#"select coalesce(sum(bytes), 0)::bigint as "used_bytes!",
                   coalesce(bool_or(digest = $2), false) as "known!",
                   (select storage_max_bytes from tenant where id = $1) as max_bytes
               from (
                   select digest, bytes from component_revision where tenant = $1
                   union
                   select digest, bytes from graph_version where tenant = $1
               ) stored"#,
            self.tenant.0,
            &upload.0[..]
        )
        .fetch_one(&mut *self.tx)
        .await?;
        Ok(Storage {
            used_bytes: load("sum of bytes", row.used_bytes)?,
            known: row.known,
            max_bytes: some(row.max_bytes, |bytes| load("tenant.storage_max_bytes", bytes))?,
        })
    }
}
