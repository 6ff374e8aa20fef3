//! Pages of lists, cut by key: a page begins after a row and not at a count of rows, so it stays where it is
//! while others are added.

use crate::DbError;

/// Where a page begins and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut<K> {
    /// The key of the row before the page; none for the first page.
    pub after: Option<K>,
    /// The most rows it has.
    pub limit: u32,
}

impl<K> Cut<K> {
    /// The first `limit` rows.
    pub fn first(limit: u32) -> Self {
        Self { after: None, limit }
    }

    /// How many rows to ask for: one more than the page has tells whether there is a next one.
    pub(crate) fn rows(&self) -> i64 {
        i64::from(self.limit) + 1
    }
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, K> {
    /// Its items, in the order of the list.
    pub items: Vec<T>,
    /// Where the next page begins; none exactly when there are no more rows.
    pub next: Option<K>,
}

impl<T, K> Page<T, K> {
    /// The page that `rows` make, [`Cut::rows`] at most, with the key of a row.
    pub(crate) fn of<R>(
        mut rows: Vec<R>,
        cut: &Cut<K>,
        key: impl FnOnce(&R) -> Result<K, DbError>,
    ) -> Result<Self, DbError>
    where
        T: TryFrom<R, Error = DbError>,
    {
        let more = rows.len() as u64 > u64::from(cut.limit);
        if more {
            rows.pop();
        }
        let next = rows.last().filter(|_| more).map(key).transpose()?;
        let items = rows.into_iter().map(T::try_from).collect::<Result<_, _>>()?;
        Ok(Self { items, next })
    }
}
