//! What is read of the ledger to verify it, row by row.

use domain::checkpoint::CheckedPosting;
use domain::{Digest, InvocationId};
use time::OffsetDateTime;

use crate::convert::{digest, some, store};
use crate::{BillingTx, Cut, DbError, Page, PostingKey};

/// Which part of the ledger: by where windows end. What is none leaves all in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerSpan {
    /// At this instant or later.
    pub from: Option<OffsetDateTime>,
    /// Before this instant.
    pub to: Option<OffsetDateTime>,
}

/// A posting in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostingPlace {
    /// Its key.
    pub key: PostingKey,
    /// The hash of the node's posting before it; [`Digest::ZERO`] if there is none.
    pub before: Digest,
}

struct PlaceRow {
    id: i64,
    node: uuid::Uuid,
    epoch: uuid::Uuid,
    seq: i64,
    before: Option<Vec<u8>>,
}

impl TryFrom<PlaceRow> for PostingPlace {
    type Error = DbError;
    fn try_from(row: PlaceRow) -> Result<Self, DbError> {
        let before = some(row.before, |hash| digest("posting.hash", &hash))?;
        Ok(Self {
            key: PostingKey::load(row.node, row.epoch, row.seq)?,
            before: before.unwrap_or(Digest::ZERO),
        })
    }
}

/// A row that no posting accounts for: it is under none, or says what the posting's hash does not cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Its table.
    pub table: String,
    /// The key of the posting that it should be under.
    pub posting: PostingKey,
    /// Which of the rows there: a root's, a transfer's or a block's number, or an invocation.
    pub row: String,
}

impl BillingTx {
    /// Postings in the order of the ledger, by their places in it.
    pub async fn posting_places(
        &mut self,
        span: LedgerSpan,
        cut: &Cut<i64>,
    ) -> Result<Page<PostingPlace, i64>, DbError> {
        let rows = sqlx::query_as!(
            PlaceRow,
            r#"select p.id, p.node, p.epoch, p.seq,
                   (select b.hash from posting b where b.node = p.node and b.id < p.id
                    order by b.id desc limit 1) as before
               from posting p
               where p.id > coalesce($1, 0::bigint) and p.ended_at >= coalesce($2, '-infinity'::timestamptz)
                   and p.ended_at < coalesce($3, 'infinity'::timestamptz)
               order by p.id
               limit $4"#,
            cut.after,
            span.from,
            span.to,
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| Ok(row.id))
    }

    /// The lines of a posting, by their calls, as the leaves of its Merkle tree.
    pub async fn posting_leaves(
        &mut self,
        posting: &CheckedPosting,
    ) -> Result<Vec<(InvocationId, Digest)>, DbError> {
        let key = PostingKey {
            node: posting.node,
            epoch: posting.epoch,
            seq: posting.seq,
        };
        let seq = store("posting.seq", posting.seq)?;
        let lines = self.posting_lines(key, seq, posting.to).await?;
        Ok(lines
            .iter()
            .map(|line| (line.call.invocation, line.leaf()))
            .collect())
    }

    /// A row that no posting accounts for: a counter, transfer or block of lines without a posting, a block of a
    /// posting whose lines had left for an archive, one whose fuel schedule is not its posting's or that its calls are
    /// not found by, or a line whose model time is not that of its work. None when all is well.
    pub async fn stray_row(&mut self, span: LedgerSpan) -> Result<Option<Stray>, DbError> {
        let row = sqlx::query!(
            r#"select s."table" as "table!", s.node as "node!", s.epoch as "epoch!", s.seq as "seq!",
                   s."row" as "row!"
               from (
                   (select 'posting_root' as "table", r.node, r.epoch, r.seq, r.root as "row"
                    from posting_root r
                    where not exists (select from posting p
                        where p.node = r.node and p.epoch = r.epoch and p.seq = r.seq)
                    limit 1)
                   union all
                   (select 'transfer', t.node, t.epoch, t.seq, t.ordinal::text
                    from transfer t
                    where t.at >= coalesce($1, '-infinity'::timestamptz)
                        and t.at < coalesce($2, 'infinity'::timestamptz)
                        and not exists (select from posting p
                            where p.node = t.node and p.epoch = t.epoch and p.seq = t.seq and p.ended_at = t.at)
                    limit 1)
                   union all
                   (select 'receipt_line', l.node, l.epoch, l.seq, l.invocation::text
                    from receipt_line l
                    where l.at >= coalesce($1, '-infinity'::timestamptz)
                        and l.at < coalesce($2, 'infinity'::timestamptz)
                        and l.model_ns <> (select coalesce(sum((w.work ->> 'cpu_ns')::numeric), 0)
                            from jsonb_array_elements(l.work) as w (work))
                    limit 1)
                   union all
                   (select 'receipt_block', b.node, b.epoch, b.seq, b.block::text
                    from receipt_block b
                    where b.at >= coalesce($1, '-infinity'::timestamptz)
                        and b.at < coalesce($2, 'infinity'::timestamptz)
                        and (not exists (select from posting p
                                where p.node = b.node and p.epoch = b.epoch and p.seq = b.seq
                                    and p.ended_at = b.at and p.fuel_schedule = b.fuel_schedule
                                    and not exists (select from archive_sum s join archive_drop d using (archive)
                                        where s.posting = p.id))
                            or (b.first_invocation, b.last_invocation, b.lines) is distinct from
                                (b.invocation[1], b.invocation[cardinality(b.invocation)], cardinality(b.invocation))
                            or substr(uuid_send(b.first_invocation), 1, 4)
                                <> substr(uuid_send(b.last_invocation), 1, 4))
                    limit 1)
               ) s
               limit 1"#,
            span.from,
            span.to
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        some(row, |row| {
            Ok(Stray {
                table: row.table,
                posting: PostingKey::load(row.node, row.epoch, row.seq)?,
                row: row.row,
            })
        })
    }

    /// The numbers of the checkpoints that were made from the last one before the span through the first one after
    /// it; none if there are none.
    pub async fn checkpoints_of(&mut self, span: LedgerSpan) -> Result<Option<(u64, u64)>, DbError> {
        let row = sqlx::query!(
            r#"select
                   greatest(coalesce((select max(number) from checkpoint where at < $1), 0),
                       (select min(number) from checkpoint)) as first,
                   coalesce((select min(number) from checkpoint where at >= $2),
                       (select max(number) from checkpoint)) as last"#,
            span.from,
            span.to
        )
        .fetch_one(&mut *self.tx)
        .await?;
        let (Some(first), Some(last)) = (row.first, row.last) else {
            return Ok(None);
        };
        let load = |number| crate::convert::load("checkpoint.number", number);
        Ok(Some((load(first)?, load(last)?)))
    }
}
