//! What tenants store, what of it is needed, and what may be collected.

use std::time::Duration;

use db::{DbError, Stored, StoredKind, TenantChange, TenantStatus};
use domain::{Digest, TenantId};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::support::*;

fn component() -> Digest {
    Digest::of(b"component")
}

fn graph() -> Digest {
    Digest::of(b"graph")
}

/// The digests of A that are needed now, components first.
async fn needed(fixture: &Fixture) -> Vec<(StoredKind, Digest)> {
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let all = tx
        .stored_list(fixture.now().await + Duration::from_secs(60))
        .await
        .unwrap();
    let mut of_a: Vec<_> = all.into_iter().filter(|stored| stored.tenant == A).collect();
    of_a.sort_by_key(|stored| stored.kind == StoredKind::Graph);
    of_a.iter()
        .map(|Stored { kind, digest, .. }| (*kind, *digest))
        .collect()
}

async fn used(fixture: &Fixture, tenant: TenantId) -> u64 {
    let own = fixture
        .db
        .tenant_tx(tenant)
        .await
        .unwrap()
        .storage_used()
        .await
        .unwrap();
    let mut tx = fixture.db.admin_tx().await.unwrap();
    assert_eq!(
        tx.storage_used(tenant).await.unwrap(),
        own,
        "an admin sees the same"
    );
    own
}

#[sqlx::test(migrations = false)]
async fn is_needed_while_it_is_visible_or_deployed(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let both = [(StoredKind::Component, component()), (StoredKind::Graph, graph())];
    assert_eq!(
        (needed(&fixture).await, used(&fixture, A).await),
        (both.to_vec(), 30)
    );

    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.component_delete(&name("c")).await.unwrap();
    tx.graph_version_delete(&name("g"), graph()).await.unwrap();
    assert!(matches!(
        tx.graph_version_delete(&name("g"), graph()).await,
        Err(DbError::NotFound("version"))
    ));
    tx.commit().await.unwrap();
    assert_eq!(needed(&fixture).await, both, "the release goes on");

    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.deployment_delete(&name("d")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((needed(&fixture).await, used(&fixture, A).await), (vec![], 0));

    // What was let go of a moment ago waits, and takes room on the disk until then.
    let before = fixture.now().await - Duration::from_secs(60);
    let mut tx = fixture.db.admin_tx().await.unwrap();
    assert_eq!(tx.stored_list(before).await.unwrap().len(), 2);
    drop(tx);
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let storage = tx.storage(component(), before).await.unwrap();
    assert_eq!(
        (storage.used_bytes, storage.waiting_bytes, storage.known),
        (0, 30, false)
    );

    // An upload of the same bytes brings one back.
    tx.component_revision_insert(&name("c"), component(), 10)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        (needed(&fixture).await, used(&fixture, A).await),
        (both[..1].to_vec(), 10)
    );
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn is_not_needed_by_a_deployments_earlier_life(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.deployment_delete(&name("d")).await.unwrap();
    let bare = spec(None, Some(graph()));
    assert_eq!(tx.deployment_create(&name("d"), &bare).await.unwrap(), 2);
    assert_eq!(
        tx.release_get(&name("d"), 1).await.unwrap(),
        None,
        "it does not come back"
    );
    assert!(tx.release_get(&name("d"), 2).await.unwrap().is_some());
    tx.revision_delete(&name("c"), component()).await.unwrap();
    assert!(matches!(
        tx.revision_delete(&name("c"), component()).await,
        Err(DbError::NotFound("revision"))
    ));
    tx.commit().await.unwrap();
    assert_eq!(needed(&fixture).await, [(StoredKind::Graph, graph())]);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_closed_tenant_needs_nothing(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    fixture.furnish(B).await;
    let set = async |status| {
        let mut tx = fixture.db.admin_tx().await.unwrap();
        let change = TenantChange {
            status: Some(status),
            ..TenantChange::default()
        };
        let tenant = tx.tenant_update(A, &change).await?;
        assert_eq!(tenant.status, status);
        tx.commit().await
    };
    set(TenantStatus::Suspended).await.unwrap();
    assert_eq!(needed(&fixture).await.len(), 2, "its data is kept");
    set(TenantStatus::Closed).await.unwrap();
    set(TenantStatus::Closed).await.unwrap();
    assert_eq!((needed(&fixture).await, used(&fixture, A).await), (vec![], 0));
    for status in [TenantStatus::Active, TenantStatus::Suspended] {
        let error = set(status).await.unwrap_err();
        assert!(
            matches!(&error, DbError::Check { constraint } if constraint == "tenant_closed_is_final"),
            "{error}"
        );
    }
    let mut tx = fixture.db.admin_tx().await.unwrap();
    assert_eq!(tx.tenants_closed().await.unwrap(), [A]);
    let late = fixture.now().await + Duration::from_secs(60);
    assert!(
        !tx.blob_is_free(component(), late).await.unwrap(),
        "B has the same bytes"
    );
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn what_is_hidden_is_not_deployed_anew(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.component_delete(&name("c")).await.unwrap();
    tx.graph_delete(&name("g")).await.unwrap();
    tx.commit().await.unwrap();
    for (spec, expected) in [
        (
            spec(Some(component()), None),
            "release_tenant_component_revision_fkey",
        ),
        (
            spec(None, Some(graph())),
            "release_graph_tenant_graph_digest_fkey",
        ),
    ] {
        let mut tx = fixture.db.tenant_tx(A).await.unwrap();
        let error = tx.release_insert(&name("d"), &spec).await.unwrap_err();
        assert!(
            matches!(&error, DbError::Reference { constraint } if constraint == expected),
            "{error}"
        );
    }
    fixture.finish().await;
}

/// Whether `work` waits for another transaction: it does not end while that one is open.
async fn waits<F: Future>(work: std::pin::Pin<&mut F>) -> bool {
    tokio::time::timeout(Duration::from_millis(300), work)
        .await
        .is_err()
}

#[sqlx::test(migrations = false)]
async fn a_release_and_a_deletion_take_turns(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.release_insert(&name("d"), &spec(Some(component()), None))
        .await
        .unwrap();
    let mut other = fixture.db.tenant_tx(A).await.unwrap();
    let c = name("c");
    let mut deletion = Box::pin(other.component_delete(&c));
    assert!(waits(deletion.as_mut()).await);
    tx.commit().await.unwrap();
    deletion.await.unwrap();
    drop(other);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn the_collector_and_an_upload_take_turns(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let late = fixture.now().await + Duration::from_secs(60);
    let mut upload = fixture.db.tenant_tx(A).await.unwrap();
    let mut neighbour = fixture.db.tenant_tx(B).await.unwrap();
    upload.blob_hold(component()).await.unwrap();
    neighbour.blob_hold(component()).await.unwrap();
    drop(neighbour);
    let mut collector = fixture.db.admin_tx().await.unwrap();
    assert!(
        collector.blob_is_free(graph(), late).await.unwrap(),
        "another digest"
    );
    let mut asked = Box::pin(collector.blob_is_free(component(), late));
    assert!(waits(asked.as_mut()).await);
    upload
        .component_revision_insert(&name("c"), component(), 10)
        .await
        .unwrap();
    upload.commit().await.unwrap();
    assert!(!asked.await.unwrap(), "it sees the row that it waited for");

    let mut upload = fixture.db.tenant_tx(A).await.unwrap();
    let mut hold = Box::pin(upload.blob_hold(component()));
    assert!(waits(hold.as_mut()).await);
    drop(collector);
    hold.await.unwrap();
    drop(upload);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn uploads_are_counted_by_the_hour(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let hour = fixture.now().await;
    let next = hour + Duration::from_secs(3600);
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    assert!(!tx.upload_count(hour, 0).await.unwrap());
    assert_eq!(tx.uploads(hour).await.unwrap(), 0);
    assert!(tx.upload_count(hour, 2).await.unwrap());
    assert!(tx.upload_count(hour, 2).await.unwrap());
    assert!(!tx.upload_count(hour, 2).await.unwrap());
    assert_eq!(tx.uploads(hour).await.unwrap(), 2);
    assert!(tx.upload_count(hour, 3).await.unwrap(), "it was raised");
    assert!(!tx.upload_count(next, 0).await.unwrap());
    assert!(tx.upload_count(next, 1).await.unwrap(), "a new hour");
    assert!(!tx.upload_count(next, 1).await.unwrap());
    assert_eq!(
        (tx.uploads(hour).await.unwrap(), tx.uploads(next).await.unwrap()),
        (0, 1)
    );
    tx.commit().await.unwrap();
    let mut tx = fixture.db.tenant_tx(B).await.unwrap();
    assert_eq!(tx.uploads(next).await.unwrap(), 0);
    let mut admin = fixture.db.admin_tx().await.unwrap();
    assert_eq!(admin.uploads(A, next).await.unwrap(), 1);
    drop((tx, admin));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn quotas_are_set_one_by_one(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let all = TenantChange {
        storage_max_bytes: Some(Some(7)),
        concurrency_max: Some(Some(8)),
        uploads_max_per_hour: Some(Some(9)),
        ..TenantChange::default()
    };
    tx.tenant_update(A, &all).await.unwrap();
    let one = TenantChange {
        concurrency_max: Some(None),
        ..TenantChange::default()
    };
    let tenant = tx.tenant_update(A, &one).await.unwrap();
    assert_eq!(
        (
            tenant.storage_max_bytes,
            tenant.concurrency_max,
            tenant.uploads_max_per_hour
        ),
        (Some(7), None, Some(9))
    );
    assert_eq!(tenant.status, TenantStatus::Active);
    tx.commit().await.unwrap();
    let mut own = fixture.db.tenant_tx(A).await.unwrap();
    assert_eq!(own.tenant().await.unwrap(), tenant);
    let zero = TenantChange {
        concurrency_max: Some(Some(0)),
        ..TenantChange::default()
    };
    let mut tx = fixture.db.admin_tx().await.unwrap();
    assert!(matches!(
        tx.tenant_update(A, &zero).await,
        Err(DbError::Check { .. })
    ));
    drop((own, tx));
    fixture.finish().await;
}
