//! Admission: who may start now, who waits, who is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::{Limits, Name, TenantId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;

/// Places on this node, per deployment and in all; a bounded queue per tenant.
pub struct Admission {
    node: Arc<Semaphore>,
    deployments: Mutex<HashMap<Deployment, Arc<Semaphore>>>,
    waiting: Mutex<HashMap<TenantId, u64>>,
}

/// A tenant's deployment and its concurrency.
type Deployment = (TenantId, Name, u64);

/// The right to run, given back when dropped.
pub struct Place {
    _deployment: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl Admission {
    /// A node on which `concurrency` calls run at once.
    pub fn new(concurrency: u32) -> Self {
        Self {
            node: Arc::new(Semaphore::new(concurrency as usize)),
            deployments: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// Waits for a place within the deadline; a full queue or a missed deadline is refused.
    pub async fn place(&self, tenant: TenantId, deployment: &Name, limits: &Limits) -> Result<Place, Error> {
        let semaphore = self.deployment(tenant, deployment, limits.concurrency);
        if let (Ok(first), Ok(second)) = (
            semaphore.clone().try_acquire_owned(),
            self.node.clone().try_acquire_owned(),
        ) {
            return Ok(Place {
                _deployment: first,
                _node: second,
            });
        }
        let _waiting = self.wait(tenant, limits.queue)?;
        let places = async {
            let first = semaphore.acquire_owned().await.map_err(|_| Error::Draining)?;
            let second = self
                .node
                .clone()
                .acquire_owned()
                .await
                .map_err(|_| Error::Draining)?;
            Ok(Place {
                _deployment: first,
                _node: second,
            })
        };
        let deadline = Duration::from_millis(limits.deadline_ms);
        let late = Error::QueueTimeout {
            deadline_ms: limits.deadline_ms,
        };
        tokio::time::timeout(deadline, places).await.unwrap_or(Err(late))
    }

    /// Calls that wait for a place now.
    pub fn waiting(&self) -> u64 {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .sum()
    }

    /// The places of a deployment. Releases that say the same concurrency share them.
    fn deployment(&self, tenant: TenantId, deployment: &Name, concurrency: u64) -> Arc<Semaphore> {
        let mut deployments = self.deployments.lock().unwrap_or_else(PoisonError::into_inner);
        let places = deployments.entry((tenant, deployment.clone(), concurrency));
        let fresh = || Arc::new(Semaphore::new(concurrency as usize));
        places.or_insert_with(fresh).clone()
    }

    fn wait(&self, tenant: TenantId, queue: u64) -> Result<Waiting<'_>, Error> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(tenant).or_default();
        if *count >= queue {
            return Err(Error::QueueFull { queue });
        }
        *count += 1;
        Ok(Waiting {
            admission: self,
            tenant,
        })
    }
}

struct Waiting<'a> {
    admission: &'a Admission,
    tenant: TenantId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self
            .admission
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[tokio::test]
    async fn the_queue_is_bounded_and_places_come_back() {
        let admission = Admission::new(8);
        let tenant = TenantId(Uuid::from_u128(1));
        let name: Name = "echo".parse().unwrap();
        let limits = Limits {
            concurrency: 1,
            queue: 1,
            deadline_ms: 5_000,
            ..Limits::default()
        };
        let first = admission.place(tenant, &name, &limits).await.unwrap();
        let mut second = Box::pin(admission.place(tenant, &name, &limits));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(matches!(
            admission.place(tenant, &name, &limits).await,
            Err(Error::QueueFull { queue: 1 })
        ));
        let other = TenantId(Uuid::from_u128(2));
        assert!(
            admission.place(other, &name, &limits).await.is_ok(),
            "a neighbour is not held up"
        );
        drop(first);
        assert!(second.await.is_ok());
        let short = Limits {
            deadline_ms: 1,
            ..limits
        };
        let _held = admission.place(tenant, &name, &short).await.unwrap();
        assert!(matches!(
            admission.place(tenant, &name, &short).await,
            Err(Error::QueueTimeout { deadline_ms: 1 })
        ));
    }
}
