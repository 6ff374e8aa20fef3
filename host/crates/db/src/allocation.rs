//! Idle energy of a node's windows, and how far it is allocated.

use domain::NodeId;
use domain::allocation::CitedIdle;
use time::OffsetDateTime;

use crate::convert::{digest, load};
use crate::{BillingTx, DbError};

/// Where the allocations of a node stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// The latest end of one; where there is none, as `next`.
    pub until: OffsetDateTime,
    /// The place of the last one in the ledger, from 1; 0 if there is none.
    id: i64,
    /// When the first window ended that none cites: one after all of them in time, or one that entered the ledger
    /// later, because it was late or a clock was set back.
    pub next: OffsetDateTime,
}

impl Allocated {
    /// Whether windows came too late for the allocation of their hour.
    pub fn has_late(&self) -> bool {
        self.id > 0 && self.next <= self.until
    }
}

impl BillingTx {
    /// How far the node's idle energy is allocated; none if no window up to `to` is left.
    pub async fn allocated(
        &mut self,
        node: NodeId,
        to: OffsetDateTime,
    ) -> Result<Option<Allocated>, DbError> {
        let row = sqlx::query!(
            r#"with done as (
                   select coalesce(max(ended_at), '-infinity') as until, coalesce(max(id), 0) as id
                   from posting where node = $1 and kind = 'allocation'
               )
               select case done.id when 0 then min(p.ended_at) else done.until end as "until!", done.id as "id!",
                   min(p.ended_at) as "next!"
               from done
               join posting p on p.node = $1 and p.kind = 'window' and p.ended_at <= $2
                   and (p.ended_at > done.until or p.id > done.id)
               group by done.until, done.id"#,
            node.0,
            to
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        Ok(row.map(|row| Allocated {
            until: row.until,
            id: row.id,
            next: row.next,
        }))
    }

    /// What the node's windows that ended up to `to` and that no allocation cites placed in the account `idle`, by
    /// window and root.
    pub async fn idle_of_windows(
        &mut self,
        node: NodeId,
        done: &Allocated,
        to: OffsetDateTime,
    ) -> Result<Vec<CitedIdle>, DbError> {
        let rows = sqlx::query!(
            r#"select p.hash, t.root as "root!", sum(t.amount)::bigint as "idle_uj!"
               from transfer t
               join posting p on p.node = t.node and p.epoch = t.epoch and p.seq = t.seq
               where t.node = $1 and t.at >= $2 and t.at <= $3 and t.kind = 'idle' and p.kind = 'window'
                   and ($5::bigint = 0 or t.at > $4 or p.id > $5)
               group by p.id, p.hash, t.root
               order by p.id, t.root"#,
            node.0,
            done.next,
            to,
            done.until,
            done.id
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(CitedIdle {
                    posting: digest("posting.hash", &row.hash)?,
                    root: row.root,
                    idle_uj: load("sum of idle energy", row.idle_uj)?,
                })
            })
            .collect()
    }
}
