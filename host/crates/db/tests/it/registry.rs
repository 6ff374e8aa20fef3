//! Components, graphs, deployments and releases of a tenant.

use db::{Cut, DbError};
use domain::{Digest, Name};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::support::*;

const ALL: Cut<i64> = Cut {
    after: None,
    limit: 500,
};
const ALL_NAMES: Cut<Name> = Cut {
    after: None,
    limit: 500,
};

#[sqlx::test(migrations = false)]
async fn an_upload_is_idempotent(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    let (first, inserted) = tx.component_revision_insert(&name("c"), one, 3).await.unwrap();
    assert!(inserted);
    assert_eq!(
        tx.component_revision_insert(&name("c"), one, 3).await.unwrap(),
        (first.clone(), false)
    );
    tx.component_revision_insert(&name("c"), two, 4).await.unwrap();
    let listed = tx.revisions_list(&name("c"), &ALL).await.unwrap().items;
    assert_eq!(
        listed.iter().map(|revision| revision.digest).collect::<Vec<_>>(),
        [two, one]
    );
    assert_eq!(tx.revision_newest(&name("c")).await.unwrap().unwrap().digest, two);
    assert_eq!(tx.revision_get(&name("c"), one).await.unwrap(), Some(first));
    let components = tx.components_list(None, &ALL_NAMES).await.unwrap().items;
    assert_eq!(
        (components.len(), components[0].revisions, components[0].newest),
        (1, 2, two)
    );

    let (version, inserted) = tx
        .graph_version_insert(&name("g"), one, 3, "onnx", &signature())
        .await
        .unwrap();
    assert!(inserted);
    assert_eq!(version.signature, signature());
    let again = tx
        .graph_version_insert(&name("g"), one, 3, "onnx", &signature())
        .await
        .unwrap();
    assert_eq!(again, (version.clone(), false));
    assert_eq!(
        tx.graph_versions_list(&name("g"), &ALL).await.unwrap().items,
        std::slice::from_ref(&version)
    );
    assert_eq!(tx.graph_version_newest(&name("g")).await.unwrap(), Some(version));
    assert_eq!(
        tx.graphs_list(None, &ALL_NAMES).await.unwrap().items[0].versions,
        1
    );
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn deleting_hides_and_an_upload_brings_back(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let (component, graph) = (Digest::of(b"component"), Digest::of(b"graph"));
    tx.component_delete(&name("c")).await.unwrap();
    tx.graph_delete(&name("g")).await.unwrap();
    assert_eq!(tx.components_list(None, &ALL_NAMES).await.unwrap().items, []);
    assert_eq!(tx.graphs_list(None, &ALL_NAMES).await.unwrap().items, []);
    assert_eq!(tx.revision_get(&name("c"), component).await.unwrap(), None);
    assert_eq!(tx.graph_version_get(&name("g"), graph).await.unwrap(), None);
    assert!(matches!(
        tx.component_delete(&name("c")).await,
        Err(DbError::NotFound("component"))
    ));
    assert!(matches!(
        tx.graph_delete(&name("g")).await,
        Err(DbError::NotFound("graph"))
    ));
    // The release goes on.
    assert!(tx.deployment_get(&name("d")).await.unwrap().is_some());
    assert!(
        !tx.component_revision_insert(&name("c"), component, 10)
            .await
            .unwrap()
            .1
    );
    assert!(
        !tx.graph_version_insert(&name("g"), graph, 20, "onnx", &signature())
            .await
            .unwrap()
            .1
    );
    assert_eq!(tx.components_list(None, &ALL_NAMES).await.unwrap().items.len(), 1);
    assert_eq!(tx.graphs_list(None, &ALL_NAMES).await.unwrap().items.len(), 1);
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn releases_are_numbered_and_the_last_is_current(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let first = tx.release_get(&name("d"), 1).await.unwrap().unwrap();
    assert_eq!(
        first.spec,
        spec(Some(Digest::of(b"component")), Some(Digest::of(b"graph")))
    );
    let bare = spec(None, Some(Digest::of(b"graph")));
    assert_eq!(tx.release_insert(&name("d"), &bare).await.unwrap(), 2);
    let deployment = tx.deployment_get(&name("d")).await.unwrap().unwrap();
    assert_eq!((deployment.current.number, &deployment.current.spec), (2, &bare));
    assert_eq!(
        tx.deployments_list(None, &ALL_NAMES).await.unwrap().items,
        [deployment]
    );
    assert_eq!(tx.release_get(&name("d"), 1).await.unwrap(), Some(first));
    assert_eq!(tx.release_get(&name("d"), 3).await.unwrap(), None);
    assert_eq!(tx.release_get(&name("d"), u32::MAX).await.unwrap(), None);
    assert!(matches!(
        tx.release_insert(&name("x"), &bare).await,
        Err(DbError::NotFound("deployment"))
    ));
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn two_releases_at_once_get_two_numbers(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let release = async || {
        let mut tx = fixture.db.tenant_tx(A).await.unwrap();
        let number = tx
            .release_insert(&name("d"), &spec(None, Some(Digest::of(b"graph"))))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        number
    };
    let (one, two) = tokio::join!(release(), release());
    assert_eq!((one.min(two), one.max(two)), (2, 3));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_deployment_has_one_name_and_what_it_names(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let good = spec(None, Some(Digest::of(b"graph")));
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let error = tx.deployment_create(&name("d"), &good).await.unwrap_err();
    assert!(matches!(error, DbError::Conflict { constraint } if constraint == "deployment_pkey"));

    let missing = [
        (
            spec(Some(Digest::of(b"no")), None),
            "release_tenant_component_revision_fkey",
        ),
        (
            spec(None, Some(Digest::of(b"no"))),
            "release_graph_tenant_graph_digest_fkey",
        ),
    ];
    for (spec, expected) in missing {
        let mut tx = fixture.db.tenant_tx(A).await.unwrap();
        let error = tx.deployment_create(&name("e"), &spec).await.unwrap_err();
        assert!(
            matches!(&error, DbError::Reference { constraint } if constraint == expected),
            "{error}"
        );
    }
    // What is another tenant's is not there either.
    let mut other = fixture.db.tenant_tx(B).await.unwrap();
    assert!(matches!(
        other.deployment_create(&name("d"), &good).await,
        Err(DbError::Reference { .. })
    ));
    drop((tx, other));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_deleted_name_goes_on_counting(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.deployment_delete(&name("d")).await.unwrap();
    assert_eq!(tx.deployment_get(&name("d")).await.unwrap(), None);
    assert_eq!(tx.release_get(&name("d"), 1).await.unwrap(), None);
    assert_eq!(tx.deployments_list(None, &ALL_NAMES).await.unwrap().items, []);
    assert!(matches!(
        tx.deployment_delete(&name("d")).await,
        Err(DbError::NotFound("deployment"))
    ));
    let spec = spec(None, Some(Digest::of(b"graph")));
    assert!(matches!(
        tx.release_insert(&name("d"), &spec).await,
        Err(DbError::NotFound("deployment"))
    ));
    assert_eq!(tx.deployment_create(&name("d"), &spec).await.unwrap(), 2);
    assert_eq!(
        tx.deployment_get(&name("d"))
            .await
            .unwrap()
            .unwrap()
            .current
            .number,
        2
    );
    drop(tx);
    fixture.finish().await;
}
