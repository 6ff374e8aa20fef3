//! What stays loaded: releases by id within bounds, and who goes when there is no room.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use domain::TenantId;
use tokio::sync::OnceCell;

/// Where a release is loaded once, however many ask at the same time.
pub type Slot<V> = Arc<OnceCell<Arc<V>>>;

/// The most that stays loaded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Releases.
    pub count: usize,
    /// Bytes of their code and graphs.
    pub bytes: u64,
}

/// Loaded releases `V` of tenants, by `K`.
///
/// Beyond its bounds it lets go, in this order: what was superseded; then what the tenant that holds most
/// has not used for longest, so that a tenant with many deployments pushes out its own and no neighbour's.
/// What a call holds or waits for is never let go, as that would free nothing and load it twice.
pub struct Loaded<K, V> {
    bounds: Bounds,
    entries: HashMap<(TenantId, K), Entry<V>>,
    asks: u64,
}

struct Entry<V> {
    slot: Slot<V>,
    bytes: u64,
    /// When it was last asked for, in asks.
    asked: u64,
    superseded: bool,
}

impl<V> Entry<V> {
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.slot) > 1 || self.slot.get().is_some_and(|value| Arc::strong_count(value) > 1)
    }
}

impl<K: Hash + Eq + Clone, V> Loaded<K, V> {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: HashMap::new(),
            asks: 0,
        }
    }

    /// The slot of a release, to be loaded by whoever comes first.
    pub fn slot(&mut self, tenant: TenantId, key: K) -> Slot<V> {
        self.asks += 1;
        let asked = self.asks;
        let entry = self.entries.entry((tenant, key)).or_insert_with(|| Entry {
            slot: Slot::default(),
            bytes: 0,
            asked,
            superseded: false,
        });
        entry.asked = asked;
        entry.slot.clone()
    }

    /// The release, if it is loaded.
    pub fn get(&mut self, tenant: TenantId, key: K) -> Option<Arc<V>> {
        self.asks += 1;
        let entry = self.entries.get_mut(&(tenant, key))?;
        entry.asked = self.asks;
        entry.slot.get().cloned()
    }

    /// Notes how large a release is, now that it is loaded, and makes room for it.
    pub fn sized(&mut self, tenant: TenantId, key: K, bytes: u64) {
        let id = (tenant, key);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.bytes = bytes;
        }
        while let Some(victim) = self.victim(&id) {
            self.entries.remove(&victim);
        }
    }

    /// Forgets a release that could not be loaded, unless others are about to try.
    pub fn drop_empty(&mut self, tenant: TenantId, key: K) {
        let id = (tenant, key);
        let is_empty = |entry: &Entry<V>| entry.slot.get().is_none() && !entry.is_held();
        if self.entries.get(&id).is_some_and(is_empty) {
            self.entries.remove(&id);
        }
    }

    /// Lets those go first, from now on, for which `is_old` says so.
    pub fn supersede(&mut self, tenant: TenantId, is_old: impl Fn(&K) -> bool) {
        let entries = self.entries.iter_mut();
        for (_, entry) in entries.filter(|((owner, key), _)| *owner == tenant && is_old(key)) {
            entry.superseded = true;
        }
    }

    /// Lets all those of a tenant go for which `is_gone` says so.
    pub fn forget(&mut self, tenant: TenantId, is_gone: impl Fn(&K) -> bool) {
        self.entries
            .retain(|(owner, key), _| *owner != tenant || !is_gone(key));
    }

    /// What each tenant keeps loaded, in bytes.
    pub fn resident(&self) -> BTreeMap<TenantId, u64> {
        let mut resident = BTreeMap::new();
        for ((tenant, _), entry) in &self.entries {
            *resident.entry(*tenant).or_default() += entry.bytes;
        }
        resident
    }

    /// Who goes next, while there are too many or too much; not `newest`, for which the room is.
    fn victim(&self, newest: &(TenantId, K)) -> Option<(TenantId, K)> {
        let bytes: u64 = self.entries.values().map(|entry| entry.bytes).sum();
        let too_many = self.entries.len() > self.bounds.count;
        if !too_many && bytes <= self.bounds.bytes {
            return None;
        }
        let mut held: HashMap<TenantId, u64> = HashMap::new();
        for ((tenant, _), entry) in &self.entries {
            *held.entry(*tenant).or_default() += if too_many { 1 } else { entry.bytes };
        }
        let free = self
            .entries
            .iter()
            .filter(|(id, entry)| *id != newest && !entry.is_held());
        let order = |(id, entry): &(&(TenantId, K), &Entry<V>)| {
            let most = held.get(&id.0).copied().unwrap_or_default();
            (entry.superseded, most, std::cmp::Reverse(entry.asked))
        };
        free.max_by_key(order).map(|(id, _)| id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const A: TenantId = TenantId(Uuid::from_u128(1));
    const B: TenantId = TenantId(Uuid::from_u128(2));

    struct Cache(Loaded<u32, u32>);

    impl Cache {
        fn new(count: usize, bytes: u64) -> Self {
            Self(Loaded::new(Bounds { count, bytes }))
        }

        fn load(&mut self, tenant: TenantId, key: u32, bytes: u64) -> Arc<u32> {
            let slot = self.0.slot(tenant, key);
            if slot.get().is_none() {
                slot.set(Arc::new(key)).unwrap();
            }
            let value = slot.get().unwrap().clone();
            drop(slot);
            self.0.sized(tenant, key, bytes);
            value
        }

        fn keys(&self, tenant: TenantId) -> Vec<u32> {
            let ids = self.0.entries.keys().filter(|(owner, _)| *owner == tenant);
            let mut keys: Vec<u32> = ids.map(|(_, key)| *key).collect();
            keys.sort_unstable();
            keys
        }
    }

    #[test]
    fn a_tenant_with_many_pushes_out_its_own() {
        let mut cache = Cache::new(4, 1_000);
        cache.load(B, 0, 10);
        for key in 0..20 {
            cache.load(A, key, 10);
        }
        assert_eq!((cache.keys(A), cache.keys(B)), (vec![17, 18, 19], vec![0]));
        let mut cache = Cache::new(100, 100);
        cache.load(B, 0, 30);
        for key in 0..20 {
            cache.load(A, key, 20);
        }
        assert_eq!((cache.keys(A), cache.keys(B)), (vec![17, 18, 19], vec![0]));
    }

    #[test]
    fn what_failed_to_load_leaves_nothing() {
        let mut cache = Cache::new(4, 1_000);
        let slot = cache.0.slot(A, 1);
        cache.0.drop_empty(A, 1);
        assert_eq!(cache.keys(A), [1], "another is about to load it");
        drop(slot);
        cache.0.drop_empty(A, 1);
        assert_eq!(cache.keys(A), Vec::<u32>::new());
        cache.load(A, 2, 1);
        cache.0.drop_empty(A, 2);
        assert_eq!(cache.keys(A), [2]);
    }

    #[test]
    fn what_was_used_longest_ago_goes_and_the_superseded_before_it() {
        let mut cache = Cache::new(3, 1_000);
        for key in 0..3 {
            cache.load(A, key, 1);
        }
        cache.load(A, 0, 1);
        cache.load(A, 3, 1);
        assert_eq!(cache.keys(A), [0, 2, 3]);
        cache.0.supersede(A, |key| *key == 3);
        cache.load(A, 4, 1);
        assert_eq!(cache.keys(A), [0, 2, 4]);
        cache.0.forget(A, |key| *key < 4);
        assert_eq!(cache.keys(A), [4]);
    }

    #[test]
    fn what_a_call_holds_stays() {
        let mut cache = Cache::new(1, 1_000);
        let held = cache.load(A, 0, 1);
        cache.load(A, 1, 1);
        assert_eq!(cache.keys(A), [0, 1], "over the bound rather than loaded twice");
        drop(held);
        cache.load(A, 2, 1);
        assert_eq!(cache.keys(A), [2]);
        let loading = cache.0.slot(A, 3);
        cache.load(A, 4, 1);
        assert_eq!(cache.keys(A), [3, 4], "what is being loaded stays too");
        drop(loading);
    }

    #[test]
    fn one_beyond_the_bound_alone_still_serves() {
        let mut cache = Cache::new(10, 100);
        cache.load(A, 0, 10);
        cache.load(A, 1, 1_000);
        assert_eq!(cache.keys(A), [1]);
    }
}
