//! A cache of rows that are asked again after a second, and served stale while Postgres is away.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::flow::Error;

/// How long a row is believed without asking: a revocation works within it.
const TTL: Duration = Duration::from_secs(1);

/// How long a row is believed while Postgres does not answer.
const GRACE: Duration = Duration::from_secs(600);

/// Most rows kept. A release's may have some tens of kilobytes. The table is emptied when it is full; what is
/// not there is not kept at all, so that unknown names fill nothing.
const ROWS: usize = 10_000;

/// Rows by key.
pub struct Fresh<K, V>(Mutex<HashMap<K, Row<V>>>);

#[derive(Clone)]
struct Row<V> {
    value: V,
    /// When Postgres last gave it.
    seen: Instant,
    /// When Postgres was last asked: while it is away, one call a second waits for it, not each. None when
    /// it is to be asked again at once.
    asked: Option<Instant>,
}

impl<K, V> Default for Fresh<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Fresh<K, V> {
    fn rows(&self) -> MutexGuard<'_, HashMap<K, Row<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row of `key`: from memory within the second, else from `load`.
    pub async fn get(&self, key: K, load: impl AsyncFnOnce() -> Result<V, Error>) -> Result<V, Error> {
        self.get_at(key, load, Instant::now).await
    }

    async fn get_at(
        &self,
        key: K,
        load: impl AsyncFnOnce() -> Result<V, Error>,
        now: impl Fn() -> Instant,
    ) -> Result<V, Error> {
        let known = self.rows().get(&key).cloned();
        let seen = now();
        if let Some(row) = &known
            && row.asked.is_some_and(|asked| seen - asked < TTL)
        {
            return Ok(row.value.clone());
        }
        // Apart, or every caller would carry the room for it along, and most find what they look for.
        match (Box::pin(load()).await, known) {
            (Ok(value), _) => {
                let asked = Some(seen);
                Ok(self.keep(key, Row { value, seen, asked }))
            }
            (Err(error @ Error::Db(db::DbError::Unavailable(_))), Some(_)) => {
                // Looked up again: meanwhile another may have learnt that it is gone, and that is final.
                let mut rows = self.rows();
                match rows.get_mut(&key).filter(|row| now() - row.seen < GRACE) {
                    Some(row) => {
                        row.asked = Some(now());
                        Ok(row.value.clone())
                    }
                    None => Err(error),
                }
            }
            (Err(error), _) => {
                self.rows().remove(&key);
                Err(error)
            }
        }
    }

    fn keep(&self, key: K, row: Row<V>) -> V {
        let mut rows = self.rows();
        if rows.len() >= ROWS && !rows.contains_key(&key) {
            rows.clear();
        }
        let value = row.value.clone();
        rows.insert(key, row);
        value
    }

    /// Makes every next use ask; what is known still serves while Postgres is away.
    pub fn ask_again(&self) {
        self.rows().values_mut().for_each(|row| row.asked = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with one row of value 1, seen at the instant that is also given.
    async fn known() -> (Fresh<u8, u8>, Instant) {
        let (fresh, start) = (Fresh::default(), Instant::now());
        let first = fresh.get_at(0, async || Ok(1), || start).await;
        assert_eq!(first.unwrap(), 1);
        (fresh, start)
    }

    async fn away() -> Result<u8, Error> {
        Err(Error::Db(db::DbError::Unavailable(
            std::io::Error::other("away").into(),
        )))
    }

    #[tokio::test]
    async fn a_row_is_asked_again_after_a_second_or_when_something_changed() {
        let (fresh, start) = known().await;
        let within = start + TTL - Duration::from_millis(1);
        assert_eq!(fresh.get_at(0, async || Ok(2), || within).await.unwrap(), 1);
        assert_eq!(fresh.get_at(0, async || Ok(2), || start + TTL).await.unwrap(), 2);
        fresh.ask_again();
        assert_eq!(fresh.get_at(0, async || Ok(3), || start + TTL).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn while_postgres_is_away_a_row_serves_for_ten_minutes_and_is_asked_once_a_second() {
        let (fresh, start) = known().await;
        fresh.ask_again();
        assert_eq!(fresh.get_at(0, away, || start).await.unwrap(), 1);
        // Whoever has just waited for Postgres in vain spares the next from it.
        let next = start + TTL / 2;
        assert_eq!(fresh.get_at(0, async || Ok(2), || next).await.unwrap(), 1);
        let last = start + GRACE - Duration::from_millis(1);
        assert_eq!(fresh.get_at(0, away, || last).await.unwrap(), 1);
        let over = fresh.get_at(0, away, || start + GRACE + TTL).await;
        assert!(matches!(over, Err(Error::Db(db::DbError::Unavailable(_)))));
    }

    #[tokio::test]
    async fn what_another_learnt_to_be_gone_does_not_come_back() {
        let (fresh, start) = known().await;
        fresh.ask_again();
        let slow = async || {
            let gone = fresh.get_at(0, async || Err(Error::Unauthorised), || start).await;
            assert!(matches!(gone, Err(Error::Unauthorised)));
            away().await
        };
        assert!(fresh.get_at(0, slow, || start).await.is_err());
        assert!(fresh.get_at(0, away, || start).await.is_err());
    }

    #[tokio::test]
    async fn what_postgres_says_to_be_gone_is_gone_at_once() {
        let (fresh, start) = known().await;
        fresh.ask_again();
        let refused = fresh.get_at(0, async || Err(Error::Unauthorised), || start).await;
        assert!(matches!(refused, Err(Error::Unauthorised)));
        let after = fresh.get_at(0, away, || start).await;
        assert!(
            matches!(after, Err(Error::Db(_))),
            "it does not come back while Postgres is away"
        );
    }
}
