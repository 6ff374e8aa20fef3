//! What a month's statement charges a tenant: lines by month of use, deployment, item and plan.
//!
//! A statement has what the ledger had of the month when it was cut, and what came since the cut before it of
//! months that were closed already: the lines of these, and those of corrections, are of class `correction`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::money::{Value, settle};
use super::{Currency, Item, Month, Plan, Plans, Rate, TooMuchMoney};
use crate::energy::Provenance;
use crate::{Name, TenantId};

/// Whether a line is of the month's own use, or repairs what was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The month's own.
    Usage,
    /// What came late of a closed month, or was corrected.
    Correction,
}

impl Class {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Correction => "correction",
        }
    }
}

/// What the ledger has of one item, within a span in which nobody's plan changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metered {
    /// Whose.
    pub tenant: TenantId,
    /// By which deployment; none for what belongs to none.
    pub deployment: Option<Name>,
    /// In which month it was used.
    pub month: Month,
    /// How many changes of plans were before it: an index from 0 behind [`Plans::changes`].
    pub span: usize,
    /// Whether it is a correction.
    pub is_correction: bool,
    /// What.
    pub item: Item,
    /// How much, as the item counts; below 0 where more was taken back than used.
    pub quantity: i128,
    /// The least of how its readings came about; none where nothing was read for it.
    pub provenance: Option<Provenance>,
}

/// Carbon of a tenant's deployment in a month, or by how much it changed since it was last told, in micrograms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Whose.
    pub tenant: TenantId,
    /// By which deployment.
    pub deployment: Option<Name>,
    /// In which month.
    pub month: Month,
    /// By the location's average; none where nothing is known.
    pub location_ug: Option<i64>,
    /// By what is left of the market's mix.
    pub market_ug: Option<i64>,
    /// What it took to make the machines, likely.
    pub embodied_ug: Option<i64>,
}

/// A line of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// In which month it was used.
    pub month: Month,
    /// Own use or a repair.
    pub class: Class,
    /// By which deployment; none for what belongs to none.
    pub deployment: Option<Name>,
    /// What.
    pub item: Item,
    /// By which plan; none where none held.
    pub plan: Option<i64>,
    /// The first instant that it can be of.
    pub from: OffsetDateTime,
    /// The first one after these.
    pub to: OffsetDateTime,
    /// How much, as the item counts.
    pub quantity: i128,
    /// What a priced unit of it costs.
    pub rate: Rate,
    /// In which currency; [`Currency::NONE`] without a plan.
    pub currency: Currency,
    /// What it comes to, in minor units.
    pub amount: i64,
    /// The least of how its readings came about.
    pub provenance: Option<Provenance>,
    /// Its carbon, of lines of [`Item::Carbon`].
    pub emitted: Option<Emitted>,
}

/// What a tenant owes for a month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// The lines.
    pub lines: Vec<Line>,
    /// Their sums by currency, in minor units.
    pub totals: BTreeMap<Currency, i64>,
}

/// What orders the lines, and what is one line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    month: Month,
    class: Class,
    deployment: Option<Name>,
    item: Item,
    from: OffsetDateTime,
    plan: Option<i64>,
}

/// The statement of `tenant` for `month`, from what is metered and emitted of it alone. `life` is when the tenant
/// began and, if it did, ended: a flat price is for the time in between.
pub fn draw_up(
    tenant: TenantId,
    month: Month,
    life: (OffsetDateTime, Option<OffsetDateTime>),
    plans: &Plans,
    metered: &[Metered],
    emitted: &[Emitted],
) -> Result<Statement, TooMuchMoney> {
    let mut lines = BTreeMap::<Place, Line>::new();
    // The spans of what is metered are between everyone's changes; its prices are of few plans.
    let changes = plans.changes();
    let own = plans.of(tenant);
    let plans = &own;
    for used in metered.iter().filter(|used| used.tenant == tenant) {
        add(&mut lines, used_line(month, &changes, plans, used))?;
    }
    let begin = life.0.max(month.begin());
    let end = life.1.map_or(month.end(), |end| end.min(month.end()));
    for (from, to, plan) in plans.spans(tenant, begin, end) {
        if plan.prices.per_month > Rate::ZERO {
            let quantity = (to - from).whole_microseconds();
            add(
                &mut lines,
                line(
                    month,
                    Class::Usage,
                    None,
                    Item::Flat,
                    Some(plan),
                    (from, to),
                    quantity,
                ),
            )?;
        }
    }
    for told in emitted.iter().filter(|told| told.tenant == tenant) {
        let (class, span) = (
            class(month, told.month, false),
            (told.month.begin(), told.month.end()),
        );
        let quantity = told.location_ug.unwrap_or_default().into();
        let deployment = told.deployment.clone();
        let mut line = line(told.month, class, deployment, Item::Carbon, None, span, quantity);
        line.emitted = Some(told.clone());
        add(&mut lines, line)?;
    }
    price(lines.into_values().collect())
}

fn class(of: Month, month: Month, is_correction: bool) -> Class {
    match is_correction || month != of {
        true => Class::Correction,
        false => Class::Usage,
    }
}

/// The line of what is metered: within its month, from the change of plans before it to the next.
fn used_line(of: Month, changes: &[OffsetDateTime], plans: &Plans, used: &Metered) -> Line {
    let begin = used.span.checked_sub(1).and_then(|before| changes.get(before));
    let begin = begin.map_or(used.month.begin(), |at| (*at).max(used.month.begin()));
    let plan = plans.at(used.tenant, begin);
    // All that one plan covers of the month is one line, also where another tenant's plan changed in it.
    let spans = plans.spans(used.tenant, used.month.begin(), used.month.end());
    let span = spans.iter().find(|(from, to, _)| *from <= begin && begin < *to);
    let without = changes.iter().find(|at| plans.at(used.tenant, **at).is_some());
    let span = span.map_or_else(
        || {
            (
                used.month.begin(),
                without.map_or(used.month.end(), |at| (*at).min(used.month.end())),
            )
        },
        |(from, to, _)| (*from, *to),
    );
    let class = class(of, used.month, used.is_correction);
    let mut line = line(
        used.month,
        class,
        used.deployment.clone(),
        used.item,
        plan,
        span,
        used.quantity,
    );
    line.provenance = used.provenance;
    line
}

fn line(
    month: Month,
    class: Class,
    deployment: Option<Name>,
    item: Item,
    plan: Option<&Plan>,
    (from, to): (OffsetDateTime, OffsetDateTime),
    quantity: i128,
) -> Line {
    Line {
        month,
        class,
        deployment,
        item,
        plan: plan.map(|plan| plan.id),
        from,
        to,
        quantity,
        rate: plan.map_or(Rate::ZERO, |plan| plan.prices.of(item)),
        currency: plan.map_or(Currency::NONE, |plan| plan.currency),
        amount: 0,
        provenance: None,
        emitted: None,
    }
}

fn add(lines: &mut BTreeMap<Place, Line>, line: Line) -> Result<(), TooMuchMoney> {
    let place = Place {
        month: line.month,
        class: line.class,
        deployment: line.deployment.clone(),
        item: line.item,
        from: line.from,
        plan: line.plan,
    };
    match lines.get_mut(&place) {
        Some(there) => {
            there.quantity = there.quantity.checked_add(line.quantity).ok_or(TooMuchMoney)?;
            there.provenance = least(there.provenance, line.provenance);
        }
        None => {
            lines.insert(place, line);
        }
    }
    Ok(())
}

/// The one that says less; none says nothing.
pub fn least(one: Option<Provenance>, other: Option<Provenance>) -> Option<Provenance> {
    let rank = |provenance: &Provenance| match provenance {
        Provenance::Measured => 0,
        Provenance::Modelled => 1,
        Provenance::Estimated => 2,
    };
    one.into_iter().chain(other).max_by_key(rank)
}

/// Prices lines and sums them up by currency.
fn price(mut lines: Vec<Line>) -> Result<Statement, TooMuchMoney> {
    let mut totals = BTreeMap::new();
    let currencies: std::collections::BTreeSet<_> = lines.iter().map(|line| line.currency).collect();
    for currency in currencies {
        let mut own: Vec<&mut Line> = lines
            .iter_mut()
            .filter(|line| line.currency == currency)
            .collect();
        let values = own.iter().map(|line| match line.rate {
            Rate::ZERO => Ok(Value::default()),
            rate => Value::of(rate, line.quantity, line.item.per(line.month)),
        });
        let values: Vec<Value> = values.collect::<Result<_, _>>()?;
        let (total, amounts) = settle(&values, currency)?;
        for (line, amount) in own.iter_mut().zip(amounts) {
            line.amount = amount;
        }
        if currency != Currency::NONE {
            totals.insert(currency, total);
        }
    }
    Ok(Statement { lines, totals })
}

#[cfg(test)]
mod tests;
