//! Receipt lines and transfers as columns: into `unnest`, and out of rows.

use std::collections::BTreeMap;

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

/// The most lines of a block: all of it is read to find one of them.
const MOST_LINES: usize = 1_000;

/// Receipt lines of one tenant in one posting whose calls were made in one slot, in the order of their calls and column
/// by column: one row of `receipt_block`. All columns have as many cells.
#[derive(Default, sqlx::Type)]
#[sqlx(type_name = "line_block")]
pub(crate) struct LineBlock {
    tenant: Uuid,
    invocation: Vec<Uuid>,
    ordinal: Vec<i32>,
    kind: Vec<String>,
    deployment: Vec<Option<String>>,
    release: Vec<Option<i32>>,
    started_at: Vec<OffsetDateTime>,
    outcome: Vec<Option<String>>,
    fuel: Vec<i64>,
    cpu_ns: Vec<i64>,
    model_ns: Vec<i64>,
    bytes_in: Vec<i64>,
    bytes_out: Vec<i64>,
    peak_memory_bytes: Vec<i64>,
    energy_uj: Vec<Option<i64>>,
    work: Vec<String>,
}

/// The end of the slot in which the id of a call was made, the 65.536 s that the first four bytes of a UUID of version
/// 7 say. No block that has the call ends later.
pub(crate) fn slot_end(invocation: InvocationId) -> InvocationId {
    InvocationId(Uuid::from_u128(invocation.0.as_u128() | u128::MAX >> 32))
}

impl LineBlock {
    /// The lines of a posting in as many blocks as they need. They come in the order of their calls, and a call has one.
    pub(crate) fn of(lines: &[ReceiptLine]) -> Result<Vec<Self>, DbError> {
        let mut places = BTreeMap::<_, Vec<&ReceiptLine>>::new();
        for line in lines {
            let invocation = line.call.invocation;
            let place = places
                .entry((line.call.tenant, slot_end(invocation)))
                .or_default();
            if place
                .last()
                .is_some_and(|last| last.call.invocation >= invocation)
            {
                return Err(DbError::inconsistent("receipt_line.invocation", invocation));
            }
            place.push(line);
        }
        let blocks = places.values().flat_map(|lines| lines.chunks(MOST_LINES));
        blocks.map(Self::with).collect()
    }

    fn with(lines: &[&ReceiptLine]) -> Result<Self, DbError> {
        let mut block = Self::default();
        for line in lines {
            block.push(line)?;
        }
        Ok(block)
    }

    fn push(&mut self, line: &ReceiptLine) -> Result<(), DbError> {
        let ReceiptLine {
            call,
            ordinal,
            outcome,
            usage,
            energy_uj,
        } = line;
        self.tenant = call.tenant.0;
        self.invocation.push(call.invocation.0);
        self.ordinal.push(store("receipt_line.ordinal", *ordinal)?);
        self.kind.push(call.kind.as_str().to_owned());
        self.deployment
            .push(call.deployment.as_ref().map(ToString::to_string));
        self.release.push(some(call.release, |number| {
            store("receipt_line.release", number)
        })?);
        self.started_at.push(call.started_at);
        self.outcome
            .push(outcome.map(|outcome| outcome.as_str().to_owned()));
        self.fuel.push(store("receipt_line.fuel", usage.fuel)?);
        self.cpu_ns.push(store("receipt_line.cpu_ns", usage.cpu_ns)?);
        self.model_ns
            .push(store("receipt_line.model_ns", usage.model_ns())?);
        self.bytes_in
            .push(store("receipt_line.bytes_in", usage.bytes_in)?);
        self.bytes_out
            .push(store("receipt_line.bytes_out", usage.bytes_out)?);
        self.peak_memory_bytes
            .push(store("receipt_line.peak_memory_bytes", usage.peak_memory_bytes)?);
        self.energy_uj.push(some(*energy_uj, |energy| {
            store("receipt_line.energy_uj", energy)
        })?);
        self.work.push(to_json("receipt_line.work", &usage.work)?);
        Ok(())
    }

    /// How many lines it has.
    pub(crate) fn len(&self) -> usize {
        self.invocation.len()
    }

    /// Its lines.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Result<ReceiptLine, DbError>> {
        (0..self.len()).map(|place| self.line(place))
    }

    /// Its lines of earlier calls than one.
    pub(crate) fn lines_before(
        &self,
        invocation: InvocationId,
    ) -> impl Iterator<Item = Result<ReceiptLine, DbError>> {
        let earlier = self.invocation.partition_point(|call| *call < invocation.0);
        self.lines().take(earlier)
    }

    /// The line of a call, if it is here.
    pub(crate) fn line_of(&self, invocation: InvocationId) -> Option<Result<ReceiptLine, DbError>> {
        let place = self.invocation.iter().position(|call| *call == invocation.0)?;
        Some(self.line(place))
    }

    /// The call of its last line.
    pub(crate) fn last(&self) -> InvocationId {
        InvocationId(self.invocation.last().copied().unwrap_or_default())
    }

    fn line(&self, place: usize) -> Result<ReceiptLine, DbError> {
        let deployment = cell(&self.deployment, place)?.as_deref();
        let outcome = cell(&self.outcome, place)?.as_deref();
        Ok(ReceiptLine {
            call: Call {
                invocation: InvocationId(*cell(&self.invocation, place)?),
                kind: word("receipt_line.kind", cell(&self.kind, place)?)?,
                tenant: TenantId(self.tenant),
                deployment: some(deployment, |name| parse("receipt_line.deployment", name))?,
                release: some(*cell(&self.release, place)?, |number| {
                    load("receipt_line.release", number)
                })?,
                started_at: *cell(&self.started_at, place)?,
            },
            ordinal: load("receipt_line.ordinal", *cell(&self.ordinal, place)?)?,
            outcome: some(outcome, |outcome| parse("receipt_line.outcome", outcome))?,
            usage: Usage {
                fuel: load("receipt_line.fuel", *cell(&self.fuel, place)?)?,
                cpu_ns: load("receipt_line.cpu_ns", *cell(&self.cpu_ns, place)?)?,
                bytes_in: load("receipt_line.bytes_in", *cell(&self.bytes_in, place)?)?,
                bytes_out: load("receipt_line.bytes_out", *cell(&self.bytes_out, place)?)?,
                peak_memory_bytes: load(
                    "receipt_line.peak_memory_bytes",
                    *cell(&self.peak_memory_bytes, place)?,
                )?,
                work: from_json("receipt_line.work", cell(&self.work, place)?)?,
            },
            energy_uj: some(*cell(&self.energy_uj, place)?, |energy| {
                load("receipt_line.energy_uj", energy)
            })?,
        })
    }
}

/// A cell of a column of a block.
fn cell<T>(column: &[T], place: usize) -> Result<&T, DbError> {
    let cell = column.get(place);
    cell.ok_or_else(|| DbError::inconsistent("receipt_block", "columns of different lengths"))
}

/// A block as it is stored, with the posting it stands in.
pub(crate) struct BlockRow {
    pub node: Uuid,
    pub epoch: Uuid,
    pub seq: i64,
    pub began_at: OffsetDateTime,
    pub ended_at: OffsetDateTime,
    pub fuel_schedule: i64,
    pub block: i32,
    pub lines: LineBlock,
}

/// Blocks with their postings, by what stands after the join.
macro_rules! blocks {
    ($tail:literal, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            BlockRow,
            r#"select b.node, b.epoch, b.seq, p.began_at, p.ended_at, b.fuel_schedule, b.block,
                   (b.tenant, b.invocation, b.ordinal, b.kind, b.deployment, b.release, b.started_at, b.outcome, b.fuel,
                       b.cpu_ns, b.model_ns, b.bytes_in, b.bytes_out, b.peak_memory_bytes, b.energy_uj, b.work
                   )::line_block as "lines!: LineBlock"
               from receipt_block b
               join posting p using (node, epoch, seq) "# + $tail,
            $($argument),*
        )
    };
}
pub(crate) use blocks;

/// The lines of a posting's blocks, by their calls. A block that has its own in another order is none that a host
/// wrote: calls are looked for by its ends.
pub(crate) fn lines_of(blocks: &[BlockRow]) -> Result<Vec<ReceiptLine>, DbError> {
    let calls = blocks.iter().map(|block| &block.lines.invocation);
    if !calls.into_iter().all(|calls| calls.is_sorted()) {
        return Err(DbError::inconsistent(
            "receipt_block",
            "calls that are not in their order",
        ));
    }
    let lines = blocks.iter().flat_map(|block| block.lines.lines());
    let mut lines = lines.collect::<Result<Vec<_>, _>>()?;
    lines.sort_unstable_by_key(|line| line.call.invocation);
    Ok(lines)
}
