//! Checkpoints: what they cover, that none is made twice, and who sees them.

use db::{Cut, DbError, LedgerSpan, PostingKey};
use domain::checkpoint::{CheckedPosting, Record};
use domain::posting::Posting;
use domain::signature::Signer;
use domain::{Digest, Epoch, NodeId, SigningKey};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor as _};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::support::*;

/// The same window on another node.
fn elsewhere(posting: Posting) -> Posting {
    let node = NodeId(Uuid::from_u128(0x07));
    let mut posting = Posting { node, ..posting };
    posting.transfers.clear();
    posting.roots.clear();
    posting.lines.clear();
    sealed(posting)
}

fn key_of(posting: &Posting) -> PostingKey {
    let (node, epoch, seq) = (posting.node, posting.epoch, posting.seq);
    PostingKey { node, epoch, seq }
}

async fn signers(fixture: &Fixture) -> Vec<Signer> {
    let rows = fixture.db.billing_tx().await.unwrap().signers().await.unwrap();
    rows.into_iter().map(|row| row.signer).collect()
}

#[sqlx::test(migrations = false)]
async fn a_checkpoint_covers_what_came_since(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let a = window(0, Digest::ZERO, now);
    let other = elsewhere(window(0, Digest::ZERO, now));
    let b = window(1, a.hash, now + Duration::SECOND);
    for posting in [&a, &other, &b] {
        fixture.post(posting).await;
    }
    let first = fixture.checkpoint(1).await;
    let c = window(2, b.hash, now + Duration::SECOND * 2);
    fixture.post(&c).await;
    let second = fixture.checkpoint(1).await;

    let leaves = |postings: &[&Posting]| {
        let leaves = postings
            .iter()
            .map(|posting| CheckedPosting::from(*posting).leaf());
        leaves.collect::<Vec<_>>()
    };
    assert_eq!(first.leaves, leaves(&[&a, &other, &b]));
    assert_eq!(second.leaves, leaves(&[&c]));
    let heads: Vec<_> = second.heads.iter().map(|head| head.hash).collect();
    assert_eq!(heads, [other.hash, c.hash], "those of all nodes, in their order");

    let listed = signers(&fixture).await;
    let mut tx = fixture.db.billing_tx().await.unwrap();
    assert_eq!(tx.checkpoint_get(1).await.unwrap().unwrap(), first);
    assert_eq!(tx.checkpoint_get(2).await.unwrap().unwrap(), second);
    assert_eq!(tx.checkpoint_get(3).await.unwrap(), None);
    assert_eq!(first.verify(None, &listed), Ok(()));
    assert_eq!(second.verify(Some(&first), &listed), Ok(()));
    for (number, before) in [(1, None), (2, Some(&first))] {
        let record = tx.checkpoint_get(number).await.unwrap().unwrap();
        let covered = tx.postings_covered(number).await.unwrap();
        assert_eq!(record.verify_ledger(before, &covered), Ok(()));
    }
    for (posting, number) in [(&a, 1), (&other, 1), (&b, 1), (&c, 2)] {
        let (checked, covered) = tx.posting_checked(key_of(posting)).await.unwrap().unwrap();
        assert_eq!((checked, covered), (CheckedPosting::from(posting), Some(number)));
    }
    let page = tx.checkpoints_list(&Cut::first(1)).await.unwrap();
    assert_eq!((page.items.len(), page.next), (1, Some(1)));
    assert_eq!(
        (&page.items[0].signed, &page.items[0].heads),
        (&first.signed, &first.heads)
    );
    let rest = Cut {
        after: page.next,
        limit: 9,
    };
    let page = tx.checkpoints_list(&rest).await.unwrap();
    assert_eq!(page.items[0].hash, second.signed.checkpoint.hash());
    assert_eq!(page.next, None);
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn what_is_over_comes_next_and_nothing_is_left_out(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let (mut prev, mut posted) = ([Digest::ZERO; 2], Vec::new());
    for seq in 0..4 {
        let at = now + Duration::SECOND * i32::try_from(seq).unwrap();
        let own = window(seq, prev[0], at);
        let other = elsewhere(window(seq, prev[1], at));
        prev = [own.hash, other.hash];
        for posting in [own, other] {
            fixture.post(&posting).await;
            posted.push(CheckedPosting::from(&posting).leaf());
        }
    }
    let (key, mut last, mut covered) = (fixture.sign(1).await, None::<Record>, Vec::new());
    loop {
        let mut tx = fixture.db.writer_tx().await.unwrap();
        let number = last.as_ref().map(|last| last.signed.checkpoint.number);
        let postings = tx.postings_uncovered(number, 3).await.unwrap();
        if postings.is_empty() {
            break;
        }
        let record = Record::make(last.as_ref(), &postings, now, &key);
        tx.checkpoint_insert(&record).await.unwrap();
        tx.commit().await.unwrap();
        covered.extend(record.leaves.clone());
        last = Some(record);
    }
    assert_eq!(covered, posted);
    assert_eq!(last.unwrap().signed.checkpoint.number, 3);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn two_hosts_make_one_checkpoint(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    fixture.post(&window(0, Digest::ZERO, now)).await;
    let key = fixture.sign(1).await;
    let make = async || {
        let mut tx = fixture.db.writer_tx().await.unwrap();
        tx.checkpoints_lock().await.unwrap();
        if tx.checkpoint_last().await.unwrap().is_some() {
            return 0;
        }
        let postings = tx.postings_uncovered(None, 9).await.unwrap();
        let record = Record::make(None, &postings, now, &key);
        tx.checkpoint_insert(&record).await.unwrap();
        tx.commit().await.unwrap();
        1
    };
    let (a, b, c) = tokio::join!(make(), make(), make());
    assert_eq!(a + b + c, 1);
    // Without the lock the table itself refuses a second one, and one of a head that is no posting.
    let mut tx = fixture.db.writer_tx().await.unwrap();
    let postings = tx.postings_uncovered(None, 9).await.unwrap();
    let again = Record::make(None, &postings, now + Duration::SECOND, &key);
    let refused = tx.checkpoint_insert(&again).await.unwrap_err();
    assert!(matches!(refused, DbError::Conflict { .. }), "{refused}");
    drop(tx);
    let mut tx = fixture.db.writer_tx().await.unwrap();
    let last = tx.checkpoint_last().await.unwrap();
    let mut forged = postings;
    forged[0].hash = Digest::of(b"no posting");
    let forged = Record::make(last.as_ref(), &forged, now, &key);
    let refused = tx.checkpoint_insert(&forged).await.unwrap_err();
    assert!(matches!(refused, DbError::Inconsistent { .. }), "{refused}");
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_key_is_followed_once_and_endorsed(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let old = fixture.sign(1).await;
    let since = fixture.now().await;
    let next = |n: u8| {
        let key = SigningKey::from_seed(&[n; 32]).unwrap().public();
        Signer {
            key,
            since,
            succession: Some(old.hand_over(key, since)),
        }
    };
    let mut tx = fixture.db.admin_tx().await.unwrap();
    tx.signer_insert(NODE, &next(2)).await.unwrap();
    tx.commit().await.unwrap();
    let listed = signers(&fixture).await;
    assert_eq!(listed[1], next(2));
    assert!(listed.iter().all(Signer::is_endorsed));
    for refused in [next(3), next(2)] {
        let mut tx = fixture.db.admin_tx().await.unwrap();
        let refused = tx.signer_insert(NODE, &refused).await.unwrap_err();
        assert!(matches!(refused, DbError::Conflict { .. }), "{refused}");
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_tenant_sees_that_its_receipt_is_covered_and_no_more(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let a = window(0, Digest::ZERO, now);
    fixture.post(&a).await;
    fixture.checkpoint(1).await;
    fixture.post(&window(1, a.hash, now + Duration::SECOND)).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    assert_eq!(tx.receipt_checkpoint(invocation(0, A)).await.unwrap(), Some(1));
    assert_eq!(tx.receipt_checkpoint(invocation(1, A)).await.unwrap(), None);
    assert_eq!(tx.receipt_checkpoint(invocation(0, B)).await.unwrap(), None);
    drop(tx);
    let mut login = fixture.login().await;
    for query in [
        "select count(*) from checkpoint",
        "select count(*) from signer",
        "select count(hash) from checkpoint_head",
    ] {
        let seen = count(&mut login, "wattle_tenant", Some(A), query).await;
        assert_eq!(seen, Err("42501".into()), "{query}");
    }
    // Who adds checkpoints adds no keys, and the other way round.
    let insert = "insert into signer (key, node, since) values (sha256('x'), gen_random_uuid(), now())";
    for role in ["wattle_writer", "wattle_billing", "wattle_tenant"] {
        let refused = attempt(&mut login, role, None, insert).await;
        assert_eq!(refused, Err("42501".into()), "{role}");
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn rows_that_no_posting_accounts_for_are_found(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    fixture.post(&window(0, Digest::ZERO, now)).await;
    let stray = async |span| {
        let mut tx = fixture.db.billing_tx().await.unwrap();
        tx.stray_row(span).await.unwrap()
    };
    assert_eq!(stray(LedgerSpan::default()).await, None);
    let other = Epoch(Uuid::from_u128(0xbad));
    let nobody = Uuid::max();
    let columns = [
        "ordinal",
        "kind",
        "deployment",
        "release",
        "started_at",
        "outcome",
        "fuel",
        "cpu_ns",
        "model_ns",
        "bytes_in",
        "bytes_out",
        "peak_memory_bytes",
        "energy_uj",
        "work",
    ];
    let doubled = columns
        .map(|column| format!("{column} = {column} || {column}"))
        .join(", ");
    let halved = columns
        .map(|column| format!("{column} = {column}[:1]"))
        .join(", ");
    for (change, table, undo) in [
        (
            format!("insert into transfer select at, node, '{other}'::uuid, seq, ordinal, credit, debit, root, unit, kind,
                 tenant, deployment, release, graph, amount, cites from transfer where ordinal = 0"),
            "transfer",
            format!("delete from transfer where epoch = '{other}'"),
        ),
        (
            format!("insert into posting_root select node, '{other}'::uuid, seq, ordinal, root, kind, provenance,
                 uncertainty_ppm, model_version, boot_id, start_uj, end_uj, faults from posting_root"),
            "posting_root",
            format!("delete from posting_root where epoch = '{other}'"),
        ),
        (
            format!("update receipt_block set model_ns[1] = model_ns[1] - 1 where tenant = '{A}'"),
            "receipt_line",
            format!("update receipt_block set model_ns[1] = model_ns[1] + 1 where tenant = '{A}'"),
        ),
        (
            format!("update receipt_block set fuel_schedule = 2 where tenant = '{B}'"),
            "receipt_block",
            format!("update receipt_block set fuel_schedule = 1 where tenant = '{B}'"),
        ),
        // A call is not found by its own tenant any more.
        (
            format!("alter table receipt_block alter last_invocation drop expression;
                 update receipt_block set last_invocation = '{nobody}' where tenant = '{A}'"),
            "receipt_block",
            format!("update receipt_block set last_invocation = invocation[1] where tenant = '{A}'"),
        ),
        (
            format!("alter table receipt_block drop constraint receipt_block_is_of_a_slot;
                 update receipt_block set {doubled}, invocation = invocation || uuid '{nobody}',
                     last_invocation = '{nobody}' where tenant = '{A}'"),
            "receipt_block",
            format!("update receipt_block set {halved}, invocation = invocation[:1], last_invocation = invocation[1]
                 where tenant = '{A}'"),
        ),
    ] {
        superuser(&fixture, &change).await;
        let found = stray(LedgerSpan::default()).await.expect(&change);
        assert_eq!(found.table, table);
        if table.starts_with("receipt_") {
            let later = LedgerSpan {
                from: Some(OffsetDateTime::now_utc() + Duration::HOUR),
                to: None,
            };
            assert_eq!(stray(later).await, None);
        }
        superuser(&fixture, &undo).await;
    }
    assert_eq!(stray(LedgerSpan::default()).await, None);
    fixture.finish().await;
}

/// As a superuser of ill will: without triggers, foreign keys and row-level security.
async fn superuser(fixture: &Fixture, statement: &str) {
    let mut owner = fixture.owner.acquire().await.unwrap();
    owner
        .execute("set session_replication_role = replica")
        .await
        .unwrap();
    owner.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
    owner.execute("reset session_replication_role").await.unwrap();
}
