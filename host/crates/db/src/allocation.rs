//! Idle energy of a node's windows, and how far it is allocated.

use domain::NodeId;
use domain::allocation::CitedIdle;
use time::OffsetDateTime;

use crate::convert::{digest, load};
use crate::{BillingTx, DbError};

impl BillingTx {
    /// Where the node's next allocation begins: where its last one ended, or its first window began. None
    /// before there is a window.
    pub async fn allocated_until(&mut self, node: NodeId) -> Result<Option<OffsetDateTime>, DbError> {
        let at = sqlx::query_scalar!(
            "select coalesce(max(ended_at) filter (where kind = 'allocation'),
                 min(began_at) filter (where kind = 'window'))
             from posting where node = $1",
            node.0
        );
        Ok(at.fetch_one(&mut *self.tx).await?)
    }

    /// What the node's windows that ended after `from` and not after `to` placed in the account `idle`, by
    /// window and root.
    pub async fn idle_of_windows(
        &mut self,
        node: NodeId,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Result<Vec<CitedIdle>, DbError> {
        let rows = sqlx::query!(
            r#"select p.hash, t.root as "root!", sum(t.amount)::bigint as "idle_uj!"
               from transfer t
               join posting p on p.node = t.node and p.epoch = t.epoch and p.seq = t.seq
               where t.node = $1 and t.at > $2 and t.at <= $3 and t.kind = 'idle' and p.kind = 'window'
               group by p.id, p.hash, t.root
               order by p.id, t.root"#,
            node.0,
            from,
            to
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
