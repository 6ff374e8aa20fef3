//! What billing reads: balances, totals and the postings one after the other.

use domain::Digest;
use domain::account::Account;
use domain::posting::{PostingKind, Unit};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{digest, load, parse, some, word};
use crate::{BillingTx, Cut, DbError, Page, PostingKey};

/// What an account holds of a unit: debits less credits. Sources are below 0 by what they gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The account.
    pub account: Account,
    /// The unit.
    pub unit: Unit,
    /// The amount.
    pub amount: i64,
}

/// The ledger in four numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Window postings.
    pub windows: u64,
    /// All energy that came from meters, in microjoules.
    pub energy_uj: u64,
    /// The part of it that no reading can place, in microjoules.
    pub unattributed_uj: u64,
    /// All fuel.
    pub fuel: u64,
}

/// A posting without what is under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its key.
    pub key: PostingKey,
    /// Its kind.
    pub kind: PostingKind,
    /// Where it begins.
    pub from: OffsetDateTime,
    /// Where it ends.
    pub to: OffsetDateTime,
    /// When it was posted.
    pub posted_at: OffsetDateTime,
    /// What its counters counted, over all roots, in microjoules; none for one without counters.
    pub energy_uj: Option<u64>,
    /// The digest of its inputs.
    pub input_digest: Digest,
    /// The Merkle root of its receipt lines.
    pub merkle_root: Digest,
    /// The hash of the one before it.
    pub prev_hash: Digest,
    /// Its hash.
    pub hash: Digest,
}

struct Row {
    id: i64,
    node: Uuid,
    epoch: Uuid,
    seq: i64,
    kind: String,
    began_at: OffsetDateTime,
    ended_at: OffsetDateTime,
    posted_at: OffsetDateTime,
    energy_uj: Option<i64>,
    input_digest: Vec<u8>,
    merkle_root: Vec<u8>,
    prev_hash: Vec<u8>,
    hash: Vec<u8>,
}

impl TryFrom<Row> for Window {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            key: PostingKey::load(row.node, row.epoch, row.seq)?,
            kind: word("posting.kind", &row.kind)?,
            from: row.began_at,
            to: row.ended_at,
            posted_at: row.posted_at,
            energy_uj: some(row.energy_uj, |sum| load("sum of counters", sum))?,
            input_digest: digest("posting.input_digest", &row.input_digest)?,
            merkle_root: digest("posting.merkle_root", &row.merkle_root)?,
            prev_hash: digest("posting.prev_hash", &row.prev_hash)?,
            hash: digest("posting.hash", &row.hash)?,
        })
    }
}

impl BillingTx {
    /// What every account holds, by account and unit.
    pub async fn balances(&mut self) -> Result<Vec<Balance>, DbError> {
        let rows = sqlx::query!(
            r#"select a.code as account, unit.code as unit, sum(m.amount)::bigint as "amount!"
               from (
                   select debit as account, unit, amount from transfer
                   union all
                   select credit, unit, -amount from transfer
               ) m
               join account a on a.id = m.account
               join unit on unit.id = m.unit
               group by a.code, unit.code
               order by a.code, unit.code"#
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                let (account, unit) = (
                    parse("account.code", &row.account)?,
                    word("unit.code", &row.unit)?,
                );
                Ok(Balance {
                    account,
                    unit,
                    amount: row.amount,
                })
            })
            .collect()
    }

    /// The ledger in four numbers.
    pub async fn totals(&mut self) -> Result<Totals, DbError> {
        let row = sqlx::query!(
            r#"select (select count(*) from posting where kind = 'window') as "windows!",
                   coalesce(sum(t.amount) filter (where starts_with(credit.code, 'meter:')), 0)::bigint
                       as "energy_uj!",
                   coalesce(sum(case 'unattributed' when debit.code then t.amount when credit.code then -t.amount
                       end), 0)::bigint as "unattributed_uj!",
                   coalesce(sum(t.amount) filter (where starts_with(credit.code, 'fuel:')), 0)::bigint
                       as "fuel!"
               from transfer t
               join account credit on credit.id = t.credit
               join account debit on debit.id = t.debit"#
        )
        .fetch_one(&mut *self.tx)
        .await?;
        Ok(Totals {
            windows: load("count of windows", row.windows)?,
            energy_uj: load("sum of energy", row.energy_uj)?,
            unattributed_uj: load("sum of unattributed energy", row.unattributed_uj)?,
            fuel: load("sum of fuel", row.fuel)?,
        })
    }

    /// Postings in the order of the ledger, by their places in it.
    pub async fn windows(&mut self, cut: &Cut<i64>) -> Result<Page<Window, i64>, DbError> {
        let rows = sqlx::query_as!(
            Row,
            r#"select p.id, p.node, p.epoch, p.seq, p.kind, p.began_at, p.ended_at, p.posted_at, p.input_digest,
                   p.merkle_root, p.prev_hash, p.hash,
                   (select sum(r.end_uj - r.start_uj)::bigint
                    from posting_root r
                    where r.node = p.node and r.epoch = p.epoch and r.seq = p.seq) as energy_uj
               from posting p
               where p.id > coalesce($1, 0::bigint)
               order by p.id
               limit $2"#,
            cut.after,
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| Ok(row.id))
    }
}
