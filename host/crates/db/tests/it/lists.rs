//! Lists are cut by key: nothing is lost or seen twice while rows come and go.

use std::fmt::Debug;

use db::{Cut, DbError, KeyFilter, NewKey, Page, ReceiptFilter, TenantChange, TenantFilter, TenantStatus};
use domain::posting::CallKind;
use domain::{Digest, InvocationId, KeyId, Name, Outcome, Role, TenantId};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::Duration;
use uuid::Uuid;

use crate::support::*;

/// All pages of `limit` rows that `read` gives, and `between` after each.
pub async fn pages<T, K: Clone + Debug>(
    limit: u32,
    mut read: impl AsyncFnMut(Cut<K>) -> Result<Page<T, K>, DbError>,
    mut between: impl AsyncFnMut(usize),
) -> Vec<Vec<T>> {
    let (mut cut, mut all) = (Cut::first(limit), Vec::new());
    loop {
        let page = read(cut.clone()).await.unwrap();
        all.push(page.items);
        between(all.len()).await;
        cut.after = page.next;
        if cut.after.is_none() {
            return all;
        }
    }
}

fn sizes<T>(pages: &[Vec<T>]) -> Vec<usize> {
    pages.iter().map(Vec::len).collect()
}

#[sqlx::test(migrations = false)]
async fn rows_that_come_between_move_no_other(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let add = async |number: u128, text: &str| {
        let mut tx = fixture.db.admin_tx().await.unwrap();
        tx.tenant_insert(TenantId(Uuid::from_u128(number)), &name(text))
            .await
            .unwrap();
        tx.commit().await.unwrap();
    };
    let read = async |cut: Cut<Name>| {
        let mut tx = fixture.db.admin_tx().await?;
        tx.tenants_list(&TenantFilter::default(), &cut).await
    };
    // There are tenant-a and tenant-b; one comes before what was read, one after it.
    let seen = pages(1, read, async |page| {
        if page == 1 {
            add(1, "a-new-one").await;
            add(2, "the-last-one").await;
        }
    });
    let seen: Vec<String> = seen
        .await
        .concat()
        .iter()
        .map(|row| row.name.to_string())
        .collect();
    assert_eq!(seen, ["tenant-a", "tenant-b", "the-last-one"]);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn keys_of_one_instant_come_each_once(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut tx = fixture.db.admin_tx().await.unwrap();
    for number in 0..5 {
        let role = if number == 4 {
            Role::Admin
        } else {
            Role::TenantRead
        };
        let key = NewKey {
            id: KeyId(Uuid::from_u128(number)),
            tenant: role.is_tenants().then_some(if number == 0 { B } else { A }),
            role,
            name: "k".into(),
            hash: [u8::try_from(number).unwrap(); 32],
            expires_at: None,
        };
        tx.key_insert(&key).await.unwrap();
    }
    tx.key_revoke(KeyId(Uuid::from_u128(3))).await.unwrap();
    tx.commit().await.unwrap();
    let read = async |filter: KeyFilter| {
        let read = async |cut| {
            let mut tx = fixture.db.admin_tx().await?;
            tx.keys_list(&filter, &cut).await
        };
        let pages = pages(2, read, async |_| {}).await;
        let ids: Vec<u128> = pages.concat().iter().map(|key| key.id.0.as_u128()).collect();
        (sizes(&pages), ids)
    };
    let none = KeyFilter::default;
    assert_eq!(read(none()).await, (vec![2, 2, 1], vec![0, 1, 2, 3, 4]));
    for (filter, ids) in [
        (
            KeyFilter {
                tenant: Some(A),
                ..none()
            },
            vec![1, 2, 3],
        ),
        (
            KeyFilter {
                role: Some(Role::Admin),
                ..none()
            },
            vec![4],
        ),
        (
            KeyFilter {
                revoked: Some(true),
                ..none()
            },
            vec![3],
        ),
        (
            KeyFilter {
                revoked: Some(false),
                tenant: Some(A),
                ..none()
            },
            vec![1, 2],
        ),
    ] {
        assert_eq!(read(filter.clone()).await.1, ids, "{filter:?}");
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn tenants_by_status_and_name(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let suspended = TenantChange {
        status: Some(TenantStatus::Suspended),
        ..TenantChange::default()
    };
    tx.tenant_update(B, &suspended).await.unwrap();
    for (status, prefix, expected) in [
        (None, Some("tenant-"), vec![A, B]),
        (None, Some("tenant-b"), vec![B]),
        (None, Some("enant"), vec![]),
        (Some(TenantStatus::Suspended), None, vec![B]),
        (Some(TenantStatus::Active), Some("tenant-b"), vec![]),
    ] {
        let prefix = prefix.map(name);
        let page = tx
            .tenants_list(&TenantFilter { status, prefix }, &Cut::first(9))
            .await;
        let ids: Vec<_> = page.unwrap().items.iter().map(|tenant| tenant.id).collect();
        assert_eq!(ids, expected);
    }
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn uploads_and_releases_newest_first(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    for bytes in [&b"one"[..], b"two"] {
        let digest = Digest::of(bytes);
        tx.component_revision_insert(&name("c"), digest, 1).await.unwrap();
        tx.graph_version_insert(&name("g"), digest, 1, "onnx", &signature())
            .await
            .unwrap();
        tx.release_insert(&name("d"), &spec(Some(digest), Some(digest)))
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let digests = [Digest::of(b"two"), Digest::of(b"one"), Digest::of(b"component")];
    let revisions = async |cut| {
        let mut tx = fixture.db.tenant_tx(A).await?;
        tx.revisions_list(&name("c"), &cut).await
    };
    let revisions = pages(2, revisions, async |_| {}).await;
    assert_eq!(sizes(&revisions), [2, 1]);
    assert_eq!(
        revisions
            .concat()
            .iter()
            .map(|row| row.digest)
            .collect::<Vec<_>>(),
        digests
    );
    let versions = async |cut| {
        let mut tx = fixture.db.tenant_tx(A).await?;
        tx.graph_versions_list(&name("g"), &cut).await
    };
    assert_eq!(sizes(&pages(1, versions, async |_| {}).await), [1, 1, 1]);
    let releases = async |cut| {
        let mut tx = fixture.db.tenant_tx(A).await?;
        tx.releases_list(&name("d"), &cut).await
    };
    let releases = pages(2, releases, async |_| {}).await.concat();
    let shown: Vec<_> = releases
        .iter()
        .map(|row| (row.number, row.spec.component.as_ref().map(|(_, digest)| *digest)))
        .collect();
    assert_eq!(
        shown,
        [
            (3, Some(digests[0])),
            (2, Some(digests[1])),
            (1, Some(digests[2]))
        ]
    );
    // Another tenant has none of it, and a hidden deployment no releases.
    let mut tx = fixture.db.tenant_tx(B).await.unwrap();
    assert_eq!(
        tx.revisions_list(&name("c"), &Cut::first(9)).await.unwrap().items,
        []
    );
    assert_eq!(
        tx.releases_list(&name("d"), &Cut::first(9)).await.unwrap().items,
        []
    );
    drop(tx);
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.deployment_delete(&name("d")).await.unwrap();
    assert_eq!(
        tx.releases_list(&name("d"), &Cut::first(9)).await.unwrap().items,
        []
    );
    drop(tx);
    fixture.finish().await;
}

/// The invocation of A's only line of window `seq`, with an id that begins with its instant.
fn timed(seq: u64, at: time::OffsetDateTime) -> InvocationId {
    let ms = u128::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap();
    InvocationId(Uuid::from_u128(ms << 80 | u128::from(seq)))
}

#[sqlx::test(migrations = false)]
async fn receipts_by_what_their_calls_were(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let start = fixture.now().await - Duration::HOUR;
    let mut last = Digest::ZERO;
    for seq in 0..5 {
        let at = start + Duration::minutes(10) * i32::try_from(seq).unwrap();
        let mut posting = window(seq, last, at + Duration::SECOND);
        let line = &mut posting.lines[0];
        line.usage.work.clear();
        line.call.started_at = at;
        line.call.invocation = timed(seq, at);
        if seq == 1 {
            line.outcome = Some(Outcome::Trapped);
        }
        if seq == 2 {
            line.call.kind = CallKind::Publish;
            line.call.deployment = None;
        }
        let posting = sealed(posting);
        last = posting.hash;
        fixture.post(&posting).await;
    }
    let minute = |minutes| Some(start + Duration::minutes(minutes));
    let none = ReceiptFilter::default;
    for (filter, expected) in [
        (none(), vec![4, 3, 2, 1, 0]),
        (
            ReceiptFilter {
                deployment: Some(name("d")),
                ..none()
            },
            vec![4, 3, 1, 0],
        ),
        (
            ReceiptFilter {
                kind: Some(CallKind::Publish),
                ..none()
            },
            vec![2],
        ),
        (
            ReceiptFilter {
                outcome: Some(Outcome::Trapped),
                ..none()
            },
            vec![1],
        ),
        (
            ReceiptFilter {
                from: minute(20),
                ..none()
            },
            vec![4, 3, 2],
        ),
        (
            ReceiptFilter {
                to: minute(20),
                ..none()
            },
            vec![1, 0],
        ),
        (
            ReceiptFilter {
                from: minute(10),
                to: minute(40),
                ..none()
            },
            vec![3, 2, 1],
        ),
    ] {
        let read = async |cut| {
            let mut tx = fixture.db.tenant_tx(A).await?;
            tx.receipts_list(&filter, &cut).await
        };
        let rows = pages(2, read, async |_| {}).await.concat();
        let seqs: Vec<u64> = rows
            .iter()
            .map(|row| u64::try_from(row.invocation.0.as_u128() & 0xff).unwrap())
            .collect();
        assert_eq!(seqs, expected, "{filter:?}");
    }
    fixture.finish().await;
}
