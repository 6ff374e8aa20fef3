//! What a valuation is made of: use by the hour, and what is known of sites and grids.

use std::collections::BTreeSet;

use domain::carbon::{Evidence, Known, Slot, Zone};
use domain::{Name, NodeId, TenantId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{load, parse, some};
use crate::factor::{self, FactorRow};
use crate::site::sites;
use crate::{BillingTx, Db, DbError, TenantTx};

/// Whose use, and when.
#[derive(Clone, Debug)]
pub struct UseFilter {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// Of this deployment.
    pub deployment: Option<Name>,
    /// On this node.
    pub node: Option<NodeId>,
    /// In this hour or later.
    pub from: OffsetDateTime,
    /// In hours before this one.
    pub to: OffsetDateTime,
    /// Now: an hour that goes on has lasted until then.
    pub now: OffsetDateTime,
}

/// What a tenant's deployment used in an hour on a node, or what an allocation moved to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Where.
    pub node: NodeId,
    /// By whom.
    pub tenant: TenantId,
    /// By what; none for what belongs to none, such as uploads.
    pub deployment: Option<Name>,
    /// When and how much.
    pub slot: Slot,
    /// Receipt lines.
    pub lines: u64,
    /// Those whose energy no reading covers.
    pub lines_unmetered: u64,
}

struct Row {
    node: Uuid,
    tenant: Uuid,
    deployment: Option<String>,
    from: OffsetDateTime,
    to: OffsetDateTime,
    energy_uj: Option<i64>,
    used_ns: i64,
    lines: i64,
    lines_unmetered: i64,
}

impl TryFrom<Row> for Use {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            node: NodeId(row.node),
            tenant: TenantId(row.tenant),
            deployment: some(row.deployment.as_deref(), |name| {
                parse("usage_hour.deployment", name)
            })?,
            slot: Slot {
                from: row.from,
                to: row.to,
                energy_uj: some(row.energy_uj, |energy| load("usage_hour.energy_uj", energy))?,
                used_ns: load("usage_hour.cpu_ns", row.used_ns)?,
            },
            lines: load("usage_hour.lines", row.lines)?,
            lines_unmetered: load("usage_hour.lines_unmetered", row.lines_unmetered)?,
        })
    }
}

/// Both kinds of transactions that read use.
macro_rules! reads_use {
    ($($tx:ty: $own:expr;)*) => {$(
        impl $tx {
            /// Use by the hour, node, tenant and deployment, in the order of time; at most `limit` rows.
            pub async fn carbon_use(&mut self, filter: &UseFilter, limit: u32) -> Result<Vec<Use>, DbError> {
                let own: fn(&Self) -> Option<TenantId> = $own;
                let tenant = own(self).or(filter.tenant);
                let filter = UseFilter { tenant, ..filter.clone() };
                uses(&mut self.tx, &filter, limit).await
            }

            /// What was known at `as_of` of where and when `uses` were, and of the grids there. None where that
            /// takes more than `limit` factors.
            pub async fn carbon_evidence(
                &mut self,
                uses: &[Use],
                as_of: OffsetDateTime,
                limit: u32,
            ) -> Result<Option<Evidence>, DbError> {
                evidence(&mut self.tx, uses, as_of, limit).await
            }
        }
    )*};
}

reads_use! {
    TenantTx: |tx| Some(tx.tenant);
    BillingTx: |_| None;
}

impl Db {
    /// Now, as an instant to value by: whatever becomes known later is known after it. Those who add what they know
    /// hold a lock while the database gives them their instant and until they commit, and this waits for them.
    pub async fn carbon_as_of(&self) -> Result<OffsetDateTime, DbError> {
        let mut tx = self.nobody_tx().await?;
        sqlx::query!("select pg_advisory_xact_lock_shared(hashtextextended('wattle factors', 0))")
            .fetch_one(&mut *tx)
            .await?;
        let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#);
        Ok(now.fetch_one(&mut *tx).await?)
    }
}

/// Lets nobody else add to what is known until the transaction ends.
pub(crate) async fn learn_alone(tx: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('wattle factors', 0))")
        .fetch_one(tx)
        .await?;
    Ok(())
}

async fn uses(tx: &mut PgConnection, filter: &UseFilter, limit: u32) -> Result<Vec<Use>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        r#"select node as "node!", tenant as "tenant!", deployment, began_at as "from!", ended_at as "to!",
               energy_uj, used_ns as "used_ns!", lines as "lines!", lines_unmetered as "lines_unmetered!"
           from (
               select node, tenant, deployment, hour as began_at,
                   greatest(least(hour + interval '1 hour', $6), hour + interval '1 second') as ended_at,
                   -- No sum leaves its column: one that would is as large as the column holds. What no reading
                   -- covers stays null, which `least` alone would pass over.
                   case when count(energy_uj) > 0
                       then greatest(least(sum(energy_uj), 9223372036854775807), 0)::bigint end as energy_uj,
                   least(sum(cpu_ns::numeric + model_ns), 9223372036854775807)::bigint as used_ns,
                   least(sum(lines), 9223372036854775807)::bigint as lines,
                   least(sum(lines_unmetered), 9223372036854775807)::bigint as lines_unmetered
               from used_in_hour
               where hour >= $4 and hour < $5
               group by node, tenant, deployment, hour
               union all
               select node, tenant, deployment, began_at, greatest(ended_at, began_at + interval '1 second'),
                   greatest(least(sum(amount), 9223372036854775807), 0)::bigint, 0, 0, 0
               from kept_ready
               where ended_at > $4 and ended_at <= $5
               group by node, tenant, deployment, began_at, ended_at
           ) used
           where ($1::uuid is null or tenant = $1) and ($2::text is null or deployment = $2)
               and ($3::uuid is null or node = $3)
           order by began_at, tenant, deployment, node
           limit $7"#,
        filter.tenant.map(|tenant| tenant.0),
        filter.deployment.as_ref().map(Name::as_str),
        filter.node.map(|node| node.0),
        filter.from,
        filter.to,
        filter.now,
        i64::from(limit)
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(Use::try_from).collect()
}

async fn evidence(
    tx: &mut PgConnection,
    uses: &[Use],
    as_of: OffsetDateTime,
    limit: u32,
) -> Result<Option<Evidence>, DbError> {
    let from = uses.iter().map(|used| used.slot.from).min();
    let to = uses.iter().map(|used| used.slot.to).max();
    let Some((from, to)) = from.zip(to) else {
        return Ok(Some(Evidence::new([], [], as_of)));
    };
    let nodes: BTreeSet<_> = uses.iter().map(|used| used.node.0).collect();
    let nodes: Vec<_> = nodes.into_iter().collect();
    let sites = sites(&mut *tx, &nodes, to, as_of).await?;
    let zones = sites
        .iter()
        .flat_map(|(_, site)| [&site.it.zone, &site.it.marginal_zone]);
    let zones: BTreeSet<_> = zones.flatten().map(Zone::as_str).map(str::to_owned).collect();
    let zones: Vec<_> = zones.into_iter().collect();
    // What its own source has said anew is left out here and not in the timeline alone: a revision that ends earlier
    // may lie outside the span, and what it replaces inside.
    let rows = sqlx::query_as!(
        factor::Row,
        "select id, zone, signal, method, valid_from, valid_to, known_at, mg_per_kwh, source, version, is_estimated
         from factor f
         where zone = any($1) and valid_from < $2 and valid_to > $3 and known_at <= $4
             and not exists (
                 select from factor newer
                 where newer.zone = f.zone and newer.signal = f.signal and newer.method = f.method
                     and newer.valid_from = f.valid_from and newer.source = f.source
                     and newer.known_at > f.known_at and newer.known_at <= $4
             )
         limit $5",
        &zones,
        to,
        from,
        as_of,
        i64::from(limit) + 1
    )
    .fetch_all(tx)
    .await?;
    if rows.len() > limit as usize {
        return Ok(None);
    }
    let factors = rows
        .into_iter()
        .map(|row| FactorRow::try_from(row).map(|row| row.known));
    let factors: Vec<Known<_>> = factors.collect::<Result<_, _>>()?;
    Ok(Some(Evidence::new(sites, factors, as_of)))
}
