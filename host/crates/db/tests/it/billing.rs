//! Plans, months that close, corrections and statements.

use db::{ChargeFilter, Cut, DbError};
use domain::account::Account;
use domain::billing::statement::Metered;
use domain::billing::{Item, Month, Prices};
use domain::energy::Provenance;
use domain::posting::{Posting, Unit};
use domain::{Digest, NodeId, TenantId};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::support::*;

fn month(text: &str) -> Month {
    text.parse().unwrap()
}

fn at(text: &str) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap()
}

fn prices(per_kwh: &str) -> Prices {
    Prices {
        per_kwh: per_kwh.parse().unwrap(),
        ..Prices::default()
    }
}

async fn plan(fixture: &Fixture, tenant: Option<TenantId>, from: &str) -> Option<i64> {
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let made = tx
        .plan_insert(tenant, at(from), "EUR".parse().unwrap(), &prices("0.31"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    made.map(|row| row.plan.id)
}

/// Posts windows that end then, one after the other, and gives the last.
async fn windows(fixture: &Fixture, after: Option<&Posting>, ends: &[&str]) -> Posting {
    let mut last = after.cloned();
    for end in ends {
        let (seq, head) = last
            .as_ref()
            .map_or((0, Digest::ZERO), |last| (last.seq + 1, last.hash));
        let next = window(seq, head, at(end));
        fixture.post(&next).await;
        last = Some(next);
    }
    last.unwrap()
}

type Row = (TenantId, String, usize, Item, i128);

async fn metered(fixture: &Fixture, of: &str) -> Vec<Row> {
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let cut = tx.period(month(of)).await.unwrap().unwrap();
    let plans = tx.plans().await.unwrap();
    let metered = tx.metered(&cut, &plans).await.unwrap();
    let row = |used: &Metered| {
        (
            used.tenant,
            used.month.to_string(),
            used.span,
            used.item,
            used.quantity,
        )
    };
    let mut rows: Vec<_> = metered.iter().map(row).collect();
    rows.retain(|row| !matches!(row.3, Item::Memory | Item::Token));
    rows.sort();
    rows
}

#[sqlx::test(migrations = false)]
async fn a_month_has_what_was_posted_before_its_cut_and_the_next_what_came_late(
    _: PgPoolOptions,
    options: PgConnectOptions,
) {
    let fixture = Fixture::new(options).await;
    plan(&fixture, None, "2026-01-01T00:00:00Z").await;
    plan(&fixture, Some(B), "2026-05-15T00:00:00Z").await;
    let ends = ["2026-05-10T00:00:00Z", "2026-05-20T00:00:00Z"];
    let second = windows(&fixture, None, &ends).await;
    // An allocation counts where it begins: a second before the month ends.
    let mut allocation = allocation(2, second.hash, at("2026-06-01T00:00:00Z"));
    allocation.transfers[0].tenant = Some(A);
    let allocation = sealed(allocation);
    fixture.post(&allocation).await;
    let june = windows(&fixture, Some(&allocation), &["2026-06-01T00:00:00Z"]).await;
    let cut = fixture.cut(month("2026-05")).await;
    let may = || "2026-05".to_owned();
    let expected = [
        (A, may(), 1, Item::Energy, 30),
        (A, may(), 1, Item::Fuel, 100),
        (A, may(), 1, Item::Call, 1),
        (A, may(), 2, Item::Energy, 15),
        (A, may(), 2, Item::Energy, 30),
        (A, may(), 2, Item::Fuel, 100),
        (A, may(), 2, Item::Call, 1),
        (B, may(), 1, Item::Energy, 20),
        (B, may(), 1, Item::Fuel, 40),
        (B, may(), 1, Item::Call, 1),
        (B, may(), 2, Item::Energy, 20),
        (B, may(), 2, Item::Fuel, 40),
        (B, may(), 2, Item::Call, 1),
    ];
    assert_eq!(metered(&fixture, "2026-05").await, expected);

    // What comes late changes nothing of it, and is the next month's.
    windows(&fixture, Some(&june), &["2026-05-25T00:00:00Z"]).await;
    assert_eq!(metered(&fixture, "2026-05").await, expected);
    assert_eq!(fixture.cut(month("2026-05")).await, cut, "it is cut once");
    let next = fixture.cut(month("2026-06")).await;
    assert_eq!(next.after, cut.through);
    let own = || "2026-06".to_owned();
    assert_eq!(
        metered(&fixture, "2026-06").await,
        [
            (A, may(), 2, Item::Energy, 30),
            (A, may(), 2, Item::Fuel, 100),
            (A, may(), 2, Item::Call, 1),
            (A, own(), 2, Item::Energy, 30),
            (A, own(), 2, Item::Fuel, 100),
            (A, own(), 2, Item::Call, 1),
            (B, may(), 2, Item::Energy, 20),
            (B, may(), 2, Item::Fuel, 40),
            (B, may(), 2, Item::Call, 1),
            (B, own(), 2, Item::Energy, 20),
            (B, own(), 2, Item::Fuel, 40),
            (B, own(), 2, Item::Call, 1),
        ]
    );
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let plans = tx.plans().await.unwrap();
    let energy = tx.metered(&cut, &plans).await.unwrap();
    let provenances: Vec<_> = energy
        .iter()
        .filter(|used| used.item == Item::Energy)
        .map(|used| used.provenance)
        .collect();
    // An allocation has no reading of its own, and this one moves the idle energy of no window.
    let known = Some(Provenance::Modelled);
    assert_eq!(provenances, [known, known, None, known, known]);
    let graphs = tx.graph_use(&cut).await.unwrap();
    let graphs: Vec<_> = graphs
        .iter()
        .map(|graph| (graph.tenant, graph.graph, graph.runs, graph.rows, graph.tokens))
        .collect();
    assert_eq!(
        graphs,
        [
            (A, Digest::of(b"graph"), 2, 4, 14),
            (B, Digest::of(b"graph"), 2, 4, 14)
        ]
    );
    drop(tx);
    fixture.finish().await;
}

/// An hour's idle energy moved to a tenant.
fn allocated(after: &Posting, tenant: TenantId, to: &str) -> Posting {
    let mut posting = allocation(after.seq + 1, after.hash, at(to));
    posting.from = posting.to - Duration::HOUR;
    let moved = &mut posting.transfers[0];
    (moved.root, moved.tenant) = (Some("modelled".into()), Some(tenant));
    moved.debit = Account::Tenant(tenant);
    sealed(posting)
}

fn read_as(provenance: Provenance, after: Option<&Posting>, to: &str) -> Posting {
    let (seq, head) = after.map_or((0, Digest::ZERO), |after| (after.seq + 1, after.hash));
    let mut posting = window(seq, head, at(to));
    posting.roots[0].root.provenance = provenance;
    sealed(posting)
}

#[sqlx::test(migrations = false)]
async fn what_is_moved_is_as_sure_as_the_least_of_what_it_cites(_: PgPoolOptions, options: PgConnectOptions) {
    use Provenance::{Estimated, Measured, Modelled};
    let fixture = Fixture::new(options).await;
    let tenant = |id| TenantId(Uuid::from_u128(id));
    let mut posted: Vec<Posting> = Vec::new();
    for (provenance, to) in [
        (Measured, "2026-05-10T10:10:00Z"),
        (Measured, "2026-05-10T10:20:00Z"),
    ] {
        posted.push(read_as(provenance, posted.last(), to));
    }
    posted.push(allocated(&posted[1], tenant(1), "2026-05-10T11:00:00Z"));
    // Of the hour too, but late: the next allocation cites it, and it alone.
    posted.push(read_as(Estimated, posted.last(), "2026-05-10T10:40:00Z"));
    posted.push(allocated(&posted[3], tenant(2), "2026-05-10T11:00:00Z"));
    posted.push(read_as(Measured, posted.last(), "2026-05-10T11:10:00Z"));
    posted.push(read_as(Modelled, posted.last(), "2026-05-10T12:00:00Z"));
    posted.push(allocated(&posted[6], tenant(3), "2026-05-10T12:00:00Z"));
    // Nothing of this hour was read.
    posted.push(allocated(&posted[7], tenant(4), "2026-05-10T13:00:00Z"));
    for posting in &posted {
        fixture.post(posting).await;
    }
    let mut sealer = sealer(posted[8].hash);
    for (id, cited) in [(5, &posted[2]), (6, &posted[3]), (7, &posted[7]), (8, &posted[8])] {
        let asked = correction(tenant(id), 1, cited.hash);
        let mut tx = fixture.db.admin_tx().await.unwrap();
        tx.correction_insert(NODE, &asked).await.unwrap();
        tx.commit().await.unwrap();
        fixture
            .post(&sealer.correct(&asked, at("2026-05-11T00:00:00Z")))
            .await;
    }
    let cut = fixture.cut(month("2026-05")).await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let metered = tx.metered(&cut, &tx_plans()).await.unwrap();
    let energy = metered.iter().filter(|used| used.item == Item::Energy);
    let moved = energy.filter(|used| used.deployment.is_none() || used.is_correction);
    let moved: Vec<_> = moved
        .map(|used| (used.tenant, used.quantity, used.provenance))
        .collect();
    let expected = [
        (tenant(1), 15, Some(Measured)),
        (tenant(2), 15, Some(Estimated)),
        (tenant(3), 15, Some(Modelled)),
        (tenant(4), 15, None),
        (tenant(5), 1, Some(Measured)),
        (tenant(6), 1, Some(Estimated)),
        (tenant(7), 1, Some(Modelled)),
        (tenant(8), 1, None),
    ];
    assert_eq!(moved, expected);
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn memory_is_counted_by_the_most_at_once_times_cpu_time(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    windows(&fixture, None, &["2026-05-10T00:00:00Z"]).await;
    let cut = fixture.cut(month("2026-05")).await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let metered = tx.metered(&cut, &tx_plans()).await.unwrap();
    let memory: Vec<_> = metered.iter().filter(|used| used.item == Item::Memory).collect();
    // 8 bytes × (5 ns of the guest + the work's).
    let expected = 8 * (5 + i128::from(u64::MAX >> 1));
    assert_eq!(
        memory
            .iter()
            .map(|used| (used.span, used.quantity))
            .collect::<Vec<_>>(),
        [(0, expected); 2]
    );
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn tokens_are_counted_over_all_graphs(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut posting = window(0, Digest::ZERO, at("2026-05-10T00:00:00Z"));
    let (own, foreign) = posting.lines.split_at_mut(1);
    let mut more = own[0].usage.work[0].clone();
    (more.graph, more.cpu_ns, more.tokens) = (Digest([7; 32]), 0, 5);
    own[0].usage.work.push(more);
    foreign[0].usage.work.clear();
    fixture.post(&sealed(posting)).await;
    let cut = fixture.cut(month("2026-05")).await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let metered = tx.metered(&cut, &tx_plans()).await.unwrap();
    let tokens = metered.iter().filter(|used| used.item == Item::Token);
    let tokens: Vec<_> = tokens.map(|used| (used.tenant, used.quantity)).collect();
    assert_eq!(tokens, [(A, 7 + 5)]);
    drop(tx);
    fixture.finish().await;
}

fn tx_plans() -> domain::billing::Plans {
    domain::billing::Plans::default()
}

#[sqlx::test(migrations = false)]
async fn no_plan_begins_in_a_month_that_is_cut(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    assert!(plan(&fixture, None, "2026-05-31T23:59:59Z").await.is_some());
    fixture.cut(month("2026-05")).await;
    assert_eq!(plan(&fixture, None, "2026-05-31T23:59:59Z").await, None);
    assert_eq!(plan(&fixture, Some(A), "2020-01-01T00:00:00Z").await, None);
    assert!(plan(&fixture, Some(A), "2026-06-01T00:00:00Z").await.is_some());
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let stranger = Some(TenantId(Uuid::from_u128(0xdead)));
    let refused = tx
        .plan_insert(
            stranger,
            at("2027-01-01T00:00:00Z"),
            "EUR".parse().unwrap(),
            &prices("1"),
        )
        .await;
    assert!(matches!(refused, Err(DbError::Reference { .. })), "{refused:?}");
    drop(tx);
    // Exact to the last digit, and to each its own.
    let mut tx = fixture.db.tenant_tx(B).await.unwrap();
    let seen = tx.plans_list(&Cut::first(10)).await.unwrap().items;
    let seen: Vec<_> = seen
        .iter()
        .map(|row| (row.plan.tenant, row.plan.prices))
        .collect();
    assert_eq!(seen, [(None, prices("0.31"))]);
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_lost_node_is_lost_until_it_posts_again(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let state = async || {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        let states = tx.node_states().await.unwrap();
        assert_eq!(states.len(), 1);
        (states[0].drained_to, states[0].lost_reason.clone())
    };
    let lose = async |reason: &str| {
        let mut tx = fixture.db.admin_tx().await.unwrap();
        tx.node_lose(NODE, reason).await.unwrap();
        tx.commit().await.unwrap();
    };
    let mut tx = fixture.db.admin_tx().await.unwrap();
    tx.node_ensure(NODE, "node").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(state().await, (None, None));
    lose("it never came").await;
    assert_eq!(state().await, (None, Some("it never came".into())));
    let first = windows(&fixture, None, &["2026-05-10T00:00:00Z"]).await;
    assert_eq!(state().await, (Some(first.to), None));
    lose("its disk broke").await;
    assert_eq!(state().await, (Some(first.to), Some("its disk broke".into())));
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let refused = tx.node_lose(NodeId(Uuid::from_u128(0xdead)), "x").await;
    assert!(matches!(refused, Err(DbError::Reference { .. })), "{refused:?}");
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn months_are_closed_in_their_order_and_once(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let next = async || {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        tx.period_next().await.unwrap()
    };
    assert_eq!(next().await, None);
    windows(&fixture, None, &["2026-05-10T00:00:00Z"]).await;
    assert_eq!(next().await, Some(month("2026-05")));
    let cut = fixture.cut(month("2026-05")).await;
    assert_eq!((cut.closed_at, cut.statements), (None, None));
    assert_eq!(next().await, Some(month("2026-05")), "it is cut and not closed");
    let mut tx = fixture.db.admin_tx().await.unwrap();
    tx.statement_insert(&statement(month("2026-05"), A), &[charge(month("2026-05"))])
        .await
        .unwrap();
    tx.period_close(month("2026-05"), 1).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(next().await, Some(month("2026-06")));
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let twice = tx.period_close(month("2026-05"), 1).await;
    assert!(matches!(twice, Err(DbError::Conflict { .. })), "{twice:?}");
    drop(tx);
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let twice = tx.statement_insert(&statement(month("2026-05"), A), &[]).await;
    assert!(matches!(twice, Err(DbError::Conflict { .. })), "{twice:?}");
    drop(tx);
    // A body that is not what its digest says.
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let mut forged = statement(month("2026-05"), B);
    forged.body.push(' ');
    let refused = tx.statement_insert(&forged, &[]).await;
    assert!(matches!(refused, Err(DbError::Check { .. })), "{refused:?}");
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn statements_are_read_as_they_were_written(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let may = month("2026-05");
    fixture.cut(may).await;
    let made = plan(&fixture, None, "2026-06-01T00:00:00Z").await;
    let mut line = charge(may);
    line.quantity = i128::MAX / 1_000;
    line.plan = made;
    line.rate = "0.000000000001".parse().unwrap();
    line.currency = "EUR".parse().unwrap();
    line.amount = -7;
    let mut tx = fixture.db.admin_tx().await.unwrap();
    for tenant in [A, B] {
        tx.statement_insert(&statement(may, tenant), &[charge(may), line.clone()])
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let read = async |tenant: Option<TenantId>, after| {
        let filter = ChargeFilter {
            tenant,
            month: Some(may),
        };
        let mut tx = fixture.db.billing_tx().await.unwrap();
        tx.charges(filter, after, 10).await.unwrap()
    };
    assert!(
        read(None, 0).await.is_empty(),
        "a month that is not closed has none to show"
    );
    let mut tx = fixture.db.admin_tx().await.unwrap();
    tx.period_close(may, 2).await.unwrap();
    tx.commit().await.unwrap();
    let charges = read(None, 0).await;
    assert_eq!(charges.len(), 4);
    assert!(charges.is_sorted_by_key(|charge| charge.id));
    let own = read(Some(B), 0).await;
    assert_eq!(
        own.iter().map(|charge| charge.line.clone()).collect::<Vec<_>>(),
        [charge(may), line]
    );
    assert_eq!(own[0].tenant_name, "tenant-b");
    assert_eq!(read(Some(B), own[0].id).await, own[1..]);
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    // Whomever it asks for, a tenant gets its own.
    let own = tx
        .charges(
            ChargeFilter {
                tenant: Some(B),
                month: None,
            },
            0,
            10,
        )
        .await
        .unwrap();
    assert!(own.iter().all(|charge| charge.tenant == A) && own.len() == 2);
    assert_eq!(tx.statement(may, B).await.unwrap(), Some(statement(may, A)));
    let page = tx
        .statements_list(ChargeFilter::default(), &Cut::first(1))
        .await
        .unwrap();
    assert_eq!((page.items.len(), page.next), (1, None));
    drop(tx);
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let first = tx
        .statements_list(ChargeFilter::default(), &Cut::first(1))
        .await
        .unwrap();
    let cut = Cut {
        after: first.next,
        limit: 1,
    };
    let second = tx.statements_list(ChargeFilter::default(), &cut).await.unwrap();
    assert_eq!([first.items[0].tenant, second.items[0].tenant], [A, B]);
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_correction_cites_takes_no_more_than_there_is_and_counts_when_it_is_sealed(
    _: PgPoolOptions,
    options: PgConnectOptions,
) {
    let fixture = Fixture::new(options).await;
    let first = windows(&fixture, None, &["2026-05-10T00:00:00Z"]).await;
    let left = async |tenant, unit, cites| {
        let mut asked = correction(tenant, -1, cites);
        asked.unit = unit;
        let mut tx = fixture.db.admin_tx().await.unwrap();
        tx.correctable(&asked).await.unwrap()
    };
    assert_eq!(left(A, Unit::Uj, Digest::of(b"nothing")).await, None);
    assert_eq!(left(A, Unit::Uj, first.hash).await, Some(30));
    assert_eq!(left(B, Unit::Fuel, first.hash).await, Some(40));
    let asked = correction(A, -12, first.hash);
    let mut tx = fixture.db.admin_tx().await.unwrap();
    tx.correction_insert(NODE, &asked).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        left(A, Unit::Uj, first.hash).await,
        Some(18),
        "once it is asked for"
    );
    let due = async || {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        tx.corrections_due(NODE).await.unwrap()
    };
    assert_eq!(due().await, std::slice::from_ref(&asked));

    let posting = sealer(first.hash).correct(&asked, at("2026-06-03T00:00:00Z"));
    fixture.post(&posting).await;
    assert!(due().await.is_empty());
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let row = tx
        .corrections_list(&Cut::first(10))
        .await
        .unwrap()
        .items
        .remove(0);
    assert_eq!(row.correction, asked);
    assert_eq!(
        row.posting.map(|key| (key.epoch, key.seq)),
        Some((posting.epoch, 0))
    );
    drop(tx);
    let cites: Option<Vec<u8>> = sqlx::query_scalar("select cites from transfer where kind = 'correction'")
        .fetch_one(&fixture.owner)
        .await
        .unwrap();
    assert_eq!(cites.as_deref(), Some(&first.hash.0[..]));

    fixture.cut(month("2026-05")).await;
    let cut = fixture.cut(month("2026-06")).await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let june = tx.metered(&cut, &tx_plans()).await.unwrap();
    let june: Vec<_> = june
        .iter()
        .map(|used| (used.tenant, used.is_correction, used.quantity))
        .collect();
    assert_eq!(june, [(A, true, -12)]);
    // The books balance still, and the meter with them.
    assert!(tx.ledger_gap().await.unwrap().iter().all(|gap| gap.gap_uj == 0));
    let balances = tx.balances().await.unwrap();
    let uj = balances.iter().filter(|balance| balance.unit == Unit::Uj);
    assert_eq!(uj.map(|balance| balance.amount).sum::<i64>(), 0);
    assert_eq!(tx.correction_mismatches().await.unwrap(), 0);
    let read = tx.windows(&Cut::first(10)).await.unwrap().items;
    let read = tx.posting_get(read[1].key).await.unwrap().unwrap();
    assert_eq!((read.verify(), read.hash), (Ok(()), posting.hash));
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_correction_that_nobody_asked_for_is_found(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = windows(&fixture, None, &["2026-05-10T00:00:00Z"]).await;
    let mut sealer = sealer(first.hash);
    let end = first.to + Duration::SECOND;
    fixture
        .post(&sealer.correct(&correction(A, 5, first.hash), end))
        .await;
    let asked = correction(B, 6, first.hash);
    let mut tx = fixture.db.admin_tx().await.unwrap();
    tx.correction_insert(NODE, &asked).await.unwrap();
    tx.commit().await.unwrap();
    fixture.post(&sealer.correct(&asked, end)).await;
    let mismatches = async || {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        tx.correction_mismatches().await.unwrap()
    };
    assert_eq!(mismatches().await, 1);
    // As a superuser would forge the one that was asked for.
    let forge = "alter table transfer disable trigger all; alter table transfer_default disable trigger all;
         update transfer set amount = 7 where kind = 'correction' and amount = 6";
    sqlx::raw_sql(AssertSqlSafe(forge))
        .execute(&fixture.owner)
        .await
        .unwrap();
    assert_eq!(mismatches().await, 2);
    fixture.finish().await;
}
