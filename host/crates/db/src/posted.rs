//! Postings read again as they were added, many at once.

use std::collections::HashMap;

use domain::TenantId;
use domain::energy::Root;
use domain::posting::{Posting, PostingRoot, ReceiptLine, Transfer};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{digest, load, parse, some, store, word};
use crate::lines::{BlockRow, LineBlock, blocks, lines_of};
use crate::{BillingTx, DbError, PostingKey};

/// A posting; none if there is none, and an error if it says what no host writes.
pub type Found = Result<Option<Posting>, DbError>;

/// A key as its columns have it.
type Columns = (Uuid, Uuid, i64);

/// Keys, column by column.
#[derive(Default)]
struct Keys {
    node: Vec<Uuid>,
    epoch: Vec<Uuid>,
    seq: Vec<i64>,
}

impl Keys {
    fn of(keys: &[PostingKey]) -> Result<Self, DbError> {
        let mut columns = Self::default();
        for key in keys {
            columns.node.push(key.node.0);
            columns.epoch.push(key.epoch.0);
            columns.seq.push(store("posting.seq", key.seq)?);
        }
        Ok(columns)
    }

    /// Where the posting of a row stands among them.
    fn place(&self, (node, epoch, seq): Columns) -> Option<usize> {
        let mut keys = self.node.iter().zip(&self.epoch).zip(&self.seq);
        keys.position(|own| own == ((&node, &epoch), &seq))
    }
}

struct Header {
    node: Uuid,
    epoch: Uuid,
    seq: i64,
    kind: String,
    began_at: OffsetDateTime,
    ended_at: OffsetDateTime,
    fuel_schedule: i64,
    input_digest: Vec<u8>,
    merkle_root: Vec<u8>,
    prev_hash: Vec<u8>,
    hash: Vec<u8>,
}

struct RootRow {
    node: Uuid,
    epoch: Uuid,
    seq: i64,
    root: String,
    kind: String,
    provenance: String,
    uncertainty_ppm: i64,
    model_version: i64,
    boot_id: Uuid,
    start_uj: i64,
    end_uj: i64,
    faults: Vec<String>,
}

impl TryFrom<RootRow> for PostingRoot {
    type Error = DbError;
    fn try_from(row: RootRow) -> Result<Self, DbError> {
        Ok(Self {
            root: Root {
                name: row.root,
                kind: row.kind,
                provenance: word("posting_root.provenance", &row.provenance)?,
                uncertainty_ppm: load("posting_root.uncertainty_ppm", row.uncertainty_ppm)?,
                model_version: load("posting_root.model_version", row.model_version)?,
            },
            boot_id: row.boot_id,
            start_uj: load("posting_root.start_uj", row.start_uj)?,
            end_uj: load("posting_root.end_uj", row.end_uj)?,
            faults: row
                .faults
                .iter()
                .map(|fault| word("posting_root.faults", fault))
                .collect::<Result<_, _>>()?,
        })
    }
}

struct TransferRow {
    node: Uuid,
    epoch: Uuid,
    seq: i64,
    ordinal: i32,
    credit: String,
    debit: String,
    root: Option<String>,
    unit: String,
    kind: String,
    tenant: Option<Uuid>,
    deployment: Option<String>,
    release: Option<i32>,
    amount: i64,
    cites: Option<Vec<u8>>,
}

impl TryFrom<TransferRow> for Transfer {
    type Error = DbError;
    fn try_from(row: TransferRow) -> Result<Self, DbError> {
        Ok(Self {
            ordinal: load("transfer.ordinal", row.ordinal)?,
            credit: parse("transfer.credit", &row.credit)?,
            debit: parse("transfer.debit", &row.debit)?,
            root: row.root,
            unit: word("transfer.unit", &row.unit)?,
            kind: word("transfer.kind", &row.kind)?,
            tenant: row.tenant.map(TenantId),
            deployment: some(row.deployment, |name| parse("transfer.deployment", &name))?,
            release: some(row.release, |number| load("transfer.release", number))?,
            amount: load("transfer.amount", row.amount)?,
            cites: some(row.cites, |hash| digest("transfer.cites", &hash))?,
        })
    }
}

/// Rows by the posting that they are under, in their order.
fn under<Row>(rows: Vec<Row>, of: impl Fn(&Row) -> Columns) -> HashMap<Columns, Vec<Row>> {
    let mut postings = HashMap::<_, Vec<_>>::new();
    for row in rows {
        postings.entry(of(&row)).or_default().push(row);
    }
    postings
}

/// The first of the blocks that reaches over so many lines together.
fn over(blocks: &[BlockRow], most: u32) -> Option<&BlockRow> {
    let mut lines = 0;
    blocks.iter().find(|block| {
        lines += block.lines.len();
        lines > most as usize
    })
}

/// What is under postings, by their keys.
struct Rows {
    headers: HashMap<Columns, Vec<Header>>,
    roots: HashMap<Columns, Vec<RootRow>>,
    transfers: HashMap<Columns, Vec<TransferRow>>,
    blocks: HashMap<Columns, Vec<BlockRow>>,
}

impl Rows {
    /// Takes the rows of a posting out.
    fn posting(&mut self, key: PostingKey) -> Found {
        let of = (key.node.0, key.epoch.0, store("posting.seq", key.seq)?);
        let Some(row) = self.headers.remove(&of).and_then(|mut rows| rows.pop()) else {
            return Ok(None);
        };
        let roots = self.roots.remove(&of).unwrap_or_default().into_iter();
        let transfers = self.transfers.remove(&of).unwrap_or_default().into_iter();
        let blocks = self.blocks.remove(&of).unwrap_or_default();
        Ok(Some(Posting {
            node: key.node,
            epoch: key.epoch,
            seq: key.seq,
            kind: word("posting.kind", &row.kind)?,
            from: row.began_at,
            to: row.ended_at,
            fuel_schedule: load("posting.fuel_schedule", row.fuel_schedule)?,
            roots: roots.map(PostingRoot::try_from).collect::<Result<_, _>>()?,
            transfers: transfers.map(Transfer::try_from).collect::<Result<_, _>>()?,
            lines: lines_of(&blocks)?,
            input_digest: digest("posting.input_digest", &row.input_digest)?,
            merkle_root: digest("posting.merkle_root", &row.merkle_root)?,
            prev_hash: digest("posting.prev_hash", &row.prev_hash)?,
            hash: digest("posting.hash", &row.hash)?,
        }))
    }
}

impl BillingTx {
    /// A posting as it was added, everything under it included, ready to be verified.
    pub async fn posting_get(&mut self, key: PostingKey) -> Found {
        let mut found = self.postings_read(&[key], None).await?;
        found.pop().unwrap_or(Ok(None))
    }

    /// Postings as they were added, everything under them included, ready to be verified: of the first of `keys` as
    /// many as have `most_lines` receipt lines together, and at least one. Four statements, however many they are.
    pub async fn postings_get(
        &mut self,
        keys: &[PostingKey],
        most_lines: u32,
    ) -> Result<Vec<Found>, DbError> {
        let found = self.postings_read(keys, Some(most_lines)).await?;
        match keys.first() {
            // One that has more than all may have is read by itself.
            Some(first) if found.is_empty() => Ok(vec![self.posting_get(*first).await]),
            _ => Ok(found),
        }
    }

    /// As many of the first of `keys` as have so many lines together, which may be none; all without a bound.
    async fn postings_read(
        &mut self,
        keys: &[PostingKey],
        most_lines: Option<u32>,
    ) -> Result<Vec<Found>, DbError> {
        let asked = Keys::of(keys)?;
        let blocks = self.blocks_under(&asked, most_lines).await?;
        // The posting of a line too many may have more that were not read.
        let too_many = most_lines.and_then(|most| over(&blocks, most));
        let whole = too_many.and_then(|row| asked.place((row.node, row.epoch, row.seq)));
        let keys = keys.get(..whole.unwrap_or(keys.len())).unwrap_or_default();
        let asked = Keys::of(keys)?;
        let mut rows = Rows {
            headers: self.headers(&asked).await?,
            roots: self.roots_under(&asked).await?,
            transfers: self.transfers_under(&asked).await?,
            blocks: under(blocks, |row| (row.node, row.epoch, row.seq)),
        };
        Ok(keys.iter().map(|key| rows.posting(*key)).collect())
    }

    async fn headers(&mut self, keys: &Keys) -> Result<HashMap<Columns, Vec<Header>>, DbError> {
        let rows = sqlx::query_as!(
            Header,
            "select p.node, p.epoch, p.seq, p.kind, p.began_at, p.ended_at, p.fuel_schedule, p.input_digest,
                 p.merkle_root, p.prev_hash, p.hash
             from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as k (node, epoch, seq)
             join posting p on p.node = k.node and p.epoch = k.epoch and p.seq = k.seq",
            &keys.node,
            &keys.epoch,
            &keys.seq
        );
        let rows = rows.fetch_all(&mut *self.tx).await?;
        Ok(under(rows, |row| (row.node, row.epoch, row.seq)))
    }

    async fn roots_under(&mut self, keys: &Keys) -> Result<HashMap<Columns, Vec<RootRow>>, DbError> {
        let rows = sqlx::query_as!(
            RootRow,
            "select r.node, r.epoch, r.seq, r.root, r.kind, r.provenance, r.uncertainty_ppm, r.model_version,
                 r.boot_id, r.start_uj, r.end_uj, r.faults
             from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as k (node, epoch, seq)
             join posting_root r on r.node = k.node and r.epoch = k.epoch and r.seq = k.seq
             order by r.ordinal",
            &keys.node,
            &keys.epoch,
            &keys.seq
        );
        let rows = rows.fetch_all(&mut *self.tx).await?;
        Ok(under(rows, |row| (row.node, row.epoch, row.seq)))
    }

    async fn transfers_under(&mut self, keys: &Keys) -> Result<HashMap<Columns, Vec<TransferRow>>, DbError> {
        let rows = sqlx::query_as!(
            TransferRow,
            "select t.node, t.epoch, t.seq, t.ordinal, credit.code as credit, debit.code as debit, t.root,
                 unit.code as unit, t.kind, t.tenant, t.deployment, t.release, t.amount, t.cites
             from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as k (node, epoch, seq)
             join posting p on p.node = k.node and p.epoch = k.epoch and p.seq = k.seq
             join transfer t on t.at = p.ended_at and t.node = p.node and t.epoch = p.epoch and t.seq = p.seq
             join account credit on credit.id = t.credit
             join account debit on debit.id = t.debit
             join unit on unit.id = t.unit
             order by t.ordinal",
            &keys.node,
            &keys.epoch,
            &keys.seq
        );
        let rows = rows.fetch_all(&mut *self.tx).await?;
        Ok(under(rows, |row| (row.node, row.epoch, row.seq)))
    }

    /// The blocks of postings, in the order of `keys`: those that begin within the first `most` lines, and the one behind
    /// them, if there is one.
    async fn blocks_under(&mut self, keys: &Keys, most: Option<u32>) -> Result<Vec<BlockRow>, DbError> {
        let rows = blocks!(
            "join (
                   select k.place, b.at, b.node, b.epoch, b.seq, b.block,
                       sum(b.lines) over (order by k.place, b.block) - b.lines as before
                   from unnest($1::uuid[], $2::uuid[], $3::bigint[]) with ordinality as k (node, epoch, seq, place)
                   join posting p on p.node = k.node and p.epoch = k.epoch and p.seq = k.seq
                   join receipt_block b
                       on b.at = p.ended_at and b.node = p.node and b.epoch = p.epoch and b.seq = p.seq
               ) asked using (at, node, epoch, seq, block)
               where asked.before <= coalesce($4::bigint, asked.before)
               order by asked.place, b.block",
            &keys.node,
            &keys.epoch,
            &keys.seq,
            most.map(i64::from)
        );
        Ok(rows.fetch_all(&mut *self.tx).await?)
    }

    pub(crate) async fn posting_lines(
        &mut self,
        key: PostingKey,
        seq: i64,
        at: OffsetDateTime,
    ) -> Result<Vec<ReceiptLine>, DbError> {
        let rows = blocks!(
            "where b.at = $1 and b.node = $2 and b.epoch = $3 and b.seq = $4",
            at,
            key.node.0,
            key.epoch.0,
            seq
        );
        lines_of(&rows.fetch_all(&mut *self.tx).await?)
    }
}
