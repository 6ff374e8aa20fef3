//! Model work by graph, rolled up by the hour from the lines that enter the ledger.

use std::collections::BTreeMap;

use domain::posting::{Posting, ReceiptLine};
use domain::{Digest, Name, TenantId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{load, parse, some};
use crate::{BillingTx, Cut, DbError, Page, Span, TenantTx, WriterTx};

/// What model work is summed up by; by nothing, it is one sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphUsageGroups {
    /// By tenant.
    pub tenant: bool,
    /// By deployment.
    pub deployment: bool,
    /// By graph.
    pub graph: bool,
    /// By time.
    pub span: Option<Span>,
}

/// Which model work; what is none leaves all in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphUsageFilter {
    /// Of a tenant.
    pub tenant: Option<TenantId>,
    /// Of a deployment.
    pub deployment: Option<Name>,
    /// On a graph.
    pub graph: Option<Digest>,
    /// In this hour or later.
    pub from: Option<OffsetDateTime>,
    /// In hours before this one.
    pub to: Option<OffsetDateTime>,
}

/// The place of a sum among the others. What is none stands first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphUsageCursor {
    /// Where its span begins.
    #[serde(with = "time::serde::rfc3339::option")]
    pub from: Option<OffsetDateTime>,
    /// Its tenant.
    pub tenant: Option<TenantId>,
    /// Its deployment.
    pub deployment: Option<Name>,
    /// Its graph.
    pub graph: Option<Digest>,
}

/// The work of models, over all windows of the ledger that ended in a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphUsage {
    /// Where the span begins, if there are spans.
    pub from: Option<OffsetDateTime>,
    /// The tenant, if it is by tenant.
    pub tenant: Option<TenantId>,
    /// The deployment, if it is by deployment.
    pub deployment: Option<Name>,
    /// The graph, if it is by graph.
    pub graph: Option<Digest>,
    /// Runs.
    pub runs: u64,
    /// Rows over all runs.
    pub rows: u64,
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// Tokens over all runs.
    pub tokens: u64,
}

struct Row {
    span: Option<OffsetDateTime>,
    tenant: Option<Uuid>,
    deployment: Option<String>,
    graph: Option<String>,
    runs: i64,
    rows: i64,
    cpu_ns: i64,
    tokens: i64,
}

impl Row {
    fn cursor(&self) -> Result<GraphUsageCursor, DbError> {
        let (deployment, graph) = (self.deployment.as_deref(), self.graph.as_deref());
        Ok(GraphUsageCursor {
            from: self.span,
            tenant: self.tenant.map(TenantId),
            deployment: some(deployment, |name| parse("usage_graph_hour.deployment", name))?,
            graph: some(graph, |graph| parse("usage_graph_hour.graph", graph))?,
        })
    }
}

impl TryFrom<Row> for GraphUsage {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let place = row.cursor()?;
        Ok(Self {
            from: place.from,
            tenant: place.tenant,
            deployment: place.deployment,
            graph: place.graph,
            runs: load("usage_graph_hour.runs", row.runs)?,
            rows: load("usage_graph_hour.rows", row.rows)?,
            cpu_ns: load("usage_graph_hour.cpu_ns", row.cpu_ns)?,
            tokens: load("usage_graph_hour.tokens", row.tokens)?,
        })
    }
}

impl TenantTx {
    /// The work of the tenant's models, in the order of spans, tenants, deployments and graphs.
    pub async fn graph_usage_list(
        &mut self,
        groups: GraphUsageGroups,
        filter: &GraphUsageFilter,
        cut: &Cut<GraphUsageCursor>,
    ) -> Result<Page<GraphUsage, GraphUsageCursor>, DbError> {
        let own = GraphUsageFilter {
            tenant: Some(self.tenant),
            ..filter.clone()
        };
        list(&mut self.tx, groups, &own, cut).await
    }
}

impl BillingTx {
    /// The work of everyone's models, in the order of spans, tenants, deployments and graphs.
    pub async fn graph_usage_list(
        &mut self,
        groups: GraphUsageGroups,
        filter: &GraphUsageFilter,
        cut: &Cut<GraphUsageCursor>,
    ) -> Result<Page<GraphUsage, GraphUsageCursor>, DbError> {
        list(&mut self.tx, groups, filter, cut).await
    }
}

async fn list(
    tx: &mut PgConnection,
    groups: GraphUsageGroups,
    filter: &GraphUsageFilter,
    cut: &Cut<GraphUsageCursor>,
) -> Result<Page<GraphUsage, GraphUsageCursor>, DbError> {
    let after = cut.after.clone().unwrap_or_default();
    let rows = sqlx::query_as!(
        Row,
        r#"select span, tenant, deployment, graph,
               least(runs, 9223372036854775807)::bigint as "runs!",
               least(rows, 9223372036854775807)::bigint as "rows!",
               least(cpu_ns, 9223372036854775807)::bigint as "cpu_ns!",
               least(tokens, 9223372036854775807)::bigint as "tokens!"
           from (
               select date_trunc($1::text, hour, 'UTC') as span, case when $2::boolean then tenant end as tenant,
                   case when $3::boolean then deployment end as deployment,
                   case when $4::boolean then graph end as graph,
                   sum(runs) as runs, sum(rows) as rows, sum(cpu_ns) as cpu_ns,
                   sum(tokens) as tokens
               from usage_graph_hour
               where ($5::uuid is null or tenant = $5) and ($6::text is null or deployment = $6)
                   and ($7::text is null or graph = $7)
                   and hour >= coalesce($8, '-infinity'::timestamptz)
                   and hour < coalesce($9, 'infinity'::timestamptz)
                   -- The spans of earlier pages need not be summed up again.
                   and hour >= coalesce($11, '-infinity'::timestamptz)
               group by 1, 2, 3, 4
           ) u
           where $10::boolean
               or (coalesce(span, '-infinity'), coalesce(tenant::text, ''), coalesce(deployment, ''),
                       coalesce(graph, ''))
                   > (coalesce($11, '-infinity'::timestamptz), coalesce($12::text, ''), coalesce($13::text, ''),
                       coalesce($14::text, ''))
           order by coalesce(span, '-infinity'), coalesce(tenant::text, ''), coalesce(deployment, ''),
               coalesce(graph, '')
           limit $15"#,
        groups.span.map(Span::as_str),
        groups.tenant,
        groups.deployment,
        groups.graph,
        filter.tenant.map(|tenant| tenant.0),
        filter.deployment.as_ref().map(Name::as_str),
        filter.graph.map(|graph| graph.to_string()),
        filter.from,
        filter.to,
        cut.after.is_none(),
        after.from,
        after.tenant.map(|tenant| tenant.to_string()),
        after.deployment.as_ref().map(Name::as_str),
        after.graph.map(|graph| graph.to_string()),
        cut.rows()
    )
    .fetch_all(tx)
    .await?;
    Page::of(rows, cut, Row::cursor)
}

/// Runs, rows, CPU time in nanoseconds, and tokens.
type Sums = [u128; 4];

/// The model work of lines, by tenant, deployment and graph.
fn sums(lines: &[ReceiptLine]) -> BTreeMap<(TenantId, Option<&Name>, Digest), Sums> {
    let mut all = BTreeMap::<_, Sums>::new();
    for line in lines {
        for work in &line.usage.work {
            let place = (line.call.tenant, line.call.deployment.as_ref(), work.graph);
            let sums = all.entry(place).or_default();
            for (sum, more) in sums
                .iter_mut()
                .zip([work.runs, work.rows, work.cpu_ns, work.tokens])
            {
                *sum += u128::from(more);
            }
        }
    }
    all
}

impl WriterTx {
    /// Adds the model work of a posting's lines to their tenants' of the hour.
    pub(crate) async fn graph_usage_add(&mut self, posting: &Posting) -> Result<(), DbError> {
        let all = sums(&posting.lines);
        if all.is_empty() {
            return Ok(());
        }
        let column = |index: usize| {
            all.values()
                .map(|sums| sums[index].to_string())
                .collect::<Vec<_>>()
        };
        let tenants: Vec<Uuid> = all.keys().map(|(tenant, ..)| tenant.0).collect();
        let deployments: Vec<Option<&str>> = all.keys().map(|(_, name, _)| name.map(Name::as_str)).collect();
        let graphs: Vec<String> = all.keys().map(|(.., graph)| graph.to_string()).collect();
        sqlx::query!(
            "insert into usage_graph_hour as u
                 (hour, node, tenant, deployment, graph, runs, rows, cpu_ns, tokens)
             select date_trunc('hour', $1::timestamptz, 'UTC'), $2::uuid, t.tenant, t.deployment, t.graph,
                 t.runs::numeric, t.rows::numeric, t.cpu_ns::numeric, t.tokens::numeric
             from unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
                 as t (tenant, deployment, graph, runs, rows, cpu_ns, tokens)
             on conflict (tenant, hour, node, coalesce(deployment, ''), graph)
             do update set runs = u.runs + excluded.runs, rows = u.rows + excluded.rows,
                 cpu_ns = u.cpu_ns + excluded.cpu_ns, tokens = u.tokens + excluded.tokens",
            posting.to,
            posting.node.0,
            &tenants,
            &deployments as &[Option<&str>],
            &graphs,
            &column(0),
            &column(1),
            &column(2),
            &column(3)
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
