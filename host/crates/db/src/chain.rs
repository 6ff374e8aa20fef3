//! The chain of a node's postings: where it ends, and what is in it.

use std::collections::BTreeSet;

use domain::{Digest, Epoch, NodeId};

use crate::convert::{digest, load, some, store};
use crate::{DbError, WriterTx};

/// The last posting of a node's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The start of the host that sealed it.
    pub epoch: Epoch,
    /// Its place in the epoch.
    pub seq: u64,
    /// Its hash, which the next posting names.
    pub hash: Digest,
}

impl WriterTx {
    /// Which of `hashes` are postings of the node in the ledger.
    pub async fn postings_known(
        &mut self,
        node: NodeId,
        hashes: &[Digest],
    ) -> Result<BTreeSet<Digest>, DbError> {
        let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.0.to_vec()).collect();
        let known = sqlx::query_scalar!(
            "select hash from posting where node = $1 and hash = any($2)",
            node.0,
            &hashes
        );
        let known = known.fetch_all(&mut *self.tx).await?;
        known.iter().map(|hash| digest("posting.hash", hash)).collect()
    }

    /// Whether the ledger has a posting of an epoch from number `seq` on.
    pub async fn posting_reached(&mut self, node: NodeId, epoch: Epoch, seq: u64) -> Result<bool, DbError> {
        let reached = sqlx::query_scalar!(
            r#"select exists (select from posting where node = $1 and epoch = $2 and seq >= $3) as "reached!""#,
            node.0,
            epoch.0,
            store::<u64, i64>("posting.seq", seq)?
        );
        Ok(reached.fetch_one(&mut *self.tx).await?)
    }

    /// The last posting of a node, by the order of insertion, which is that of its chain.
    pub async fn posting_head(&mut self, node: NodeId) -> Result<Option<Head>, DbError> {
        let row = sqlx::query!(
            "select epoch, seq, hash from posting where node = $1 order by id desc limit 1",
            node.0
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        some(row, |row| {
            let (seq, hash) = (load("posting.seq", row.seq)?, digest("posting.hash", &row.hash)?);
            Ok(Head {
                epoch: Epoch(row.epoch),
                seq,
                hash,
            })
        })
    }
}
