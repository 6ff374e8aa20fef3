//! What tenants store and upload: the bytes of components and graphs, each digest once, and how often.

use domain::{Digest, TenantId};
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::convert::{digest, load, some, store};
use crate::{AdminTx, DbError, TenantTx};

/// A tenant's storage, without the upload that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Bytes of what is visible or deployed.
    pub used_bytes: u64,
    /// Bytes that nothing needs any more and that are not collected yet.
    pub waiting_bytes: u64,
    /// Whether the upload is among what is used already, so that it takes no room.
    pub known: bool,
    /// The tenant's own bound; none for the host's default.
    pub max_bytes: Option<u64>,
}

/// The kind of a stored upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredKind {
    /// A component, which has compiled code as well.
    Component,
    /// A graph.
    Graph,
}

/// An upload that something needs, or needed until a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is.
    pub kind: StoredKind,
    /// The digest of its bytes.
    pub digest: Digest,
}

impl TenantTx {
    /// The tenant's storage; what was let go of before `collected` counts as gone. Until the transaction ends
    /// no other upload of the tenant passes here, so what is found to have room still has it when it is
    /// inserted.
    pub async fn storage(&mut self, upload: Digest, collected: OffsetDateTime) -> Result<Storage, DbError> {
        sqlx::query!(
            "select pg_advisory_xact_lock(hashtextextended('wattle storage ' || $1, 0))",
            self.tenant.to_string()
        )
        .fetch_one(&mut *self.tx)
        .await?;
        let row = sqlx::query!(
            r#"select coalesce(sum(bytes) filter (where used), 0)::bigint as "used_bytes!",
                   coalesce(sum(bytes) filter (where not used), 0)::bigint as "waiting_bytes!",
                   coalesce(bool_or(used and digest = $2), false) as "known!",
                   (select storage_max_bytes from tenant where id = $1) as max_bytes
               from (
                   select digest, max(bytes) as bytes, bool_or(free_since is null) as used
                   from stored
                   where tenant = $1 and (free_since is null or free_since >= $3)
                   group by digest
               ) blob"#,
            self.tenant.0,
            &upload.0[..],
            collected
        )
        .fetch_one(&mut *self.tx)
        .await?;
        Ok(Storage {
            used_bytes: load("sum of bytes", row.used_bytes)?,
            waiting_bytes: load("sum of bytes", row.waiting_bytes)?,
            known: row.known,
            max_bytes: some(row.max_bytes, |bytes| load("tenant.storage_max_bytes", bytes))?,
        })
    }

    /// Keeps the collector off the bytes of a digest until the transaction ends. Whether they are there is to
    /// be seen after this, and the row that needs them to be inserted before it ends.
    pub async fn blob_hold(&mut self, digest: Digest) -> Result<(), DbError> {
        blob_hold(&mut self.tx, digest).await
    }

    /// Bytes of what is visible or deployed.
    pub async fn storage_used(&mut self) -> Result<u64, DbError> {
        storage_used(&mut self.tx, self.tenant).await
    }

    /// Counts an upload in `hour`, the hour's start, unless the tenant has had its `max` in it; whether it was
    /// counted.
    pub async fn upload_count(&mut self, hour: OffsetDateTime, max: u32) -> Result<bool, DbError> {
        let counted = sqlx::query!(
            "insert into upload_count as known (tenant, hour, uploads)
             select $1::uuid, $2::timestamptz, 1 where $3::integer > 0
             on conflict (tenant) do update
             set hour = excluded.hour, uploads = case when known.hour = excluded.hour then known.uploads + 1 else 1 end
             where known.hour <> excluded.hour or known.uploads < $3",
            self.tenant.0,
            hour,
            store::<u32, i32>("uploads", max)?
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(counted.rows_affected() == 1)
    }

    /// How many uploads were counted in `hour`.
    pub async fn uploads(&mut self, hour: OffsetDateTime) -> Result<u32, DbError> {
        uploads(&mut self.tx, self.tenant, hour).await
    }
}

/// Keeps the collector off the bytes of a digest until the transaction ends.
pub(crate) async fn blob_hold(tx: &mut PgConnection, digest: Digest) -> Result<(), DbError> {
    sqlx::query!(
        "select pg_advisory_xact_lock_shared(hashtextextended('wattle blob ' || $1, 0))",
        digest.hex()
    )
    .fetch_one(tx)
    .await?;
    Ok(())
}

async fn storage_used(tx: &mut PgConnection, tenant: TenantId) -> Result<u64, DbError> {
    let used = sqlx::query_scalar!(
        r#"select coalesce(sum(bytes), 0)::bigint as "used!"
           from (select distinct digest, bytes from stored where tenant = $1 and free_since is null) blob"#,
        tenant.0
    );
    load("sum of bytes", used.fetch_one(tx).await?)
}

async fn uploads(tx: &mut PgConnection, tenant: TenantId, hour: OffsetDateTime) -> Result<u32, DbError> {
    let count = sqlx::query_scalar!(
        "select uploads from upload_count where tenant = $1 and hour = $2",
        tenant.0,
        hour
    );
    load(
        "upload_count.uploads",
        count.fetch_optional(tx).await?.unwrap_or(0),
    )
}

impl AdminTx {
    /// Bytes of a tenant that are visible or deployed.
    pub async fn storage_used(&mut self, tenant: TenantId) -> Result<u64, DbError> {
        storage_used(&mut self.tx, tenant).await
    }

    /// How many uploads of a tenant were counted in `hour`.
    pub async fn uploads(&mut self, tenant: TenantId, hour: OffsetDateTime) -> Result<u32, DbError> {
        uploads(&mut self.tx, tenant, hour).await
    }

    /// Every upload but those that were let go of before `collected`.
    pub async fn stored_list(&mut self, collected: OffsetDateTime) -> Result<Vec<Stored>, DbError> {
        let rows = sqlx::query!(
            r#"select distinct tenant as "tenant!", kind = 'component' as "component!", digest as "digest!"
               from stored
               where free_since is null or free_since >= $1"#,
            collected
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Stored {
                    tenant: TenantId(row.tenant),
                    kind: match row.component {
                        true => StoredKind::Component,
                        false => StoredKind::Graph,
                    },
                    digest: digest("stored.digest", &row.digest)?,
                })
            })
            .collect()
    }

    /// Whether the bytes of a digest may go: nothing has needed them since `collected`, and they are no archive. It
    /// waits for the uploads that hold them and holds others off until the transaction ends.
    pub async fn blob_is_free(&mut self, digest: Digest, collected: OffsetDateTime) -> Result<bool, DbError> {
        sqlx::query!(
            "select pg_advisory_xact_lock(hashtextextended('wattle blob ' || $1, 0))",
            digest.hex()
        )
        .fetch_one(&mut *self.tx)
        .await?;
        let free = sqlx::query_scalar!(
            r#"select not exists (
                   select from stored where digest = $1 and (free_since is null or free_since >= $2)
               ) and not exists (select from archive where digest = $1) as "free!""#,
            &digest.0[..],
            collected
        );
        Ok(free.fetch_one(&mut *self.tx).await?)
    }
}
