//! Close: a month that every node has drained past is cut, its statements are drawn up, and it stays closed.
//!
//! The cut names the last posting that the month's statements can have, and is committed before they are drawn up:
//! what a crash leaves undone is done again from the same rows. What comes later of the month, from a late journal or
//! a correction, is in the statements of the month that is closed next.

use std::collections::{BTreeMap, BTreeSet};

use db::{BillingTx, GraphUse, NodeState, PeriodCut, UseFilter};
use domain::billing::statement::{Emitted, Metered, Statement, draw_up};
use domain::billing::{Month, Plans};
use domain::{Name, TenantId};
use time::{Duration, OffsetDateTime};

use super::Error;
use super::carbon::{MOST_FACTORS, MOST_USES, blocking};
use super::worth::{Sum, bounded, few};
use crate::app::App;

/// Of how many months before, carbon is told anew where more is known of it.
const RESTATED: u32 = 12;

/// Why a month cannot be closed, or what is refused because it is.
#[derive(Debug, thiserror::Error)]
pub enum PeriodError {
    /// It is not over.
    #[error("{0} is not over: it can be closed from {end} on", end = .0.end())]
    Open(Month),
    /// It is closed, which is final.
    #[error(
        "{0} is closed for good: what comes later of it is in the statements of the month that is closed next"
    )]
    Closed(Month),
    /// It is not the next to be closed.
    #[error("{month} cannot be closed now: months are closed in their order, and {}", next_is(*.next))]
    Order {
        /// The month.
        month: Month,
        /// The one that is next.
        next: Option<Month>,
    },
    /// Nodes have more of it to post.
    #[error(
        "{month} is not drained: {} may have more of it to post, or idle energy of it to allocate. Start what is down \
         and try again in a quarter of an hour, or declare lost what will not come back",
        .nodes.join(", ")
    )]
    NotDrained {
        /// The month.
        month: Month,
        /// The names of the nodes.
        nodes: Vec<String>,
    },
}

impl PeriodError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open(_) => "period_open",
            Self::Closed(_) => "period_closed",
            Self::Order { .. } => "period_out_of_order",
            Self::NotDrained { .. } => "period_not_drained",
        }
    }
}

fn next_is(next: Option<Month>) -> String {
    match next {
        Some(next) => format!("the next one is {next}"),
        None => "the ledger has no posting yet".to_owned(),
    }
}

/// A tenant's statement, and what else it tells.
#[derive(Debug)]
pub struct Drawn {
    /// Whose.
    pub tenant: TenantId,
    /// The charges.
    pub statement: Statement,
    /// Model work by graph.
    pub graphs: Vec<GraphUse>,
}

/// Carbon by tenant and deployment, exact.
type Sums = BTreeMap<(TenantId, Option<Name>), Sum>;

/// Cuts the ledger for `month`, if it has ended, is the next to be closed, and no node has more of it to post. One
/// that was cut already is given as it is.
pub async fn cut(app: &App, month: Month) -> Result<PeriodCut, Error> {
    let mut tx = app.db.billing_tx().await?;
    if let Some(cut) = tx.period(month).await? {
        return match cut.closed_at {
            Some(_) => Err(PeriodError::Closed(month).into()),
            None => Ok(cut),
        };
    }
    if app.clock.now() < month.end() {
        return Err(PeriodError::Open(month).into());
    }
    let next = tx.period_next().await?;
    if next != Some(month) {
        return Err(PeriodError::Order { month, next }.into());
    }
    let nodes = undrained(&mut tx, month).await?;
    if !nodes.is_empty() {
        let nodes = nodes.into_iter().map(|node| node.name).collect::<Vec<_>>();
        return Err(PeriodError::NotDrained { month, nodes }.into());
    }
    drop(tx);
    let as_of = app.db.carbon_as_of().await?;
    let mut tx = app.db.admin_tx().await?;
    tx.period_cut(month, as_of).await?;
    tx.commit().await?;
    let cut = app.db.billing_tx().await?.period(month).await?;
    cut.ok_or(Error::Internal)
}

/// The nodes that hold `month` up: not lost, there before its end, and not drained past it, or with idle energy of it
/// that is not allocated.
async fn undrained(tx: &mut BillingTx, month: Month) -> Result<Vec<NodeState>, Error> {
    let mut undrained = Vec::new();
    for node in tx.node_states().await? {
        if node.lost_at.is_some() || node.created_at >= month.end() {
            continue;
        }
        let drained = node.drained_to.is_some_and(|to| to >= month.end());
        if !drained || tx.allocated(node.id, month.end()).await?.is_some() {
            undrained.push(node);
        }
    }
    Ok(undrained)
}

/// Draws up the statements of a month that is cut, by tenant: of all who used something or have a flat price.
pub async fn statements(app: &App, cut: &PeriodCut) -> Result<Vec<Drawn>, Error> {
    let mut tx = app.db.billing_tx().await?;
    let plans = tx.plans().await?;
    let metered = tx.metered(cut, &plans).await?;
    let graphs = tx.graph_use(cut).await?;
    let lives = tx.tenant_lives().await?;
    let emitted = emissions(&mut tx, cut).await?;
    drop(tx);
    let month = cut.month;
    // The ledger may name tenants that an older copy of the tenants' table does not: they have no flat price.
    let named = metered
        .iter()
        .map(|used| (used.tenant, (month.begin(), Some(month.begin()))));
    let mut all: BTreeMap<_, _> = named.collect();
    all.extend(lives.into_iter().map(|life| (life.tenant, (life.from, life.to))));
    blocking(move || drawn(&all, month, &plans, &metered, &emitted, &graphs)).await
}

type Lives = BTreeMap<TenantId, (OffsetDateTime, Option<OffsetDateTime>)>;

fn drawn(
    lives: &Lives,
    month: Month,
    plans: &Plans,
    metered: &[Metered],
    emitted: &[Emitted],
    graphs: &[GraphUse],
) -> Result<Vec<Drawn>, Error> {
    let mut all = Vec::new();
    for (tenant, life) in lives {
        let statement = draw_up(*tenant, month, *life, plans, metered, emitted)?;
        if statement.lines.is_empty() {
            continue;
        }
        let own = graphs.iter().filter(|graph| graph.tenant == *tenant);
        all.push(Drawn {
            tenant: *tenant,
            statement,
            graphs: own.cloned().collect(),
        });
    }
    Ok(all)
}

/// The month's carbon as of the cut, and by how much that of the months before differs from what was told of it.
async fn emissions(tx: &mut BillingTx, cut: &PeriodCut) -> Result<Vec<Emitted>, Error> {
    let mut emitted = Vec::new();
    for ((tenant, deployment), sum) in carbon_of(tx, cut.month, cut.as_of).await? {
        emitted.extend(told(tenant, deployment, cut.month, &sum)?);
    }
    let before = db::Cut {
        after: Some(cut.month),
        limit: RESTATED,
    };
    for earlier in tx.periods_list(&before).await?.items {
        let mut before = tx.carbon_told(earlier.month).await?;
        for ((tenant, deployment), sum) in carbon_of(tx, earlier.month, cut.as_of).await? {
            let before = before.remove(&(tenant, deployment.clone()));
            if let Some(now) = told(tenant, deployment, earlier.month, &sum)? {
                emitted.extend(changed(now, before));
            }
        }
    }
    Ok(emitted)
}

/// What a sum tells; none where nothing is known.
fn told(
    tenant: TenantId,
    deployment: Option<Name>,
    month: Month,
    sum: &Sum,
) -> Result<Option<Emitted>, Error> {
    let valued = sum.valued()?;
    let ug = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let emitted = Emitted {
        tenant,
        deployment,
        month,
        location_ug: valued.location.amount.map(ug),
        market_ug: valued.market.amount.map(ug),
        embodied_ug: valued.embodied.map(|range| ug(range.mid_ug)),
    };
    let known = [emitted.location_ug, emitted.market_ug, emitted.embodied_ug];
    Ok(Some(emitted).filter(|_| known.iter().any(Option::is_some)))
}

/// By how much `now` differs from what was told before; none where it does not.
fn changed(now: Emitted, before: Option<Emitted>) -> Option<Emitted> {
    let Some(before) = before else { return Some(now) };
    let less = |now: Option<i64>, before: Option<i64>| {
        now.map(|now| now.saturating_sub(before.unwrap_or_default()))
            .filter(|by| *by != 0 || before.is_none())
    };
    let by = Emitted {
        location_ug: less(now.location_ug, before.location_ug),
        market_ug: less(now.market_ug, before.market_ug),
        embodied_ug: less(now.embodied_ug, before.embodied_ug),
        ..now
    };
    let known = [by.location_ug, by.market_ug, by.embodied_ug];
    known.iter().any(Option::is_some).then_some(by)
}

/// Carbon of a month by what was known at `as_of`, valued day by day, and a day with much use tenant by tenant.
async fn carbon_of(tx: &mut BillingTx, month: Month, as_of: OffsetDateTime) -> Result<Sums, Error> {
    let mut sums = Sums::new();
    let mut day = month.begin();
    while day < month.end() {
        let next = day + Duration::DAY;
        let mut filter = UseFilter {
            tenant: None,
            deployment: None,
            node: None,
            from: day,
            to: next,
            now: next,
        };
        let uses = tx.carbon_use(&filter, MOST_USES + 1).await?;
        if let Ok(uses) = few(uses) {
            sums = value(tx, sums, uses, as_of).await?;
        } else {
            let tenants: BTreeSet<_> = tx
                .tenant_lives()
                .await?
                .into_iter()
                .map(|life| life.tenant)
                .collect();
            for tenant in tenants {
                filter.tenant = Some(tenant);
                let uses = few(tx.carbon_use(&filter, MOST_USES + 1).await?)?;
                sums = value(tx, sums, uses, as_of).await?;
            }
        }
        day = next;
    }
    Ok(sums)
}

async fn value(
    tx: &mut BillingTx,
    mut sums: Sums,
    uses: Vec<db::Use>,
    as_of: OffsetDateTime,
) -> Result<Sums, Error> {
    if uses.is_empty() {
        return Ok(sums);
    }
    let evidence = bounded(tx.carbon_evidence(&uses, as_of, MOST_FACTORS).await?)?;
    blocking(move || {
        for used in &uses {
            let key = (used.tenant, used.deployment.clone());
            sums.entry(key).or_default().add(&evidence, used)?;
        }
        Ok(sums)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(location_ug: Option<i64>, market_ug: Option<i64>) -> Emitted {
        Emitted {
            tenant: TenantId(uuid::Uuid::nil()),
            deployment: None,
            month: "2027-01".parse().unwrap(),
            location_ug,
            market_ug,
            embodied_ug: None,
        }
    }

    #[test]
    fn only_what_changed_is_told_again() {
        for (now, before, by) in [
            (emitted(Some(5), None), None, Some(emitted(Some(5), None))),
            (emitted(Some(5), None), Some(emitted(Some(5), None)), None),
            (
                emitted(Some(3), None),
                Some(emitted(Some(5), None)),
                Some(emitted(Some(-2), None)),
            ),
            (
                emitted(Some(5), Some(0)),
                Some(emitted(Some(5), None)),
                Some(emitted(None, Some(0))),
            ),
        ] {
            assert_eq!(changed(now, before), by);
        }
    }
}
