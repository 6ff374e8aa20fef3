//! Postings enter the ledger whole and exactly once.

use db::{Cut, DbError, PostingInsert, PostingKey, Receipt, ReceiptFilter, TenantTx};
use domain::posting::{Posting, PostingKind};
use domain::{Digest, InvocationId, Outcome};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::Duration;
use uuid::Uuid;

use crate::support::*;

fn key(posting: &Posting) -> PostingKey {
    PostingKey {
        node: posting.node,
        epoch: posting.epoch,
        seq: posting.seq,
    }
}

async fn stored(fixture: &Fixture, posting: &Posting) -> Option<Posting> {
    let mut tx = fixture.db.billing_tx().await.unwrap();
    tx.posting_get(key(posting)).await.unwrap()
}

async fn rejected(fixture: &Fixture, posting: &Posting) -> DbError {
    let mut tx = fixture.db.writer_tx().await.unwrap();
    let error = tx.posting_insert(posting).await.unwrap_err();
    drop(tx);
    assert_eq!(
        stored(fixture, posting).await,
        None,
        "a rejected posting leaves something behind"
    );
    error
}

#[sqlx::test(migrations = false)]
async fn comes_back_as_it_went_in(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let mut posting = window(0, Digest::ZERO, now);
    posting.lines[1].outcome = None;
    posting.lines[1].energy_uj = None;
    posting.lines[1].call.deployment = None;
    posting.lines[1].call.release = None;
    let posting = sealed(posting);
    let allocation = allocation(1, posting.hash, now);
    let bare = empty(PostingKind::Correction, 2, allocation.hash, now);
    for posting in [posting, allocation, bare] {
        assert_eq!(fixture.post(&posting).await, PostingInsert::Inserted);
        let stored = stored(&fixture, &posting).await.unwrap();
        assert_eq!(stored, posting);
        assert_eq!(stored.compute_hash(), posting.hash);
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn many_come_back_at_once_as_many_as_their_lines_allow(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let mut posted: Vec<Posting> = Vec::new();
    for seq in 0..5 {
        let (prev, at) = (
            posted.last().map_or(Digest::ZERO, |last| last.hash),
            now + Duration::MILLISECOND * i32::try_from(seq).unwrap(),
        );
        posted.push(match seq {
            2 => allocation(seq, prev, at),
            _ => window(seq, prev, at),
        });
        fixture.post(&posted[seq as usize]).await;
    }
    let gone = key(&window(9, Digest::ZERO, now));
    let mut keys: Vec<_> = posted.iter().map(key).collect();
    keys.insert(4, gone);
    let mut expected: Vec<_> = posted.into_iter().map(Some).collect();
    expected.insert(4, None);
    let mut tx = fixture.db.billing_tx().await.unwrap();
    // Windows have two lines each, the allocation and what is gone none.
    for (most_lines, pieces) in [
        (0, vec![1, 1, 1, 1, 1, 1]),
        (1, vec![1, 1, 1, 1, 1, 1]),
        (2, vec![1, 2, 2, 1]),
        (3, vec![1, 2, 2, 1]),
        (4, vec![3, 3]),
        (5, vec![3, 3]),
        (7, vec![5, 1]),
        (8, vec![6]),
        (u32::MAX, vec![6]),
    ] {
        let (mut read, mut sizes) = (Vec::new(), Vec::new());
        while read.len() < keys.len() {
            let found = tx.postings_get(&keys[read.len()..], most_lines).await.unwrap();
            sizes.push(found.len());
            read.extend(found.into_iter().map(Result::unwrap));
        }
        assert_eq!((&read, sizes), (&expected, pieces), "{most_lines} lines");
    }
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn finer_than_a_microsecond_still_verifies(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let posting = window(0, Digest::ZERO, fixture.now().await + Duration::nanoseconds(999));
    fixture.post(&posting).await;
    let stored = stored(&fixture, &posting).await.unwrap();
    stored.verify().unwrap();
    assert_eq!(stored.hash, posting.hash);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn twice_adds_nothing(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let posting = window(0, Digest::ZERO, fixture.now().await);
    assert_eq!(fixture.post(&posting).await, PostingInsert::Inserted);
    assert_eq!(fixture.post(&posting).await, PostingInsert::Exists);
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let totals = tx.totals().await.unwrap();
    assert_eq!((totals.windows, totals.energy_uj, totals.fuel), (1, 100, 140));
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn two_at_once_add_it_once(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let posting = window(0, Digest::ZERO, fixture.now().await);
    let (one, two) = tokio::join!(fixture.post(&posting), fixture.post(&posting));
    assert!(one != two, "{one:?} {two:?}");
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn another_content_is_a_conflict_that_names_the_key(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let posting = window(0, Digest::ZERO, fixture.now().await);
    fixture.post(&posting).await;
    let mut other = posting.clone();
    other.transfers[0].amount += 1;
    let other = sealed(other);
    let mut tx = fixture.db.writer_tx().await.unwrap();
    let error = tx.posting_insert(&other).await.unwrap_err();
    drop(tx);
    assert!(
        matches!(error, DbError::PostingConflict(found) if found == key(&posting)),
        "{error}"
    );
    assert!(error.to_string().contains(&key(&posting).to_string()), "{error}");
    assert_eq!(stored(&fixture, &posting).await, Some(posting));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_chain_neither_forks_nor_skips(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let first = window(0, Digest::ZERO, now);
    let second = window(1, first.hash, now + Duration::SECOND);
    fixture.post(&first).await;
    fixture.post(&second).await;
    let after = |prev_hash| window(2, prev_hash, now + Duration::seconds(2));
    for (prev_hash, why) in [
        (Digest::ZERO, "a second beginning"),
        (first.hash, "a fork"),
        (Digest::of(b"lost"), "a missing link"),
    ] {
        let error = rejected(&fixture, &after(prev_hash)).await;
        assert!(matches!(error, DbError::PostingChain(_)), "{why}: {error}");
    }
    let third = after(second.hash);
    let mut tx = fixture.db.writer_tx().await.unwrap();
    let known = tx.postings_known(NODE, &[first.hash, third.hash]).await.unwrap();
    assert_eq!(known, [first.hash].into());
    drop(tx);
    fixture.post(&third).await;
    // Another node has a chain of its own.
    let mut other = empty(PostingKind::Window, 0, Digest::ZERO, now);
    other.node.0 = uuid::Uuid::from_u128(0x07e4);
    fixture.post(&sealed(other)).await;
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn amounts_do_not_wrap(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let good = window(0, Digest::ZERO, fixture.now().await);
    let over = 1u64 << 63;
    let spoil: [(&str, fn(&mut Posting, u64)); 9] = [
        ("posting.seq", |posting, over| posting.seq = over),
        ("posting_root.start_uj", |posting, over| {
            posting.roots[0].start_uj = over
        }),
        ("posting_root.end_uj", |posting, over| {
            posting.roots[0].end_uj = over
        }),
        ("transfer.amount", |posting, over| {
            posting.transfers[0].amount = over
        }),
        ("receipt_line.fuel", |posting, over| {
            posting.lines[0].usage.fuel = over
        }),
        ("receipt_line.cpu_ns", |posting, over| {
            posting.lines[0].usage.cpu_ns = over
        }),
        ("receipt_line.model_ns", |posting, over| {
            posting.lines[0].usage.work[0].cpu_ns = over
        }),
        ("receipt_line.energy_uj", |posting, over| {
            posting.lines[0].energy_uj = Some(over)
        }),
        ("receipt_line.release", |posting, _| {
            posting.lines[0].call.release = Some(u32::MAX)
        }),
    ];
    for (expected, spoil) in spoil {
        let mut posting = good.clone();
        spoil(&mut posting, over);
        let mut tx = fixture.db.writer_tx().await.unwrap();
        let error = tx.posting_insert(&posting).await.unwrap_err();
        assert!(
            matches!(error, DbError::OutOfRange { field, .. } if field == expected),
            "{expected}: {error}"
        );
    }
    let mut largest = good;
    largest.transfers[0].amount = over - 1;
    fixture.post(&sealed(largest)).await;
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn rules_of_the_tables_hold(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let good = window(0, Digest::ZERO, fixture.now().await);
    let spoil: [(&str, fn(&mut Posting)); 4] = [
        ("transfer_amount_check", |posting| posting.transfers[0].amount = 0),
        ("transfer_moves", |posting| {
            posting.transfers[0].debit = posting.transfers[0].credit.clone()
        }),
        ("posting_root_counts_up", |posting| {
            posting.roots[0].end_uj = posting.roots[0].start_uj - 1
        }),
        ("posting_ends_after_it_began", |posting| {
            posting.from = posting.to + Duration::SECOND
        }),
    ];
    for (expected, spoil) in spoil {
        let mut posting = good.clone();
        spoil(&mut posting);
        let error = rejected(&fixture, &sealed(posting)).await;
        assert!(
            matches!(&error, DbError::Check { constraint } if constraint == expected),
            "{expected}: {error}"
        );
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn nothing_is_under_a_posting_that_is_not_there(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let posting = window(0, Digest::ZERO, fixture.now().await);
    fixture.post(&posting).await;
    let mut login = fixture.login().await;
    let (key, id) = (key(&posting), InvocationId(Uuid::from_u128(0xbad)).0);
    let mut insert = async |seq: u64, at: &str| {
        let place = format!("{at}, '{}', '{}', {seq}", key.node.0, key.epoch.0);
        let line = format!(
            "insert into receipt_block (at, node, epoch, seq, block, tenant, fuel_schedule, invocation, ordinal, kind,
                 deployment, release, started_at, outcome, fuel, cpu_ns, model_ns, bytes_in, bytes_out,
                 peak_memory_bytes, energy_uj, work)
             values ({place}, 99, '{id}', 1, '{{{id}}}', '{{0}}', '{{infer}}', '{{null}}', '{{null}}', array[now()],
                 '{{null}}', '{{0}}', '{{0}}', '{{0}}', '{{0}}', '{{0}}', '{{0}}', '{{null}}', '{{[]}}')"
        );
        let transfer = format!(
            "insert into transfer (at, node, epoch, seq, ordinal, credit, debit, unit, kind, amount)
             values ({place}, 99, (select min(id) from account), (select max(id) from account),
                 (select min(id) from unit), 'dynamic', 1)"
        );
        [
            attempt(&mut login, "wattle_writer", None, &line).await,
            attempt(&mut login, "wattle_writer", None, &transfer).await,
        ]
    };
    let there = format!(
        "timestamptz 'epoch' + {} * interval '1 microsecond'",
        posting.to.unix_timestamp_nanos() / 1_000
    );
    let refused = Err("23503".to_owned());
    assert_eq!(insert(1, &there).await, [refused.clone(), refused.clone()]);
    // Another time is another posting.
    assert_eq!(
        insert(0, "now() + interval '1 s'").await,
        [refused.clone(), refused]
    );
    assert!(insert(0, &there).await.iter().all(Result::is_ok));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn what_is_unique_is_a_conflict(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let first = window(0, Digest::ZERO, now);
    fixture.post(&first).await;
    let good = window(1, first.hash, now);
    // Constraints of a partition are named after the partition.
    let spoil: [(&str, &str, fn(&mut Posting)); 3] = [
        ("posting_hash_key", "", |_| {}),
        ("posting_root_node_epoch_seq_root_key", "", |posting| {
            posting.roots.push(posting.roots[0].clone())
        }),
        ("transfer_", "_pkey", |posting| posting.transfers[1].ordinal = 0),
    ];
    for (begins, ends, spoil) in spoil {
        let mut posting = good.clone();
        spoil(&mut posting);
        let mut posting = sealed(posting);
        if begins == "posting_hash_key" {
            posting.hash = first.hash;
        }
        let error = rejected(&fixture, &posting).await;
        let DbError::Conflict { constraint } = &error else {
            panic!("{begins}: {error}")
        };
        assert!(
            constraint.starts_with(begins) && constraint.ends_with(ends),
            "{constraint}"
        );
    }
    // One line per call and window.
    let mut again = good;
    let mut second = again.lines[0].clone();
    second.ordinal = 1;
    again.lines.push(second);
    let error = rejected(&fixture, &sealed(again)).await;
    assert!(
        matches!(&error, DbError::Inconsistent { field, .. } if *field == "receipt_line.invocation"),
        "{error}"
    );
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn the_head_is_the_last_of_the_chain(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let mut tx = fixture.db.writer_tx().await.unwrap();
    assert_eq!(tx.posting_head(NODE).await.unwrap(), None);
    let first = window(7, Digest::ZERO, now);
    // A new start of the host: another epoch, counted from 0.
    let mut second = window(0, first.hash, now);
    second.epoch.0 = uuid::Uuid::from_u128(0xd);
    let second = sealed(second);
    for posting in [&first, &second] {
        tx.posting_insert(posting).await.unwrap();
        let head = tx.posting_head(NODE).await.unwrap().unwrap();
        assert_eq!(
            (head.epoch, head.seq, head.hash),
            (posting.epoch, posting.seq, posting.hash)
        );
    }
    drop(tx);
    fixture.finish().await;
}

async fn receipts(tx: &mut TenantTx, cut: Cut<InvocationId>) -> Vec<Receipt> {
    tx.receipts_list(&ReceiptFilter::default(), &cut)
        .await
        .unwrap()
        .items
}

#[sqlx::test(migrations = false)]
async fn receipts_gather_their_lines(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let mut first = window(0, Digest::ZERO, now);
    first.lines[0].outcome = None;
    let first = sealed(first);
    let mut second = window(1, first.hash, now + Duration::SECOND);
    second.lines[0].call = first.lines[0].call.clone();
    second.lines[0].ordinal = 1;
    second.lines[0].outcome = Some(Outcome::Trapped);
    second.lines[0].usage.work.clear();
    let second = sealed(second);
    let receipt = invocation(0, A);

    fixture.post(&first).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let summary = receipts(&mut tx, Cut::first(10)).await.remove(0);
    assert_eq!(
        (summary.outcome, summary.complete, summary.lines),
        (None, false, 1)
    );
    drop(tx);

    fixture.post(&second).await;
    fixture
        .post(&window(2, second.hash, now + Duration::seconds(2)))
        .await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let lines = tx.receipt_get(receipt).await.unwrap();
    assert_eq!(
        lines.iter().map(|row| &row.line).collect::<Vec<_>>(),
        [&first.lines[0], &second.lines[0]]
    );
    assert_eq!(
        (lines[1].posting, lines[1].from, lines[1].to),
        (key(&second), second.from, second.to)
    );
    assert_eq!(tx.receipt_get(invocation(0, B)).await.unwrap(), []);

    let page = receipts(&mut tx, Cut::first(1)).await;
    assert_eq!(page[0].invocation, invocation(2, A));
    let page = receipts(
        &mut tx,
        Cut {
            after: Some(page[0].invocation),
            limit: 10,
        },
    )
    .await;
    assert_eq!(page.len(), 1);
    let summary = &page[0];
    assert_eq!(
        (
            summary.invocation,
            summary.outcome,
            summary.complete,
            summary.lines,
            summary.fuel
        ),
        (receipt, Some(Outcome::Trapped), true, 2, 200)
    );
    assert_eq!((summary.energy_uj, summary.model_ns), (Some(60), u64::MAX >> 1));
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn missing_energy_is_not_zero(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut posting = window(0, Digest::ZERO, fixture.now().await);
    posting.lines[0].energy_uj = None;
    fixture.post(&sealed(posting)).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    assert_eq!(receipts(&mut tx, Cut::first(1)).await[0].energy_uj, None);
    assert_eq!(
        tx.receipt_get(invocation(0, A)).await.unwrap()[0].line.energy_uj,
        None
    );
    drop(tx);
    fixture.finish().await;
}
