//! Receipts: what a tenant's invocations used, line by line and summed.

use std::collections::BTreeMap;

use domain::posting::{CallKind, ReceiptLine};
use domain::{InvocationId, Name, Outcome};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::load;
use crate::lines::{BlockRow, LineBlock, blocks, slot_end};
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

impl ReceiptLineRow {
    fn of(block: &BlockRow, line: ReceiptLine) -> Result<Self, DbError> {
        Ok(Self {
            posting: PostingKey::load(block.node, block.epoch, block.seq)?,
            from: block.began_at,
            to: block.ended_at,
            fuel_schedule: load("receipt_line.fuel_schedule", block.fuel_schedule)?,
            line,
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

    /// Whether a receipt with this line is one of them. Of an outcome is the receipt whose last line says so.
    fn takes(&self, line: &ReceiptLine) -> bool {
        let call = &line.call;
        (self.deployment.is_none() || self.deployment == call.deployment)
            && self.kind.is_none_or(|kind| kind == call.kind)
            && (self.outcome.is_none() || self.outcome == line.outcome)
            && self.from.is_none_or(|from| call.started_at >= from)
            && self.to.is_none_or(|to| call.started_at < to)
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

/// Lines of one receipt, in any order; at least one.
#[derive(Default)]
struct Lines(Vec<ReceiptLine>);

impl Lines {
    fn are_all(&self) -> bool {
        let last = self.0.iter().find(|line| line.outcome.is_some());
        last.is_some_and(|last| self.0.len() == last.ordinal as usize + 1)
    }
}

impl TryFrom<Lines> for Receipt {
    type Error = DbError;
    fn try_from(lines: Lines) -> Result<Self, DbError> {
        let nothing = || DbError::inconsistent("receipt", "no line");
        let call = &lines.0.first().ok_or_else(nothing)?.call;
        let too_much = || DbError::inconsistent("receipt", call.invocation);
        let sum = |of: fn(&ReceiptLine) -> u64| {
            let mut values = lines.0.iter().map(of);
            values.try_fold(0_u64, u64::checked_add).ok_or_else(too_much)
        };
        let is_metered = lines.0.iter().all(|line| line.energy_uj.is_some());
        let energy_uj = sum(|line| line.energy_uj.unwrap_or_default())?;
        let peaks = lines.0.iter().map(|line| line.usage.peak_memory_bytes);
        Ok(Self {
            invocation: call.invocation,
            kind: call.kind,
            deployment: call.deployment.clone(),
            release: call.release,
            started_at: call.started_at,
            outcome: lines.0.iter().find_map(|line| line.outcome),
            lines: load("count of receipt lines", lines.0.len())?,
            complete: lines.are_all(),
            fuel: sum(|line| line.usage.fuel)?,
            cpu_ns: sum(|line| line.usage.cpu_ns)?,
            model_ns: sum(|line| line.usage.model_ns())?,
            bytes_in: sum(|line| line.usage.bytes_in)?,
            bytes_out: sum(|line| line.usage.bytes_out)?,
            peak_memory_bytes: peaks.max().unwrap_or_default(),
            energy_uj: is_metered.then_some(energy_uj),
        })
    }
}

/// How many blocks a list reads at first, and at most at once.
const FEW_BLOCKS: i64 = 8;
const MOST_BLOCKS: i64 = 64;

impl TenantTx {
    /// The lines of a receipt in order; none for an invocation of someone else, or not sealed yet. It is
    /// complete when the last one has an outcome and there are `ordinal + 1` of them.
    pub async fn receipt_get(&mut self, invocation: InvocationId) -> Result<Vec<ReceiptLineRow>, DbError> {
        let blocks = blocks!(
            "where b.tenant = $1 and b.last_invocation between $2 and $3 and b.first_invocation <= $2",
            self.tenant.0,
            invocation.0,
            slot_end(invocation).0
        );
        let blocks = blocks.fetch_all(&mut *self.tx).await?;
        let rows = blocks.iter().filter_map(|block| {
            let line = block.lines.line_of(invocation)?;
            Some(line.and_then(|line| ReceiptLineRow::of(block, line)))
        });
        let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
        rows.sort_by_key(|row| row.line.ordinal);
        Ok(rows)
    }

    /// Receipts, newest first, by their ids. A receipt without its last line has no outcome yet.
    pub async fn receipts_list(
        &mut self,
        filter: &ReceiptFilter,
        cut: &Cut<InvocationId>,
    ) -> Result<Page<Receipt, InvocationId>, DbError> {
        let mut receipts = Vec::new();
        for (invocation, mut lines) in self.receipts_found(filter, cut).await?.into_iter().rev() {
            // Those of its lines that do not say the outcome were not looked for.
            if filter.outcome.is_some() && !lines.are_all() {
                let rows = self.receipt_get(invocation).await?;
                lines = Lines(rows.into_iter().map(|row| row.line).collect());
            }
            receipts.push(lines);
        }
        Page::of(receipts, cut, |lines| {
            let first = lines.0.first().map(|line| line.call.invocation);
            first.ok_or_else(|| DbError::inconsistent("receipt", "no line"))
        })
    }

    /// The newest of the receipts, as many as `cut` asks for, with those of their lines that the filter takes.
    async fn receipts_found(
        &mut self,
        filter: &ReceiptFilter,
        cut: &Cut<InvocationId>,
    ) -> Result<BTreeMap<InvocationId, Lines>, DbError> {
        let before = filter.before(cut.after);
        let most = usize::try_from(cut.rows()).unwrap_or_default();
        let (mut last, mut limit) = (None, FEW_BLOCKS);
        let mut found = BTreeMap::<_, Lines>::new();
        loop {
            let mut blocks = self.receipt_blocks(filter, before, last.as_ref(), limit).await?;
            for line in blocks.iter().flat_map(|block| block.lines.lines_before(before)) {
                let line = line?;
                if filter.takes(&line) {
                    let lines = found.entry(line.call.invocation).or_insert_with(Lines::default);
                    lines.0.push(line);
                }
            }
            while found.len() > most {
                found.pop_first();
            }
            let is_end = (blocks.len() as i64) < limit;
            let Some(block) = blocks.pop().filter(|_| !is_end) else {
                return Ok(found);
            };
            // What is to come ends no later than this, and has no later call.
            let end = block.lines.last();
            if found.len() == most && found.first_key_value().is_some_and(|(first, _)| *first > end) {
                return Ok(found);
            }
            (last, limit) = (Some(block), (limit * 2).min(MOST_BLOCKS));
        }
    }

    /// The blocks that may have such receipts, by where they end and from the latest on; `limit` of those after `last`.
    async fn receipt_blocks(
        &mut self,
        filter: &ReceiptFilter,
        before: InvocationId,
        last: Option<&BlockRow>,
        limit: i64,
    ) -> Result<Vec<BlockRow>, DbError> {
        let end = last.map_or(slot_end(before), |last| last.lines.last());
        let blocks = blocks!(
            "where b.tenant = $1 and b.last_invocation <= $2 and b.first_invocation < $3
                   and ($4::text is null or $4 = any(b.deployment)) and ($5::text is null or $5 = any(b.kind))
                   and ($6::text is null or $6 = any(b.outcome))
                   -- A window ends after its calls began: partitions before `from` are left out.
                   and b.at >= coalesce($7, '-infinity'::timestamptz)
                   and ($9::uuid is null
                       or (b.last_invocation, b.at, b.node, b.epoch, b.seq, b.block) < ($2, $10, $9, $11, $12, $13))
               order by b.last_invocation desc, b.at desc, b.node desc, b.epoch desc, b.seq desc, b.block desc
               limit $8",
            self.tenant.0,
            end.0,
            before.0,
            filter.deployment.as_ref().map(Name::as_str),
            filter.kind.map(CallKind::as_str),
            filter.outcome.map(Outcome::as_str),
            filter.from,
            limit,
            last.map(|last| last.node),
            last.map(|last| last.ended_at),
            last.map(|last| last.epoch),
            last.map(|last| last.seq),
            last.map(|last| last.block)
        );
        Ok(blocks.fetch_all(&mut *self.tx).await?)
    }
}
