//! Receipts: what a tenant's invocations used, line by line and summed.

use domain::posting::{CallKind, ReceiptLine};
use domain::{InvocationId, Name, Outcome};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{load, parse, some, word};
use crate::lines::{LineRow, lines};
use crate::{Cut, DbError, Page, PostingKey, TenantTx};

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
        Ok(Self {
            posting: PostingKey::load(row.node, row.epoch, row.seq)?,
            from: row.began_at,
            to: row.ended_at,
            fuel_schedule: load("receipt_line.fuel_schedule", row.fuel_schedule)?,
            line: row.try_into()?,
        })
    }
}

/// Which receipts; what is none leaves all in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiptFilter {
    /// Of a deployment.
    pub deployment: Option<Name>,
    /// Of a kind.
    pub kind: Option<CallKind>,
    /// With an outcome.
    pub outcome: Option<Outcome>,
    /// Admitted at this instant or later.
    pub from: Option<OffsetDateTime>,
    /// Admitted before this instant.
    pub to: Option<OffsetDateTime>,
}

impl ReceiptFilter {
    /// The id that all receipts of a page are below. Ids are in the order of their milliseconds, so an old
    /// page is found by the index; the minute is for a call that was admitted long after its id was made.
    fn before(&self, cursor: Option<InvocationId>) -> InvocationId {
        let ms = self.to.map(|to| to.unix_timestamp_nanos() / 1_000_000 + 60_000);
        let bound = ms
            .and_then(|ms| u128::try_from(ms).ok())
            .filter(|ms| *ms < 1 << 48);
        let bound = bound.map_or(Uuid::max(), |ms| Uuid::from_u128(ms << 80));
        cursor.map_or(InvocationId(bound), |cursor| cursor.min(InvocationId(bound)))
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
        Ok(Self {
            invocation: InvocationId(row.invocation),
            kind: word("receipt_line.kind", &row.kind)?,
            deployment: some(row.deployment, |name| parse("receipt_line.deployment", &name))?,
            release: some(row.release, |number| load("receipt_line.release", number))?,
            started_at: row.started_at,
            outcome: some(row.outcome, |outcome| parse("receipt_line.outcome", &outcome))?,
            lines: load("count of receipt lines", row.lines)?,
            complete: row.complete,
            fuel: load("receipt_line.fuel", row.fuel)?,
            cpu_ns: load("receipt_line.cpu_ns", row.cpu_ns)?,
            model_ns: load("receipt_line.model_ns", row.model_ns)?,
            bytes_in: load("receipt_line.bytes_in", row.bytes_in)?,
            bytes_out: load("receipt_line.bytes_out", row.bytes_out)?,
            peak_memory_bytes: load("receipt_line.peak_memory_bytes", row.peak_memory_bytes)?,
            energy_uj: some(row.energy_uj, |energy| load("receipt_line.energy_uj", energy))?,
        })
    }
}

impl TenantTx {
    /// The lines of a receipt in order; none for an invocation of someone else, or not sealed yet. It is
    /// complete when the last one has an outcome and there are `ordinal + 1` of them.
    pub async fn receipt_get(&mut self, invocation: InvocationId) -> Result<Vec<ReceiptLineRow>, DbError> {
        let rows = lines!(
            "where l.tenant = $1 and l.invocation = $2 order by l.ordinal",
            self.tenant.0,
            invocation.0
        );
        rows.fetch_all(&mut *self.tx)
            .await?
            .into_iter()
            .map(ReceiptLineRow::try_from)
            .collect()
    }

    /// Receipts, newest first, by their ids. A receipt without its last line has no outcome yet.
    pub async fn receipts_list(
        &mut self,
        filter: &ReceiptFilter,
        cut: &Cut<InvocationId>,
    ) -> Result<Page<Receipt, InvocationId>, DbError> {
        let rows = sqlx::query_as!(
            Row,
            r#"with page as (
                   select distinct invocation
                   from receipt_line
                   where tenant = $1 and invocation < $2
                       and ($3::text is null or deployment = $3) and ($4::text is null or kind = $4)
                       and ($5::text is null or outcome = $5)
                       -- A window ends after its calls began: partitions before `from` are left out.
                       and at >= coalesce($6, '-infinity'::timestamptz)
                       and started_at >= coalesce($6, '-infinity'::timestamptz)
                       and started_at < coalesce($7, 'infinity'::timestamptz)
                   order by invocation desc
                   limit $8
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
            filter.before(cut.after).0,
            filter.deployment.as_ref().map(Name::as_str),
            filter.kind.map(CallKind::as_str),
            filter.outcome.map(Outcome::as_str),
            filter.from,
            filter.to,
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| Ok(InvocationId(row.invocation)))
    }
}
