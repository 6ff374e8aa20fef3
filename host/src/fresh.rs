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
        let known = self.rows().get(&key).cloned();
        if let Some(row) = &known
            && row.asked.is_some_and(|asked| asked.elapsed() < TTL)
        {
            return Ok(row.value.clone());
        }
        let seen = Instant::now();
        match (load().await, known) {
            (Ok(value), _) => {
                let asked = Some(seen);
                Ok(self.keep(key, Row { value, seen, asked }))
            }
            (Err(Error::Db(db::DbError::Unavailable(_))), Some(row)) if row.seen.elapsed() < GRACE => {
                let asked = Some(Instant::now());
                Ok(self.keep(key, Row { asked, ..row }))
            }
            (Err(error), _) => {
                self.rows().remove(&key);
                Err(error)
            }
        }
    }

    fn keep(&self, key: K, row: Row<V>) -> V {
        let mut rows = self.rows();
        if rows.len() >= ROWS {
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
