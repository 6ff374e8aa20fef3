//! Receipt lines and transfers as columns: into `unnest`, and out of rows.

use domain::posting::{Call, PostingRoot, ReceiptLine, Transfer};
use domain::{InvocationId, TenantId, Usage};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::DbError;
use crate::convert::{from_json, load, parse, some, store, to_json, word};

/// The counters of a posting, column by column.
#[derive(Default)]
pub(crate) struct RootColumns {
    pub ordinal: Vec<i32>,
    pub root: Vec<String>,
    pub kind: Vec<String>,
    pub provenance: Vec<&'static str>,
    pub uncertainty_ppm: Vec<i64>,
    pub model_version: Vec<i64>,
    pub boot_id: Vec<Uuid>,
    pub start_uj: Vec<i64>,
    pub end_uj: Vec<i64>,
    /// The kinds of each, with commas between.
    pub faults: Vec<String>,
}

impl RootColumns {
    pub(crate) fn of(roots: &[PostingRoot]) -> Result<Self, DbError> {
        let mut columns = Self::default();
        for (ordinal, counters) in roots.iter().enumerate() {
            columns.ordinal.push(store("posting_root.ordinal", ordinal)?);
            columns.root.push(counters.root.name.clone());
            columns.kind.push(counters.root.kind.clone());
            columns.provenance.push(counters.root.provenance.as_str());
            columns.uncertainty_ppm.push(counters.root.uncertainty_ppm.into());
            columns.model_version.push(counters.root.model_version.into());
            columns.boot_id.push(counters.boot_id);
            columns
                .start_uj
                .push(store("posting_root.start_uj", counters.start_uj)?);
            columns
                .end_uj
                .push(store("posting_root.end_uj", counters.end_uj)?);
            let faults: Vec<_> = counters.faults.iter().map(|kind| kind.as_str()).collect();
            columns.faults.push(faults.join(","));
        }
        Ok(columns)
    }
}

/// The transfers of a posting, column by column.
#[derive(Default)]
pub(crate) struct TransferColumns {
    pub ordinal: Vec<i32>,
    pub credit: Vec<String>,
    pub debit: Vec<String>,
    pub root: Vec<Option<String>>,
    pub unit: Vec<&'static str>,
    pub kind: Vec<&'static str>,
    pub tenant: Vec<Option<Uuid>>,
    pub deployment: Vec<Option<String>>,
    pub release: Vec<Option<i32>>,
    pub amount: Vec<i64>,
    pub cites: Vec<Option<Vec<u8>>>,
}

impl TransferColumns {
    pub(crate) fn of(transfers: &[Transfer]) -> Result<Self, DbError> {
        let mut columns = Self::default();
        for transfer in transfers {
            let release = some(transfer.release, |number| store("transfer.release", number))?;
            columns.ordinal.push(store("transfer.ordinal", transfer.ordinal)?);
            columns.credit.push(transfer.credit.to_string());
            columns.debit.push(transfer.debit.to_string());
            columns.root.push(transfer.root.clone());
            columns.unit.push(transfer.unit.as_str());
            columns.kind.push(transfer.kind.as_str());
            columns.tenant.push(transfer.tenant.map(|tenant| tenant.0));
            columns
                .deployment
                .push(transfer.deployment.as_ref().map(ToString::to_string));
            columns.release.push(release);
            columns.amount.push(store("transfer.amount", transfer.amount)?);
            columns.cites.push(transfer.cites.map(|hash| hash.0.to_vec()));
        }
        Ok(columns)
    }
}

/// The receipt lines of a posting, column by column.
#[derive(Default)]
pub(crate) struct LineColumns {
    pub tenant: Vec<Uuid>,
    pub invocation: Vec<Uuid>,
    pub ordinal: Vec<i32>,
    pub kind: Vec<&'static str>,
    pub deployment: Vec<Option<String>>,
    pub release: Vec<Option<i32>>,
    pub started_at: Vec<OffsetDateTime>,
    pub outcome: Vec<Option<&'static str>>,
    pub fuel: Vec<i64>,
    pub cpu_ns: Vec<i64>,
    pub model_ns: Vec<i64>,
    pub bytes_in: Vec<i64>,
    pub bytes_out: Vec<i64>,
    pub peak_memory_bytes: Vec<i64>,
    pub energy_uj: Vec<Option<i64>>,
    pub work: Vec<String>,
}

impl LineColumns {
    pub(crate) fn of(lines: &[ReceiptLine]) -> Result<Self, DbError> {
        let mut columns = Self::default();
        for ReceiptLine {
            call,
            ordinal,
            outcome,
            usage,
            energy_uj,
        } in lines
        {
            let release = some(call.release, |number| store("receipt_line.release", number))?;
            let energy_uj = some(*energy_uj, |energy| store("receipt_line.energy_uj", energy))?;
            columns.tenant.push(call.tenant.0);
            columns.invocation.push(call.invocation.0);
            columns.ordinal.push(store("receipt_line.ordinal", *ordinal)?);
            columns.kind.push(call.kind.as_str());
            columns
                .deployment
                .push(call.deployment.as_ref().map(ToString::to_string));
            columns.release.push(release);
            columns.started_at.push(call.started_at);
            columns.outcome.push(outcome.map(|outcome| outcome.as_str()));
            columns.fuel.push(store("receipt_line.fuel", usage.fuel)?);
            columns.cpu_ns.push(store("receipt_line.cpu_ns", usage.cpu_ns)?);
            columns
                .model_ns
                .push(store("receipt_line.model_ns", usage.model_ns())?);
            columns
                .bytes_in
                .push(store("receipt_line.bytes_in", usage.bytes_in)?);
            columns
                .bytes_out
                .push(store("receipt_line.bytes_out", usage.bytes_out)?);
            columns
                .peak_memory_bytes
                .push(store("receipt_line.peak_memory_bytes", usage.peak_memory_bytes)?);
            columns.energy_uj.push(energy_uj);
            columns.work.push(to_json("receipt_line.work", &usage.work)?);
        }
        Ok(columns)
    }
}

/// A receipt line as it is stored, with the posting it stands in.
pub(crate) struct LineRow {
    pub node: Uuid,
    pub epoch: Uuid,
    pub seq: i64,
    pub began_at: OffsetDateTime,
    pub ended_at: OffsetDateTime,
    pub tenant: Uuid,
    pub invocation: Uuid,
    pub ordinal: i32,
    pub kind: String,
    pub deployment: Option<String>,
    pub release: Option<i32>,
    pub started_at: OffsetDateTime,
    pub outcome: Option<String>,
    pub fuel_schedule: i64,
    pub fuel: i64,
    pub cpu_ns: i64,
    pub bytes_in: i64,
    pub bytes_out: i64,
    pub peak_memory_bytes: i64,
    pub energy_uj: Option<i64>,
    pub work: String,
}

/// Receipt lines with their postings, by what stands after the join.
macro_rules! lines {
    ($tail:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            LineRow,
            r#"select l.node, l.epoch, l.seq, p.began_at, p.ended_at, l.tenant, l.invocation, l.ordinal, l.kind,
                   l.deployment, l.release, l.started_at, l.outcome, l.fuel_schedule, l.fuel, l.cpu_ns,
                   l.bytes_in, l.bytes_out, l.peak_memory_bytes, l.energy_uj, l.work::text as "work!"
               from receipt_line l
               join posting p using (node, epoch, seq) "# + $tail,
            $($argument),*
        )
    };
}
pub(crate) use lines;

impl TryFrom<LineRow> for ReceiptLine {
    type Error = DbError;
    fn try_from(row: LineRow) -> Result<Self, DbError> {
        Ok(Self {
            call: Call {
                invocation: InvocationId(row.invocation),
                kind: word("receipt_line.kind", &row.kind)?,
                tenant: TenantId(row.tenant),
                deployment: some(row.deployment, |name| parse("receipt_line.deployment", &name))?,
                release: some(row.release, |number| load("receipt_line.release", number))?,
                started_at: row.started_at,
            },
            ordinal: load("receipt_line.ordinal", row.ordinal)?,
            outcome: some(row.outcome, |outcome| parse("receipt_line.outcome", &outcome))?,
            usage: Usage {
                fuel: load("receipt_line.fuel", row.fuel)?,
                cpu_ns: load("receipt_line.cpu_ns", row.cpu_ns)?,
                bytes_in: load("receipt_line.bytes_in", row.bytes_in)?,
                bytes_out: load("receipt_line.bytes_out", row.bytes_out)?,
                peak_memory_bytes: load("receipt_line.peak_memory_bytes", row.peak_memory_bytes)?,
                work: from_json("receipt_line.work", &row.work)?,
            },
            energy_uj: some(row.energy_uj, |energy| load("receipt_line.energy_uj", energy))?,
        })
    }
}
