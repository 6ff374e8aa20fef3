//! Usage over time, from the hourly roll-up of what is in the ledger.

use std::collections::BTreeMap;

use domain::posting::{CallKind, Posting, ReceiptLine};
use domain::{Name, TenantId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{from_json, load, parse, some, word};
use crate::{BillingTx, Cut, DbError, Page, TenantTx, WriterTx};

/// A span of time, cut in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A month.
    Month,
}

impl Span {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// What usage is summed up by; by nothing, it is one sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageGroups {
    /// By tenant.
    pub tenant: bool,
    /// By deployment.
    pub deployment: bool,
    /// By what the calls were for.
    pub kind: bool,
    /// By time.
    pub span: Option<Span>,
}

/// Which usage; what is none leaves all in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageFilter {
    /// Of a tenant.
    pub tenant: Option<TenantId>,
    /// Of a deployment.
    pub deployment: Option<Name>,
    /// Of calls of a kind.
    pub kind: Option<CallKind>,
    /// In this hour or later.
    pub from: Option<OffsetDateTime>,
    /// In hours before this one.
    pub to: Option<OffsetDateTime>,
}

/// The place of a sum among the others. What is none stands first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageCursor {
    /// Where its span begins.
    #[serde(with = "time::serde::rfc3339::option")]
    pub from: Option<OffsetDateTime>,
    /// Its tenant.
    pub tenant: Option<TenantId>,
    /// Its deployment.
    pub deployment: Option<Name>,
    /// The kind of its calls.
    pub kind: Option<CallKind>,
}

/// What was used, over all windows of the ledger that ended in a span. A call counts where its last line does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Where the span begins, if there are spans.
    pub from: Option<OffsetDateTime>,
    /// The tenant, if it is by tenant.
    pub tenant: Option<TenantId>,
    /// The deployment, if it is by deployment; none also for what belongs to none, such as an upload.
    pub deployment: Option<Name>,
    /// What the calls were for, if it is by kind.
    pub kind: Option<CallKind>,
    /// Calls that ended, by outcome.
    pub calls: BTreeMap<String, u64>,
    /// Receipt lines.
    pub lines: u64,
    /// Those whose energy no reading covers.
    pub lines_unmetered: u64,
    /// Fuel.
    pub fuel: u64,
    /// CPU time of guests, in nanoseconds.
    pub cpu_ns: u64,
    /// CPU time of models, in nanoseconds.
    pub model_ns: u64,
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// Dynamic energy of the metered lines in microjoules; none where there is none.
    pub energy_uj: Option<u64>,
}

struct Row {
    span: Option<OffsetDateTime>,
    tenant: Option<Uuid>,
    deployment: Option<String>,
    kind: Option<String>,
    calls: String,
    lines: i64,
    lines_unmetered: i64,
    fuel: i64,
    cpu_ns: i64,
    model_ns: i64,
    bytes_in: i64,
    bytes_out: i64,
    energy_uj: Option<i64>,
}

impl Row {
    fn cursor(&self) -> Result<UsageCursor, DbError> {
        let (deployment, kind) = (self.deployment.as_deref(), self.kind.as_deref());
        Ok(UsageCursor {
            from: self.span,
            tenant: self.tenant.map(TenantId),
            deployment: some(deployment, |name| parse("usage_hour.deployment", name))?,
            kind: some(kind, |kind| word("usage_hour.kind", kind))?,
        })
    }
}

impl TryFrom<Row> for Usage {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let place = row.cursor()?;
        Ok(Self {
            from: place.from,
            tenant: place.tenant,
            deployment: place.deployment,
            kind: place.kind,
            calls: from_json("usage_hour.calls", &row.calls)?,
            lines: load("usage_hour.lines", row.lines)?,
            lines_unmetered: load("usage_hour.lines_unmetered", row.lines_unmetered)?,
            fuel: load("usage_hour.fuel", row.fuel)?,
            cpu_ns: load("usage_hour.cpu_ns", row.cpu_ns)?,
            model_ns: load("usage_hour.model_ns", row.model_ns)?,
            bytes_in: load("usage_hour.bytes_in", row.bytes_in)?,
            bytes_out: load("usage_hour.bytes_out", row.bytes_out)?,
            energy_uj: some(row.energy_uj, |energy| load("usage_hour.energy_uj", energy))?,
        })
    }
}

impl TenantTx {
    /// The tenant's usage, in the order of spans, tenants, deployments and kinds.
    pub async fn usage_list(
        &mut self,
        groups: UsageGroups,
        filter: &UsageFilter,
        cut: &Cut<UsageCursor>,
    ) -> Result<Page<Usage, UsageCursor>, DbError> {
        let own = UsageFilter {
            tenant: Some(self.tenant),
            ..filter.clone()
        };
        list(&mut self.tx, groups, &own, cut).await
    }
}

impl BillingTx {
    /// Everyone's usage, in the order of spans, tenants, deployments and kinds.
    pub async fn usage_list(
        &mut self,
        groups: UsageGroups,
        filter: &UsageFilter,
        cut: &Cut<UsageCursor>,
    ) -> Result<Page<Usage, UsageCursor>, DbError> {
        list(&mut self.tx, groups, filter, cut).await
    }
}

async fn list(
    tx: &mut PgConnection,
    groups: UsageGroups,
    filter: &UsageFilter,
    cut: &Cut<UsageCursor>,
) -> Result<Page<Usage, UsageCursor>, DbError> {
    let after = cut.after.clone().unwrap_or_default();
    let rows = sqlx::query_as!(
        Row,
        r#"select span, tenant, deployment, kind,
               coalesce(jsonb_object_agg(outcome, calls) filter (where outcome is not null), '{}')::text
                   as "calls!",
               sum(lines)::bigint as "lines!", sum(lines_unmetered)::bigint as "lines_unmetered!",
               sum(fuel)::bigint as "fuel!", sum(cpu_ns)::bigint as "cpu_ns!",
               sum(model_ns)::bigint as "model_ns!", sum(bytes_in)::bigint as "bytes_in!",
               sum(bytes_out)::bigint as "bytes_out!", sum(energy_uj)::bigint as energy_uj
           from (
               select date_trunc($1::text, hour, 'UTC') as span, case when $2::boolean then tenant end as tenant,
                   case when $3::boolean then deployment end as deployment,
                   case when $4::boolean then kind end as kind, outcome, sum(calls) as calls,
                   sum(lines) as lines, sum(lines_unmetered) as lines_unmetered, sum(fuel) as fuel,
                   sum(cpu_ns) as cpu_ns, sum(model_ns) as model_ns, sum(bytes_in) as bytes_in,
                   sum(bytes_out) as bytes_out, sum(energy_uj) as energy_uj
               from usage_hour
               where ($5::uuid is null or tenant = $5) and ($6::text is null or deployment = $6)
                   and ($7::text is null or kind = $7)
                   and hour >= coalesce($8, '-infinity'::timestamptz)
                   and hour < coalesce($9, 'infinity'::timestamptz)
                   -- The spans of earlier pages need not be summed up again.
                   and hour >= coalesce($11, '-infinity'::timestamptz)
               group by 1, 2, 3, 4, 5
           ) u
           where $10::boolean
               or (coalesce(span, '-infinity'), coalesce(tenant::text, ''), coalesce(deployment, ''),
                       coalesce(kind, ''))
                   > (coalesce($11, '-infinity'::timestamptz), coalesce($12::text, ''), coalesce($13::text, ''),
                       coalesce($14::text, ''))
           group by span, tenant, deployment, kind
           order by coalesce(span, '-infinity'), coalesce(tenant::text, ''), coalesce(deployment, ''),
               coalesce(kind, '')
           limit $15"#,
        groups.span.map(Span::as_str),
        groups.tenant,
        groups.deployment,
        groups.kind,
        filter.tenant.map(|tenant| tenant.0),
        filter.deployment.as_ref().map(Name::as_str),
        filter.kind.map(CallKind::as_str),
        filter.from,
        filter.to,
        cut.after.is_none(),
        after.from,
        after.tenant.map(|tenant| tenant.to_string()),
        after.deployment.as_ref().map(Name::as_str),
        after.kind.map(CallKind::as_str),
        cut.rows()
    )
    .fetch_all(tx)
    .await?;
    Page::of(rows, cut, Row::cursor)
}

/// Whose, by which deployment, what for and how it ended.
type Place<'a> = (TenantId, Option<&'a Name>, &'static str, Option<&'static str>);

/// What lines of one place sum up to.
#[derive(Default)]
struct Sums {
    calls: i64,
    lines: i64,
    lines_unmetered: i64,
    fuel: u128,
    cpu_ns: u128,
    model_ns: u128,
    bytes_in: u128,
    bytes_out: u128,
    energy_uj: Option<u128>,
}

impl Sums {
    fn add(&mut self, line: &ReceiptLine) {
        self.calls += i64::from(line.outcome.is_some());
        self.lines += 1;
        self.lines_unmetered += i64::from(line.energy_uj.is_none());
        self.fuel += u128::from(line.usage.fuel);
        self.cpu_ns += u128::from(line.usage.cpu_ns);
        self.model_ns += u128::from(line.usage.model_ns());
        self.bytes_in += u128::from(line.usage.bytes_in);
        self.bytes_out += u128::from(line.usage.bytes_out);
        if let Some(energy_uj) = line.energy_uj {
            self.energy_uj = Some(self.energy_uj.unwrap_or_default() + u128::from(energy_uj));
        }
    }
}

fn sums(lines: &[ReceiptLine]) -> BTreeMap<Place<'_>, Sums> {
    let mut all = BTreeMap::<_, Sums>::new();
    for line in lines {
        let outcome = line.outcome.map(|outcome| outcome.as_str());
        let call = &line.call;
        let place = (call.tenant, call.deployment.as_ref(), call.kind.as_str(), outcome);
        all.entry(place).or_default().add(line);
    }
    all
}

impl WriterTx {
    /// Adds what a posting's lines sum up to to their tenants' usage of the hour.
    pub(crate) async fn usage_add(&mut self, posting: &Posting) -> Result<(), DbError> {
        let all = sums(&posting.lines);
        if all.is_empty() {
            return Ok(());
        }
        let count = |of: fn(&Sums) -> i64| all.values().map(of).collect::<Vec<_>>();
        // Numeric, as text: no sum is too large.
        let sum = |of: fn(&Sums) -> u128| all.values().map(|sums| of(sums).to_string()).collect::<Vec<_>>();
        let energy = all.values().map(|sums| Some(sums.energy_uj?.to_string()));
        let tenants: Vec<Uuid> = all.keys().map(|(tenant, ..)| tenant.0).collect();
        let deployments: Vec<_> = all.keys().map(|(_, name, ..)| name.map(Name::as_str)).collect();
        let kinds: Vec<_> = all.keys().map(|(_, _, kind, _)| *kind).collect();
        let outcomes: Vec<_> = all.keys().map(|(.., outcome)| *outcome).collect();
        sqlx::query!(
            "insert into usage_hour as u
                 (hour, node, tenant, deployment, kind, outcome, calls, lines, lines_unmetered, fuel, cpu_ns, model_ns,
                  bytes_in, bytes_out, energy_uj)
             select date_trunc('hour', $1::timestamptz, 'UTC'), $2::uuid, t.tenant, t.deployment, t.kind, t.outcome,
                 t.calls, t.lines, t.lines_unmetered, t.fuel::numeric, t.cpu_ns::numeric, t.model_ns::numeric,
                 t.bytes_in::numeric, t.bytes_out::numeric, t.energy_uj::numeric
             from unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
                 $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[])
                 as t (tenant, deployment, kind, outcome, calls, lines, lines_unmetered, fuel, cpu_ns, model_ns,
                     bytes_in, bytes_out, energy_uj)
             on conflict (tenant, hour, node, coalesce(deployment, ''), kind, coalesce(outcome, ''))
             do update set calls = u.calls + excluded.calls, lines = u.lines + excluded.lines,
                 lines_unmetered = u.lines_unmetered + excluded.lines_unmetered,
                 fuel = u.fuel + excluded.fuel, cpu_ns = u.cpu_ns + excluded.cpu_ns,
                 model_ns = u.model_ns + excluded.model_ns, bytes_in = u.bytes_in + excluded.bytes_in,
                 bytes_out = u.bytes_out + excluded.bytes_out,
                 energy_uj = coalesce(u.energy_uj + excluded.energy_uj, u.energy_uj, excluded.energy_uj)",
            posting.to,
            posting.node.0,
            &tenants,
            &deployments as &[Option<&str>],
            &kinds as &[&str],
            &outcomes as &[Option<&str>],
            &count(|sums| sums.calls),
            &count(|sums| sums.lines),
            &count(|sums| sums.lines_unmetered),
            &sum(|sums| sums.fuel),
            &sum(|sums| sums.cpu_ns),
            &sum(|sums| sums.model_ns),
            &sum(|sums| sums.bytes_in),
            &sum(|sums| sums.bytes_out),
            &energy.collect::<Vec<_>>() as &[Option<String>]
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
