//! What a tenant may take of the host, and how much of it is taken.

use domain::{Digest, TenantId};
use time::{Duration, OffsetDateTime};

use super::{Error, collect};
use crate::app::App;

/// A tenant's quotas in force, and their use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Bytes of what is visible or deployed.
    pub storage_used_bytes: u64,
    /// Bytes that it may be.
    pub storage_max_bytes: u64,
    /// Calls that may run at once on a node.
    pub concurrency_max: u32,
    /// Uploads in this hour.
    pub uploads_used: u32,
    /// Uploads that there may be in an hour.
    pub uploads_max_per_hour: u32,
    /// When the next hour begins.
    pub uploads_reset_at: OffsetDateTime,
}

impl Use {
    /// What `tenant` uses now: `storage_used_bytes`, and `uploads_used` in the hour that [`hour`] says.
    pub fn new(app: &App, tenant: &db::Tenant, storage_used_bytes: u64, uploads_used: u32) -> Self {
        Self {
            storage_used_bytes,
            storage_max_bytes: storage_max_bytes(app, tenant.storage_max_bytes),
            concurrency_max: tenant.concurrency_max.unwrap_or(app.config.tenant_share()),
            uploads_used,
            uploads_max_per_hour: uploads_max(app, tenant),
            uploads_reset_at: hour(app) + Duration::HOUR,
        }
    }
}

/// The start of the hour in which uploads are counted now.
pub fn hour(app: &App) -> OffsetDateTime {
    let now = app.clock.now();
    let into = now.unix_timestamp().rem_euclid(3_600);
    now - Duration::new(into, now.nanosecond().cast_signed())
}

fn uploads_max(app: &App, tenant: &db::Tenant) -> u32 {
    tenant
        .uploads_max_per_hour
        .unwrap_or(app.config.uploads_max_per_hour)
}

fn storage_max_bytes(app: &App, own: Option<u64>) -> u64 {
    own.unwrap_or(app.config.storage_max_mib << 20)
}

/// Counts an upload before anything of it is read, also one that is refused later: what is bounded is the
/// work that uploads make.
pub async fn upload(app: &App, tenant: TenantId) -> Result<(), Error> {
    let hour = hour(app);
    let mut tx = app.db.tenant_tx(tenant).await?;
    let max = uploads_max(app, &tx.tenant().await?);
    if !tx.upload_count(hour, max).await? {
        let left = hour + Duration::HOUR - app.clock.now();
        let retry_after_s = left.whole_seconds().unsigned_abs() + 1;
        return Err(Error::UploadQuota { max, retry_after_s });
    }
    Ok(tx.commit().await?)
}

/// Refuses an upload for which the tenant has no room. It holds the tenant's other uploads off until the
/// transaction ends, so the bytes are to be noted in it. What is stored already takes no room.
///
/// What was deleted makes room at once, though its bytes are still there for a while: of those there may be as
/// many again, so that who uploads and deletes by turns cannot fill the disk.
pub async fn room(app: &App, tx: &mut db::TenantTx, digest: Digest, bytes: u64) -> Result<(), Error> {
    let storage = tx.storage(digest, collect::collected(app)).await?;
    let limit_bytes = storage_max_bytes(app, storage.max_bytes);
    let wanted = storage.used_bytes.saturating_add(bytes);
    if storage.known {
        Ok(())
    } else if wanted > limit_bytes {
        Err(Error::StorageQuota {
            bytes,
            used_bytes: storage.used_bytes,
            limit_bytes,
        })
    } else if wanted.saturating_add(storage.waiting_bytes) > limit_bytes.saturating_mul(2) {
        Err(Error::StorageWaits {
            waiting_bytes: storage.waiting_bytes,
        })
    } else {
        Ok(())
    }
}
