//! Checkpoints: what they cover, adding one, reading them again.

use domain::checkpoint::{CheckedPosting, Checkpoint, NodeHead, Record, SignedCheckpoint};
use domain::signature::{PublicKey, Signature, Signer, Succession};
use domain::{Digest, Epoch, InvocationId, NodeId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{digest, load, some, store};
use crate::lines::slot_end;
use crate::{AdminTx, BillingTx, Cut, DbError, Page, TenantTx, WriterTx};

/// A key that signs, and on which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignerRow {
    /// The node.
    pub node: NodeId,
    /// The key.
    pub signer: Signer,
}

/// A checkpoint as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRow {
    /// The checkpoint.
    pub signed: SignedCheckpoint,
    /// Its hash, which the next one names, as it is stored.
    pub hash: Digest,
    /// The heads of all nodes.
    pub heads: Vec<NodeHead>,
}

struct Row {
    number: i64,
    at: OffsetDateTime,
    prev_hash: Vec<u8>,
    postings: i64,
    merkle_root: Vec<u8>,
    heads_root: Vec<u8>,
    signer: Vec<u8>,
    signature: Vec<u8>,
    hash: Vec<u8>,
}

fn public_key(field: &'static str, bytes: &[u8]) -> Result<PublicKey, DbError> {
    let key = bytes.try_into().map(PublicKey);
    key.map_err(|_| DbError::inconsistent(field, format_args!("{} bytes", bytes.len())))
}

fn signature(field: &'static str, bytes: &[u8]) -> Result<Signature, DbError> {
    let signature = bytes.try_into().map(Signature);
    signature.map_err(|_| DbError::inconsistent(field, format_args!("{} bytes", bytes.len())))
}

impl TryFrom<Row> for CheckpointRow {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let checkpoint = Checkpoint {
            number: load("checkpoint.number", row.number)?,
            at: row.at,
            prev_hash: digest("checkpoint.prev_hash", &row.prev_hash)?,
            postings: load("checkpoint.postings", row.postings)?,
            merkle_root: digest("checkpoint.merkle_root", &row.merkle_root)?,
            heads_root: digest("checkpoint.heads_root", &row.heads_root)?,
            signer: public_key("checkpoint.signer", &row.signer)?,
        };
        Ok(Self {
            signed: SignedCheckpoint {
                checkpoint,
                signature: signature("checkpoint.signature", &row.signature)?,
            },
            hash: digest("checkpoint.hash", &row.hash)?,
            heads: Vec::new(),
        })
    }
}

struct PostingRow {
    node: Uuid,
    epoch: Uuid,
    seq: i64,
    began_at: OffsetDateTime,
    ended_at: OffsetDateTime,
    fuel_schedule: i64,
    merkle_root: Vec<u8>,
    hash: Vec<u8>,
}

impl TryFrom<PostingRow> for CheckedPosting {
    type Error = DbError;
    fn try_from(row: PostingRow) -> Result<Self, DbError> {
        Ok(Self {
            node: NodeId(row.node),
            epoch: Epoch(row.epoch),
            seq: load("posting.seq", row.seq)?,
            from: row.began_at,
            to: row.ended_at,
            fuel_schedule: load("posting.fuel_schedule", row.fuel_schedule)?,
            merkle_root: digest("posting.merkle_root", &row.merkle_root)?,
            hash: digest("posting.hash", &row.hash)?,
        })
    }
}

/// The heads of some checkpoints, each with its number, in the order of numbers and nodes.
async fn heads(tx: &mut PgConnection, numbers: &[i64]) -> Result<Vec<(i64, NodeHead)>, DbError> {
    let rows = sqlx::query!(
        "select number, node, epoch, seq, hash from checkpoint_head where number = any($1) order by number, node",
        numbers
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            let head = NodeHead {
                node: NodeId(row.node),
                epoch: Epoch(row.epoch),
                seq: load("checkpoint_head.seq", row.seq)?,
                hash: digest("checkpoint_head.hash", &row.hash)?,
            };
            Ok((row.number, head))
        })
        .collect()
}

/// A checkpoint with what it was made of; none if there is none of that number.
async fn record(tx: &mut PgConnection, number: i64) -> Result<Option<Record>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "select number, at, prev_hash, postings, merkle_root, heads_root, signer, signature, hash
         from checkpoint where number = $1",
        number
    );
    let Some(row) = row.fetch_optional(&mut *tx).await? else {
        return Ok(None);
    };
    let row = CheckpointRow::try_from(row)?;
    let leaves = sqlx::query_scalar!("select leaves from checkpoint where number = $1", number)
        .fetch_one(&mut *tx)
        .await?;
    let leaves = leaves.chunks(32).map(|leaf| digest("checkpoint.leaves", leaf));
    let heads = heads(tx, &[number]).await?;
    Ok(Some(Record {
        signed: row.signed,
        heads: heads.into_iter().map(|(_, head)| head).collect(),
        leaves: leaves.collect::<Result<_, _>>()?,
    }))
}

/// Waits until no other transaction adds a checkpoint or a signer, and keeps others from it.
async fn lock(tx: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('wattle checkpoints', 0))")
        .fetch_one(tx)
        .await?;
    Ok(())
}

async fn last_number(tx: &mut PgConnection) -> Result<Option<i64>, DbError> {
    let number = sqlx::query_scalar!("select max(number) from checkpoint");
    Ok(number.fetch_one(tx).await?)
}

async fn signers(tx: &mut PgConnection) -> Result<Vec<SignerRow>, DbError> {
    let rows = sqlx::query!("select key, node, since, follows, endorsement from signer order by since, key")
        .fetch_all(tx)
        .await?;
    rows.into_iter()
        .map(|row| {
            let succession = match (row.follows, row.endorsement) {
                (Some(follows), Some(endorsement)) => Some(Succession {
                    follows: public_key("signer.follows", &follows)?,
                    endorsement: signature("signer.endorsement", &endorsement)?,
                }),
                _ => None,
            };
            Ok(SignerRow {
                node: NodeId(row.node),
                signer: Signer {
                    key: public_key("signer.key", &row.key)?,
                    since: row.since,
                    succession,
                },
            })
        })
        .collect()
}

impl WriterTx {
    /// Keeps every other host from making a checkpoint until the transaction ends.
    pub async fn checkpoints_lock(&mut self) -> Result<(), DbError> {
        lock(&mut self.tx).await
    }

    /// The last checkpoint.
    pub async fn checkpoint_last(&mut self) -> Result<Option<Record>, DbError> {
        match last_number(&mut self.tx).await? {
            Some(number) => record(&mut self.tx, number).await,
            None => Ok(None),
        }
    }

    /// The first `limit` postings, in the order of the ledger, that came after the heads of checkpoint `last`, or all
    /// if there is none yet. Of each node they are the next links of its chain: its postings enter the ledger one
    /// after the other, while those of two nodes may do so in another order than that of their places.
    pub async fn postings_uncovered(
        &mut self,
        last: Option<u64>,
        limit: u32,
    ) -> Result<Vec<CheckedPosting>, DbError> {
        let rows = sqlx::query_as!(
            PostingRow,
            r#"with recursive nodes as (
                   (select node from posting order by node limit 1)
                   union all
                   select (select p.node from posting p where p.node > n.node order by p.node limit 1)
                   from nodes n where n.node is not null
               )
               select p.node as "node!", p.epoch as "epoch!", p.seq as "seq!", p.began_at as "began_at!",
                   p.ended_at as "ended_at!", p.fuel_schedule as "fuel_schedule!", p.merkle_root as "merkle_root!",
                   p.hash as "hash!"
               from nodes n
               left join checkpoint_head h on h.number = $1 and h.node = n.node
               cross join lateral (
                   select * from posting p
                   where p.node = n.node and p.id > coalesce(h.posting, 0)
                   order by p.id
                   limit $2
               ) p
               order by p.id
               limit $2"#,
            some(last, |number| store::<u64, i64>("checkpoint.number", number))?,
            i64::from(limit)
        );
        let rows = rows.fetch_all(&mut *self.tx).await?;
        rows.into_iter().map(CheckedPosting::try_from).collect()
    }

    /// Adds a checkpoint. Commit afterwards.
    pub async fn checkpoint_insert(&mut self, record: &Record) -> Result<(), DbError> {
        let checkpoint = &record.signed.checkpoint;
        let number: i64 = store("checkpoint.number", checkpoint.number)?;
        sqlx::query!(
            "insert into checkpoint (number, at, prev_hash, postings, merkle_root, heads_root, signer, signature,
                 hash, leaves)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            number,
            checkpoint.at,
            &checkpoint.prev_hash.0[..],
            store::<u64, i64>("checkpoint.postings", checkpoint.postings)?,
            &checkpoint.merkle_root.0[..],
            &checkpoint.heads_root.0[..],
            &checkpoint.signer.0[..],
            &record.signed.signature.0[..],
            &checkpoint.hash().0[..],
            &record.leaves.iter().flat_map(|leaf| leaf.0).collect::<Vec<_>>()
        )
        .execute(&mut *self.tx)
        .await?;
        let heads = &record.heads;
        let seqs = heads
            .iter()
            .map(|head| store::<u64, i64>("checkpoint_head.seq", head.seq))
            .collect::<Result<Vec<_>, _>>()?;
        let done = sqlx::query!(
            "insert into checkpoint_head (number, node, epoch, seq, hash, posting)
             select $1::bigint, p.node, p.epoch, p.seq, p.hash, p.id
             from unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::bytea[]) as t (node, epoch, seq, hash)
             join posting p on p.node = t.node and p.epoch = t.epoch and p.seq = t.seq and p.hash = t.hash",
            number,
            &heads.iter().map(|head| head.node.0).collect::<Vec<_>>(),
            &heads.iter().map(|head| head.epoch.0).collect::<Vec<_>>(),
            &seqs,
            &heads.iter().map(|head| head.hash.0.to_vec()).collect::<Vec<_>>()
        )
        .execute(&mut *self.tx)
        .await?;
        if usize::try_from(done.rows_affected()) == Ok(heads.len()) {
            return Ok(());
        }
        let found = done.rows_affected();
        Err(DbError::inconsistent(
            "checkpoint_head",
            format_args!("{found} of {} heads are postings", heads.len()),
        ))
    }
}

impl BillingTx {
    /// Checkpoint `number` with what it was made of.
    pub async fn checkpoint_get(&mut self, number: u64) -> Result<Option<Record>, DbError> {
        record(&mut self.tx, store("checkpoint.number", number)?).await
    }

    /// Checkpoints in their order.
    pub async fn checkpoints_list(&mut self, cut: &Cut<i64>) -> Result<Page<CheckpointRow, i64>, DbError> {
        let rows = sqlx::query_as!(
            Row,
            "select number, at, prev_hash, postings, merkle_root, heads_root, signer, signature, hash
             from checkpoint
             where number > coalesce($1, 0::bigint)
             order by number
             limit $2",
            cut.after,
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        let mut page: Page<CheckpointRow, i64> = Page::of(rows, cut, |row| Ok(row.number))?;
        let number =
            |row: &CheckpointRow| store::<u64, i64>("checkpoint.number", row.signed.checkpoint.number);
        let numbers = page.items.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        for (of, head) in heads(&mut self.tx, &numbers).await? {
            if let Ok(at) = numbers.binary_search(&of)
                && let Some(row) = page.items.get_mut(at)
            {
                row.heads.push(head);
            }
        }
        Ok(page)
    }

    /// What stands in the ledger where a checkpoint covers postings: of each node that after its head in the
    /// checkpoint before, up to its own.
    pub async fn postings_covered(&mut self, number: u64) -> Result<Vec<CheckedPosting>, DbError> {
        let rows = sqlx::query_as!(
            PostingRow,
            "select p.node, p.epoch, p.seq, p.began_at, p.ended_at, p.fuel_schedule, p.merkle_root, p.hash
             from checkpoint_head h
             left join checkpoint_head b on b.number = h.number - 1 and b.node = h.node
             join posting p on p.node = h.node and p.id > coalesce(b.posting, 0) and p.id <= h.posting
             where h.number = $1
             order by p.id",
            store::<u64, i64>("checkpoint.number", number)?
        );
        let rows = rows.fetch_all(&mut *self.tx).await?;
        rows.into_iter().map(CheckedPosting::try_from).collect()
    }

    /// A posting as a checkpoint sees it, and the first checkpoint that covers it, if one does.
    pub async fn posting_checked(
        &mut self,
        key: crate::PostingKey,
    ) -> Result<Option<(CheckedPosting, Option<u64>)>, DbError> {
        let row = sqlx::query!(
            r#"select p.began_at, p.ended_at, p.fuel_schedule, p.merkle_root, p.hash,
                   (select h.number from checkpoint_head h
                    where h.node = p.node and h.posting >= p.id
                    order by h.posting, h.number limit 1) as number
               from posting p
               where p.node = $1 and p.epoch = $2 and p.seq = $3"#,
            key.node.0,
            key.epoch.0,
            store::<u64, i64>("posting.seq", key.seq)?
        );
        some(row.fetch_optional(&mut *self.tx).await?, |row| {
            let posting = CheckedPosting {
                node: key.node,
                epoch: key.epoch,
                seq: key.seq,
                from: row.began_at,
                to: row.ended_at,
                fuel_schedule: load("posting.fuel_schedule", row.fuel_schedule)?,
                merkle_root: digest("posting.merkle_root", &row.merkle_root)?,
                hash: digest("posting.hash", &row.hash)?,
            };
            Ok((
                posting,
                some(row.number, |number| load("checkpoint.number", number))?,
            ))
        })
    }

    /// Every key that signs or signed.
    pub async fn signers(&mut self) -> Result<Vec<SignerRow>, DbError> {
        signers(&mut self.tx).await
    }
}

impl AdminTx {
    /// Keeps every host from making a checkpoint until the transaction ends.
    pub async fn checkpoints_lock(&mut self) -> Result<(), DbError> {
        lock(&mut self.tx).await
    }

    /// Every key that signs or signed.
    pub async fn signers(&mut self) -> Result<Vec<SignerRow>, DbError> {
        signers(&mut self.tx).await
    }

    /// When the last checkpoint was made.
    pub async fn checkpoint_at(&mut self) -> Result<Option<OffsetDateTime>, DbError> {
        let at = sqlx::query_scalar!("select at from checkpoint order by number desc limit 1");
        Ok(at.fetch_optional(&mut *self.tx).await?)
    }

    /// Lists a key that signs from now on.
    pub async fn signer_insert(&mut self, node: NodeId, signer: &Signer) -> Result<(), DbError> {
        let succession = signer.succession.as_ref();
        sqlx::query!(
            "insert into signer (key, node, since, follows, endorsement) values ($1, $2, $3, $4, $5)",
            &signer.key.0[..],
            node.0,
            signer.since,
            succession.map(|by| by.follows.0.to_vec()),
            succession.map(|by| by.endorsement.0.to_vec())
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

impl TenantTx {
    /// The last of the checkpoints that cover a receipt's lines; none while one is not covered.
    pub async fn receipt_checkpoint(&mut self, invocation: InvocationId) -> Result<Option<u64>, DbError> {
        let number = sqlx::query_scalar!(
            r#"select case when count(*) = count(c.number) then max(c.number) end as number
               from receipt_block b
               join posting p using (node, epoch, seq)
               left join lateral (
                   select h.number from checkpoint_head h
                   where h.node = p.node and h.posting >= p.id
                   order by h.posting, h.number limit 1
               ) c on true
               where b.tenant = $1 and b.last_invocation between $2 and $3 and b.first_invocation <= $2
                   and $2 = any(b.invocation)"#,
            self.tenant.0,
            invocation.0,
            slot_end(invocation).0
        )
        .fetch_one(&mut *self.tx)
        .await?;
        some(number, |number| load("checkpoint.number", number))
    }
}
