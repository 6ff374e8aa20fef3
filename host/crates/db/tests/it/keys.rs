//! Bearer keys and the news of them.

use db::{Cut, DbError, KeyEvent, KeyEvents, KeyFilter, NewKey, TenantChange, TenantStatus};
use domain::{KeyId, Role, TenantId};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::Duration;
use uuid::Uuid;

use crate::support::*;

fn key(id: u128, role: Role, tenant: Option<TenantId>) -> NewKey {
    let hash = [u8::try_from(id).unwrap(); 32];
    NewKey {
        id: KeyId(Uuid::from_u128(id)),
        tenant,
        role,
        name: "key".into(),
        hash,
        expires_at: None,
    }
}

async fn insert(fixture: &Fixture, key: &NewKey) -> Result<(), DbError> {
    let mut tx = fixture.db.admin_tx().await.unwrap();
    tx.key_insert(key).await?;
    tx.commit().await
}

async fn revoke(fixture: &Fixture, id: KeyId) {
    let mut tx = fixture.db.admin_tx().await.unwrap();
    tx.key_revoke(id).await.unwrap();
    tx.commit().await.unwrap();
}

#[sqlx::test(migrations = false)]
async fn are_found_by_their_hash(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let expires_at = Some(fixture.now().await + Duration::DAY);
    let tenants = NewKey {
        expires_at,
        ..key(1, Role::TenantInvoke, Some(A))
    };
    let admins = key(2, Role::Admin, None);
    for key in [&tenants, &admins] {
        insert(&fixture, key).await.unwrap();
        let found = fixture.db.key_lookup(key.hash).await.unwrap().unwrap();
        assert_eq!(
            (
                found.id,
                found.role,
                found.tenant,
                found.expires_at,
                found.revoked_at
            ),
            (key.id, key.role, key.tenant, key.expires_at, None)
        );
        assert_eq!(found.tenant_status, key.tenant.map(|_| TenantStatus::Active));
    }
    assert_eq!(fixture.db.key_lookup([9; 32]).await.unwrap(), None);
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let listed = tx
        .keys_list(&KeyFilter::default(), &Cut::first(9))
        .await
        .unwrap()
        .items;
    assert_eq!(
        listed.iter().map(|key| key.id).collect::<Vec<_>>(),
        [tenants.id, admins.id]
    );
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn stay_revoked(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let key = key(1, Role::TenantRead, Some(A));
    insert(&fixture, &key).await.unwrap();
    revoke(&fixture, key.id).await;
    let revoked_at = fixture.db.key_lookup(key.hash).await.unwrap().unwrap().revoked_at;
    assert!(revoked_at.is_some());
    revoke(&fixture, key.id).await;
    assert_eq!(
        fixture.db.key_lookup(key.hash).await.unwrap().unwrap().revoked_at,
        revoked_at
    );

    let mut login = fixture.login().await;
    let again = "update api_key set revoked_at = null";
    assert_eq!(
        attempt(&mut login, "wattle_admin", None, again).await,
        Err("23001".into())
    );
    for statement in [
        "update api_key set role = 'admin'",
        "update api_key set hash = hash",
        "update api_key set tenant = null",
        "delete from api_key",
    ] {
        assert_eq!(
            attempt(&mut login, "wattle_admin", None, statement).await,
            Err("42501".into())
        );
    }
    let mut tx = fixture.db.admin_tx().await.unwrap();
    let missing = tx.key_revoke(KeyId(Uuid::from_u128(99))).await;
    assert!(matches!(missing, Err(DbError::NotFound("key"))));
    drop(tx);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn have_a_tenant_if_their_role_does(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    for role in Role::ALL {
        for tenant in [None, Some(A)] {
            let answer = insert(&fixture, &key(1, role, tenant)).await;
            if role.is_tenants() == tenant.is_some() {
                answer.unwrap();
                sqlx::query("delete from api_key")
                    .execute(&fixture.owner)
                    .await
                    .unwrap();
            } else {
                let error = answer.unwrap_err();
                let DbError::Check { constraint } = error else {
                    panic!("{role}: {error}")
                };
                assert_eq!(constraint, "api_key_tenant_fits_role");
            }
        }
    }
    let stranger = key(1, Role::TenantRead, Some(TenantId(Uuid::from_u128(99))));
    let error = insert(&fixture, &stranger).await.unwrap_err();
    assert!(matches!(error, DbError::Reference { constraint } if constraint == "api_key_tenant_fkey"));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn end_earlier_and_never_later(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let key = key(1, Role::TenantManage, Some(A));
    insert(&fixture, &key).await.unwrap();
    let now = fixture.now().await;
    let mut events = fixture.db.listen_keys().await.unwrap();
    for (days, expected) in [(2, 2), (3, 2), (1, 1)] {
        let mut tx = fixture.db.admin_tx().await.unwrap();
        assert_eq!(tx.key_locked(key.id).await.unwrap().id, key.id);
        tx.key_end(key.id, now + Duration::days(days)).await.unwrap();
        tx.commit().await.unwrap();
        let found = fixture.db.key_lookup(key.hash).await.unwrap().unwrap();
        assert_eq!(found.expires_at, Some(now + Duration::days(expected)));
        assert_eq!(next(&mut events).await.unwrap(), KeyEvent::Key(key.id));
    }
    let mut login = fixture.login().await;
    for later in ["null", "expires_at + interval '1 second'"] {
        let statement = format!("update api_key set expires_at = {later}");
        for role in ["wattle_admin", "wattle_tenant"] {
            let answer = attempt(&mut login, role, Some(A), &statement).await;
            assert_eq!(answer, Err("23001".into()), "{role}: {later}");
        }
    }
    drop(events);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn of_a_tenant_are_its_own_to_keep(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    let own = key(1, Role::TenantManage, Some(A));
    tx.key_insert(&own).await.unwrap();
    tx.commit().await.unwrap();
    for stranger in [key(2, Role::TenantRead, Some(B)), key(3, Role::Admin, None)] {
        let mut tx = fixture.db.tenant_tx(A).await.unwrap();
        let refused = tx.key_insert(&stranger).await;
        assert!(matches!(refused, Err(DbError::Statement(_))), "{refused:?}");
    }
    let mut other = fixture.db.tenant_tx(B).await.unwrap();
    let now = fixture.now().await;
    assert!(matches!(
        other.key_locked(own.id).await,
        Err(DbError::NotFound("key"))
    ));
    assert!(matches!(
        other.key_end(own.id, now).await,
        Err(DbError::NotFound("key"))
    ));
    assert!(matches!(
        other.key_revoke(own.id).await,
        Err(DbError::NotFound("key"))
    ));
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.key_revoke(own.id).await.unwrap();
    tx.commit().await.unwrap();
    let found = fixture.db.key_lookup(own.hash).await.unwrap().unwrap();
    assert!(found.revoked_at.is_some());
    drop(other);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn of_an_admin_are_made_first_by_one(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = async |id| {
        let mut tx = fixture.db.admin_tx().await.unwrap();
        tx.admin_keys_lock().await.unwrap();
        if tx.admin_key_exists().await.unwrap() {
            return false;
        }
        tx.key_insert(&key(id, Role::Admin, None)).await.unwrap();
        tx.commit().await.unwrap();
        true
    };
    let (one, two) = tokio::join!(first(1), first(2));
    assert!(one != two, "{one} {two}");
    fixture.finish().await;
}

/// The next event; news that never come fail the test instead of hanging it.
async fn next(events: &mut KeyEvents) -> Result<KeyEvent, DbError> {
    tokio::time::timeout(std::time::Duration::from_secs(20), events.next())
        .await
        .expect("no news")
}

#[sqlx::test(migrations = false)]
async fn revoked_are_news(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let (one, two) = (key(1, Role::TenantRead, Some(A)), key(2, Role::Billing, None));
    insert(&fixture, &one).await.unwrap();
    insert(&fixture, &two).await.unwrap();
    let mut events = fixture.db.listen_keys().await.unwrap();
    revoke(&fixture, one.id).await;
    assert_eq!(next(&mut events).await.unwrap(), KeyEvent::Key(one.id));

    let mut tx = fixture.db.admin_tx().await.unwrap();
    for status in [TenantStatus::Active, TenantStatus::Suspended] {
        let status = Some(status);
        let change = TenantChange {
            status,
            ..TenantChange::default()
        };
        tx.tenant_update(A, &change).await.unwrap();
    }
    tx.commit().await.unwrap();
    // Only the change was told.
    assert_eq!(next(&mut events).await.unwrap(), KeyEvent::Tenant(A));
    let found = fixture.db.key_lookup(one.hash).await.unwrap().unwrap();
    assert_eq!(found.tenant_status, Some(TenantStatus::Suspended));

    // A lost connection comes back and says that news may be missing.
    let killed: i64 = sqlx::query_scalar(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = current_database() and query ilike 'listen%'",
    )
    .fetch_one(&fixture.owner)
    .await
    .unwrap();
    assert_eq!(killed, 1);
    let event = match next(&mut events).await {
        Err(DbError::Unavailable(_)) => next(&mut events).await,
        other => other,
    };
    assert_eq!(event.unwrap(), KeyEvent::Missed);
    revoke(&fixture, two.id).await;
    assert_eq!(next(&mut events).await.unwrap(), KeyEvent::Key(two.id));
    drop(events);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn and_tenants_and_nodes_are_unique(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let conflict = |result: Result<(), DbError>, expected: &str| {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, DbError::Conflict { constraint } if constraint == expected),
            "{expected}: {error}"
        );
    };
    let first = key(1, Role::Admin, None);
    insert(&fixture, &first).await.unwrap();
    conflict(
        insert(
            &fixture,
            &NewKey {
                hash: [7; 32],
                ..first.clone()
            },
        )
        .await,
        "api_key_pkey",
    );
    conflict(
        insert(
            &fixture,
            &NewKey {
                id: KeyId(Uuid::from_u128(2)),
                ..first
            },
        )
        .await,
        "api_key_hash_key",
    );

    let (admin, new) = (|| fixture.db.admin_tx(), TenantId(Uuid::from_u128(0xc)));
    let taken = admin().await.unwrap().tenant_insert(new, &name("tenant-a")).await;
    conflict(taken.map(|_| ()), "tenant_name_key");
    let taken = admin().await.unwrap().tenant_insert(A, &name("tenant-c")).await;
    conflict(taken.map(|_| ()), "tenant_pkey");

    let mut tx = admin().await.unwrap();
    assert_eq!(tx.node_ensure(NODE, "one").await.unwrap(), NODE);
    let other = domain::NodeId(Uuid::from_u128(5));
    assert_eq!(tx.node_ensure(other, "one").await.unwrap(), NODE);
    conflict(tx.node_ensure(NODE, "two").await.map(|_| ()), "node_pkey");
    drop(tx);
    fixture.finish().await;
}
