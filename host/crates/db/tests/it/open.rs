//! Opening a database: roles, migrations, and Postgres being away.

use std::time::Duration;

use db::{Db, DbError, MIGRATOR, Options};
use domain::{Digest, KeyId, Role};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool};
use uuid::Uuid;

use crate::support::*;

async fn run(pool: &PgPool, statement: String) {
    sqlx::query(AssertSqlSafe(statement)).execute(pool).await.unwrap();
}

/// A name that no other test run has in this cluster.
fn fresh(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::new_v4().simple())
}

#[sqlx::test(migrations = false)]
async fn opening_again_changes_nothing(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options.clone()).await;
    let db = Db::open(
        options.to_url_lossy().as_str(),
        &fixture.run_url(),
        &Options::default(),
    )
    .await
    .unwrap();
    let mut tx = db.admin_tx().await.unwrap();
    assert_eq!(tenants(&mut tx).await.unwrap().len(), 2);
    drop(tx);
    db.close().await;
    let db = Db::connect_only(&fixture.run_url(), &Options::default())
        .await
        .unwrap();
    db.ping().await.unwrap();
    db.close().await;
    fixture.finish().await;
}

/// Roles belong to the cluster, so databases that are opened at once meet there.
#[sqlx::test(migrations = false)]
async fn databases_of_one_cluster_migrate_at_once(_: PgPoolOptions, options: PgConnectOptions) {
    let owner = PgPoolOptions::new().connect_with(options.clone()).await.unwrap();
    let login = fresh("wattle_login");
    let databases: Vec<String> = (0..4).map(|_| fresh("wattle_race")).collect();
    for database in &databases {
        run(&owner, format!("create database {database}")).await;
    }
    let tasks: Vec<_> = databases
        .iter()
        .map(|database| {
            let (options, login) = (options.clone().database(database), login.clone());
            tokio::spawn(async move {
                let pool = PgPoolOptions::new()
                    .max_connections(1)
                    .connect_with(options)
                    .await
                    .unwrap();
                MIGRATOR.run(&pool).await.unwrap();
                sqlx::query("select wattle_make_login($1)")
                    .bind(login)
                    .execute(&pool)
                    .await
                    .unwrap();
                pool.close().await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (inherits, roles): (bool, i64) = sqlx::query_as(
        "select r.rolinherit, count(*) from pg_roles r join pg_auth_members m on m.member = r.oid
         where r.rolname = $1 and r.rolcanlogin and not r.rolsuper group by r.rolinherit",
    )
    .bind(&login)
    .fetch_one(&owner)
    .await
    .unwrap();
    assert_eq!((inherits, roles), (false, 4));
    for database in databases {
        run(&owner, format!("drop database {database}")).await;
    }
    run(&owner, format!("drop role {login}")).await;
    owner.close().await;
}

/// Row-level security is forced on an owner that is no superuser, and all works none the less.
#[sqlx::test(migrations = false)]
async fn an_owner_need_not_be_a_superuser(_: PgPoolOptions, options: PgConnectOptions) {
    // The roles of the cluster are there, as where a superuser has made them for the owner.
    Fixture::new(options.clone()).await.finish().await;
    let superuser = PgPoolOptions::new().connect_with(options.clone()).await.unwrap();
    let (role, database) = (fresh("wattle_plain"), fresh("wattle_plain"));
    run(&superuser, format!("create role {role} createrole")).await;
    run(&superuser, format!("create database {database} owner {role}")).await;

    let plain = options.clone().database(&database);
    let owner_url = format!("{}&options[role]={role}", plain.to_url_lossy());
    let run_url = plain.username("wattle_host").to_url_lossy();
    let db = Db::open(&owner_url, run_url.as_str(), &Options::default())
        .await
        .unwrap();
    let owner = PgConnectOptions::from_url(&owner_url.parse().unwrap()).unwrap();
    let owner = PgPoolOptions::new().connect_with(owner).await.unwrap();

    let mut tx = db.admin_tx().await.unwrap();
    tx.tenant_insert(A, &name("a")).await.unwrap();
    let key = db::NewKey {
        id: KeyId(Uuid::from_u128(1)),
        tenant: Some(A),
        role: Role::TenantRead,
        name: "key".into(),
        hash: [1; 32],
        expires_at: None,
    };
    tx.key_insert(&key).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.key_lookup([1; 32]).await.unwrap().unwrap().tenant, Some(A));

    let now = sqlx::query_scalar("select now()")
        .fetch_one(&owner)
        .await
        .unwrap();
    let mut tx = db.writer_tx().await.unwrap();
    tx.posting_insert(&window(0, Digest::ZERO, now)).await.unwrap();
    tx.commit().await.unwrap();
    let seen: i64 = sqlx::query_scalar("select count(*) from receipt_line")
        .fetch_one(&owner)
        .await
        .unwrap();
    assert_eq!(seen, 0, "row-level security is not forced on the owner");
    assert_eq!(
        db.billing_tx().await.unwrap().totals().await.unwrap().energy_uj,
        100
    );

    db.close().await;
    owner.close().await;
    run(&superuser, format!("drop database {database}")).await;
    run(&superuser, format!("drop role {role}")).await;
    superuser.close().await;
}

#[sqlx::test(migrations = false)]
async fn away_is_unavailable(_: PgPoolOptions, options: PgConnectOptions) {
    let quick = Options {
        acquire_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let nowhere = Db::connect_only("postgres:///x?host=/nonexistent&user=wattle_host", &quick).await;
    assert!(matches!(nowhere, Err(DbError::Unavailable(_))));

    let fixture = Fixture::with(
        options,
        &Options {
            max_connections: 1,
            ..quick
        },
    )
    .await;
    // No connection left.
    let held = fixture.db.admin_tx().await.unwrap();
    assert!(matches!(
        fixture.db.writer_tx().await,
        Err(DbError::Unavailable(_))
    ));
    drop(held);
    // The server ends the connection in the middle of a transaction.
    let mut tx = fixture.db.admin_tx().await.unwrap();
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and usename = 'wattle_host'",
    )
    .execute(&fixture.owner)
    .await
    .unwrap();
    let error = tenants(&mut tx).await.unwrap_err();
    assert!(matches!(error, DbError::Unavailable(_)), "{error:?}");
    drop(tx);
    // And the next one gets a new connection.
    let mut tx = fixture.db.admin_tx().await.unwrap();
    assert_eq!(tenants(&mut tx).await.unwrap().len(), 2);
    drop(tx);
    fixture.db.close().await;
    assert!(matches!(fixture.db.ping().await, Err(DbError::Unavailable(_))));
    fixture.finish().await;
}
