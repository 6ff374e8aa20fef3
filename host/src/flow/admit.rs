//! Admission: who may start now, who waits, who is refused.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Limits, Name, TenantId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Error;

/// Uploads and deployments of one tenant at once: each holds a file in memory, a compiler or a new process.
const TURNS: u32 = 2;

/// Long answers that are read out of the ledger for one tenant at once.
const READS: u32 = 2;

/// Bodies of one tenant that wait to be parsed, in the largest that there may be.
const BODIES: u32 = 2;

/// In what room for bodies is given: a semaphore counts no more than 32 bits of it.
const ROOM_BYTES: u64 = 1 << 10;

/// Places on this node: per deployment, per tenant and in all; a bounded queue per tenant.
pub struct Admission {
    inner: Arc<Inner>,
    turns: PerTenant,
    reads: PerTenant,
    bodies: PerTenant,
    /// Room of the largest body.
    body: u32,
}

/// As many permits for each tenant that has asked for one.
struct PerTenant {
    permits: u32,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

/// Room in the host's memory for a tenant's body that is not parsed yet, given back when dropped.
pub struct Room(OwnedSemaphorePermit);

struct Inner {
    /// Calls that run at once on the node.
    node: u64,
    /// Calls of one tenant that run at once, so that none can take the node from the others, unless it has a
    /// share of its own.
    tenant: u64,
    state: Mutex<State>,
}

/// Whoever waits does not fit: what fits is started as soon as a place comes back, the oldest first.
#[derive(Default)]
struct State {
    running: u64,
    tenants: HashMap<TenantId, u64>,
    /// The tenants that have a share of their own.
    shares: HashMap<TenantId, u64>,
    /// All releases of a deployment together.
    deployments: HashMap<(TenantId, Name), u64>,
    queue: VecDeque<Waiter>,
    tickets: u64,
}

struct Waiter {
    ticket: u64,
    tenant: TenantId,
    deployment: Name,
    concurrency: u64,
    start: oneshot::Sender<Place>,
}

/// The right to run, given back when dropped.
pub struct Place {
    inner: Arc<Inner>,
    tenant: TenantId,
    deployment: Name,
}

impl Admission {
    /// A node on which `node` calls run at once, of one tenant at most `tenant`, with bodies of at most
    /// `body_bytes`.
    pub fn new(node: u32, tenant: u32, body_bytes: u64) -> Self {
        let inner = Inner {
            node: node.into(),
            tenant: tenant.into(),
            state: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
            turns: PerTenant::new(TURNS),
            reads: PerTenant::new(READS),
            bodies: PerTenant::new(room(body_bytes).saturating_mul(BODIES)),
            body: room(body_bytes),
        }
    }

    /// Notes how many calls of a tenant may run at once from now on; none for the node's default.
    pub fn share(&self, tenant: TenantId, calls: Option<u32>) {
        let mut state = self.inner.state();
        match calls {
            Some(calls) => state.shares.insert(tenant, calls.into()),
            None => state.shares.remove(&tenant),
        };
    }

    /// Waits for the tenant's turn to publish or to deploy, before anything of the upload is read: what a tenant
    /// sends at once waits in its connections, not in the host's memory.
    pub async fn turn(&self, tenant: TenantId) -> Result<OwnedSemaphorePermit, Error> {
        self.turns.take(tenant, 1).await
    }

    /// Waits for the tenant's turn to have much of the ledger read for it, before a connection to Postgres is taken:
    /// what it asks for at once waits in its own connections, and holds up nobody else. Whoever sees everyone's rows
    /// (none) waits for no turn.
    pub async fn read(&self, tenant: Option<TenantId>) -> Result<Option<OwnedSemaphorePermit>, Error> {
        match tenant {
            Some(tenant) => self.reads.take(tenant, 1).await.map(Some),
            None => Ok(None),
        }
    }

    /// Waits until the tenant has room for a body of `bytes`, or for the largest one, before anything of it is
    /// read.
    pub async fn room(&self, tenant: TenantId, bytes: Option<u64>) -> Result<Room, Error> {
        let wanted = bytes.map_or(self.body, room).min(self.body);
        self.bodies.take(tenant, wanted).await.map(Room)
    }

    /// Waits for a place within the deadline; a full queue or a missed deadline is refused.
    ///
    /// `limits.concurrency` is compared with the calls of all the deployment's releases: calling another
    /// version gives nobody more places.
    pub async fn place(&self, tenant: TenantId, deployment: &Name, limits: &Limits) -> Result<Place, Error> {
        let Limits {
            concurrency,
            queue,
            deadline_ms,
            ..
        } = *limits;
        let (waiting, started) = {
            let mut state = self.inner.state();
            if self.inner.fits(&state, tenant, deployment, concurrency) {
                return Ok(self.inner.take(&mut state, tenant, deployment.clone()));
            }
            let waiting = state.queue.iter().filter(|waiter| waiter.tenant == tenant);
            if waiting.count() as u64 >= queue {
                return Err(Error::QueueFull { queue });
            }
            state.tickets += 1;
            let (start, started) = oneshot::channel();
            let ticket = state.tickets;
            let deployment = deployment.clone();
            state.queue.push_back(Waiter {
                ticket,
                tenant,
                deployment,
                concurrency,
                start,
            });
            let inner = &*self.inner;
            (Waiting { inner, ticket }, started)
        };
        let place = tokio::time::timeout(Duration::from_millis(deadline_ms), started).await;
        drop(waiting);
        match place {
            Ok(place) => place.map_err(|_| Error::Internal),
            Err(_late) => Err(Error::QueueTimeout { deadline_ms }),
        }
    }

    /// Calls that wait for a place now.
    pub fn waiting(&self) -> u64 {
        self.inner.state().queue.len() as u64
    }
}

impl PerTenant {
    fn new(permits: u32) -> Self {
        Self {
            permits,
            tenants: Mutex::default(),
        }
    }

    async fn take(&self, tenant: TenantId, permits: u32) -> Result<OwnedSemaphorePermit, Error> {
        let own = {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Arc::new(Semaphore::new(self.permits as usize));
            tenants.entry(tenant).or_insert_with(fresh).clone()
        };
        own.acquire_many_owned(permits).await.map_err(|_| Error::Internal)
    }
}

/// The room that `bytes` take.
fn room(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(ROOM_BYTES)).unwrap_or(u32::MAX / BODIES)
}

impl Room {
    /// Gives back what a body of `bytes` does not need.
    pub fn shrink(&mut self, bytes: u64) {
        let spare = self.0.num_permits().saturating_sub(room(bytes) as usize);
        drop(self.0.split(spare));
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fits(&self, state: &State, tenant: TenantId, deployment: &Name, concurrency: u64) -> bool {
        let of_tenant = state.tenants.get(&tenant).copied().unwrap_or_default();
        let share = state.shares.get(&tenant).copied().unwrap_or(self.tenant);
        let of_deployment = state.deployments.get(&(tenant, deployment.clone()));
        state.running < self.node
            && of_tenant < share
            && of_deployment.copied().unwrap_or_default() < concurrency
    }

    fn take(self: &Arc<Self>, state: &mut State, tenant: TenantId, deployment: Name) -> Place {
        state.running += 1;
        *state.tenants.entry(tenant).or_default() += 1;
        *state.deployments.entry((tenant, deployment.clone())).or_default() += 1;
        Place {
            inner: self.clone(),
            tenant,
            deployment,
        }
    }

    /// Gives a place back and starts the oldest that fits now.
    fn release(self: &Arc<Self>, tenant: TenantId, deployment: &Name) {
        let mut state = self.state();
        state.running -= 1;
        less(&mut state.tenants, tenant);
        less(&mut state.deployments, (tenant, deployment.clone()));
        let next = state
            .queue
            .iter()
            .position(|waiter| self.fits(&state, waiter.tenant, &waiter.deployment, waiter.concurrency));
        let Some(next) = next.and_then(|next| state.queue.remove(next)) else {
            return;
        };
        let place = self.take(&mut state, next.tenant, next.deployment);
        drop(state);
        // One that has just gone away drops its place, which comes back here.
        let _ = next.start.send(place);
    }
}

fn less<K: Hash + Eq>(counts: &mut HashMap<K, u64>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.release(self.tenant, &self.deployment);
    }
}

/// A waiter that leaves the queue however its wait ends.
struct Waiting<'a> {
    inner: &'a Inner,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner
            .state()
            .queue
            .retain(|waiter| waiter.ticket != self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const BODY: u64 = 10 << 10;

    fn tenant(id: u128) -> TenantId {
        TenantId(Uuid::from_u128(id))
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn limits(concurrency: u64, queue: u64) -> Limits {
        Limits {
            concurrency,
            queue,
            deadline_ms: 60_000,
            ..Limits::default()
        }
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_places_come_back() {
        let admission = Admission::new(8, 8, BODY);
        let (one, echo, limits) = (tenant(1), name("echo"), limits(1, 1));
        let first = admission.place(one, &echo, &limits).await.unwrap();
        let mut second = Box::pin(admission.place(one, &echo, &limits));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(matches!(
            admission.place(one, &echo, &limits).await,
            Err(Error::QueueFull { queue: 1 })
        ));
        assert!(
            admission.place(tenant(2), &echo, &limits).await.is_ok(),
            "a neighbour is not held up"
        );
        drop(first);
        drop(second.await.unwrap());
        let short = Limits {
            deadline_ms: 1,
            ..limits
        };
        let held = admission.place(one, &echo, &short).await.unwrap();
        assert!(matches!(
            admission.place(one, &echo, &short).await,
            Err(Error::QueueTimeout { deadline_ms: 1 })
        ));
        assert_eq!(admission.waiting(), 0);
        drop(held);
        assert_eq!(admission.inner.state().running, 0);
        assert!(admission.inner.state().tenants.is_empty() && admission.inner.state().deployments.is_empty());
    }

    #[tokio::test]
    async fn a_tenant_publishes_two_things_at_once_and_holds_up_nobody_else() {
        let admission = Admission::new(8, 8, BODY);
        let first = admission.turn(tenant(1)).await.unwrap();
        let _second = admission.turn(tenant(1)).await.unwrap();
        let mut third = Box::pin(admission.turn(tenant(1)));
        assert!(futures::poll!(&mut third).is_pending());
        assert!(futures::poll!(Box::pin(admission.turn(tenant(2)))).is_ready());
        drop(first);
        assert!(third.await.is_ok());
    }

    #[tokio::test]
    async fn a_tenant_reads_two_things_at_once_and_holds_up_nobody_else() {
        let admission = Admission::new(8, 8, BODY);
        let first = admission.read(Some(tenant(1))).await.unwrap();
        let _second = admission.read(Some(tenant(1))).await.unwrap();
        let mut third = Box::pin(admission.read(Some(tenant(1))));
        assert!(futures::poll!(&mut third).is_pending());
        assert!(futures::poll!(Box::pin(admission.read(Some(tenant(2))))).is_ready());
        assert!(futures::poll!(Box::pin(admission.read(None))).is_ready());
        assert!(futures::poll!(Box::pin(admission.turn(tenant(1)))).is_ready());
        drop(first);
        assert!(third.await.is_ok());
    }

    #[tokio::test]
    async fn a_tenants_bodies_share_a_room_of_their_own() {
        let admission = Admission::new(8, 8, BODY);
        let one = tenant(1);
        let _small = admission.room(one, Some(1)).await.unwrap();
        // Nobody knows how long it is, so it counts as the largest until it is there.
        let mut unknown = admission.room(one, None).await.unwrap();
        let mut next = Box::pin(admission.room(one, Some(BODY)));
        assert!(futures::poll!(&mut next).is_pending());
        assert!(futures::poll!(Box::pin(admission.room(tenant(2), None))).is_ready());
        unknown.shrink(BODY);
        assert!(futures::poll!(&mut next).is_pending());
        unknown.shrink(BODY - ROOM_BYTES);
        let next = next.await.unwrap();
        assert_eq!(next.0.num_permits(), 10);
    }

    #[tokio::test]
    async fn the_releases_of_a_deployment_share_its_places() {
        let admission = Admission::new(8, 8, BODY);
        let (one, echo) = (tenant(1), name("echo"));
        let _held = [
            admission.place(one, &echo, &limits(2, 1)).await.unwrap(),
            admission.place(one, &echo, &limits(2, 1)).await.unwrap(),
        ];
        let smaller = limits(1, 4);
        let mut other_release = Box::pin(admission.place(one, &echo, &smaller));
        assert!(futures::poll!(&mut other_release).is_pending());
        assert!(
            admission.place(one, &echo, &limits(3, 4)).await.is_ok(),
            "the larger concurrency counts the same calls"
        );
        assert!(admission.place(one, &name("other"), &limits(1, 1)).await.is_ok());
    }

    #[tokio::test]
    async fn no_tenant_takes_the_node_from_the_others() {
        let admission = Admission::new(4, 3, BODY);
        let limits = limits(2, 8);
        let mut held = Vec::new();
        let (a, b) = (name("a"), name("b"));
        for deployment in [&a, &a, &b] {
            held.push(admission.place(tenant(1), deployment, &limits).await.unwrap());
        }
        let mut greedy = Box::pin(admission.place(tenant(1), &b, &limits));
        assert!(futures::poll!(&mut greedy).is_pending(), "its share is used up");
        let other = admission.place(tenant(2), &b, &limits).await.unwrap();
        let mut waiting = Box::pin(admission.place(tenant(2), &b, &limits));
        assert!(futures::poll!(&mut waiting).is_pending(), "the node is full");
        drop(other);
        held.push(waiting.await.unwrap());
        assert!(futures::poll!(&mut greedy).is_pending(), "still");
        held.remove(0);
        assert!(greedy.await.is_ok());
    }

    #[tokio::test]
    async fn a_tenant_may_have_a_share_of_its_own() {
        let admission = Admission::new(4, 2, BODY);
        let (one, a, limits) = (tenant(1), name("a"), limits(4, 8));
        admission.share(one, Some(1));
        let first = admission.place(one, &a, &limits).await.unwrap();
        let mut second = Box::pin(admission.place(one, &a, &limits));
        assert!(futures::poll!(&mut second).is_pending());
        admission.share(one, Some(3));
        let third = admission.place(one, &a, &limits).await.unwrap();
        drop(first);
        let second = second.await.unwrap();
        admission.share(one, None);
        let mut fourth = Box::pin(admission.place(one, &a, &limits));
        assert!(futures::poll!(&mut fourth).is_pending(), "the default again");
        drop((second, third));
        assert!(fourth.await.is_ok());
    }

    #[tokio::test]
    async fn a_waiter_that_goes_away_with_its_place_gives_it_back() {
        let admission = Admission::new(1, 1, BODY);
        let (one, echo, limits) = (tenant(1), name("echo"), limits(1, 2));
        let held = admission.place(one, &echo, &limits).await.unwrap();
        let mut gone = Box::pin(admission.place(one, &echo, &limits));
        let mut next = Box::pin(admission.place(one, &echo, &limits));
        assert!(futures::poll!(&mut gone).is_pending());
        assert!(futures::poll!(&mut next).is_pending());
        // The place is on its way to the first, who does not take it any more.
        drop(held);
        drop(gone);
        assert!(next.await.is_ok());
    }
}
