//! Allocate: once an hour the idle energy of the node's windows moves to those who kept something ready there.
//!
//! The rule is `domain::allocation`'s; this host guarantees nobody a number of calls at once, so bytes alone are
//! reserved. They are noted as slices are cut, in the host's memory: what a host that died had noted of an hour is
//! lost, and that part of the hour's idle energy stays with the platform.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::TenantId;
use domain::allocation::{Allocation, Reserved};
use energy::Machine;
use time::OffsetDateTime;

use super::worth::hour;
use crate::app::App;

/// How often it is looked whether an hour is over.
const LOOK: Duration = Duration::from_secs(60);

/// How long after its end an hour is allocated: a window that began in it has ended by then.
const SETTLED: time::Duration = time::Duration::minutes(11);

/// What tenants keep resident on this node, by the hour.
#[derive(Default)]
pub struct Reservations(Mutex<BTreeMap<OffsetDateTime, BTreeMap<TenantId, u128>>>);

impl Reservations {
    /// Notes bytes that were resident for tenants in a slice of `span` that ended at `at`.
    pub fn note(&self, at: OffsetDateTime, span: Duration, resident: &BTreeMap<TenantId, u64>) {
        let mut hours = self.hours();
        let tenants = hours.entry(hour(at)).or_default();
        for (tenant, bytes) in resident {
            *tenants.entry(*tenant).or_default() += u128::from(*bytes) * span.as_millis();
        }
    }

    /// What was reserved in the hours that began between, in whole byte-seconds.
    fn between(&self, from: OffsetDateTime, to: OffsetDateTime) -> BTreeMap<TenantId, Reserved> {
        let mut sums = BTreeMap::<TenantId, u128>::new();
        for (tenant, byte_ms) in self.hours().range(from..to).flat_map(|(_, tenants)| tenants) {
            *sums.entry(*tenant).or_default() += byte_ms;
        }
        let reserved = |byte_ms: u128| Reserved {
            byte_seconds: u64::try_from(byte_ms / 1_000).unwrap_or(u64::MAX),
            place_seconds: 0,
        };
        sums.into_iter()
            .map(|(tenant, byte_ms)| (tenant, reserved(byte_ms)))
            .collect()
    }

    /// Forgets what is allocated.
    fn forget(&self, to: OffsetDateTime) {
        self.hours().retain(|at, _| *at >= to);
    }

    fn hours(&self) -> MutexGuard<'_, BTreeMap<OffsetDateTime, BTreeMap<TenantId, u128>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks every minute, until the task is aborted, and gives what is to be allocated to whoever seals.
pub async fn run(app: Arc<App>) {
    let often = app.config.allocate_every_ms.map(Duration::from_millis);
    loop {
        tokio::time::sleep(often.unwrap_or(LOOK)).await;
        let now = app.clock.now();
        let settled = often.map_or_else(|| hour(now - SETTLED), |_| now);
        match due(&app, settled).await {
            Ok(Some(allocation)) => {
                let to = allocation.to;
                if app.allocations.send(allocation).await.is_err() {
                    return;
                }
                app.reservations.forget(to);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "idle energy is not allocated yet: tried again in a minute"),
        }
    }
}

/// What is to be allocated next, of hours that ended up to `settled`: the idle energy of the earliest hour with
/// windows of this node that no allocation cites, or of all windows that came too late for theirs. None if there is
/// none, or while postings wait for Postgres.
pub async fn due(app: &App, settled: OffsetDateTime) -> Result<Option<Allocation>, db::DbError> {
    if app.metrics.are_postings_waiting() {
        return Ok(None);
    }
    let mut tx = app.db.billing_tx().await?;
    let Some(done) = tx.allocated(app.node, settled).await? else {
        return Ok(None);
    };
    // A window that ends with an hour is that hour's.
    let from = hour(done.next - time::Duration::MICROSECOND);
    let to = match done.has_late() {
        true => done.until,
        false => (from + time::Duration::HOUR).min(settled),
    };
    let cited = tx.idle_of_windows(app.node, &done, to).await?;
    let seconds = u64::try_from((to - from).whole_seconds()).unwrap_or_default();
    let capacity = Reserved {
        byte_seconds: memory_bytes().saturating_mul(seconds),
        place_seconds: 0,
    };
    Ok(Some(Allocation {
        from,
        to,
        cited,
        capacity,
        reserved: app.reservations.between(from, to),
    }))
}

/// The machine's memory; 0 where it is not known: then nobody's part can be told, and all stays with the platform.
fn memory_bytes() -> u64 {
    Machine::read(Path::new("/proc")).map_or(0, |machine| machine.memory_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn what_is_resident_is_reserved_by_the_hour() {
        let (reservations, start) = (Reservations::default(), OffsetDateTime::UNIX_EPOCH);
        let tenant = TenantId(Uuid::from_u128(1));
        let resident = BTreeMap::from([(tenant, 1_000)]);
        let second = Duration::from_secs(1);
        for minute in [10, 20, 70] {
            reservations.note(start + time::Duration::minutes(minute), second, &resident);
        }
        let until = |hours| {
            let reserved = reservations.between(start, start + time::Duration::hours(hours));
            reserved.get(&tenant).map_or(0, |reserved| reserved.byte_seconds)
        };
        assert_eq!([until(0), until(1), until(2)], [0, 2_000, 3_000]);
        reservations.forget(start + time::Duration::hours(1));
        assert_eq!([until(1), until(2)], [0, 1_000]);
    }
}
