//! Collect: bytes that nothing needs any more leave the disk.
//!
//! Deleting only hides. What is neither visible nor in a release of a deployment, nor was a moment ago, is
//! needed by nobody, and everything of a closed tenant. Two things may happen beside it:
//!
//! - *An upload of the same bytes.* It notes its row while it holds the digest, and writes the bytes first,
//!   again if they are gone ([`keep`](super::publish)). The collector takes the same lock before it asks once
//!   more and deletes. So whoever comes second sees what the first has done.
//! - *A release of what is being hidden.* Its row keeps the upload visible until it is committed, or is
//!   refused.
//!
//! Archives of receipt lines are blobs too, which the ledger needs for ever.
//!
//! Compiled code is a cache: what is missing is compiled again. A crash leaves bytes without a row, which the
//! next pass finds, and never a row without bytes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use db::StoredKind;
use domain::Digest;
use time::OffsetDateTime;

use super::Error;
use super::releases::code_id;
use crate::app::App;

/// How long bytes stay that nothing needs: longer than the longest call may take, so that a call which was
/// admitted before a deletion still finds them.
const GRACE: Duration = Duration::from_secs(15 * 60);

/// The time between two passes.
const PERIOD: Duration = Duration::from_secs(15 * 60);

/// What was let go of up to this instant may be gone already.
pub fn collected(app: &App) -> OffsetDateTime {
    app.clock.now() - GRACE - PERIOD
}

/// What a pass removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Uploads.
    pub blobs: u64,
    /// Files of compiled code.
    pub code: u64,
}

/// Collects at the start and then now and again, until the task is aborted.
pub async fn run(app: Arc<App>) {
    let mut passes = tokio::time::interval(PERIOD);
    loop {
        passes.tick().await;
        match collect(&app, GRACE).await {
            Ok(removed) if removed == Removed::default() => {}
            Ok(Removed { blobs, code }) => tracing::info!(blobs, code, "removed what nothing needs"),
            Err(error) => tracing::warn!(%error, "nothing was collected: the next pass tries again"),
        }
    }
}

/// Removes what nothing has needed for `grace`.
pub async fn collect(app: &App, grace: Duration) -> Result<Removed, Error> {
    let before = app.clock.now() - grace;
    let mut tx = app.db.admin_tx().await?;
    let closed = tx.tenants_closed().await?;
    let stored = tx.stored_list(before).await?;
    let archives = tx.archive_digests().await?;
    drop(tx);
    closed
        .into_iter()
        .for_each(|tenant| app.releases.forget_all(tenant));

    let components = stored
        .iter()
        .filter(|stored| stored.kind == StoredKind::Component);
    let code = components.map(|stored| code_id(stored.tenant, stored.digest));
    let code = app.runtime.sweep(code.collect(), before.into()).await?;

    let uploads = stored.iter().map(|stored| stored.digest);
    let needed: HashSet<Digest> = uploads.chain(archives).collect();
    let mut blobs = 0;
    for digest in app.blobs.written_before(before).await? {
        if needed.contains(&digest) {
            continue;
        }
        let mut tx = app.db.admin_tx().await?;
        if tx.blob_is_free(digest, before).await? {
            app.blobs.delete(digest).await?;
            blobs += 1;
        }
        // The digest is held until here.
        tx.commit().await?;
    }
    Ok(Removed { blobs, code })
}
