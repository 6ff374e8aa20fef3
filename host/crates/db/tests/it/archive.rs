//! Receipt lines leave the database when they are archived as they are and old enough, and nothing is missed then.

use db::{BillingTx, Cut, DbError, LedgerSpan, PostingInsert, PostingKey};
use domain::billing::Plans;
use domain::posting::Posting;
use domain::{Digest, TenantId};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::{Duration, OffsetDateTime};

use crate::support::*;

/// Two windows a little ago, in the same partition.
async fn two(fixture: &Fixture) -> [Posting; 2] {
    let now = fixture.now().await;
    let month = |at: OffsetDateTime| (at.year(), at.month());
    // In the first seconds of a month all is in the month before, which has no partition of its own.
    let at = match month(now) == month(now - Duration::SECOND * 20) {
        true => now - Duration::SECOND * 10,
        false => now - Duration::MINUTE,
    };
    let first = window(0, Digest::ZERO, at);
    let second = window(1, first.hash, at + Duration::SECOND);
    for posting in [&first, &second] {
        fixture.post(posting).await;
    }
    [first, second]
}

fn key(posting: &Posting) -> PostingKey {
    PostingKey {
        node: posting.node,
        epoch: posting.epoch,
        seq: posting.seq,
    }
}

async fn leaf(fixture: &Fixture) -> db::Leaf {
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let mut due = tx.archive_due(fixture.now().await).await.unwrap();
    assert_eq!(due.len(), 1, "{due:?}");
    due.remove(0)
}

async fn drop_leaf(fixture: &Fixture, leaf: &str, before: OffsetDateTime) -> Result<u64, DbError> {
    let mut tx = fixture.db.writer_tx().await.unwrap();
    let dropped = tx.archive_drop(leaf, before).await?;
    tx.commit().await.unwrap();
    Ok(dropped)
}

/// The name of the rule that a drop broke.
async fn broken(fixture: &Fixture, leaf: &str, before: OffsetDateTime) -> String {
    match drop_leaf(fixture, leaf, before).await {
        Err(DbError::Check { constraint }) => constraint,
        other => panic!("{other:?}"),
    }
}

/// All that books and bills have of receipt lines.
async fn books(tx: &mut BillingTx, fixture: &Fixture) -> String {
    assert_eq!(tx.receipt_mismatches(10).await.unwrap(), []);
    assert_eq!(tx.usage_mismatches().await.unwrap(), 0);
    assert_eq!(tx.stray_row(LedgerSpan::default()).await.unwrap(), None);
    let sums = tx.receipts_vs_transfers().await.unwrap();
    assert!(
        sums.iter().all(|sums| sums.receipts_uj == sums.dynamic_uj),
        "{sums:?}"
    );
    let now = fixture.now().await;
    let cut = db::PeriodCut {
        month: domain::billing::Month::of(now - Duration::SECOND * 9).unwrap(),
        through: i64::MAX,
        after: 0,
        as_of: now,
        postings_digest: Digest::ZERO,
        closed_at: None,
        statements: None,
    };
    let plans: Plans = tx.plans().await.unwrap();
    let metered = tx.metered(&cut, &plans).await.unwrap();
    let graphs = tx.graph_use(&cut).await.unwrap();
    assert!(!metered.is_empty() && !graphs.is_empty());
    format!("{sums:?} {metered:?} {graphs:?}")
}

#[sqlx::test(migrations = false)]
async fn what_is_archived_as_it_is_leaves_and_is_not_missed(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let [first, second] = two(&fixture).await;
    let leaf = leaf(&fixture).await;
    assert_eq!((leaf.first_at, leaf.last_at), (first.to, second.to));
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let before = books(&mut tx, &fixture).await;
    let candidates = tx.archive_candidates(&leaf, leaf.first_at, 9).await.unwrap();
    let found: Vec<_> = candidates.iter().map(|of| (of.key, of.lines)).collect();
    assert_eq!(found, [(key(&first), 2), (key(&second), 2)]);
    drop(tx);

    fixture.archive(&[&first]).await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let candidates = tx.archive_candidates(&leaf, leaf.first_at, 9).await.unwrap();
    assert_eq!(candidates.len(), 1, "what is archived is none any more");
    assert_eq!(
        tx.archive_of(key(&first)).await.unwrap(),
        None,
        "its lines are here still"
    );
    assert_eq!(books(&mut tx, &fixture).await, before, "nothing counts twice");
    drop(tx);
    let id = fixture.archive(&[&second]).await;
    let now = fixture.now().await;
    assert_eq!(drop_leaf(&fixture, &leaf.name, now).await.unwrap(), 4);

    let mut tx = fixture.db.billing_tx().await.unwrap();
    assert_eq!(books(&mut tx, &fixture).await, before, "nothing is missed");
    let archive = tx.archive_of(key(&second)).await.unwrap().unwrap();
    assert_eq!((archive.id, archive.postings, archive.lines), (id, 1, 2));
    assert!(archive.dropped_at.is_some());
    let call = second.lines[0].call.invocation;
    let around = |tenant: TenantId| (tenant, call);
    let (a, call) = around(A);
    assert_eq!(
        tx.archives_around(a, call).await.unwrap(),
        std::slice::from_ref(&archive)
    );
    let nobody = TenantId(uuid::Uuid::max());
    assert_eq!(tx.archives_around(nobody, call).await.unwrap(), []);
    let kept: Vec<_> = tx.archive_sums(id).await.unwrap();
    let kept: Vec<_> = kept
        .into_iter()
        .map(|(of, sum)| (of == key(&second), sum))
        .collect();
    let expected: Vec<_> = domain::archive::sums(&second.lines)
        .into_iter()
        .map(|sum| (true, sum))
        .collect();
    assert_eq!(kept, expected);
    assert_eq!(tx.archives_list(&Cut::first(1)).await.unwrap().next, Some(id - 1));
    assert_eq!(tx.archive_due(now).await.unwrap(), []);
    assert_eq!(tx.posting_get(key(&first)).await.unwrap().unwrap().lines, []);
    drop(tx);
    let mut tx = fixture.db.admin_tx().await.unwrap();
    assert!(!tx.blob_is_free(archive.digest, now).await.unwrap());
    assert!(tx.blob_is_free(Digest::ZERO, now).await.unwrap());
    assert_eq!(tx.archive_digests().await.unwrap().len(), 2);
    drop(tx);
    assert_eq!(
        drop_leaf(&fixture, &leaf.name, now).await.unwrap(),
        0,
        "there is nothing left"
    );

    // What was posted is known still, and what comes late has a partition.
    assert_eq!(fixture.post(&first).await, PostingInsert::Exists);
    let late = window(2, second.hash, second.to + Duration::SECOND);
    assert_eq!(fixture.post(&late).await, PostingInsert::Inserted);
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let due = tx.archive_due(fixture.now().await).await.unwrap();
    assert_eq!((due.len(), &due[0].name), (1, &leaf.name));
    drop(tx);
    fixture.archive(&[&late]).await;
    assert_eq!(
        drop_leaf(&fixture, &leaf.name, fixture.now().await)
            .await
            .unwrap(),
        2
    );
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn what_is_young_or_not_in_archives_as_it_is_stays(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let [first, second] = two(&fixture).await;
    let (leaf, now) = (leaf(&fixture).await.name, fixture.now().await);
    assert_eq!(
        broken(&fixture, &leaf, now + Duration::HOUR).await,
        "archive_is_of_the_past"
    );
    assert_eq!(
        broken(&fixture, "transfer_default", now).await,
        "archive_is_of_receipt_lines"
    );
    assert_eq!(broken(&fixture, &leaf, now).await, "archive_is_complete");
    fixture.archive(&[&first]).await;
    assert_eq!(broken(&fixture, &leaf, now).await, "archive_is_complete");
    // One unit of fuel too few, and a posting twice.
    let mut spoilt = fixture.new_archive(&[&second]).await;
    spoilt.postings[0].1[0].fuel -= 1;
    let mut tx = fixture.db.writer_tx().await.unwrap();
    tx.archive_insert(&spoilt).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(broken(&fixture, &leaf, now).await, "archive_is_complete");
    let again = fixture.new_archive(&[&first]).await;
    let again = db::NewArchive {
        digest: Digest::of(b"another file"),
        ..again
    };
    let mut tx = fixture.db.writer_tx().await.unwrap();
    assert!(matches!(
        tx.archive_insert(&again).await,
        Err(DbError::Conflict { .. })
    ));
    drop(tx);
    let lines: i64 = sqlx::query_scalar("select count(*) from receipt_line")
        .fetch_one(&fixture.owner)
        .await
        .unwrap();
    assert_eq!(lines, 4, "all of them are there");
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn lines_that_are_not_older_than_asked_stay(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let [first, second] = two(&fixture).await;
    let leaf = leaf(&fixture).await.name;
    fixture.archive(&[&first, &second]).await;
    assert_eq!(broken(&fixture, &leaf, second.to).await, "archive_is_old");
    let mut tx = fixture.db.billing_tx().await.unwrap();
    assert_eq!(tx.archive_due(second.to).await.unwrap(), []);
    drop(tx);
    // Nobody who reads receipts loses them while reading.
    let mut reading = fixture.db.billing_tx().await.unwrap();
    let now = fixture.now().await;
    assert!(matches!(
        drop_leaf(&fixture, &leaf, now).await,
        Err(DbError::Unavailable(_))
    ));
    let posting = reading.posting_get(key(&first)).await.unwrap().unwrap();
    assert_eq!(posting.lines, first.lines);
    drop(reading);
    assert_eq!(drop_leaf(&fixture, &leaf, now).await.unwrap(), 4);
    // What was dropped is noted for good.
    for statement in [
        "delete from archive_drop",
        "update archive_drop set archive = archive",
    ] {
        let refused = sqlx::query(AssertSqlSafe(statement))
            .execute(&fixture.owner)
            .await;
        assert_eq!(sqlstate(&refused.unwrap_err()), "23001", "{statement}");
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn lines_that_come_back_are_strays(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let [first, second] = two(&fixture).await;
    let leaf = leaf(&fixture).await.name;
    sqlx::raw_sql(
        "create table kept as select at, node, epoch, seq, block, tenant, fuel_schedule, invocation, ordinal, kind,
             deployment, release, started_at, outcome, fuel, cpu_ns, model_ns, bytes_in, bytes_out, peak_memory_bytes,
             energy_uj, work from receipt_block",
    )
    .execute(&fixture.owner)
    .await
    .unwrap();
    fixture.archive(&[&first, &second]).await;
    drop_leaf(&fixture, &leaf, fixture.now().await).await.unwrap();
    sqlx::raw_sql(
        "insert into receipt_block (at, node, epoch, seq, block, tenant, fuel_schedule, invocation, ordinal, kind,
             deployment, release, started_at, outcome, fuel, cpu_ns, model_ns, bytes_in, bytes_out, peak_memory_bytes,
             energy_uj, work) select * from kept where seq = 1 limit 1",
    )
    .execute(&fixture.owner)
    .await
    .unwrap();
    let mut tx = fixture.db.billing_tx().await.unwrap();
    let stray = tx.stray_row(LedgerSpan::default()).await.unwrap().unwrap();
    assert_eq!((&stray.table[..], stray.posting), ("receipt_block", key(&second)));
    drop(tx);
    fixture.finish().await;
}
