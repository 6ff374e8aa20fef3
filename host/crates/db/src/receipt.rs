//! Receipts: what a tenant's invocations used, line by line and summed.

use domain::posting::{CallKind, ReceiptLine};
use domain::{Epoch, InvocationId, Name, NodeId, Outcome};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{load, parse, word};
use crate::lines::LineRow;
use crate::{DbError, PostingKey, TenantTx};

/// A receipt line with the posting that it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptLineRow {
    /// The posting.
    pub posting: PostingKey,
    /// Where the posting's window begins.
    pub from: OffsetDateTime,
    /// Where it ends.
    pub to: OffsetDateTime,
    /// The schedule of its fuel.
    pub fuel_schedule: u32,
    /// The line.
    pub line: ReceiptLine,
}

impl TryFrom<LineRow> for ReceiptLineRow {
    type Error = DbError;
    fn try_from(row: LineRow) -> Result<Self, DbError> {
        let seq = load("receipt_line.seq", row.seq)?;
        Ok(Self {
            posting: PostingKey {
                node: NodeId(row.node),
                epoch: Epoch(row.epoch),
                seq,
            },
            from: row.began_at,
            to: row.ended_at,
            fuel_schedule: load("receipt_line.fuel_schedule", row.fuel_schedule)?,
            line: row.try_into()?,
        })
    }
}

/// The sum of a receipt's lines so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The invocation.
    pub invocation: InvocationId,
    /// What it was for.
    pub kind: CallKind,
    /// The deployment.
    pub deployment: Option<Name>,
    /// The release's number.
    pub release: Option<u32>,
    /// When it was admitted.
    pub started_at: OffsetDateTime,
    /// How it ended; none while its last line is missing.
    pub outcome: Option<Outcome>,
    /// How many lines there are.
    pub lines: u32,
    /// Whether these are all its lines.
    pub complete: bool,
    /// Fuel.
    pub fuel: u64,
    /// CPU time of the guest, in nanoseconds.
    pub cpu_ns: u64,
    /// CPU time of models, in nanoseconds.
    pub model_ns: u64,
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// The most linear memory at once, in bytes.
    pub peak_memory_bytes: u64,
    /// Dynamic energy in microjoules; none where a line has none.
    pub energy_uj: Option<u64>,
}

struct Row {
    invocation: Uuid,
    kind: String,
    deployment: Option<String>,
    release: Option<i32>,
    started_at: OffsetDateTime,
    outcome: Option<String>,
    lines: i64,
    complete: bool,
    fuel: i64,
    cpu_ns: i64,
    model_ns: i64,
    bytes_in: i64,
    bytes_out: i64,
    peak_memory_bytes: i64,
    energy_uj: Option<i64>,
}

impl TryFrom<Row> for Receipt {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let deployment = row
            .deployment
            .map(|name| parse("receipt_line.deployment", &name))
            .transpose()?;
        Ok(Self {
            invocation: InvocationId(row.invocation),
            kind: word("receipt_line.kind", &row.kind)?,
            deployment,
            release: row
                .release
                .map(|number| load("receipt_line.release", number))
                .transpose()?,
            started_at: row.started_at,
            outcome: row
                .outcome
                .map(|outcome| parse("receipt_line.outcome", &outcome))
                .transpose()?,
            lines: load("count of receipt lines", row.lines)?,
            complete: row.complete,
            fuel: load("receipt_line.fuel", row.fuel)?,
            cpu_ns: load("receipt_line.cpu_ns", row.cpu_ns)?,
            model_ns: load("receipt_line.model_ns", row.model_ns)?,
            bytes_in: load("receipt_line.bytes_in", row.bytes_in)?,
            bytes_out: load("receipt_line.bytes_out", row.bytes_out)?,
            peak_memory_bytes: load("receipt_line.peak_memory_bytes", row.peak_memory_bytes)?,
            energy_uj: row
                .energy_uj
                .map(|energy| load("receipt_line.energy_uj", energy))
                .transpose()?,
        })
    }
}

impl TenantTx {
    /// The lines of a receipt in order; none for an invocation of someone else, or not sealed yet. It is
    /// complete when the last one has an outcome and there are `ordinal + 1` of them.
    pub async fn receipt_get(&mut self, invocation: InvocationId) -> Result<Vec<ReceiptLineRow>, DbError> {
        let rows = sqlx::query_as!(
            LineRow,
            r#"select l.node, l.epoch, l.seq, p.began_at, p.ended_at, l.tenant, l.invocation, l.ordinal, l.kind,
                   l.deployment, l.release, l.started_at, l.outcome, l.fuel_schedule, l.fuel, l.cpu_ns,
                   l.bytes_in, l.bytes_out, l.peak_memory_bytes, l.energy_uj, l.work::text as "work!"
               from receipt_line l
               join posting p using (node, epoch, seq)
               where l.tenant = $1 and l.invocation = $2
               order by l.ordinal"#,
            self.tenant.0,
            invocation.0
        );
        rows.fetch_all(&mut *self.tx)
            .await?
            .into_iter()
            .map(ReceiptLineRow::try_from)
            .collect()
    }

    /// Receipts, newest first, from the one before `cursor` on; the last one's id is the next cursor.
    pub async fn receipts_list(
        &mut self,
        cursor: Option<InvocationId>,
        limit: u32,
    ) -> Result<Vec<Receipt>, DbError> {
        let rows = sqlx::query_as!(
            Row,
            r#"with page as (
                   select distinct invocation
                   from receipt_line
                   where tenant = $1 and invocation < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
                   order by invocation desc
                   limit $3
               )
               select l.invocation, min(l.kind) as "kind!", min(l.deployment) as deployment,
                   min(l.release) as release, min(l.started_at) as "started_at!", min(l.outcome) as outcome,
                   count(*) as "lines!", bool_or(l.last) and count(*) = max(l.ordinal) + 1 as "complete!",
                   sum(l.fuel)::bigint as "fuel!", sum(l.cpu_ns)::bigint as "cpu_ns!",
                   sum(l.model_ns)::bigint as "model_ns!", sum(l.bytes_in)::bigint as "bytes_in!",
                   sum(l.bytes_out)::bigint as "bytes_out!", max(l.peak_memory_bytes) as "peak_memory_bytes!",
                   case when bool_and(l.energy_uj is not null) then sum(l.energy_uj)::bigint end as energy_uj
               from page
               join receipt_line l using (invocation)
               where l.tenant = $1
               group by l.invocation
               order by l.invocation desc"#,
            self.tenant.0,
            cursor.map(|invocation| invocation.0),
            i64::from(limit)
        );
        rows.fetch_all(&mut *self.tx)
            .await?
            .into_iter()
            .map(Receipt::try_from)
            .collect()
    }
}
