//! Valuations of whole days, each as of an instant: made anew when more is known, and never changed.

use std::collections::BTreeMap;

use domain::carbon::{Figure, Range, Valued};
use domain::{Name, NodeId, TenantId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{from_json, load, parse, some, store, to_json};
use crate::{BillingTx, Cut, DbError, Page, TenantTx, WriterTx};

/// What a day of a deployment's use on a node was worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valuation {
    /// When the day began, in UTC.
    pub day: OffsetDateTime,
    /// Where.
    pub node: NodeId,
    /// What was known by then is what it rests on.
    pub as_of: OffsetDateTime,
    /// Whose use.
    pub tenant: TenantId,
    /// Of which deployment; none for what belongs to none.
    pub deployment: Option<Name>,
    /// Receipt lines.
    pub lines: u64,
    /// Those whose energy no reading covers.
    pub lines_unmetered: u64,
    /// The figures.
    pub valued: Valued,
}

/// Which valuations; what is none is not asked for.
#[derive(Clone, Debug, Default)]
pub struct ValuationFilter {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// Of this deployment.
    pub deployment: Option<Name>,
    /// Of this day or later.
    pub from: Option<OffsetDateTime>,
    /// Of days before this one.
    pub to: Option<OffsetDateTime>,
    /// For each day the newest as of this instant; else the newest of all.
    pub as_of: Option<OffsetDateTime>,
}

/// The place of a valuation among the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValuationCursor {
    /// Its day.
    #[serde(with = "time::serde::rfc3339")]
    pub day: OffsetDateTime,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its deployment.
    pub deployment: Option<Name>,
    /// Its node.
    pub node: NodeId,
}

struct Row {
    day: OffsetDateTime,
    node: Uuid,
    as_of: OffsetDateTime,
    tenant: Uuid,
    deployment: Option<String>,
    energy_uj: Option<i64>,
    cpu_ns: i64,
    lines: i64,
    lines_unmetered: i64,
    location_ug: Option<i64>,
    location_covered_uj: i64,
    location_estimated_uj: i64,
    market_ug: Option<i64>,
    market_covered_uj: i64,
    market_estimated_uj: i64,
    marginal_ug: Option<i64>,
    marginal_covered_uj: i64,
    marginal_estimated_uj: i64,
    water_ul: Option<i64>,
    water_covered_uj: i64,
    water_estimated_uj: i64,
    embodied_min_ug: Option<i64>,
    embodied_mid_ug: Option<i64>,
    embodied_max_ug: Option<i64>,
    embodied_ns: i64,
    versions: String,
}

/// Source and version of the factors of each figure, by the figure's name.
type Versions = BTreeMap<String, Vec<(String, String)>>;

impl Row {
    fn cursor(&self) -> Result<ValuationCursor, DbError> {
        Ok(ValuationCursor {
            day: self.day,
            tenant: TenantId(self.tenant),
            deployment: some(self.deployment.as_deref(), |name| {
                parse("valuation.deployment", name)
            })?,
            node: NodeId(self.node),
        })
    }

    /// The energy, if any was metered. Valuations of before that could be null say 0 where none was.
    fn metered_uj(&self) -> Option<i64> {
        let was_metered = |energy_uj: &i64| *energy_uj > 0 || self.lines > self.lines_unmetered;
        self.energy_uj.filter(was_metered)
    }

    fn valued(&self) -> Result<Valued, DbError> {
        let mut versions: Versions = from_json("valuation.versions", &self.versions)?;
        let mut figure = |name: &str, amount: Option<i64>, covered: i64, estimated: i64| {
            Ok::<_, DbError>(Figure {
                amount: some(amount, |amount| load("valuation.amount", amount))?,
                covered_uj: load("valuation.covered_uj", covered)?,
                estimated_uj: load("valuation.estimated_uj", estimated)?,
                versions: versions.remove(name).unwrap_or_default(),
            })
        };
        let ug = |ug: i64| load("valuation.embodied_ug", ug);
        let embodied = match (self.embodied_min_ug, self.embodied_mid_ug, self.embodied_max_ug) {
            (Some(min), Some(mid), Some(max)) => Some(Range {
                min_ug: ug(min)?,
                mid_ug: ug(mid)?,
                max_ug: ug(max)?,
            }),
            _ => None,
        };
        Ok(Valued {
            energy_uj: some(self.metered_uj(), |energy| load("valuation.energy_uj", energy))?,
            used_ns: load("valuation.cpu_ns", self.cpu_ns)?,
            location: figure(
                "location",
                self.location_ug,
                self.location_covered_uj,
                self.location_estimated_uj,
            )?,
            market: figure(
                "market",
                self.market_ug,
                self.market_covered_uj,
                self.market_estimated_uj,
            )?,
            marginal: figure(
                "marginal",
                self.marginal_ug,
                self.marginal_covered_uj,
                self.marginal_estimated_uj,
            )?,
            water: figure(
                "water",
                self.water_ul,
                self.water_covered_uj,
                self.water_estimated_uj,
            )?,
            embodied,
            embodied_ns: load("valuation.embodied_ns", self.embodied_ns)?,
        })
    }
}

impl TryFrom<Row> for Valuation {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let place = row.cursor()?;
        Ok(Self {
            day: place.day,
            node: place.node,
            as_of: row.as_of,
            tenant: place.tenant,
            deployment: place.deployment,
            lines: load("valuation.lines", row.lines)?,
            lines_unmetered: load("valuation.lines_unmetered", row.lines_unmetered)?,
            valued: row.valued()?,
        })
    }
}

impl WriterTx {
    /// Adds one row of a valuation. The same day, node, instant, tenant and deployment twice is a conflict
    /// (`valuation_key`).
    pub async fn valuation_insert(&mut self, valuation: &Valuation) -> Result<(), DbError> {
        let Valuation {
            day,
            node,
            as_of,
            tenant,
            deployment,
            lines,
            lines_unmetered,
            valued,
        } = valuation;
        let column = |value: u64| store::<u64, i64>("valuation", value);
        let amount = |figure: &Figure| some(figure.amount, column);
        let figures = [
            ("location", &valued.location),
            ("market", &valued.market),
            ("marginal", &valued.marginal),
        ];
        let versions = figures.map(|(name, figure)| (name, &figure.versions));
        let versions = to_json("valuation.versions", &BTreeMap::from(versions))?;
        sqlx::query!(
            "insert into valuation (day, node, as_of, tenant, deployment, energy_uj, cpu_ns, lines, lines_unmetered,
                 location_ug, location_covered_uj, location_estimated_uj, market_ug, market_covered_uj,
                 market_estimated_uj, marginal_ug, marginal_covered_uj, marginal_estimated_uj, water_ul,
                 water_covered_uj, water_estimated_uj, embodied_min_ug, embodied_mid_ug, embodied_max_ug, embodied_ns,
                 versions)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                 $22, $23, $24, $25, $26::text::jsonb)",
            *day,
            node.0,
            *as_of,
            tenant.0,
            deployment.as_ref().map(Name::as_str),
            some(valued.energy_uj, column)?,
            column(valued.used_ns)?,
            column(*lines)?,
            column(*lines_unmetered)?,
            amount(&valued.location)?,
            column(valued.location.covered_uj)?,
            column(valued.location.estimated_uj)?,
            amount(&valued.market)?,
            column(valued.market.covered_uj)?,
            column(valued.market.estimated_uj)?,
            amount(&valued.marginal)?,
            column(valued.marginal.covered_uj)?,
            column(valued.marginal.estimated_uj)?,
            amount(&valued.water)?,
            column(valued.water.covered_uj)?,
            column(valued.water.estimated_uj)?,
            some(valued.embodied, |range| column(range.min_ug))?,
            some(valued.embodied, |range| column(range.mid_ug))?,
            some(valued.embodied, |range| column(range.max_ug))?,
            column(valued.embodied_ns)?,
            versions
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

impl TenantTx {
    /// The tenant's valuations, in the order of days, deployments and nodes.
    pub async fn valuations_list(
        &mut self,
        filter: &ValuationFilter,
        cut: &Cut<ValuationCursor>,
    ) -> Result<Page<Valuation, ValuationCursor>, DbError> {
        let own = ValuationFilter {
            tenant: Some(self.tenant),
            ..filter.clone()
        };
        list(&mut self.tx, &own, cut).await
    }
}

impl BillingTx {
    /// Everyone's valuations, in the order of days, tenants, deployments and nodes.
    pub async fn valuations_list(
        &mut self,
        filter: &ValuationFilter,
        cut: &Cut<ValuationCursor>,
    ) -> Result<Page<Valuation, ValuationCursor>, DbError> {
        list(&mut self.tx, filter, cut).await
    }

    /// Days in `[from, to)` on which a node was used or something kept ready there, and that are not valued yet or rest
    /// on less than is known by now: factors or sites were learnt, or receipts, idle energy or
    /// corrections came late. The earliest first, at most `limit`, and none of `skip`.
    pub async fn days_to_value(
        &mut self,
        node: NodeId,
        from: OffsetDateTime,
        to: OffsetDateTime,
        limit: u32,
        skip: &[OffsetDateTime],
    ) -> Result<Vec<OffsetDateTime>, DbError> {
        let days = sqlx::query_scalar!(
            r#"select used.day as "day!"
               from (
                   select day, sum(lines) as lines, sum(energy_uj) as energy_uj
                   from (
                       -- As `carbon_use` has it, sums that no column holds included.
                       select date_trunc('day', hour, 'UTC') as day, sum(lines) as lines,
                           case when count(energy_uj) > 0
                               then greatest(least(sum(energy_uj), 9223372036854775807), 0) end as energy_uj
                       from used_in_hour
                       where node = $1 and hour >= $2 and hour < $3
                       group by hour, tenant, deployment
                       union all
                       -- What is allocated at the end of a day is of that day.
                       select date_trunc('day', ended_at - interval '1 microsecond', 'UTC'), 0,
                           greatest(sum(amount), 0)
                       from kept_ready
                       where node = $1 and ended_at > $2 and ended_at <= $3
                       group by ended_at, tenant, deployment
                   ) of_day
                   group by day
               ) used
               left join lateral (
                   select v.as_of, sum(v.lines) as lines, sum(v.energy_uj) as energy_uj
                   from valuation v
                   where v.day = used.day and v.node = $1
                   group by v.as_of
                   order by v.as_of desc
                   limit 1
               ) newest on true
               where used.day <> all($5) and (newest.as_of is null or newest.lines <> used.lines
                   or coalesce(newest.energy_uj, 0) <> coalesce(used.energy_uj, 0)
                   or exists (
                       select from site s
                       where s.node = $1 and s.known_at > newest.as_of and s.valid_from < used.day + interval '24 hours'
                   )
                   or exists (
                       select from factor f
                       where f.known_at > newest.as_of and f.valid_from < used.day + interval '24 hours'
                           -- One that ends before the day counts where it takes the place of one that did not.
                           and (f.valid_to > used.day or exists (
                               select from factor old
                               where old.zone = f.zone and old.signal = f.signal and old.method = f.method
                                   and old.valid_from = f.valid_from and old.source = f.source
                                   and old.known_at < f.known_at and old.valid_to > used.day
                           ))
                           and f.zone in (
                               select zone from site where node = $1
                               union all
                               select marginal_zone from site where node = $1
                           )
                   ))
               order by used.day
               limit $4"#,
            node.0,
            from,
            to,
            i64::from(limit),
            skip
        );
        Ok(days.fetch_all(&mut *self.tx).await?)
    }
}

async fn list(
    tx: &mut PgConnection,
    filter: &ValuationFilter,
    cut: &Cut<ValuationCursor>,
) -> Result<Page<Valuation, ValuationCursor>, DbError> {
    let after = cut.after.as_ref();
    let rows = sqlx::query_as!(
        Row,
        r#"select v.day, v.node, v.as_of, v.tenant, v.deployment, v.energy_uj, v.cpu_ns, v.lines, v.lines_unmetered,
               v.location_ug, v.location_covered_uj, v.location_estimated_uj, v.market_ug, v.market_covered_uj,
               v.market_estimated_uj, v.marginal_ug, v.marginal_covered_uj, v.marginal_estimated_uj, v.water_ul,
               v.water_covered_uj, v.water_estimated_uj, v.embodied_min_ug, v.embodied_mid_ug, v.embodied_max_ug,
               v.embodied_ns, v.versions::text as "versions!"
           from valuation v
           join (
               select day, node, max(as_of) as as_of
               from valuation
               where day >= coalesce($3, '-infinity'::timestamptz) and day < coalesce($4, 'infinity'::timestamptz)
                   and as_of <= coalesce($5, 'infinity'::timestamptz)
                   -- The days of earlier pages need not be looked at again.
                   and day >= coalesce($6, '-infinity'::timestamptz)
               group by day, node
           ) newest on newest.day = v.day and newest.node = v.node and newest.as_of = v.as_of
           where ($1::uuid is null or v.tenant = $1) and ($2::text is null or v.deployment = $2)
               and ($6::timestamptz is null
                   or (v.day, v.tenant::text, coalesce(v.deployment, ''), v.node::text)
                       > ($6, $7::text, coalesce($8::text, ''), $9::text))
           order by v.day, v.tenant::text, coalesce(v.deployment, ''), v.node::text
           limit $10"#,
        filter.tenant.map(|tenant| tenant.0),
        filter.deployment.as_ref().map(Name::as_str),
        filter.from,
        filter.to,
        filter.as_of,
        after.map(|after| after.day),
        after.map(|after| after.tenant.to_string()),
        after.and_then(|after| after.deployment.as_ref()).map(Name::as_str),
        after.map(|after| after.node.to_string()),
        cut.rows()
    )
    .fetch_all(tx)
    .await?;
    Page::of(rows, cut, Row::cursor)
}
