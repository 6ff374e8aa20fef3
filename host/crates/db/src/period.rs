//! Months that close: which nodes hold one up, where the ledger is cut for it, and which are closed.

use domain::billing::Month;
use domain::{Digest, NodeId};
use time::{Date, OffsetDateTime};

use crate::convert::{digest, load, some, store};
use crate::{AdminTx, BillingTx, Cut, DbError, Page};

/// Where the ledger is cut for a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodCut {
    /// The month.
    pub month: Month,
    /// The place of the last posting in the ledger that its statements can have; 0 where there was none.
    pub through: i64,
    /// The same of the month that was cut before; 0 where there is none.
    pub after: i64,
    /// What carbon is valued by.
    pub as_of: OffsetDateTime,
    /// SHA-256 over the hashes of the postings since the cut before, in the order of the ledger.
    pub postings_digest: Digest,
    /// When it was closed; none while its statements are being made.
    pub closed_at: Option<OffsetDateTime>,
    /// How many statements it has; none while they are being made.
    pub statements: Option<u64>,
}

/// A node, and how far its postings are in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// The node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// When it first came.
    pub created_at: OffsetDateTime,
    /// Where its last window ends; none without one.
    pub drained_to: Option<OffsetDateTime>,
    /// When it last posted.
    pub posted_at: Option<OffsetDateTime>,
    /// Since when it is lost: it was declared so and has not posted since.
    pub lost_at: Option<OffsetDateTime>,
    /// Why.
    pub lost_reason: Option<String>,
}

struct CutRow {
    month: Date,
    through: i64,
    after: i64,
    as_of: OffsetDateTime,
    postings_digest: Vec<u8>,
    closed_at: Option<OffsetDateTime>,
    statements: Option<i64>,
}

impl TryFrom<CutRow> for PeriodCut {
    type Error = DbError;
    fn try_from(row: CutRow) -> Result<Self, DbError> {
        Ok(Self {
            month: month("period_cut.month", row.month)?,
            through: row.through,
            after: row.after,
            as_of: row.as_of,
            postings_digest: digest("period_cut.postings_digest", &row.postings_digest)?,
            closed_at: row.closed_at,
            statements: some(row.statements, |count| load("period_close.statements", count))?,
        })
    }
}

/// A month out of a column.
pub(crate) fn month(field: &'static str, day: Date) -> Result<Month, DbError> {
    Month::beginning(day).ok_or_else(|| DbError::inconsistent(field, day))
}

impl AdminTx {
    /// Cuts the ledger for a month, unless it is cut. Nothing is posted until the transaction ends, so end it at
    /// once. `as_of` is what carbon is valued by.
    pub async fn period_cut(&mut self, month: Month, as_of: OffsetDateTime) -> Result<(), DbError> {
        sqlx::query!("select wattle_cut_period($1, $2)", month.day(), as_of)
            .fetch_one(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Closes a month that is cut. Closing it twice is a conflict (`period_close_pkey`).
    pub async fn period_close(&mut self, month: Month, statements: usize) -> Result<(), DbError> {
        sqlx::query!(
            "insert into period_close (month, statements) values ($1, $2)",
            month.day(),
            store::<usize, i64>("period_close.statements", statements)?
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Declares a node lost. A node that is not there is a [`DbError::Reference`].
    pub async fn node_lose(&mut self, node: NodeId, reason: &str) -> Result<(), DbError> {
        sqlx::query!(
            "insert into node_lost (node, reason) values ($1, $2)",
            node.0,
            reason
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

impl BillingTx {
    /// Every node, by name.
    pub async fn node_states(&mut self) -> Result<Vec<NodeState>, DbError> {
        let rows = sqlx::query!(
            r#"select n.id, n.name, n.created_at, posted.drained_to as "drained_to?", posted.posted_at as "posted_at?",
                   lost.declared_at as "lost_at?", lost.reason as "lost_reason?"
               from node n
               left join lateral (
                   select max(p.ended_at) filter (where p.kind = 'window') as drained_to, max(p.posted_at) as posted_at
                   from posting p where p.node = n.id
               ) posted on true
               left join lateral (
                   select l.declared_at, l.reason from node_lost l
                   where l.node = n.id and l.declared_at > coalesce(posted.posted_at, '-infinity')
                   order by l.id
                   limit 1
               ) lost on true
               order by n.name"#
        )
        .fetch_all(&mut *self.tx)
        .await?;
        let state = rows.into_iter().map(|row| NodeState {
            id: NodeId(row.id),
            name: row.name,
            created_at: row.created_at,
            drained_to: row.drained_to,
            posted_at: row.posted_at,
            lost_at: row.lost_at,
            lost_reason: row.lost_reason,
        });
        Ok(state.collect())
    }

    /// The month to be closed next: the one after the last that is closed, else the one in which the ledger's first
    /// posting begins. None for an empty ledger.
    pub async fn period_next(&mut self) -> Result<Option<Month>, DbError> {
        let row = sqlx::query!(
            r#"select (select max(month) from period_close) as closed, (select min(began_at) from posting) as first"#
        )
        .fetch_one(&mut *self.tx)
        .await?;
        match row.closed {
            Some(closed) => Ok(month("period_close.month", closed)?.next()),
            None => Ok(row.first.and_then(Month::of)),
        }
    }

    /// Where the ledger is cut for a month, if it is.
    pub async fn period(&mut self, of: Month) -> Result<Option<PeriodCut>, DbError> {
        let row = sqlx::query_as!(
            CutRow,
            r#"select c.month, c.through,
                   coalesce((select max(b.through) from period_cut b where b.month < c.month), 0) as "after!",
                   c.as_of, c.postings_digest, d.closed_at as "closed_at?", d.statements as "statements?"
               from period_cut c
               left join period_close d using (month)
               where c.month = $1"#,
            of.day()
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        row.map(PeriodCut::try_from).transpose()
    }

    /// Months that are cut, the latest first.
    pub async fn periods_list(&mut self, cut: &Cut<Month>) -> Result<Page<PeriodCut, Month>, DbError> {
        let rows = sqlx::query_as!(
            CutRow,
            r#"select c.month, c.through,
                   coalesce((select max(b.through) from period_cut b where b.month < c.month), 0) as "after!",
                   c.as_of, c.postings_digest, d.closed_at as "closed_at?", d.statements as "statements?"
               from period_cut c
               left join period_close d using (month)
               where c.month < coalesce($1, 'infinity'::date)
               order by c.month desc
               limit $2"#,
            cut.after.map(Month::day),
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| month("period_cut.month", row.month))
    }
}
