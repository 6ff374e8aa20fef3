//! What the ledger has of a month for its statements: sums of transfers and receipt lines, by posting.
//!
//! Of the month itself that is every posting up to the cut; of earlier months, which are closed, those that came after
//! the cut before. A window counts where it ends and an allocation where it begins, in months as by plans.

use domain::billing::statement::{Metered, least};
use domain::billing::{Item, Month, Plans};
use domain::energy::Provenance;
use domain::posting::Unit;
use domain::{Digest, Name, TenantId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{load, parse, some, word};
use crate::{BillingTx, DbError, PeriodCut};

/// Model work of a tenant's deployment on a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphUse {
    /// Whose.
    pub tenant: TenantId,
    /// By which deployment; none for what belongs to none.
    pub deployment: Option<Name>,
    /// The graph.
    pub graph: Digest,
    /// Runs of it.
    pub runs: u64,
    /// Rows over all runs.
    pub rows: u64,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Tokens over all runs.
    pub tokens: u64,
}

/// When a tenant began, and ended if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLife {
    /// The tenant.
    pub tenant: TenantId,
    /// When it was made.
    pub from: OffsetDateTime,
    /// When it was closed.
    pub to: Option<OffsetDateTime>,
}

struct Place {
    tenant: Uuid,
    deployment: Option<String>,
    of_month: OffsetDateTime,
    span: i32,
}

impl Place {
    fn metered(self, item: Item, quantity: &str) -> Result<Metered, DbError> {
        Ok(Metered {
            tenant: TenantId(self.tenant),
            deployment: some(self.deployment, |name| parse("transfer.deployment", &name))?,
            month: Month::of(self.of_month)
                .ok_or_else(|| DbError::inconsistent("transfer.at", self.of_month))?,
            span: load("number of changes", self.span)?,
            is_correction: false,
            item,
            quantity: parse("sum of amounts", quantity)?,
            provenance: None,
        })
    }
}

/// What transfers of a unit moved.
struct Moved {
    tenant: Uuid,
    deployment: Option<String>,
    of_month: OffsetDateTime,
    span: i32,
    unit: String,
    is_correction: bool,
    quantity: String,
    measured: Option<bool>,
    modelled: Option<bool>,
    estimated: Option<bool>,
}

impl TryFrom<Moved> for Metered {
    type Error = DbError;
    fn try_from(row: Moved) -> Result<Self, DbError> {
        let place = Place {
            tenant: row.tenant,
            deployment: row.deployment,
            of_month: row.of_month,
            span: row.span,
        };
        let item = match word("unit.code", &row.unit)? {
            Unit::Uj => Item::Energy,
            Unit::Fuel => Item::Fuel,
        };
        let found = [
            (row.measured, Provenance::Measured),
            (row.modelled, Provenance::Modelled),
            (row.estimated, Provenance::Estimated),
        ];
        let found = found
            .into_iter()
            .filter_map(|(is, provenance)| is.filter(|is| *is).map(|_| provenance));
        Ok(Self {
            is_correction: row.is_correction,
            provenance: found.fold(None, |found, provenance| least(found, Some(provenance))),
            ..place.metered(item, &row.quantity)?
        })
    }
}

impl BillingTx {
    /// Every tenant that there was, by its id.
    pub async fn tenant_lives(&mut self) -> Result<Vec<TenantLife>, DbError> {
        let rows = sqlx::query!("select id, created_at, closed_at from tenant order by id")
            .fetch_all(&mut *self.tx)
            .await?;
        let lives = rows.into_iter().map(|row| TenantLife {
            tenant: TenantId(row.id),
            from: row.created_at,
            to: row.closed_at,
        });
        Ok(lives.collect())
    }

    /// Everything that the statements of a month charge by use.
    pub async fn metered(&mut self, cut: &PeriodCut, plans: &Plans) -> Result<Vec<Metered>, DbError> {
        let changes = plans.changes();
        let mut metered = self.moved(cut, &changes).await?;
        metered.extend(self.called(cut, &changes).await?);
        Ok(metered)
    }

    /// Energy and fuel, by what the transfers moved to and from tenants.
    ///
    /// A window rests on its own readings; an allocation on those of the windows whose idle energy it moves, which are
    /// those of its span that entered the ledger before it and that no allocation between cites; a correction on all of
    /// what it cites.
    async fn moved(&mut self, cut: &PeriodCut, changes: &[OffsetDateTime]) -> Result<Vec<Metered>, DbError> {
        let rows = sqlx::query_as!(
            Moved,
            r#"with counted as (
                   select p.id, p.node, p.epoch, p.seq, p.kind, p.began_at, p.ended_at,
                       case p.kind when 'allocation' then p.began_at else p.ended_at end as moment
                   from posting p
                   where p.id <= $3 and (p.id > $4 or p.ended_at >= $1)
               ), source as (
                   select id as posting, false as is_cited, id, node, epoch, seq, kind, began_at, ended_at
                   from counted
                   union all
                   select c.id, true, p.id, p.node, p.epoch, p.seq, p.kind, p.began_at, p.ended_at
                   from counted c
                   join transfer t on t.at = c.ended_at and t.node = c.node and t.epoch = c.epoch and t.seq = c.seq
                   join posting p on p.hash = t.cites
                   where c.kind = 'correction'
               ), reading as (
                   select s.posting, s.is_cited, r.root, r.provenance
                   from source s
                   join posting_root r on r.node = s.node and r.epoch = s.epoch and r.seq = s.seq
                   union all
                   select s.posting, s.is_cited, r.root, r.provenance
                   from source s
                   join posting w on w.node = s.node and w.ended_at > s.began_at and w.ended_at <= s.ended_at
                       and w.id < s.id and w.kind = 'window'
                   join transfer i on i.at = w.ended_at and i.node = w.node and i.epoch = w.epoch and i.seq = w.seq
                       and i.kind = 'idle'
                   join posting_root r
                       on r.node = w.node and r.epoch = w.epoch and r.seq = w.seq and r.root = i.root
                   where s.kind = 'allocation' and not exists (select from posting b
                       where b.node = s.node and b.kind = 'allocation' and b.id > w.id and b.id < s.id
                           and b.ended_at >= w.ended_at)
               ), known as (
                   select posting, case when is_cited then '' else root end as root,
                       bool_or(provenance = 'measured') as measured, bool_or(provenance = 'modelled') as modelled,
                       bool_or(provenance = 'estimated') as estimated
                   from reading
                   group by 1, 2
               )
               select t.tenant as "tenant!", t.deployment, date_trunc('month', c.moment, 'UTC') as "of_month!",
                   width_bucket(c.moment, $5::timestamptz[]) as "span!", unit.code as unit,
                   t.kind = 'correction' as "is_correction!",
                   sum(case when debit.code = 'tenant:' || t.tenant then t.amount else -t.amount end)::text
                       as "quantity!",
                   bool_or(k.measured) as measured, bool_or(k.modelled) as modelled,
                   bool_or(k.estimated) as estimated
               from counted c
               join transfer t on t.at = c.ended_at and t.node = c.node and t.epoch = c.epoch and t.seq = c.seq
               join unit on unit.id = t.unit
               join account debit on debit.id = t.debit
               left join known k on k.posting = c.id and k.root = coalesce(t.root, '') and unit.code = 'uj'
               where t.tenant is not null and c.moment < $2
                   and (c.moment >= $1 or c.id > $4)
               group by 1, 2, 3, 4, 5, 6
               order by 1, 2, 3, 4, 5, 6"#,
            cut.month.begin(),
            cut.month.end(),
            cut.through,
            cut.after,
            changes
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter().map(Metered::try_from).collect()
    }

    /// Calls, memory and tokens, by receipt lines and the sums of those that are archived: a call counts where its last
    /// line does. What there is none of is left out.
    async fn called(&mut self, cut: &PeriodCut, changes: &[OffsetDateTime]) -> Result<Vec<Metered>, DbError> {
        let rows = sqlx::query!(
            r#"select tenant as "tenant!", deployment, of_month as "of_month!", span as "span!",
                   sum(calls)::text as "calls!", sum(memory)::text as "memory!", sum(tokens)::text as "tokens!"
               from (
                   select l.tenant, l.deployment, date_trunc('month', l.at, 'UTC') as of_month,
                       width_bucket(l.at, $5::timestamptz[]) as span,
                       count(l.outcome) filter (where l.kind = 'infer') as calls,
                       sum(l.peak_memory_bytes::numeric * (l.cpu_ns::numeric + l.model_ns)) as memory,
                       sum((select coalesce(sum((w.item ->> 'tokens')::numeric), 0)
                           from jsonb_array_elements(l.work) as w (item))) as tokens
                   from posting p
                   join receipt_line l
                       on l.at = p.ended_at and l.node = p.node and l.epoch = p.epoch and l.seq = p.seq
                   where p.id <= $3 and p.ended_at < $2 and (p.ended_at >= $1 or p.id > $4)
                   group by 1, 2, 3, 4
                   union all
                   select tenant, deployment, date_trunc('month', at, 'UTC'), width_bucket(at, $5::timestamptz[]),
                       coalesce(sum(calls) filter (where kind = 'infer'), 0), sum(memory_byte_ns),
                       sum((select coalesce(sum((w.item ->> 'tokens')::numeric), 0)
                           from jsonb_array_elements(work) as w (item)))
                   from archived
                   where id <= $3 and at < $2 and (at >= $1 or id > $4)
                   group by 1, 2, 3, 4
               ) s
               group by tenant, deployment, of_month, span
               order by tenant, deployment, of_month, span"#,
            cut.month.begin(),
            cut.month.end(),
            cut.through,
            cut.after,
            changes
        )
        .fetch_all(&mut *self.tx)
        .await?;
        let mut metered = Vec::new();
        for row in rows {
            let items = [
                (Item::Call, &row.calls),
                (Item::Memory, &row.memory),
                (Item::Token, &row.tokens),
            ];
            for (item, quantity) in items {
                let place = Place {
                    tenant: row.tenant,
                    deployment: row.deployment.clone(),
                    of_month: row.of_month,
                    span: row.span,
                };
                metered.push(place.metered(item, quantity)?);
            }
        }
        metered.retain(|used| used.quantity != 0);
        Ok(metered)
    }

    /// Model work by graph of the month itself.
    pub async fn graph_use(&mut self, cut: &PeriodCut) -> Result<Vec<GraphUse>, DbError> {
        let rows = sqlx::query!(
            r#"select l.tenant as "tenant!", l.deployment, w.item ->> 'graph' as "graph!",
                   least(sum((w.item ->> 'runs')::numeric), 9223372036854775807)::bigint as "runs!",
                   least(sum((w.item ->> 'rows')::numeric), 9223372036854775807)::bigint as "rows!",
                   least(sum((w.item ->> 'cpu_ns')::numeric), 9223372036854775807)::bigint as "cpu_ns!",
                   least(coalesce(sum((w.item ->> 'tokens')::numeric), 0), 9223372036854775807)::bigint as "tokens!"
               from (
                   select l.tenant, l.deployment, l.work
                   from posting p
                   join receipt_line l
                       on l.at = p.ended_at and l.node = p.node and l.epoch = p.epoch and l.seq = p.seq
                   where p.id <= $3 and p.ended_at >= $1 and p.ended_at < $2
                   union all
                   select tenant, deployment, work from archived
                   where id <= $3 and at >= $1 and at < $2
               ) l
               cross join lateral jsonb_array_elements(l.work) as w (item)
               group by 1, 2, 3
               order by 1, 2, 3"#,
            cut.month.begin(),
            cut.month.end(),
            cut.through
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(GraphUse {
                    tenant: TenantId(row.tenant),
                    deployment: some(row.deployment, |name| parse("receipt_line.deployment", &name))?,
                    graph: parse("receipt_line.work", &row.graph)?,
                    runs: load("runs of a graph", row.runs)?,
                    rows: load("rows of a graph", row.rows)?,
                    cpu_ns: load("CPU time of a graph", row.cpu_ns)?,
                    tokens: load("tokens of a graph", row.tokens)?,
                })
            })
            .collect()
    }
}
