use proptest::prelude::*;
use time::Duration;
use uuid::Uuid;

use super::super::{Prices, UJ_PER_KWH};
use super::*;

const TENANT: TenantId = TenantId(Uuid::from_u128(7));

fn month(text: &str) -> Month {
    text.parse().unwrap()
}

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn plan(id: i64, from: OffsetDateTime, currency: &str, per_kwh: &str, per_month: &str) -> Plan {
    Plan {
        id,
        tenant: None,
        from,
        currency: currency.parse().unwrap(),
        prices: Prices {
            per_kwh: rate(per_kwh),
            per_month: rate(per_month),
            ..Prices::default()
        },
    }
}

fn energy(of: Month, span: usize, quantity: i128) -> Metered {
    Metered {
        tenant: TENANT,
        deployment: Some("echo".parse().unwrap()),
        month: of,
        span,
        is_correction: false,
        item: Item::Energy,
        quantity,
        provenance: Some(Provenance::Measured),
    }
}

fn drawn(of: Month, plans: &Plans, metered: &[Metered]) -> Statement {
    draw_up(
        TENANT,
        of,
        (OffsetDateTime::UNIX_EPOCH, None),
        plans,
        metered,
        &[],
    )
    .unwrap()
}

#[test]
fn use_is_priced_by_the_plan_that_held() {
    let june = month("2027-06");
    let middle = june.begin() + Duration::days(15);
    let plans = Plans::new(vec![
        plan(1, june.begin() - Duration::days(400), "EUR", "0.30", "0"),
        plan(2, middle, "EUR", "0.40", "0"),
    ]);
    let used = [energy(june, 1, UJ_PER_KWH * 10), energy(june, 2, UJ_PER_KWH * 10)];
    let statement = drawn(june, &plans, &used);
    let lines: Vec<_> = statement
        .lines
        .iter()
        .map(|line| (line.plan, line.amount, line.from, line.to))
        .collect();
    assert_eq!(
        lines,
        [
            (Some(1), 300, june.begin(), middle),
            (Some(2), 400, middle, june.end())
        ]
    );
    assert_eq!(statement.totals, BTreeMap::from([("EUR".parse().unwrap(), 700)]));
}

#[test]
fn tokens_are_priced_by_the_million() {
    let june = month("2027-06");
    let mut plan = plan(1, june.begin(), "EUR", "0", "0");
    plan.prices.per_megatoken = rate("0.5");
    let used = [1_000_000, 40_000].map(|quantity| Metered {
        item: Item::Token,
        ..energy(june, 1, quantity)
    });
    let statement = drawn(june, &Plans::new(vec![plan]), &used);
    let lines: Vec<_> = statement
        .lines
        .iter()
        .map(|line| (line.quantity, line.amount))
        .collect();
    assert_eq!(lines, [(1_040_000, 52)]);
}

#[test]
fn what_came_late_of_a_closed_month_is_a_correction_at_the_prices_of_its_time() {
    let (may, june) = (month("2027-05"), month("2027-06"));
    let plans = Plans::new(vec![
        plan(1, may.begin(), "EUR", "1", "0"),
        plan(2, june.begin(), "EUR", "2", "0"),
    ]);
    let corrected = Metered {
        is_correction: true,
        quantity: -UJ_PER_KWH,
        ..energy(june, 2, 0)
    };
    let used = [
        energy(may, 1, UJ_PER_KWH),
        energy(june, 2, UJ_PER_KWH * 3),
        corrected,
    ];
    let lines: Vec<_> = drawn(june, &plans, &used)
        .lines
        .iter()
        .map(|line| (line.month, line.class, line.amount))
        .collect();
    assert_eq!(
        lines,
        [
            (may, Class::Correction, 100),
            (june, Class::Usage, 600),
            (june, Class::Correction, -200),
        ]
    );
}

#[test]
fn a_flat_price_is_for_the_time_that_it_held_and_the_tenant_was_there() {
    let june = month("2027-06");
    let plans = Plans::new(vec![
        plan(1, june.begin(), "EUR", "0", "30"),
        plan(2, june.begin() + Duration::days(10), "EUR", "0", "60"),
    ]);
    let amounts = |life| {
        let statement = draw_up(TENANT, june, life, &plans, &[], &[]).unwrap();
        statement.lines.iter().map(|line| line.amount).collect::<Vec<_>>()
    };
    assert_eq!(amounts((june.begin(), None)), [1_000, 4_000]);
    assert_eq!(
        amounts((
            june.begin() + Duration::days(9),
            Some(june.begin() + Duration::days(11))
        )),
        [100, 200]
    );
    assert_eq!(amounts((june.end(), None)), [0_i64; 0]);
}

#[test]
fn without_a_plan_use_is_told_and_costs_nothing() {
    let june = month("2027-06");
    let statement = drawn(june, &Plans::default(), &[energy(june, 0, UJ_PER_KWH)]);
    let line = &statement.lines[0];
    assert_eq!((line.plan, line.currency, line.amount), (None, Currency::NONE, 0));
    assert!(statement.totals.is_empty());
    // Until one holds.
    let middle = june.begin() + Duration::days(3);
    let plans = Plans::new(vec![plan(1, middle, "EUR", "1", "0")]);
    let used = [energy(june, 0, UJ_PER_KWH), energy(june, 1, UJ_PER_KWH)];
    let lines: Vec<_> = drawn(june, &plans, &used)
        .lines
        .iter()
        .map(|line| (line.to, line.amount))
        .collect();
    assert_eq!(lines, [(middle, 0), (june.end(), 100)]);
}

#[test]
fn carbon_is_told_with_what_is_known_of_it() {
    let (may, june) = (month("2027-05"), month("2027-06"));
    let told = |month, location_ug| Emitted {
        tenant: TENANT,
        deployment: None,
        month,
        location_ug,
        market_ug: None,
        embodied_ug: None,
    };
    let emitted = [told(june, Some(5)), told(may, Some(-2))];
    let life = (OffsetDateTime::UNIX_EPOCH, None);
    let statement = draw_up(TENANT, june, life, &Plans::default(), &[], &emitted).unwrap();
    let lines: Vec<_> = statement
        .lines
        .iter()
        .map(|line| (line.class, line.quantity, line.amount))
        .collect();
    assert_eq!(lines, [(Class::Correction, -2, 0), (Class::Usage, 5, 0)]);
}

proptest! {
    /// However the changes of other tenants' plans cut the use, the lines and their amounts are the same.
    #[test]
    fn others_plans_change_nothing(parts in proptest::collection::vec(0..UJ_PER_KWH * 100, 1..6)) {
        let june = month("2027-06");
        let own = || plan(1, june.begin(), "EUR", "0.2871", "0");
        let others = (0..parts.len() as i64 - 1).map(|n| Plan {
            tenant: Some(TenantId(Uuid::from_u128(99))),
            ..plan(2 + n, june.begin() + Duration::days(1 + n), "USD", "9", "9")
        });
        let cut = Plans::new(others.chain([own()]).collect());
        let used: Vec<_> = parts.iter().enumerate().map(|(index, part)| energy(june, 1 + index, *part)).collect();
        let whole = [energy(june, 1, parts.iter().sum())];
        prop_assert_eq!(drawn(june, &cut, &used), drawn(june, &Plans::new(vec![own()]), &whole));
    }

    #[test]
    fn the_lines_of_each_currency_sum_to_its_total(quantities in proptest::collection::vec(-UJ_PER_KWH..UJ_PER_KWH * 3, 0..30)) {
        let june = month("2027-06");
        let plans = Plans::new(vec![
            plan(1, june.begin(), "EUR", "0.2871", "19.99"),
            plan(2, june.begin() + Duration::days(7), "JPY", "41.3", "3333"),
        ]);
        let used: Vec<_> = quantities
            .iter()
            .enumerate()
            .map(|(index, quantity)| Metered {
                deployment: Some(format!("d{index}").parse().unwrap()),
                ..energy(june, 1 + index % 2, *quantity)
            })
            .collect();
        let statement = drawn(june, &plans, &used);
        for (currency, total) in &statement.totals {
            let lines = statement.lines.iter().filter(|line| line.currency == *currency);
            prop_assert_eq!(lines.map(|line| line.amount).sum::<i64>(), *total);
        }
        prop_assert_eq!(statement.totals.len(), 2);
    }
}
