//! Who may load now: a load takes much memory and CPU time at once.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

/// The places of a tenant among the places of the node. A tenant that loads many graphs waits for itself
/// first, so that the node's places stay open to others.
#[derive(Clone)]
pub(crate) struct Turns {
    pub(crate) tenant: Arc<Semaphore>,
    pub(crate) node: Arc<Semaphore>,
}

impl Turns {
    /// Waits for a place. None where places are no longer given, which does not happen.
    pub(crate) async fn take(&self) -> Option<(SemaphorePermit<'_>, SemaphorePermit<'_>)> {
        let tenant = self.tenant.acquire().await.ok()?;
        Some((tenant, self.node.acquire().await.ok()?))
    }
}
