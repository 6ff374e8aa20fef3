//! Billing: price plans, months, and what a statement charges.
//!
//! Money is price × what the ledger moved. A plan holds from an instant on, until a later one of the same tenant
//! does; a tenant without a plan of its own has the one for everyone. What is used counts by the plan that holds
//! where its window ends, and an allocation by the one that holds where it begins.

mod currency;
pub mod money;
pub mod month;
pub mod statement;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::TenantId;
pub use money::{Currency, Rate, TooMuchMoney};
pub use month::Month;

/// Microjoules in a kWh.
pub const UJ_PER_KWH: i128 = 3_600_000_000_000;

/// Units of fuel that a price of fuel is for.
pub const FUEL_PER_GIGAFUEL: i128 = 1_000_000_000;

/// Bytes × nanoseconds in a GB·s; a GB has 10⁹ bytes.
pub const BYTE_NS_PER_GB_S: i128 = 1_000_000_000_000_000_000;

/// Tokens that a price of tokens is for.
pub const TOKENS_PER_MEGATOKEN: i128 = 1_000_000;

/// What has a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Energy that the ledger moved to the tenant: used, allocated and corrected. Counted in µJ, priced by the kWh.
    Energy,
    /// Fuel. Counted in units, priced by 10⁹ of them.
    Fuel,
    /// The most memory at once of each call × its CPU time. Counted in byte·ns, priced by the GB·s.
    Memory,
    /// Tokens that models were given. Counted one by one, priced by 10⁶ of them.
    Token,
    /// Calls of deployments that ended, however they did.
    Call,
    /// A flat price of a month. Counted in µs of the month, in proportion to it.
    Flat,
    /// Carbon of energy: it has no price, and is only told. Counted in µg by the location's average.
    Carbon,
}

impl Item {
    /// Every item, in the order of a statement's lines.
    pub const ALL: [Self; 7] = [
        Self::Energy,
        Self::Fuel,
        Self::Memory,
        Self::Token,
        Self::Call,
        Self::Flat,
        Self::Carbon,
    ];

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Energy => "energy",
            Self::Fuel => "fuel",
            Self::Memory => "memory",
            Self::Token => "token",
            Self::Call => "call",
            Self::Flat => "flat",
            Self::Carbon => "carbon",
        }
    }

    /// The unit that it is priced by, as an export names it.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Energy => "kWh",
            Self::Fuel => "Gfuel",
            Self::Memory => "GB-Seconds",
            Self::Token => "1000000 Tokens",
            Self::Call => "Calls",
            Self::Flat => "Months",
            Self::Carbon => "gCO2e",
        }
    }

    /// How much of what is counted one priced unit has.
    pub fn per(self, month: Month) -> i128 {
        match self {
            Self::Energy => UJ_PER_KWH,
            Self::Fuel => FUEL_PER_GIGAFUEL,
            Self::Memory => BYTE_NS_PER_GB_S,
            Self::Token => TOKENS_PER_MEGATOKEN,
            Self::Call => 1,
            Self::Flat => month.micros(),
            Self::Carbon => 1_000_000,
        }
    }
}

/// What each item costs, in a currency's major units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prices {
    /// For a kWh.
    pub per_kwh: Rate,
    /// For 10⁹ units of fuel.
    pub per_gigafuel: Rate,
    /// For a GB·s of memory.
    pub per_gb_second: Rate,
    /// For 10⁶ tokens.
    pub per_megatoken: Rate,
    /// For a call.
    pub per_call: Rate,
    /// For a month.
    pub per_month: Rate,
}

impl Prices {
    /// The price of an item.
    pub fn of(&self, item: Item) -> Rate {
        match item {
            Item::Energy => self.per_kwh,
            Item::Fuel => self.per_gigafuel,
            Item::Memory => self.per_gb_second,
            Item::Token => self.per_megatoken,
            Item::Call => self.per_call,
            Item::Flat => self.per_month,
            Item::Carbon => Rate::ZERO,
        }
    }
}

/// Prices from an instant on. Never changed: a change is a further plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its number, in the order in which plans were made.
    pub id: i64,
    /// Whose; none for every tenant without one of its own.
    pub tenant: Option<TenantId>,
    /// Since when it holds.
    pub from: OffsetDateTime,
    /// In which currency.
    pub currency: Currency,
    /// The prices.
    pub prices: Prices,
}

/// The plans of everyone, and which of them holds when.
#[derive(Clone, Debug, Default)]
pub struct Plans(Vec<Plan>);

impl Plans {
    /// These.
    pub fn new(plans: Vec<Plan>) -> Self {
        Self(plans)
    }

    /// Those that can hold for `tenant`: its own and everyone's.
    pub fn of(&self, tenant: TenantId) -> Self {
        let own = self
            .0
            .iter()
            .filter(|plan| plan.tenant.is_none_or(|whose| whose == tenant));
        Self(own.cloned().collect())
    }

    /// The instants at which a plan begins to hold, each once and in their order: between two of them nobody's
    /// plan changes.
    pub fn changes(&self) -> Vec<OffsetDateTime> {
        let mut changes: Vec<_> = self.0.iter().map(|plan| plan.from).collect();
        changes.sort();
        changes.dedup();
        changes
    }

    /// The plan that holds for `tenant` at `at`: of its own the one that began last, else that of everyone. Of
    /// those that began together the one that was made last. None where there is none yet.
    pub fn at(&self, tenant: TenantId, at: OffsetDateTime) -> Option<&Plan> {
        let begun = |whose: Option<TenantId>| {
            let plans = self
                .0
                .iter()
                .filter(move |plan| plan.tenant == whose && plan.from <= at);
            plans.max_by_key(|plan| (plan.from, plan.id))
        };
        begun(Some(tenant)).or_else(|| begun(None))
    }

    /// The spans of `[from, to)` with one plan each, without those that have none.
    pub fn spans(
        &self,
        tenant: TenantId,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Vec<(OffsetDateTime, OffsetDateTime, &Plan)> {
        let inner = self.changes().into_iter().filter(|at| from < *at && *at < to);
        let cuts: Vec<_> = [from].into_iter().chain(inner).chain([to]).collect();
        let mut spans: Vec<(OffsetDateTime, OffsetDateTime, &Plan)> = Vec::new();
        for pair in cuts.windows(2) {
            let &[begin, end] = pair else { continue };
            let Some(plan) = self.at(tenant, begin).filter(|_| begin < end) else {
                continue;
            };
            match spans.last_mut() {
                Some((_, last, same)) if *last == begin && same.id == plan.id => *last = end,
                _ => spans.push((begin, end, plan)),
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use uuid::Uuid;

    use super::*;

    const TENANT: TenantId = TenantId(Uuid::from_u128(7));
    const OTHER: TenantId = TenantId(Uuid::from_u128(8));

    fn day(days: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::days(days)
    }

    fn plan(id: i64, tenant: Option<TenantId>, from: i64) -> Plan {
        Plan {
            id,
            tenant,
            from: day(from),
            currency: "EUR".parse().unwrap(),
            prices: Prices::default(),
        }
    }

    fn plans() -> Plans {
        Plans::new(vec![
            plan(1, None, 1),
            plan(2, Some(TENANT), 10),
            plan(3, None, 20),
            plan(4, Some(TENANT), 10),
            plan(5, Some(TENANT), 5),
        ])
    }

    #[test]
    fn ones_own_plan_holds_before_everyones_and_the_last_one_made_of_those_that_began_together() {
        let plans = plans();
        let at = |tenant, days| plans.at(tenant, day(days)).map(|plan| plan.id);
        assert_eq!(at(TENANT, 0), None);
        assert_eq!(
            [at(TENANT, 1), at(TENANT, 5), at(TENANT, 9)],
            [Some(1), Some(5), Some(5)]
        );
        assert_eq!([at(TENANT, 10), at(TENANT, 99)], [Some(4), Some(4)]);
        assert_eq!([at(OTHER, 19), at(OTHER, 20)], [Some(1), Some(3)]);
    }

    #[test]
    fn spans_cover_what_has_a_plan_and_do_not_overlap() {
        let plans = plans();
        let spans = |tenant, from, to| {
            let spans = plans.spans(tenant, day(from), day(to)).into_iter();
            let days = |at: OffsetDateTime| (at - OffsetDateTime::UNIX_EPOCH).whole_days();
            spans
                .map(|(from, to, plan)| (days(from), days(to), plan.id))
                .collect::<Vec<_>>()
        };
        assert_eq!(spans(TENANT, 0, 30), [(1, 5, 1), (5, 10, 5), (10, 30, 4)]);
        assert_eq!(spans(OTHER, 2, 20), [(2, 20, 1)]);
        assert!(spans(OTHER, 0, 1).is_empty());
        assert!(spans(OTHER, 7, 7).is_empty());
    }
}
