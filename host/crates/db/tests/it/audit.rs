//! The audit finds nothing in a sound ledger, and each kind of damage in a damaged one.

use db::{Cut, Gap, Totals};
use domain::account::Account;
use domain::posting::{Posting, Unit};
use domain::{Digest, TenantId};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::support::*;

/// Two windows and an allocation, the second window spoilt.
async fn ledger(options: PgConnectOptions, spoil: fn(&mut Posting)) -> (Fixture, Posting) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let first = window(0, Digest::ZERO, now);
    let mut second = window(1, first.hash, now);
    spoil(&mut second);
    let second = sealed(second);
    let third = allocation(2, second.hash, now);
    for posting in [&first, &second, &third] {
        fixture.post(posting).await;
    }
    (fixture, second)
}

async fn gaps(fixture: &Fixture) -> Vec<Gap> {
    fixture.db.billing_tx().await.unwrap().ledger_gap().await.unwrap()
}

#[sqlx::test(migrations = false)]
async fn a_sound_ledger_balances(_: PgPoolOptions, options: PgConnectOptions) {
    let (fixture, second) = ledger(options, |_| {}).await;
    let gaps = gaps(&fixture).await;
    assert_eq!(gaps.len(), 1);
    let gap = &gaps[0];
    assert_eq!(
        (gap.node, gap.root.as_str(), gap.boot_id, gap.windows),
        (NODE, "modelled", Some(BOOT), 2)
    );
    assert_eq!((gap.start_uj, gap.end_uj, gap.transfers_uj), (1_000, 1_200, 200));
    assert_eq!((gap.gap_uj, gap.breaks), (0, 0));

    let mut tx = fixture.db.billing_tx().await.unwrap();
    let sums = tx.receipts_vs_transfers().await.unwrap();
    let sums: Vec<_> = sums
        .iter()
        .map(|s| {
            (
                s.tenant,
                s.receipts_uj,
                s.dynamic_uj,
                s.fuel_receipts,
                s.fuel_transfers,
            )
        })
        .collect();
    assert_eq!(sums, [(A, 60, 60, 200, 200), (B, 40, 40, 80, 80)]);
    assert_eq!(tx.receipt_mismatches(10).await.unwrap(), []);
    assert_eq!(tx.chain_breaks(10).await.unwrap(), []);
    let totals = Totals {
        windows: 2,
        energy_uj: 200,
        unattributed_uj: 20,
        fuel: 280,
    };
    assert_eq!(tx.totals().await.unwrap(), totals);
    assert_eq!(tx.default_rows().await.unwrap(), 0);

    let balances = tx.balances().await.unwrap();
    let of = |account: Account, unit| {
        balances
            .iter()
            .find(|b| b.account == account && b.unit == unit)
            .map(|balance| balance.amount)
    };
    assert_eq!(of(Account::Meter("modelled".into()), Unit::Uj), Some(-200));
    assert_eq!(of(Account::Tenant(A), Unit::Uj), Some(75));
    assert_eq!(of(Account::Tenant(A), Unit::Fuel), Some(200));
    assert_eq!(of(Account::Idle, Unit::Uj), Some(65));
    assert_eq!(balances.iter().map(|balance| balance.amount).sum::<i64>(), 0);

    let page = tx.windows(&Cut::first(2)).await.unwrap();
    assert_eq!(
        (page.items.len(), page.items[1].hash, page.items[1].energy_uj),
        (2, second.hash, Some(100))
    );
    let cut = Cut {
        after: page.next,
        limit: 2,
    };
    let page = tx.windows(&cut).await.unwrap();
    assert_eq!(
        (page.items.len(), page.items[0].prev_hash, page.items[0].energy_uj),
        (1, second.hash, None)
    );
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_lost_microjoule_is_a_gap(_: PgPoolOptions, options: PgConnectOptions) {
    let (fixture, _) = ledger(options, |posting| posting.transfers[2].amount -= 1).await;
    let gaps = gaps(&fixture).await;
    assert_eq!((gaps.len(), gaps[0].gap_uj, gaps[0].breaks), (1, -1, 0));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_window_counted_twice_is_a_gap(_: PgPoolOptions, options: PgConnectOptions) {
    let (fixture, _) = ledger(options, |posting| {
        posting.roots[0].start_uj -= 100;
        posting.roots[0].end_uj -= 100;
    })
    .await;
    let gaps = gaps(&fixture).await;
    assert_eq!((gaps.len(), gaps[0].gap_uj, gaps[0].breaks), (1, 100, 1));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_hole_between_windows_is_a_gap(_: PgPoolOptions, options: PgConnectOptions) {
    let (fixture, _) = ledger(options, |posting| {
        posting.roots[0].start_uj += 7;
        posting.roots[0].end_uj += 7;
    })
    .await;
    let gaps = gaps(&fixture).await;
    assert_eq!((gaps.len(), gaps[0].gap_uj, gaps[0].breaks), (1, -7, 1));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn energy_without_counters_is_a_gap(_: PgPoolOptions, options: PgConnectOptions) {
    let (fixture, _) = ledger(options, |posting| {
        posting.transfers[3].credit = Account::Meter("package-0".into());
    })
    .await;
    let gaps = gaps(&fixture).await;
    assert_eq!(gaps.len(), 2);
    assert_eq!((gaps[0].root.as_str(), gaps[0].gap_uj), ("modelled", -10));
    assert_eq!(
        (gaps[1].root.as_str(), gaps[1].boot_id, gaps[1].gap_uj),
        ("package-0", None, 10)
    );
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_new_boot_counts_anew(_: PgPoolOptions, options: PgConnectOptions) {
    let (fixture, _) = ledger(options, |posting| {
        posting.roots[0].boot_id = uuid::Uuid::from_u128(0xb008);
        posting.roots[0].start_uj = 3;
        posting.roots[0].end_uj = 103;
    })
    .await;
    let gaps = gaps(&fixture).await;
    assert_eq!(gaps.len(), 2);
    assert!(
        gaps.iter().all(|gap| gap.gap_uj == 0 && gap.breaks == 0),
        "{gaps:?}"
    );
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn receipts_that_differ_are_found(_: PgPoolOptions, options: PgConnectOptions) {
    // What A's receipt says too much, B's says too little: only the finer grain can see it by release.
    let (fixture, second) = ledger(options, |posting| {
        posting.lines[0].energy_uj = Some(31);
        posting.lines[1].energy_uj = Some(19);
        posting.lines[1].usage.fuel += 2;
    })
    .await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let found = tx.receipt_mismatches(10).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|m| (m.posting.seq, m.tenant, m.unit, m.receipts, m.transfers))
        .collect();
    let expected: [(u64, Option<TenantId>, Unit, u64, u64); 3] = [
        (second.seq, Some(A), Unit::Uj, 31, 30),
        (second.seq, Some(B), Unit::Fuel, 42, 40),
        (second.seq, Some(B), Unit::Uj, 19, 20),
    ];
    assert_eq!(found, expected);
    let sums = tx.receipts_vs_transfers().await.unwrap();
    assert_eq!((sums[0].receipts_uj, sums[0].dynamic_uj), (61, 60));
    assert_eq!((sums[1].fuel_receipts, sums[1].fuel_transfers), (82, 80));
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_broken_chain_is_found(_: PgPoolOptions, options: PgConnectOptions) {
    let (fixture, mut second) = ledger(options, |_| {}).await;
    second.prev_hash = Digest::of(b"elsewhere");
    relink(&fixture, &second).await;
    let breaks = fixture
        .db
        .billing_tx()
        .await
        .unwrap()
        .chain_breaks(10)
        .await
        .unwrap();
    assert_eq!(breaks.len(), 1);
    assert_eq!(
        (breaks[0].posting.seq, breaks[0].found),
        (second.seq, second.prev_hash)
    );
    assert_eq!(breaks[0].expected, window(0, Digest::ZERO, second.to).hash);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_chain_begins_at_zero(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut first = window(0, Digest::ZERO, fixture.now().await);
    fixture.post(&first).await;
    first.prev_hash = Digest::of(b"lost");
    relink(&fixture, &first).await;
    let breaks = fixture
        .db
        .billing_tx()
        .await
        .unwrap()
        .chain_breaks(10)
        .await
        .unwrap();
    assert_eq!((breaks.len(), breaks[0].expected), (1, Digest::ZERO));
    fixture.finish().await;
}

/// Gives a stored posting the `prev_hash` of `posting`, as a superuser of ill will can.
async fn relink(fixture: &Fixture, posting: &Posting) {
    let mut owner = fixture.owner.acquire().await.unwrap();
    sqlx::query("set session_replication_role = replica")
        .execute(&mut *owner)
        .await
        .unwrap();
    let done = sqlx::query("update posting set prev_hash = $1 where hash = $2")
        .bind(&posting.prev_hash.0[..])
        .bind(&posting.hash.0[..]);
    assert_eq!(done.execute(&mut *owner).await.unwrap().rows_affected(), 1);
    sqlx::query("reset session_replication_role")
        .execute(&mut *owner)
        .await
        .unwrap();
}
