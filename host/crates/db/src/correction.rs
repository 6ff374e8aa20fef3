//! Corrections: what was asked for, and whether its posting is in the ledger.

use domain::correction::Correction;
use domain::{Digest, Name, NodeId, TenantId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{digest, load, parse, some, word};
use crate::{AdminTx, BillingTx, Cut, DbError, Page, PostingKey, TenantTx, WriterTx};

/// A correction, and its posting if that is in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorrectionRow {
    /// The correction.
    pub correction: Correction,
    /// Which node seals it.
    pub node: NodeId,
    /// Its posting; none until the node has sealed and posted it.
    pub posting: Option<PostingKey>,
    /// When that entered the ledger.
    pub posted_at: Option<OffsetDateTime>,
}

struct Row {
    id: Uuid,
    requested_at: OffsetDateTime,
    node: Uuid,
    tenant: Uuid,
    deployment: Option<String>,
    unit: String,
    amount: i64,
    cites: Vec<u8>,
    reason: String,
    key: Uuid,
    posted_node: Option<Uuid>,
    epoch: Option<Uuid>,
    seq: Option<i64>,
    posted_at: Option<OffsetDateTime>,
}

impl TryFrom<Row> for CorrectionRow {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let posting = match (row.posted_node, row.epoch, row.seq) {
            (Some(node), Some(epoch), Some(seq)) => Some(PostingKey::load(node, epoch, seq)?),
            _ => None,
        };
        Ok(Self {
            correction: Correction {
                id: row.id,
                at: row.requested_at,
                tenant: TenantId(row.tenant),
                deployment: some(row.deployment, |name| parse("correction.deployment", &name))?,
                unit: word("unit.code", &row.unit)?,
                amount: row.amount,
                cites: digest("correction.cites", &row.cites)?,
                reason: row.reason,
                key: row.key,
            },
            node: NodeId(row.node),
            posting,
            posted_at: row.posted_at,
        })
    }
}

impl AdminTx {
    /// How much of what a posting moved to a tenant's deployment in a unit is not taken back yet; none for a posting
    /// that is not in the ledger. Nobody else asks until the transaction ends.
    pub async fn correctable(&mut self, correction: &Correction) -> Result<Option<i64>, DbError> {
        let moved = sqlx::query_scalar!(
            r#"select least(moved, 9223372036854775807)::bigint as "moved!"
               from wattle_correctable($1, $2, $3, $4) moved
               where moved is not null"#,
            &correction.cites.0[..],
            correction.tenant.0,
            correction.deployment.as_ref().map(Name::as_str),
            correction.unit.as_str()
        );
        Ok(moved.fetch_optional(&mut *self.tx).await?)
    }

    /// Asks `node` for a correction.
    pub async fn correction_insert(&mut self, node: NodeId, correction: &Correction) -> Result<(), DbError> {
        sqlx::query!(
            "insert into correction (id, requested_at, node, tenant, deployment, unit, amount, cites, reason, key,
                 digest)
             select $1::uuid, $2::timestamptz, $3::uuid, $4::uuid, $5::text, unit.id, $7::bigint, $8::bytea, $9::text,
                 $10::uuid, $11::bytea
             from unit where unit.code = $6",
            correction.id,
            correction.at,
            node.0,
            correction.tenant.0,
            correction.deployment.as_ref().map(Name::as_str),
            correction.unit.as_str(),
            correction.amount,
            &correction.cites.0[..],
            correction.reason,
            correction.key,
            &correction.digest().0[..]
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

impl WriterTx {
    /// What the correction with this digest cites, if there is one.
    pub(crate) async fn correction_cites(&mut self, of: Digest) -> Result<Option<Vec<u8>>, DbError> {
        let cites = sqlx::query_scalar!("select cites from correction where digest = $1", &of.0[..]);
        Ok(cites.fetch_optional(&mut *self.tx).await?)
    }
}

/// Which corrections.
#[derive(Clone, Copy, Debug, Default)]
struct Filter {
    tenant: Option<TenantId>,
    /// Only those that this node is still to seal.
    due: Option<NodeId>,
}

impl TenantTx {
    /// The tenant's corrections, in the order of their ids, which is that of time.
    pub async fn corrections_list(&mut self, cut: &Cut<Uuid>) -> Result<Page<CorrectionRow, Uuid>, DbError> {
        let filter = Filter {
            tenant: Some(self.tenant),
            due: None,
        };
        list(&mut self.tx, filter, cut).await
    }
}

impl BillingTx {
    /// Corrections of everyone or of `tenant`, in the order of their ids, which is that of time.
    pub async fn corrections_list(
        &mut self,
        tenant: Option<TenantId>,
        cut: &Cut<Uuid>,
    ) -> Result<Page<CorrectionRow, Uuid>, DbError> {
        list(&mut self.tx, Filter { tenant, due: None }, cut).await
    }

    /// Corrections that `node` is still to seal: they have no posting in the ledger. At most 100.
    pub async fn corrections_due(&mut self, node: NodeId) -> Result<Vec<Correction>, DbError> {
        let filter = Filter {
            tenant: None,
            due: Some(node),
        };
        let page = list(&mut self.tx, filter, &Cut::first(100)).await?;
        Ok(page.items.into_iter().map(|row| row.correction).collect())
    }

    /// How many postings of corrections are not what was asked for, or not asked for at all. 0 when all is well.
    pub async fn correction_mismatches(&mut self) -> Result<u64, DbError> {
        let rows = sqlx::query_scalar!(
            r#"select count(*) as "rows!"
               from posting p
               left join correction c on c.digest = p.input_digest
               left join transfer t
                   on t.at = p.ended_at and t.node = p.node and t.epoch = p.epoch and t.seq = p.seq
               left join account debit on debit.id = t.debit
               where p.kind = 'correction'
                   and (c.tenant, c.deployment, c.unit, c.cites, c.amount) is distinct from
                       (t.tenant, t.deployment, t.unit, t.cites,
                           case debit.code when 'platform' then -t.amount else t.amount end)"#
        )
        .fetch_one(&mut *self.tx)
        .await?;
        load("count of mismatches", rows)
    }
}

async fn list(
    tx: &mut PgConnection,
    filter: Filter,
    cut: &Cut<Uuid>,
) -> Result<Page<CorrectionRow, Uuid>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        r#"select c.id, c.requested_at, c.node, c.tenant, c.deployment, unit.code as unit, c.amount, c.cites,
               c.reason, c.key, p.node as "posted_node?", p.epoch as "epoch?", p.seq as "seq?",
               p.posted_at as "posted_at?"
           from correction c
           join unit on unit.id = c.unit
           left join posting p on p.kind = 'correction' and p.input_digest = c.digest
           where ($1::uuid is null or c.tenant = $1) and ($2::uuid is null or (c.node = $2 and p.id is null))
               and ($3::uuid is null or c.id > $3)
           order by c.id
           limit $4"#,
        filter.tenant.map(|tenant| tenant.0),
        filter.due.map(|node| node.0),
        cut.after,
        cut.rows()
    )
    .fetch_all(tx)
    .await?;
    Page::of(rows, cut, |row| Ok(row.id))
}
