//! The hourly roll-up: what the lines sum up to, whatever happens to postings.

use std::collections::BTreeMap;

use db::{
    Cut, GraphUsage, GraphUsageFilter, GraphUsageGroups, PostingInsert, Span, Usage, UsageFilter, UsageGroups,
};
use domain::posting::{CallKind, Posting};
use domain::{Digest, NodeId, Outcome, TenantId};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::support::*;

fn at(text: &str) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap()
}

/// The last microsecond of an hour, a day, a month and a year.
fn last() -> OffsetDateTime {
    at("2026-12-31T23:59:59.999999Z")
}

const HOURLY: UsageGroups = UsageGroups {
    tenant: false,
    deployment: true,
    kind: true,
    span: Some(Span::Hour),
};

async fn usage(fixture: &Fixture, groups: UsageGroups, filter: &UsageFilter) -> Vec<Usage> {
    let (mut cut, mut all) = (Cut::first(1), Vec::new());
    loop {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        let page = tx.usage_list(groups, filter, &cut).await.unwrap();
        all.extend(page.items);
        cut.after = page.next;
        if cut.after.is_none() {
            return all;
        }
    }
}

async fn model_work(
    fixture: &Fixture,
    groups: GraphUsageGroups,
    tenant: Option<TenantId>,
) -> Vec<GraphUsage> {
    let filter = GraphUsageFilter {
        tenant,
        ..GraphUsageFilter::default()
    };
    let (mut cut, mut all) = (Cut::first(1), Vec::new());
    loop {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        let page = tx.graph_usage_list(groups, &filter, &cut).await.unwrap();
        all.extend(page.items);
        cut.after = page.next;
        if cut.after.is_none() {
            return all;
        }
    }
}

async fn mismatches(fixture: &Fixture) -> u64 {
    let mut tx = fixture.db.billing_tx().await.unwrap();
    tx.usage_mismatches().await.unwrap()
}

/// A window with sums that fit into a number.
fn small(seq: u64, prev_hash: Digest, to: OffsetDateTime) -> Posting {
    let mut posting = window(seq, prev_hash, to);
    for line in &mut posting.lines {
        line.usage.work[0].cpu_ns = 9;
    }
    sealed(posting)
}

fn calls(ok: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([("ok".to_owned(), ok)])
}

#[sqlx::test(migrations = false)]
async fn a_window_counts_in_the_hour_in_which_it_ends(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = small(0, Digest::ZERO, last());
    let second = small(1, first.hash, last() + Duration::MICROSECOND);
    let third = small(2, second.hash, last() + Duration::SECOND);
    for posting in [&first, &second, &third] {
        fixture.post(posting).await;
    }
    let own = UsageFilter {
        tenant: Some(A),
        ..UsageFilter::default()
    };
    let year = at("2027-01-01T00:00:00Z");
    for (span, last) in [
        (Span::Hour, at("2026-12-31T23:00:00Z")),
        (Span::Day, at("2026-12-31T00:00:00Z")),
        (Span::Month, at("2026-12-01T00:00:00Z")),
    ] {
        let groups = UsageGroups {
            span: Some(span),
            ..UsageGroups::default()
        };
        let sums = usage(&fixture, groups, &own).await;
        let shown: Vec<_> = sums
            .iter()
            .map(|sum| (sum.from, sum.fuel, sum.energy_uj, sum.calls.clone()))
            .collect();
        assert_eq!(
            shown,
            [
                (Some(last), 100, Some(30), calls(1)),
                (Some(year), 200, Some(60), calls(2))
            ]
        );
    }
    for (filter, fuel) in [
        (
            UsageFilter {
                from: Some(year),
                ..own.clone()
            },
            Some(200),
        ),
        (
            UsageFilter {
                to: Some(year),
                ..own.clone()
            },
            Some(100),
        ),
        (
            UsageFilter {
                deployment: Some(name("e")),
                ..own.clone()
            },
            None,
        ),
        (
            UsageFilter {
                kind: Some(CallKind::Publish),
                ..own.clone()
            },
            None,
        ),
    ] {
        let sums = usage(&fixture, UsageGroups::default(), &filter).await;
        assert_eq!(sums.first().map(|sum| sum.fuel), fuel, "{filter:?}");
    }
    assert_eq!(mismatches(&fixture).await, 0);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn calls_and_missing_energy_are_counted_apart(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    // A call of A over two windows: the first has no outcome, the second no energy and a trap. B has none at all.
    let mut first = small(0, Digest::ZERO, last());
    first.lines[0].outcome = None;
    first.lines[1].energy_uj = None;
    let first = sealed(first);
    let mut second = small(1, first.hash, last());
    second.lines[0].outcome = Some(Outcome::Trapped);
    second.lines[0].energy_uj = None;
    second.lines[1].call.deployment = None;
    second.lines[1].call.release = None;
    second.lines[1].call.kind = CallKind::Publish;
    second.lines[1].energy_uj = None;
    let second = sealed(second);
    fixture.post(&first).await;
    fixture.post(&second).await;
    let by_tenant = UsageGroups {
        tenant: true,
        ..UsageGroups::default()
    };
    let sums = usage(&fixture, by_tenant, &UsageFilter::default()).await;
    let shown: Vec<_> = sums
        .iter()
        .map(|sum| (sum.tenant, sum.energy_uj, sum.lines, sum.lines_unmetered))
        .collect();
    assert_eq!(shown, [(Some(A), Some(30), 2, 1), (Some(B), None, 2, 2)]);
    assert_eq!(sums[0].calls, BTreeMap::from([("trapped".to_owned(), 1)]));
    let hourly = usage(&fixture, HOURLY, &UsageFilter::default()).await;
    let shown: Vec<_> = hourly
        .iter()
        .map(|sum| (sum.deployment.clone(), sum.kind, sum.lines))
        .collect();
    assert_eq!(
        shown,
        [
            (None, Some(CallKind::Publish), 1),
            (Some(name("d")), Some(CallKind::Infer), 3)
        ]
    );
    assert_eq!(mismatches(&fixture).await, 0);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_posting_that_is_there_adds_nothing(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = small(0, Digest::ZERO, last());
    fixture.post(&first).await;
    let before = usage(&fixture, HOURLY, &UsageFilter::default()).await;
    assert_eq!(fixture.post(&first).await, PostingInsert::Exists);
    assert_eq!(usage(&fixture, HOURLY, &UsageFilter::default()).await, before);
    // Nor does one that is rolled back, or refused after its lines were counted.
    let mut tx = fixture.db.writer_tx().await.unwrap();
    tx.posting_insert(&small(1, first.hash, last())).await.unwrap();
    drop(tx);
    let mut twice = small(1, first.hash, last());
    twice.lines[1] = twice.lines[0].clone();
    let mut tx = fixture.db.writer_tx().await.unwrap();
    tx.posting_insert(&sealed(twice)).await.unwrap_err();
    drop(tx);
    assert_eq!(usage(&fixture, HOURLY, &UsageFilter::default()).await, before);
    // Another node's windows of the hour add up.
    let mut other = small(1, Digest::ZERO, last());
    other.node = NodeId(Uuid::from_u128(0x40df));
    for transfer in &mut other.transfers {
        if let domain::account::Account::Fuel(node) = &mut transfer.credit {
            *node = other.node;
        }
    }
    fixture.post(&sealed(other)).await;
    let after = usage(&fixture, HOURLY, &UsageFilter::default()).await;
    assert_eq!((after.len(), after[0].fuel), (1, 2 * before[0].fuel));
    assert_eq!(mismatches(&fixture).await, 0);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn an_absurd_line_stops_no_window(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    // Model time of half the range of a number in each window.
    let first = window(0, Digest::ZERO, last());
    let second = window(1, first.hash, last());
    let third = window(2, second.hash, last());
    for posting in [&first, &second, &third] {
        assert_eq!(fixture.post(posting).await, PostingInsert::Inserted);
    }
    assert_eq!(mismatches(&fixture).await, 0);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn model_work_is_summed_up_by_graph(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let year = at("2027-01-01T00:00:00Z");
    let mut first = small(0, Digest::ZERO, last());
    // Another graph beside the one that the lines have.
    let mut other = first.lines[0].usage.work[0].clone();
    (other.graph, other.runs, other.rows, other.cpu_ns) = (Digest([7; 32]), 2, 5, 11);
    other.tokens = 13;
    first.lines[0].usage.work.push(other);
    let first = sealed(first);
    let second = small(1, first.hash, year);
    for posting in [&first, &second, &first] {
        fixture.post(posting).await;
    }
    let hourly = GraphUsageGroups {
        graph: true,
        span: Some(Span::Hour),
        ..GraphUsageGroups::default()
    };
    let own = model_work(&fixture, hourly, Some(A)).await;
    let known = &first.lines[0].usage.work[0];
    let shown: Vec<_> = own
        .iter()
        .map(|sum| (sum.from, sum.graph, sum.runs, sum.rows, sum.cpu_ns, sum.tokens))
        .collect();
    let hour = Some(at("2026-12-31T23:00:00Z"));
    let mut expected = vec![
        (hour, Some(known.graph), known.runs, known.rows, 9, 7),
        (hour, Some(Digest([7; 32])), 2, 5, 11, 13),
        (Some(year), Some(known.graph), known.runs, known.rows, 9, 7),
    ];
    expected.sort();
    assert_eq!(shown, expected);
    let all = model_work(&fixture, GraphUsageGroups::default(), None).await;
    assert_eq!(
        (all.len(), all[0].cpu_ns, all[0].tokens),
        (1, 4 * 9 + 11, 4 * 7 + 13)
    );
    let mut tx = fixture.db.tenant_tx(B).await.unwrap();
    let groups = GraphUsageGroups {
        tenant: true,
        ..GraphUsageGroups::default()
    };
    let foreign = GraphUsageFilter {
        tenant: Some(A),
        ..GraphUsageFilter::default()
    };
    let page = tx
        .graph_usage_list(groups, &foreign, &Cut::first(9))
        .await
        .unwrap();
    assert_eq!(
        page.items.iter().map(|sum| sum.tenant).collect::<Vec<_>>(),
        [Some(B)]
    );
    drop(tx);
    assert_eq!(mismatches(&fixture).await, 0);
    sqlx::raw_sql(
        "set session_replication_role = replica; update usage_graph_hour set runs = runs + 1 where runs = 2",
    )
    .execute(&fixture.owner)
    .await
    .unwrap();
    assert_eq!(mismatches(&fixture).await, 1);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn usage_only_grows(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.post(&small(0, Digest::ZERO, last())).await;
    for statement in [
        "update usage_hour set fuel = fuel - 1, lines = lines + 1",
        "update usage_hour set lines = lines",
        "update usage_hour set hour = hour - interval '1 hour', lines = lines + 1",
        "update usage_hour set energy_uj = null, lines_unmetered = lines",
        "delete from usage_hour",
        "truncate usage_hour",
        "update usage_graph_hour set runs = runs - 1",
        "update usage_graph_hour set graph = graph || '0'",
        "delete from usage_graph_hour",
        "truncate usage_graph_hour",
    ] {
        let error = sqlx::query(AssertSqlSafe(statement))
            .execute(&fixture.owner)
            .await;
        assert_eq!(sqlstate(&error.unwrap_err()), "23001", "{statement}");
    }
    let mut login = fixture.login().await;
    let grow = "update usage_hour set lines = lines + 1";
    for role in ["wattle_tenant", "wattle_billing", "wattle_admin"] {
        let answer = attempt(&mut login, role, Some(A), grow).await;
        assert_eq!(answer, Err("42501".into()), "{role}");
    }
    // What was spoilt by a superuser of ill will is found.
    sqlx::raw_sql(
        "set session_replication_role = replica; update usage_hour set fuel = fuel + 1 where fuel = 100",
    )
    .execute(&fixture.owner)
    .await
    .unwrap();
    assert_eq!(mismatches(&fixture).await, 1);
    fixture.finish().await;
}
