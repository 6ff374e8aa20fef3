//! Postings: what enters the ledger at once, exactly once.

use std::collections::BTreeSet;
use std::fmt;

use domain::posting::{Posting, PostingKind};
use domain::{Digest, Epoch, NodeId};
use uuid::Uuid;

use crate::convert::{load, store};
use crate::lines::{LineBlock, RootColumns, TransferColumns};
use crate::{DbError, WriterTx};

/// The key of a posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostingKey {
    /// The node.
    pub node: NodeId,
    /// The start of the host that sealed it.
    pub epoch: Epoch,
    /// Counts the postings of an epoch from 0.
    pub seq: u64,
}

impl PostingKey {
    /// The key out of its columns.
    pub(crate) fn load(node: Uuid, epoch: Uuid, seq: i64) -> Result<Self, DbError> {
        let seq = load("posting.seq", seq)?;
        Ok(Self {
            node: NodeId(node),
            epoch: Epoch(epoch),
            seq,
        })
    }
}

impl fmt::Display for PostingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.epoch, self.seq)
    }
}

/// What became of a posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostingInsert {
    /// It is new.
    Inserted,
    /// It was there with the same content; nothing was added.
    Exists,
}

impl WriterTx {
    /// Adds a posting with everything under it. Commit afterwards; on an error drop the transaction.
    /// The same key with another content is [`DbError::PostingConflict`], and one that does not follow the
    /// node's last posting [`DbError::PostingChain`].
    pub async fn posting_insert(&mut self, posting: &Posting) -> Result<PostingInsert, DbError> {
        let seq: i64 = store("posting.seq", posting.seq)?;
        let done = sqlx::query!(
            "insert into posting (node, epoch, seq, kind, began_at, ended_at, fuel_schedule,
                 input_digest, merkle_root, prev_hash, hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             on conflict (node, epoch, seq) do nothing",
            posting.node.0,
            posting.epoch.0,
            seq,
            posting.kind.as_str(),
            posting.from,
            posting.to,
            i64::from(posting.fuel_schedule),
            &posting.input_digest.0[..],
            &posting.merkle_root.0[..],
            &posting.prev_hash.0[..],
            &posting.hash.0[..]
        )
        .execute(&mut *self.tx)
        .await
        .map_err(|error| match DbError::from(error) {
            DbError::Conflict { constraint } if constraint == CHAIN => DbError::PostingChain(key(posting)),
            other => other,
        })?;
        if done.rows_affected() == 0 {
            return self.posting_compare(posting, seq).await;
        }
        if posting.prev_hash != Digest::ZERO
            && self
                .postings_known(posting.node, &[posting.prev_hash])
                .await?
                .is_empty()
        {
            return Err(DbError::PostingChain(key(posting)));
        }
        self.roots_insert(posting, seq).await?;
        self.transfers_insert(posting, seq).await?;
        self.lines_insert(posting, seq).await?;
        self.usage_add(posting).await?;
        self.graph_usage_add(posting).await?;
        Ok(PostingInsert::Inserted)
    }

    async fn posting_compare(&mut self, posting: &Posting, seq: i64) -> Result<PostingInsert, DbError> {
        let hash = sqlx::query_scalar!(
            "select hash from posting where node = $1 and epoch = $2 and seq = $3",
            posting.node.0,
            posting.epoch.0,
            seq
        )
        .fetch_one(&mut *self.tx)
        .await?;
        // The hash covers every field and everything under the posting.
        if hash == posting.hash.0 {
            Ok(PostingInsert::Exists)
        } else {
            Err(DbError::PostingConflict(key(posting)))
        }
    }

    async fn roots_insert(&mut self, posting: &Posting, seq: i64) -> Result<(), DbError> {
        let columns = RootColumns::of(&posting.roots)?;
        let done = sqlx::query!(
            "insert into posting_root (node, epoch, seq, ordinal, root, kind, provenance, uncertainty_ppm,
                 model_version, boot_id, start_uj, end_uj, faults)
             select $1::uuid, $2::uuid, $3::bigint, t.ordinal, t.root, t.kind, t.provenance, t.uncertainty_ppm,
                 t.model_version, t.boot_id, t.start_uj, t.end_uj, string_to_array(t.faults, ',')
             from unnest($4::integer[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[],
                 $10::uuid[], $11::bigint[], $12::bigint[], $13::text[])
                 as t (ordinal, root, kind, provenance, uncertainty_ppm, model_version, boot_id, start_uj,
                     end_uj, faults)",
            posting.node.0,
            posting.epoch.0,
            seq,
            &columns.ordinal,
            &columns.root,
            &columns.kind,
            &columns.provenance as &[&str],
            &columns.uncertainty_ppm,
            &columns.model_version,
            &columns.boot_id,
            &columns.start_uj,
            &columns.end_uj,
            &columns.faults
        )
        .execute(&mut *self.tx)
        .await?;
        counted("posting_root", done.rows_affected(), posting.roots.len())
    }

    async fn transfers_insert(&mut self, posting: &Posting, seq: i64) -> Result<(), DbError> {
        let mut columns = TransferColumns::of(&posting.transfers)?;
        if posting.kind == PostingKind::Correction && columns.cites.iter().all(Option::is_none) {
            // It was sealed before transfers said what they cite.
            let cites = self.correction_cites(posting.input_digest).await?;
            columns.cites.fill(cites);
        }
        // Sorted, so that two nodes which add the same accounts cannot wait for each other.
        let accounts: BTreeSet<&String> = columns.credit.iter().chain(&columns.debit).collect();
        let accounts: Vec<&str> = accounts.into_iter().map(String::as_str).collect();
        sqlx::query!(
            "insert into account (code)
             select code from unnest($1::text[]) as t (code)
             where not exists (select from account a where a.code = t.code)
             on conflict (code) do nothing",
            &accounts as &[&str]
        )
        .execute(&mut *self.tx)
        .await?;
        let done = sqlx::query!(
            "insert into transfer (at, node, epoch, seq, ordinal, credit, debit, root, unit, kind, tenant,
                 deployment, release, amount, cites)
             select $1::timestamptz, $2::uuid, $3::uuid, $4::bigint, t.ordinal, credit.id, debit.id, t.root,
                 unit.id, t.kind, t.tenant, t.deployment, t.release, t.amount, t.cites
             from unnest($5::integer[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
                 $11::uuid[], $12::text[], $13::integer[], $14::bigint[], $15::bytea[])
                 as t (ordinal, credit, debit, root, unit, kind, tenant, deployment, release, amount, cites)
             join account credit on credit.code = t.credit
             join account debit on debit.code = t.debit
             join unit on unit.code = t.unit",
            posting.to,
            posting.node.0,
            posting.epoch.0,
            seq,
            &columns.ordinal,
            &columns.credit,
            &columns.debit,
            &columns.root as &[Option<String>],
            &columns.unit as &[&str],
            &columns.kind as &[&str],
            &columns.tenant as &[Option<Uuid>],
            &columns.deployment as &[Option<String>],
            &columns.release as &[Option<i32>],
            &columns.amount,
            &columns.cites as &[Option<Vec<u8>>]
        )
        .execute(&mut *self.tx)
        .await?;
        counted("transfer", done.rows_affected(), posting.transfers.len())
    }

    async fn lines_insert(&mut self, posting: &Posting, seq: i64) -> Result<(), DbError> {
        let blocks = LineBlock::of(&posting.lines)?;
        let done = sqlx::query!(
            "insert into receipt_block (at, node, epoch, seq, block, fuel_schedule, tenant, invocation, ordinal, kind,
                 deployment, release, started_at, outcome, fuel, cpu_ns, model_ns, bytes_in, bytes_out,
                 peak_memory_bytes, energy_uj, work)
             select $1::timestamptz, $2::uuid, $3::uuid, $4::bigint, b.ordinality - 1, $5::bigint, b.tenant,
                 b.invocation, b.ordinal, b.kind, b.deployment, b.release, b.started_at, b.outcome, b.fuel, b.cpu_ns,
                 b.model_ns, b.bytes_in, b.bytes_out, b.peak_memory_bytes, b.energy_uj, b.work
             from unnest($6::line_block[]) with ordinality as b",
            posting.to,
            posting.node.0,
            posting.epoch.0,
            seq,
            i64::from(posting.fuel_schedule),
            &blocks as &[LineBlock]
        )
        .execute(&mut *self.tx)
        .await?;
        counted("receipt_block", done.rows_affected(), blocks.len())
    }
}

/// The constraint that keeps a node's postings from forking.
const CHAIN: &str = "posting_chain";

fn key(posting: &Posting) -> PostingKey {
    let (node, epoch, seq) = (posting.node, posting.epoch, posting.seq);
    PostingKey { node, epoch, seq }
}

/// Fails unless a statement added as many rows as it was given.
fn counted(table: &'static str, added: u64, given: usize) -> Result<(), DbError> {
    if usize::try_from(added) == Ok(given) {
        Ok(())
    } else {
        Err(DbError::inconsistent(
            table,
            format_args!("{added} rows added of {given}"),
        ))
    }
}
