//! Factors, sites and valuations: what was known when, and what energy was worth by that.

use db::{Cut, FactorFilter, FactorRow, Use, UseFilter, Valuation, ValuationFilter};
use domain::carbon::{Fact, Factor, Method, Signal, Valued};
use domain::correction::Correction;
use domain::posting::{Posting, TransferKind, Unit};
use domain::{Digest, NodeId};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::support::*;

fn at(text: &str) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap()
}

/// A whole hour of a day that has passed.
fn hour(number: i64) -> OffsetDateTime {
    at("2026-03-01T00:00:00Z") + Duration::hours(number)
}

async fn factors(fixture: &Fixture, filter: &FactorFilter) -> Vec<FactorRow> {
    let (mut cut, mut all) = (Cut::first(1), Vec::new());
    loop {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        let page = tx.factors_list(filter, &cut).await.unwrap();
        all.extend(page.items);
        cut.after = page.next;
        if cut.after.is_none() {
            return all;
        }
    }
}

/// The factor of another kind.
fn of(factor: &Factor, signal: Signal, method: Method, change: impl FnOnce(&mut Fact<u64>)) -> Factor {
    let mut fact = factor.parts().2;
    change(&mut fact);
    Factor::new(signal, method, fact).unwrap()
}

#[sqlx::test(migrations = false)]
async fn only_what_is_new_is_added(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = factor(hour(0), 400_000);
    assert_eq!(fixture.learn(&[]).await, 0);
    assert_eq!(fixture.learn(&[first.clone(), factor(hour(1), 1)]).await, 2);
    assert_eq!(fixture.learn(&[first.clone(), factor(hour(1), 1)]).await, 0);
    // Another kind, another zone, or anything else about it is new; of two in one go the last counts.
    let changed = [
        of(&first, Signal::Average, Method::Market, |_| {}),
        of(&first, Signal::Marginal, Method::Location, |_| {}),
        of(&first, Signal::Average, Method::Location, |fact| {
            fact.zone = "FR".parse().unwrap()
        }),
        of(&first, Signal::Average, Method::Location, |fact| {
            fact.to = hour(2)
        }),
        of(&first, Signal::Average, Method::Location, |fact| {
            fact.version = "2".into()
        }),
        of(&first, Signal::Average, Method::Location, |fact| {
            fact.source = "other".into()
        }),
        of(&first, Signal::Average, Method::Location, |fact| {
            fact.is_estimated = true
        }),
    ];
    for factor in &changed {
        assert_eq!(
            fixture.learn(&[first.clone(), factor.clone()]).await,
            1,
            "{factor:?}"
        );
    }
    // What was so before is new again after it was otherwise.
    assert_eq!(fixture.learn(std::slice::from_ref(&first)).await, 1);
    assert_eq!(factors(&fixture, &FactorFilter::default()).await.len(), 10);

    let mut tx = fixture.db.admin_tx().await.unwrap();
    assert_eq!(tx.factor_add(&first).await.unwrap(), None);
    let revised = tx.factor_add(&factor(hour(0), 7)).await.unwrap().unwrap();
    assert_eq!(tx.factor_newest(&first).await.unwrap(), Some(revised.clone()));
    tx.commit().await.unwrap();
    let all = factors(&fixture, &FactorFilter::default()).await;
    assert_eq!(all.last(), Some(&revised));
    assert!(all.is_sorted_by_key(|row| row.id));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn of_two_in_one_batch_the_last_counts_each_time(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let other = of(&factor(hour(0), 3), Signal::Average, Method::Location, |fact| {
        fact.source = "other".into()
    });
    for twice in [
        [factor(hour(0), 1), factor(hour(0), 2)],
        [factor(hour(0), 1), other],
    ] {
        assert_eq!(fixture.learn(&twice).await, 1, "{twice:?}");
        assert_eq!(fixture.learn(&twice).await, 0, "{twice:?}");
    }
    fixture.finish().await;
}

/// Providers are asked by the hour and say the same again: what someone else has said since stays.
#[sqlx::test(migrations = false)]
async fn a_provider_does_not_undo_a_revision(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut used = small(0, Digest::ZERO, hour(0) + Duration::minutes(20));
    used.lines[0].energy_uj = Some(3_600_000_000);
    fixture.post(&sealed(used)).await;
    fixture.stand(&site(hour(0))).await;
    let said = |source: &'static str, mg_per_kwh| {
        let factor = factor(hour(0), mg_per_kwh);
        of(&factor, Signal::Average, Method::Location, |fact| {
            fact.source = source.into()
        })
    };
    let (yearly, rival) = (said("yearly", 400_000), said("rival", 100_000));
    for provider in [&yearly, &rival] {
        assert_eq!(fixture.learn(std::slice::from_ref(provider)).await, 1);
    }
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let own = tx.factor_add(&said("own", 300_000)).await.unwrap();
    assert!(own.is_some());
    tx.commit().await.unwrap();
    for provider in [yearly, rival] {
        assert_eq!(fixture.learn(&[provider]).await, 0, "the second pass");
    }
    let worth = worth(&fixture, fixture.now().await).await;
    assert_eq!(worth.location.amount, Some(450_000));
    // A provider's own revision is new all the same.
    assert_eq!(fixture.learn(&[said("yearly", 200_000)]).await, 1);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn factors_are_found_by_what_is_asked(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = factor(hour(0), 1);
    let other = of(&first, Signal::Marginal, Method::Location, |fact| {
        fact.zone = "DE_LU".parse().unwrap()
    });
    fixture.learn(&[first.clone(), other]).await;
    let then = fixture.now().await;
    fixture.learn(&[factor(hour(0), 2), factor(hour(1), 3)]).await;
    let found = async |filter: FactorFilter| {
        let rows = factors(&fixture, &filter).await;
        rows.iter()
            .map(|row| row.known.it.parts().2.intensity)
            .collect::<Vec<_>>()
    };
    let none = FactorFilter::default;
    assert_eq!(found(none()).await, [1, 1, 2, 3]);
    assert_eq!(
        found(FactorFilter {
            zone: Some("DE".parse().unwrap()),
            ..none()
        })
        .await,
        [1, 2, 3]
    );
    assert_eq!(
        found(FactorFilter {
            signal: Some(Signal::Marginal),
            ..none()
        })
        .await,
        [1]
    );
    assert_eq!(
        found(FactorFilter {
            method: Some(Method::Market),
            ..none()
        })
        .await,
        [0_u64; 0]
    );
    assert_eq!(
        found(FactorFilter {
            at: Some(hour(1)),
            ..none()
        })
        .await,
        [3]
    );
    assert_eq!(
        found(FactorFilter {
            at: Some(hour(2)),
            ..none()
        })
        .await,
        [0_u64; 0]
    );
    assert_eq!(
        found(FactorFilter {
            as_of: Some(then),
            ..none()
        })
        .await,
        [1, 1]
    );
    fixture.finish().await;
}

/// Nobody says when something became known but the database.
#[sqlx::test(migrations = false)]
async fn no_role_backdates_what_it_knows(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut login = fixture.login().await;
    let insert = |column: &str, value: &str| {
        format!(
            "insert into factor (zone, signal, method, valid_from, valid_to, mg_per_kwh, source, version,
                 is_estimated{column})
             values ('DE', 'average', 'location', now(), now() + interval '1 hour', 1, 'x', '1', false{value})"
        )
    };
    for role in ROLES {
        let backdated = attempt(
            &mut login,
            role,
            None,
            &insert(", known_at", ", now() - interval '1 day'"),
        )
        .await;
        assert_eq!(backdated, Err("42501".into()), "{role}");
        let plain = attempt(&mut login, role, None, &insert("", "")).await;
        assert_eq!(
            plain.is_ok(),
            ["wattle_writer", "wattle_admin"].contains(&role),
            "{role}"
        );
    }
    login.close().await.unwrap();
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_site_is_noted_when_it_changes(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = site(hour(0));
    assert!(fixture.stand(&first).await);
    assert!(!fixture.stand(&site(hour(5))).await, "a restart changes nothing");
    let mut moved = site(hour(6));
    (moved.zone, moved.hardware) = (None, None);
    assert!(fixture.stand(&moved).await);
    assert!(!fixture.stand(&moved).await);
    assert!(fixture.stand(&site(hour(7))).await, "back again");
    let mut earlier = moved.clone();
    earlier.from = hour(5);
    assert!(
        !fixture.stand(&site(hour(5))).await,
        "what begins later does not count"
    );
    assert!(fixture.stand(&earlier).await, "a clock that went back");
    let torn =
        "insert into site (node, valid_from, pue_ppm, pue_is_estimated, ewif_is_estimated, cfe_ppm, life_s)
                values (gen_random_uuid(), now(), 1000000, false, false, 0, 1)";
    let refused = sqlx::query(torn).execute(&fixture.owner).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "23514", "hardware is known as a whole or not");
    fixture.finish().await;
}

/// A window in which A used 30 µJ and B 20, with sums that fit into a number.
fn small(seq: u64, prev_hash: Digest, to: OffsetDateTime) -> Posting {
    let mut posting = window(seq, prev_hash, to);
    for line in &mut posting.lines {
        line.usage.work[0].cpu_ns = 9;
    }
    sealed(posting)
}

fn march() -> UseFilter {
    UseFilter {
        tenant: None,
        deployment: None,
        node: None,
        from: hour(0),
        to: hour(24),
        now: hour(1) + Duration::minutes(30),
    }
}

#[sqlx::test(migrations = false)]
async fn use_is_what_was_measured_and_what_was_allocated(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = small(0, Digest::ZERO, hour(0) + Duration::minutes(20));
    let second = small(1, first.hash, hour(1) + Duration::minutes(20));
    let mut idle = allocation(2, second.hash, hour(2));
    idle.from = hour(1);
    idle.transfers[0].tenant = Some(A);
    let idle = sealed(idle);
    for posting in [&first, &second, &idle] {
        fixture.post(posting).await;
    }
    let shown = |uses: Vec<Use>| {
        let each = uses.into_iter().map(|used| {
            let minutes = |at: OffsetDateTime| (at - hour(0)).whole_minutes();
            let slot = used.slot;
            (
                used.tenant,
                minutes(slot.from),
                minutes(slot.to),
                slot.energy_uj,
                slot.used_ns,
                used.lines,
            )
        });
        each.collect::<Vec<_>>()
    };
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let all = tx.carbon_use(&march(), 100).await.unwrap();
    let mut rows = shown(all.clone());
    rows.sort_unstable();
    // The hour that goes on lasts until now, and the allocation is of its own hour.
    let expected = [
        (A, 0, 60, Some(30), 14, 1),
        (A, 60, 90, Some(30), 14, 1),
        (A, 60, 120, Some(15), 0, 0),
        (B, 0, 60, Some(20), 14, 1),
        (B, 60, 90, Some(20), 14, 1),
    ];
    assert_eq!(rows, expected);
    assert_eq!(
        all.iter()
            .filter(|used| used.deployment == Some(name("d")))
            .count(),
        4
    );
    assert_eq!(tx.carbon_use(&march(), 2).await.unwrap(), all[..2]);
    let only = |change: fn(&mut UseFilter)| {
        let mut filter = march();
        change(&mut filter);
        filter
    };
    for (filter, rows) in [
        (only(|filter| filter.tenant = Some(B)), 2),
        (only(|filter| filter.deployment = Some(name("d"))), 4),
        (only(|filter| filter.deployment = Some(name("e"))), 0),
        (only(|filter| filter.node = Some(NodeId(Uuid::nil()))), 0),
        (only(|filter| filter.to = hour(1)), 2),
        (only(|filter| filter.from = hour(1)), 3),
    ] {
        assert_eq!(
            tx.carbon_use(&filter, 100).await.unwrap().len(),
            rows,
            "{filter:?}"
        );
    }
    // A tenant has its own only, whatever it asks for.
    let mut own = fixture.db.tenant_tx(B).await.unwrap();
    let filter = only(|filter| filter.tenant = Some(A));
    assert_eq!(shown(own.carbon_use(&filter, 100).await.unwrap()), expected[3..]);
    drop((tx, own));
    fixture.finish().await;
}

/// What A used in March's first hour was worth, as of an instant.
async fn worth(fixture: &Fixture, as_of: OffsetDateTime) -> Valued {
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let uses = tx.carbon_use(&march(), 100).await.unwrap();
    let evidence = tx.carbon_evidence(&uses, as_of, 9).await.unwrap().unwrap();
    let mut sum = domain::carbon::Valuation::default();
    for used in uses {
        evidence.value(used.node, &used.slot, &mut sum).unwrap();
    }
    sum.valued().unwrap()
}

#[sqlx::test(migrations = false)]
async fn a_revision_leaves_the_past_as_it_was_known(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut used = small(0, Digest::ZERO, hour(0) + Duration::minutes(20));
    used.lines[0].energy_uj = Some(3_600_000_000);
    fixture.post(&sealed(used)).await;
    let nothing = fixture.now().await;
    fixture.stand(&site(hour(0))).await;
    fixture.learn(&[factor(hour(0), 400_000)]).await;
    let first = fixture.now().await;
    fixture.learn(&[factor(hour(0), 300_000)]).await;
    let second = fixture.now().await;
    for (as_of, ug) in [
        (nothing, None),
        (first, Some(600_000)),
        (second, Some(450_000)),
        (first, Some(600_000)),
    ] {
        let worth = worth(&fixture, as_of).await;
        assert_eq!(worth.location.amount, ug, "{as_of}");
        assert_eq!(worth.energy_uj, Some(3_600_000_000));
        assert_eq!((worth.marginal.amount, worth.water.amount), (None, None));
    }
    fixture.finish().await;
}

async fn valuations(fixture: &Fixture, filter: &ValuationFilter) -> Vec<Valuation> {
    let (mut cut, mut all) = (Cut::first(1), Vec::new());
    loop {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        let page = tx.valuations_list(filter, &cut).await.unwrap();
        all.extend(page.items);
        cut.after = page.next;
        if cut.after.is_none() {
            return all;
        }
    }
}

#[sqlx::test(migrations = false)]
async fn the_newest_valuation_as_of_an_instant_is_read(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let (early, late) = (hour(100), hour(200));
    let mut kept = Vec::new();
    for (day, as_of, ug) in [(0, early, 1), (0, late, 2), (24, early, 3)] {
        for tenant in [A, B] {
            let valuation = valuation(hour(day), as_of, tenant, ug);
            fixture.value(&valuation).await;
            kept.push(valuation);
        }
    }
    let read = async |filter: ValuationFilter| valuations(&fixture, &filter).await;
    let none = ValuationFilter::default;
    let as_of = |at| ValuationFilter {
        as_of: Some(at),
        ..none()
    };
    let pick = |places: &[usize]| {
        places
            .iter()
            .map(|&place| kept[place].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(read(none()).await, pick(&[2, 3, 4, 5]));
    assert_eq!(read(as_of(late)).await, pick(&[2, 3, 4, 5]));
    assert_eq!(
        read(as_of(late - Duration::MICROSECOND)).await,
        pick(&[0, 1, 4, 5])
    );
    assert_eq!(read(as_of(early - Duration::MICROSECOND)).await, []);
    assert_eq!(
        read(ValuationFilter {
            to: Some(hour(24)),
            ..none()
        })
        .await,
        pick(&[2, 3])
    );
    assert_eq!(
        read(ValuationFilter {
            from: Some(hour(24)),
            ..none()
        })
        .await,
        pick(&[4, 5])
    );
    assert_eq!(
        read(ValuationFilter {
            tenant: Some(B),
            ..none()
        })
        .await,
        pick(&[3, 5])
    );
    assert_eq!(
        read(ValuationFilter {
            deployment: Some(name("e")),
            ..none()
        })
        .await,
        []
    );
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let asked = ValuationFilter {
        tenant: Some(B),
        ..none()
    };
    let own = tx.valuations_list(&asked, &Cut::first(9)).await.unwrap();
    assert_eq!(own.items, pick(&[2, 4]));
    drop(tx);

    let mut tx = fixture.db.writer_tx().await.unwrap();
    let twice = tx.valuation_insert(&kept[0]).await.unwrap_err();
    assert!(
        matches!(&twice, db::DbError::Conflict { constraint } if constraint == "valuation_key"),
        "{twice:?}"
    );
    drop(tx);
    let mut tx = fixture.db.writer_tx().await.unwrap();
    let mut more = valuation(hour(0), hour(300), A, 1);
    more.valued.location.covered_uj += 1;
    let refused = tx.valuation_insert(&more).await.unwrap_err();
    let over = "valuation_covers_what_there_is";
    assert!(
        matches!(&refused, db::DbError::Check { constraint } if constraint == over),
        "{refused:?}"
    );
    drop(tx);
    fixture.finish().await;
}

const NONE: [i64; 0] = [];

/// A day is valued when it is new, and again when more is known of it.
#[sqlx::test(migrations = false)]
async fn days_wait_for_a_valuation_that_knows_all(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let waiting = async || {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        let days = tx.days_to_value(NODE, hour(0), hour(48), 9, &[]).await.unwrap();
        days.iter()
            .map(|day| (*day - hour(0)).whole_hours())
            .collect::<Vec<_>>()
    };
    let revalue = async || {
        let as_of = fixture.now().await;
        for tenant in [A, B] {
            fixture.value(&valuation(hour(0), as_of, tenant, 1)).await;
        }
    };
    let first = small(0, Digest::ZERO, hour(3));
    fixture.post(&first).await;
    assert_eq!(waiting().await, [0]);
    revalue().await;
    assert_eq!(waiting().await, NONE);

    // Elsewhere, or another day: nothing new of this one.
    fixture
        .learn(&[factor(hour(0), 1), factor(hour(24), 1), factor(hour(-1), 1)])
        .await;
    assert_eq!(waiting().await, NONE, "the node stands nowhere yet");
    fixture.stand(&site(hour(24))).await;
    assert_eq!(
        waiting().await,
        [0],
        "its zone is known now, and so is a factor of it"
    );
    revalue().await;
    fixture.learn(&[factor(hour(24), 2), factor(hour(-1), 2)]).await;
    assert_eq!(waiting().await, NONE);
    fixture.learn(&[factor(hour(23), 2)]).await;
    assert_eq!(waiting().await, [0]);
    revalue().await;
    let mut moved = site(hour(0));
    moved.pue_ppm += 1;
    fixture.stand(&moved).await;
    assert_eq!(waiting().await, [0]);
    revalue().await;
    fixture.post(&small(1, first.hash, hour(4))).await;
    assert_eq!(waiting().await, [0], "receipts came late");
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let elsewhere = NodeId(Uuid::nil());
    for (node, from, limit) in [(elsewhere, 0, 9), (NODE, 24, 9), (NODE, 0, 0)] {
        let days = tx
            .days_to_value(node, hour(from), hour(48), limit, &[])
            .await
            .unwrap();
        assert!(days.is_empty(), "{node} {from} {limit}");
    }
    let days = tx.days_to_value(NODE, hour(0), hour(48), 9, &[hour(0)]).await;
    assert!(days.unwrap().is_empty(), "a day that is skipped");
    drop(tx);
    fixture.finish().await;
}

/// Idle energy comes an hour later, or much later after a crash: its day is valued with it, also where nobody called.
#[sqlx::test(migrations = false)]
async fn idle_energy_that_comes_late_values_its_day_anew(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let waiting = async || {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        let days = tx.days_to_value(NODE, hour(0), hour(48), 9, &[]).await.unwrap();
        days.iter()
            .map(|day| (*day - hour(0)).whole_hours())
            .collect::<Vec<_>>()
    };
    let revalue = async |more_uj: u64| {
        let as_of = fixture.now().await;
        for (tenant, more_uj) in [(A, more_uj), (B, 0)] {
            let mut valuation = valuation(hour(0), as_of, tenant, 1);
            valuation.valued.energy_uj = valuation.valued.energy_uj.map(|uj| uj + more_uj);
            fixture.value(&valuation).await;
        }
    };
    let idle = |seq, before: Digest, to, tenant| {
        let mut idle = allocation(seq, before, to);
        idle.transfers[0].tenant = tenant;
        sealed(idle)
    };
    let first = small(0, Digest::ZERO, hour(3));
    fixture.post(&first).await;
    revalue(0).await;
    assert_eq!(waiting().await, NONE);
    let second = idle(1, first.hash, hour(24), Some(A));
    fixture.post(&second).await;
    assert_eq!(waiting().await, [0], "the day's last hour");
    revalue(15).await;
    assert_eq!(waiting().await, NONE);
    let third = idle(2, second.hash, hour(30), Some(A));
    fixture.post(&third).await;
    assert_eq!(waiting().await, [24], "nobody called on that day");
    let mut kept_ready = valuation(hour(24), fixture.now().await, A, 1);
    kept_ready.lines = 0;
    kept_ready.valued.energy_uj = Some(15);
    for figure in [&mut kept_ready.valued.location, &mut kept_ready.valued.market] {
        (figure.covered_uj, figure.estimated_uj) = (15, 0);
    }
    fixture.value(&kept_ready).await;
    assert_eq!(waiting().await, NONE);
    fixture.post(&idle(3, third.hash, hour(31), None)).await;
    assert_eq!(waiting().await, NONE, "the platform's share is nobody's use");
    fixture.finish().await;
}

/// What is taken back was worth nothing, and what is added was: in the hour of what the correction cites.
#[sqlx::test(migrations = false)]
async fn a_correction_is_of_the_time_of_what_it_cites(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = small(0, Digest::ZERO, hour(0) + Duration::minutes(20));
    let mut idle = allocation(1, first.hash, hour(2));
    idle.from = hour(1);
    idle.transfers[0].tenant = Some(A);
    let idle = sealed(idle);
    fixture.post(&first).await;
    fixture.post(&idle).await;
    let as_of = fixture.now().await;
    for (tenant, more_uj) in [(A, 15), (B, 0)] {
        let mut valuation = valuation(hour(0), as_of, tenant, 1);
        valuation.valued.energy_uj = valuation.valued.energy_uj.map(|uj| uj + more_uj);
        fixture.value(&valuation).await;
    }
    let read = async || {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        let uses = tx.carbon_use(&march(), 100).await.unwrap();
        let mut uses: Vec<_> = uses
            .into_iter()
            .map(|used| {
                (
                    used.tenant,
                    (used.slot.from - hour(0)).whole_hours(),
                    used.slot.energy_uj,
                    used.lines,
                )
            })
            .collect();
        uses.sort();
        (
            uses,
            tx.days_to_value(NODE, hour(0), hour(48), 9, &[]).await.unwrap(),
        )
    };
    assert!(read().await.1.is_empty());

    // Asked for, they change nothing; in the ledger they do, whenever that is.
    let of_idle = Correction {
        deployment: None,
        ..correction(A, -5, idle.hash)
    };
    let all = [
        correction(A, -12, first.hash),
        correction(B, 7, first.hash),
        of_idle,
    ];
    let mut tx = fixture.db.admin_tx().await.unwrap();
    for correction in &all {
        tx.correction_insert(NODE, correction).await.unwrap();
    }
    tx.commit().await.unwrap();
    let before = [(A, 0, Some(30), 1), (A, 1, Some(15), 0), (B, 0, Some(20), 1)];
    assert_eq!(read().await, (before.to_vec(), vec![]));
    let mut sealer = sealer(idle.hash);
    for correction in &all {
        fixture.post(&sealer.correct(correction, hour(900))).await;
    }
    let after = [(A, 0, Some(18), 1), (A, 1, Some(10), 0), (B, 0, Some(27), 1)];
    assert_eq!(read().await, (after.to_vec(), vec![hour(0)]));
    let mut own = fixture.db.tenant_tx(B).await.unwrap();
    let uses = own.carbon_use(&march(), 100).await.unwrap();
    assert_eq!(
        uses.iter().map(|used| used.slot.energy_uj).collect::<Vec<_>>(),
        [Some(27)]
    );
    drop(own);
    fixture.finish().await;
}

/// Null, and not 0, where no reading covers anything.
#[sqlx::test(migrations = false)]
async fn what_no_reading_covers_has_no_energy(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut used = small(0, Digest::ZERO, hour(3));
    used.lines.truncate(1);
    used.lines[0].energy_uj = None;
    used.transfers.retain(|transfer| transfer.tenant != Some(B));
    used.transfers.retain(|transfer| transfer.unit != Unit::Uj);
    fixture.post(&sealed(used)).await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let uses = tx.carbon_use(&march(), 9).await.unwrap();
    assert_eq!((uses.len(), uses[0].slot.energy_uj), (1, None), "{uses:?}");
    drop(tx);
    let of_a_day = |energy_uj, covered_uj, lines_unmetered| {
        let mut valuation = valuation(hour(0), hour(100), A, 1);
        valuation.lines_unmetered = lines_unmetered;
        valuation.valued.energy_uj = energy_uj;
        for figure in [
            &mut valuation.valued.location,
            &mut valuation.valued.market,
            &mut valuation.valued.marginal,
        ] {
            (figure.amount, figure.covered_uj, figure.estimated_uj) = (None, covered_uj, 0);
        }
        valuation
    };
    for (wrong, constraint) in [
        (of_a_day(None, 1, 1), "valuation_covers_what_there_is"),
        (of_a_day(None, 0, 0), "valuation_energy_is_metered"),
    ] {
        let mut tx = fixture.db.writer_tx().await.unwrap();
        let refused = tx.valuation_insert(&wrong).await.unwrap_err();
        assert!(
            matches!(&refused, db::DbError::Check { constraint: found } if found == constraint),
            "{refused:?}"
        );
    }
    let kept = of_a_day(None, 0, 1);
    fixture.value(&kept).await;
    assert_eq!(valuations(&fixture, &ValuationFilter::default()).await, [kept]);
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let days = tx.days_to_value(NODE, hour(0), hour(48), 9, &[]).await.unwrap();
    assert!(days.is_empty(), "nothing is to be valued again for it");
    drop(tx);
    // A valuation of before said 0 where nothing was metered, and also where nothing was used.
    for (lines_unmetered, read) in [(1, None), (0, Some(0))] {
        let mut old = of_a_day(Some(0), 0, lines_unmetered);
        old.as_of = hour(101 - i64::try_from(lines_unmetered).unwrap());
        old.day = hour(24 * (1 + i64::try_from(lines_unmetered).unwrap()));
        fixture.value(&old).await;
        let filter = ValuationFilter {
            from: Some(old.day),
            to: Some(old.day + Duration::HOUR),
            ..ValuationFilter::default()
        };
        assert_eq!(valuations(&fixture, &filter).await[0].valued.energy_uj, read);
    }
    fixture.finish().await;
}

/// What a source takes back is no longer known, and the days that rested on it wait.
#[sqlx::test(migrations = false)]
async fn a_revision_that_ends_earlier_takes_the_rest_back(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.post(&small(0, Digest::ZERO, hour(1))).await;
    fixture.stand(&site(hour(0))).await;
    let until = |end| {
        let factor = factor(hour(-30), 400_000);
        of(&factor, Signal::Average, Method::Location, |fact| {
            fact.to = hour(end)
        })
    };
    fixture.learn(&[until(24)]).await;
    let before = fixture.now().await;
    for tenant in [A, B] {
        fixture.value(&valuation(hour(0), before, tenant, 1)).await;
    }
    let waiting = async || {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        tx.days_to_value(NODE, hour(0), hour(48), 9, &[]).await.unwrap()
    };
    assert!(waiting().await.is_empty());
    fixture.learn(&[until(-29)]).await;
    assert_eq!(waiting().await, [hour(0)]);
    assert!(worth(&fixture, before).await.location.amount.is_some());
    let after = fixture.now().await;
    assert_eq!(worth(&fixture, after).await.location.amount, None);
    fixture.finish().await;
}

/// What is read to value by grows with what was used, not with what was asked for, and has a bound.
#[sqlx::test(migrations = false)]
async fn evidence_is_of_what_was_used_and_bounded(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.stand(&site(hour(0))).await;
    let far: Vec<_> = (10..30).map(|at| factor(hour(at), 1)).collect();
    fixture.learn(&far).await;
    fixture
        .post(&small(0, Digest::ZERO, hour(0) + Duration::minutes(20)))
        .await;
    // Whether what is known of `uses` takes at most so many factors.
    let fits = async |uses: &[Use], limit| {
        let now = fixture.now().await;
        let mut tx = fixture.db.billing_tx().await.unwrap();
        let evidence = tx.carbon_evidence(uses, now, limit).await.unwrap();
        evidence.is_some()
    };
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let uses = tx.carbon_use(&march(), 100).await.unwrap();
    drop(tx);
    assert!(fits(&[], 0).await && !uses.is_empty());
    assert!(fits(&uses, 0).await, "none is near");
    fixture.learn(&[factor(hour(-1), 1), factor(hour(0), 1)]).await;
    assert!(fits(&uses, 1).await);
    assert!(!fits(&uses, 0).await, "one too many");
    let elsewhere = uses.into_iter().map(|used| Use {
        node: NodeId(Uuid::nil()),
        ..used
    });
    let elsewhere: Vec<_> = elsewhere.collect();
    assert!(fits(&elsewhere, 0).await, "no site");
    fixture.finish().await;
}

/// A sum that no column holds stops nobody: it is as large as a column holds.
#[sqlx::test(migrations = false)]
async fn sums_of_use_do_not_overflow(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture
        .post(&window(0, Digest::ZERO, hour(0) + Duration::minutes(20)))
        .await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let uses = tx.carbon_use(&march(), 100).await.unwrap();
    assert!(
        uses.len() == 2 && uses.iter().all(|used| used.slot.used_ns == i64::MAX as u64),
        "{uses:?}"
    );
    drop(tx);
    fixture.finish().await;
}

/// An allocation without a tenant, as one to the platform is, belongs to nobody's use.
#[sqlx::test(migrations = false)]
async fn the_platforms_share_is_no_tenants(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let idle = allocation(0, Digest::ZERO, hour(2));
    assert!(
        idle.transfers
            .iter()
            .all(|transfer| transfer.kind == TransferKind::Allocation)
    );
    fixture.post(&idle).await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    assert_eq!(tx.carbon_use(&march(), 9).await.unwrap(), []);
    drop(tx);
    fixture.finish().await;
}
