//! Receipt lines are stored by the block, and read as if they were not.

use db::{Cut, Receipt, ReceiptFilter};
use domain::posting::{Posting, ReceiptLine};
use domain::{Digest, InvocationId, Outcome, TenantId};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::lists::pages;
use crate::support::*;

/// The id of a call that was made in a millisecond.
fn made(ms: u64, number: u64) -> InvocationId {
    InvocationId(Uuid::from_u128(u128::from(ms) << 80 | u128::from(number)))
}

/// Lines of a tenant's calls of one millisecond, like those of `posting`; every 500th call trapped.
fn lines(posting: &Posting, tenant: TenantId, ms: u64, count: u64) -> Vec<ReceiptLine> {
    let line = posting.lines.iter().find(|line| line.call.tenant == tenant);
    let mut line = line.unwrap().clone();
    line.usage.work.clear();
    (0..count)
        .map(|number| {
            let mut line = line.clone();
            line.call.invocation = made(ms, number << 8 | tenant.0.as_u128() as u64);
            line.usage.fuel = number;
            line.outcome = Some(if number % 500 == 499 {
                Outcome::Trapped
            } else {
                Outcome::Ok
            });
            line
        })
        .collect()
}

/// A slot, in milliseconds.
const SLOT: u64 = 1 << 16;

/// Three windows: of calls of A in two slots and of B in one, then two with nothing but the rest of a call of A.
async fn busy(fixture: &Fixture) -> [Posting; 3] {
    let now = fixture.now().await;
    let mut first = window(0, Digest::ZERO, now);
    let mut all = lines(&first, A, 7 * SLOT, 2_500);
    all.extend(lines(&first, A, 8 * SLOT, 3));
    all.extend(lines(&first, B, 7 * SLOT, 1_001));
    all.sort_by_key(|line| line.call.invocation);
    // The first call of all goes on for two windows more.
    all[0].outcome = None;
    let long = all[0].clone();
    first.lines = all;
    let first = sealed(first);
    let rest = |seq, before: &Posting, outcome| {
        let mut posting = window(seq, before.hash, before.to + Duration::SECOND);
        posting.lines = vec![ReceiptLine {
            ordinal: u32::try_from(seq).unwrap(),
            outcome,
            ..long.clone()
        }];
        sealed(posting)
    };
    let second = rest(1, &first, None);
    let third = rest(2, &second, Some(Outcome::DeadlineExceeded));
    for posting in [&first, &second, &third] {
        fixture.post(posting).await;
    }
    [first, second, third]
}

#[sqlx::test(migrations = false)]
async fn a_posting_has_as_many_as_its_tenants_and_slots_and_thousands(
    _: PgPoolOptions,
    options: PgConnectOptions,
) {
    let fixture = Fixture::new(options).await;
    let [first, ..] = busy(&fixture).await;
    let sizes: Vec<i32> = sqlx::query_scalar("select lines from receipt_block where seq = 0 order by block")
        .fetch_all(&fixture.owner)
        .await
        .unwrap();
    assert_eq!(sizes, [1_000, 1_000, 500, 3, 1_000, 1]);
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let key = db::PostingKey {
        node: first.node,
        epoch: first.epoch,
        seq: 0,
    };
    assert_eq!(tx.posting_get(key).await.unwrap().unwrap(), first);
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_call_is_found_in_them(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let [first, second, third] = busy(&fixture).await;
    for (index, line) in first.lines.iter().enumerate().step_by(250) {
        let mut tx = fixture.db.tenant_tx(line.call.tenant).await.unwrap();
        let found = tx.receipt_get(line.call.invocation).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|row| row.line).collect();
        let expected = match index {
            0 => vec![line.clone(), second.lines[0].clone(), third.lines[0].clone()],
            _ => vec![line.clone()],
        };
        assert_eq!(found, expected);
        assert_eq!(tx.receipt_checkpoint(line.call.invocation).await.unwrap(), None);
        let other = if line.call.tenant == A { B } else { A };
        let mut tx = fixture.db.tenant_tx(other).await.unwrap();
        assert_eq!(tx.receipt_get(line.call.invocation).await.unwrap(), []);
    }
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    for nobody in [
        made(7 * SLOT, 1),
        made(7 * SLOT + 9, 1),
        made(6 * SLOT, 1),
        made(9 * SLOT, 1),
    ] {
        assert_eq!(tx.receipt_get(nobody).await.unwrap(), []);
    }
    drop(tx);
    fixture.checkpoint(1).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let long = first.lines[0].call.invocation;
    assert_eq!(tx.receipt_checkpoint(long).await.unwrap(), Some(1));
    drop(tx);
    fixture.finish().await;
}

async fn listed(fixture: &Fixture, filter: &ReceiptFilter, limit: u32) -> Vec<Receipt> {
    let read = async |cut: Cut<InvocationId>| {
        let mut tx = fixture.db.tenant_tx(A).await?;
        tx.receipts_list(filter, &cut).await
    };
    pages(limit, read, async |_| {}).await.concat()
}

#[sqlx::test(migrations = false)]
async fn receipts_are_listed_across_them(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let [first, ..] = busy(&fixture).await;
    let own = first.lines.iter().rev().filter(|line| line.call.tenant == A);
    let own: Vec<_> = own.map(|line| line.call.invocation).collect();
    let calls = |receipts: &[Receipt]| {
        receipts
            .iter()
            .map(|receipt| receipt.invocation)
            .collect::<Vec<_>>()
    };
    for limit in [400, 1_000] {
        let all = listed(&fixture, &ReceiptFilter::default(), limit).await;
        assert_eq!(calls(&all), own);
        assert!(all.iter().all(|receipt| receipt.complete));
        let long = all.last().unwrap();
        assert_eq!((long.lines, long.outcome), (3, Some(Outcome::DeadlineExceeded)));
    }
    let of = |outcome| ReceiptFilter {
        outcome: Some(outcome),
        ..ReceiptFilter::default()
    };
    let trapped = listed(&fixture, &of(Outcome::Trapped), 2).await;
    let fuel: Vec<_> = trapped.iter().map(|receipt| receipt.fuel).collect();
    assert_eq!(fuel, [2_499, 1_999, 1_499, 999, 499]);
    // What is asked for is in one of its lines; the receipt has them all.
    let timed_out = listed(&fixture, &of(Outcome::DeadlineExceeded), 2).await;
    assert_eq!(calls(&timed_out), own[own.len() - 1..]);
    assert_eq!((timed_out[0].lines, timed_out[0].complete), (3, true));
    fixture.finish().await;
}

/// As many one-line windows as a list reads blocks at once, and more.
#[sqlx::test(migrations = false)]
async fn many_small_ones_are_listed_too(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let start: OffsetDateTime = fixture.now().await;
    let mut last = Digest::ZERO;
    let mut own = Vec::new();
    for seq in 0..70 {
        let at = start + Duration::SECOND * i32::try_from(seq).unwrap();
        let mut posting = window(seq, last, at);
        posting.lines.retain(|line| line.call.tenant == A);
        posting.lines[0].call.invocation = made(SLOT * (1 + seq % 3), seq);
        posting.lines[0].usage.work.clear();
        own.push(posting.lines[0].call.invocation);
        let posting = sealed(posting);
        last = posting.hash;
        fixture.post(&posting).await;
    }
    own.sort_unstable_by(|one, other| other.cmp(one));
    for limit in [1, 7, 100] {
        let all = listed(&fixture, &ReceiptFilter::default(), limit).await;
        let calls: Vec<_> = all.iter().map(|receipt| receipt.invocation).collect();
        assert_eq!(calls, own);
    }
    fixture.finish().await;
}

/// Also from who is above triggers and row-level security.
#[sqlx::test(migrations = false)]
async fn a_block_is_whole(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.post(&window(0, Digest::ZERO, fixture.now().await)).await;
    let mut owner = fixture.owner.acquire().await.unwrap();
    owner
        .execute("set session_replication_role = replica")
        .await
        .unwrap();
    for (set, constraint) in [
        ("work[1] = null", "receipt_block_is_full"),
        ("ordinal[1] = null", "receipt_block_is_full"),
        ("fuel[1] = null", "receipt_block_counts_up"),
        ("cpu_ns[1] = -1", "receipt_block_counts_up"),
        ("energy_uj[1] = -1", "receipt_block_counts_up"),
        ("fuel = fuel || fuel", "receipt_block_is_a_table"),
        ("fuel = '{}'", "receipt_block_is_a_table"),
        ("fuel = '{{5}}'", "receipt_block_is_a_table"),
        ("fuel = '[0:0]={5}'", "receipt_block_is_a_table"),
    ] {
        let statement = AssertSqlSafe(format!("update receipt_block set {set}"));
        let error = sqlx::query(statement).execute(&mut *owner).await.unwrap_err();
        let broken = error.as_database_error().and_then(|error| error.constraint());
        assert_eq!(broken, Some(constraint), "{set}");
    }
    let without_calls = sqlx::query("update receipt_block set invocation = '{}'");
    assert_eq!(
        sqlstate(&without_calls.execute(&mut *owner).await.unwrap_err()),
        "23502"
    );
    owner.execute("reset session_replication_role").await.unwrap();
    drop(owner);
    fixture.finish().await;
}
