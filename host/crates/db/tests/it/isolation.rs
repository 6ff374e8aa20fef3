//! Who sees what.

use db::{Cut, Options};
use domain::{Digest, TenantId};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection};

use crate::support::*;

/// The tables with rows of tenants, and the column that names the tenant.
const OWNED: [(&str, &str); 19] = [
    ("tenant", "id"),
    ("component_revision", "tenant"),
    ("graph_version", "tenant"),
    ("deployment", "tenant"),
    ("release", "tenant"),
    ("release_graph", "tenant"),
    ("transfer", "tenant"),
    ("receipt_block", "tenant"),
    ("receipt_line", "tenant"),
    ("audit_event", "tenant"),
    ("usage_hour", "tenant"),
    ("usage_graph_hour", "tenant"),
    ("api_key", "tenant"),
    ("upload_count", "tenant"),
    ("idempotency", "tenant"),
    ("valuation", "tenant"),
    ("correction", "tenant"),
    ("statement", "tenant"),
    ("charge", "tenant"),
];

const DENIED: &str = "42501";

async fn furnished(options: PgConnectOptions) -> Fixture {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    fixture.furnish(B).await;
    let now = fixture.now().await;
    let posting = window(0, Digest::ZERO, now);
    fixture.post(&posting).await;
    fixture.bill(&posting).await;
    fixture
}

#[sqlx::test(migrations = false)]
async fn every_table_with_a_tenant_is_forced(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = furnished(options).await;
    let mut open: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid
         where a.attname = 'tenant' and c.relkind in ('r', 'p') and not c.relispartition
             and not (c.relrowsecurity and c.relforcerowsecurity)",
    )
    .fetch_all(&fixture.owner)
    .await
    .unwrap();
    let tenant: bool = sqlx::query_scalar(
        "select relrowsecurity and relforcerowsecurity from pg_class where oid = 'tenant'::regclass",
    )
    .fetch_one(&fixture.owner)
    .await
    .unwrap();
    if !tenant {
        open.push("tenant".into());
    }
    assert_eq!(open, Vec::<String>::new());
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_tenant_sees_its_own_rows_only(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = furnished(options).await;
    let mut login = fixture.login().await;
    for (table, column) in OWNED {
        for (me, other) in [(A, B), (B, A)] {
            let own = format!("select count(*) from {table} where {column} = '{me}'");
            let foreign = format!("select count(*) from {table} where {column} is distinct from '{me}'");
            assert!(
                count(&mut login, "wattle_tenant", Some(me), &own).await.unwrap() > 0,
                "{own}"
            );
            assert_eq!(
                count(&mut login, "wattle_tenant", Some(me), &foreign).await,
                Ok(0),
                "{foreign}"
            );
            let all = format!("select count(*) from {table} where {column} = '{other}'");
            let seen: i64 = sqlx::query_scalar(AssertSqlSafe(all))
                .fetch_one(&fixture.owner)
                .await
                .unwrap();
            assert!(seen > 0, "{table} has nothing to hide");
        }
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_tenant_cannot_write_for_another(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = furnished(options).await;
    let mut login = fixture.login().await;
    let insert = format!("insert into deployment (tenant, name) values ('{B}', 'x')");
    let hide = format!("update deployment set hidden_at = now() where tenant = '{B}'");
    assert_eq!(
        attempt(&mut login, "wattle_tenant", Some(A), &insert).await,
        Err(DENIED.into())
    );
    assert_eq!(
        attempt(&mut login, "wattle_tenant", Some(B), &insert).await,
        Ok(1)
    );
    assert_eq!(attempt(&mut login, "wattle_tenant", Some(A), &hide).await, Ok(0));
    assert_eq!(attempt(&mut login, "wattle_tenant", Some(B), &hide).await, Ok(1));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_query_that_forgot_its_tenant_sees_nothing(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = furnished(options).await;
    let mut login = fixture.login().await;
    for (table, _) in OWNED {
        let query = format!("select count(*) from {table}");
        // Before the setting was ever made, and on a connection that was a tenant's before.
        assert_eq!(
            count(&mut login, "wattle_tenant", None, &query).await,
            Ok(0),
            "{table}"
        );
        assert!(
            count(&mut login, "wattle_tenant", Some(A), &query).await.unwrap() > 0,
            "{table}"
        );
        assert_eq!(
            count(&mut login, "wattle_tenant", None, &query).await,
            Ok(0),
            "{table}"
        );
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_pooled_connection_forgets_its_tenant(_: PgPoolOptions, options: PgConnectOptions) {
    let one = Options {
        max_connections: 1,
        ..Options::default()
    };
    let fixture = Fixture::with(options, &one).await;
    fixture.furnish(A).await;
    async fn deployments(fixture: &Fixture, tenant: TenantId) -> usize {
        let mut tx = fixture.db.tenant_tx(tenant).await.unwrap();
        let page = tx.deployments_list(None, &Cut::first(9)).await.unwrap();
        page.items.len()
    }
    for _ in 0..2 {
        assert_eq!(deployments(&fixture, A).await, 1);
        assert_eq!(deployments(&fixture, B).await, 0);
        // The same connection as other roles: what these may not do, they may not do after a tenant.
        let mut tx = fixture.db.admin_tx().await.unwrap();
        assert_eq!(tenants(&mut tx).await.unwrap().len(), 2);
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn each_role_reads_what_it_must_and_no_more(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = furnished(options).await;
    let mut login = fixture.login().await;
    let readers = [
        ("node", "wattle_billing wattle_admin"),
        ("tenant", "wattle_tenant wattle_billing wattle_admin"),
        ("api_key", "wattle_tenant wattle_admin"),
        ("component_revision", "wattle_tenant wattle_admin"),
        ("graph_version", "wattle_tenant wattle_admin"),
        ("deployment", "wattle_tenant wattle_admin"),
        ("release", "wattle_tenant wattle_admin"),
        ("release_graph", "wattle_tenant wattle_admin"),
        ("unit", "wattle_tenant wattle_writer wattle_billing wattle_admin"),
        ("account", "wattle_writer wattle_billing"),
        ("posting", "wattle_tenant wattle_writer wattle_billing"),
        ("posting_root", "wattle_billing"),
        ("transfer", "wattle_tenant wattle_billing"),
        ("receipt_block", "wattle_tenant wattle_billing"),
        ("audit_event", "wattle_tenant wattle_billing wattle_admin"),
        ("usage_hour", "wattle_tenant wattle_writer wattle_billing"),
        ("usage_graph_hour", "wattle_tenant wattle_writer wattle_billing"),
        ("upload_count", "wattle_tenant wattle_admin"),
        ("idempotency", "wattle_tenant wattle_admin"),
        (
            "factor",
            "wattle_tenant wattle_writer wattle_billing wattle_admin",
        ),
        ("site", "wattle_tenant wattle_writer wattle_billing"),
        ("valuation", "wattle_tenant wattle_billing"),
        ("price_plan", "wattle_tenant wattle_billing wattle_admin"),
        ("node_lost", "wattle_billing wattle_admin"),
        ("period_cut", "wattle_tenant wattle_billing wattle_admin"),
        ("period_close", "wattle_tenant wattle_billing wattle_admin"),
        (
            "correction",
            "wattle_tenant wattle_writer wattle_billing wattle_admin",
        ),
        ("statement", "wattle_tenant wattle_billing wattle_admin"),
        ("charge", "wattle_tenant wattle_billing wattle_admin"),
        ("signer", "wattle_writer wattle_billing wattle_admin"),
        ("checkpoint", "wattle_writer wattle_billing wattle_admin"),
        ("checkpoint_head", "wattle_tenant wattle_writer wattle_billing"),
        ("archive", "wattle_writer wattle_billing wattle_admin"),
        ("archive_sum", "wattle_billing"),
        ("archive_drop", "wattle_billing"),
    ];
    for (table, readers) in readers {
        let query = format!("select count(*) from {table}");
        for role in ROLES {
            let answer = count(&mut login, role, Some(A), &query).await;
            assert_eq!(
                answer.is_ok(),
                readers.contains(role),
                "{role} reads {table}: {answer:?}"
            );
        }
        // The login itself inherits nothing.
        let error = sqlx::query(AssertSqlSafe(query))
            .execute(&mut login)
            .await
            .unwrap_err();
        assert_eq!(sqlstate(&error), DENIED, "{table}");
    }
    // An admin sees of uploads and releases what the collector needs, and a tenant no hash of its keys.
    for (role, secret) in [
        ("wattle_admin", "select count(settings) from release"),
        ("wattle_admin", "select count(signature) from graph_version"),
        ("wattle_tenant", "select count(hash) from api_key"),
    ] {
        let answer = count(&mut login, role, Some(A), secret).await;
        assert_eq!(answer, Err(DENIED.into()), "{role}: {secret}");
    }
    let tables: i64 = sqlx::query_scalar(
        "select count(*) from pg_class
         where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
             and relname <> '_sqlx_migrations'",
    )
    .fetch_one(&fixture.owner)
    .await
    .unwrap();
    assert_eq!(
        tables,
        readers.len() as i64,
        "a table is missing in the list above"
    );
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_partition_is_no_way_around(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = furnished(options).await;
    let mut login = fixture.login().await;
    for parent in ["transfer", "receipt_block"] {
        let leaves = leaves(&fixture.owner, parent).await;
        assert!(leaves.len() >= 5, "{leaves:?}");
        for leaf in leaves {
            let query = format!("select count(*) from {leaf}");
            for role in ROLES {
                assert_eq!(
                    count(&mut login, role, Some(A), &query).await,
                    Err(DENIED.into()),
                    "{role} {leaf}"
                );
            }
        }
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn functions_are_for_those_who_need_them(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut login = fixture.login().await;
    let functions = [
        ("select count(*) from wattle_key_lookup('x')", "wattle_tenant"),
        ("select wattle_make_partitions(now())::bigint", "wattle_writer"),
        ("select wattle_default_rows()", "wattle_writer wattle_billing"),
        ("select count(wattle_make_login('wattle_host'))", ""),
        (
            "select count(wattle_cut_period('1970-01-01', now()))",
            "wattle_admin",
        ),
        (
            "select count(wattle_correctable('x', null, null, 'uj'))",
            "wattle_admin",
        ),
        ("select count(*) from wattle_archive_due(now())", "wattle_billing"),
        (
            "select wattle_archive_drop('receipt_block_default', now())",
            "wattle_writer",
        ),
    ];
    for (query, callers) in functions {
        for role in ROLES {
            let answer = count(&mut login, role, None, query).await;
            let expected = if callers.contains(role) {
                Ok(())
            } else {
                Err(DENIED.to_owned())
            };
            assert_eq!(answer.map(|_| ()), expected, "{role}: {query}");
        }
    }
    let unfixed: Vec<String> = sqlx::query_scalar(
        "select proname::text from pg_proc
         where pronamespace = 'public'::regnamespace and prosecdef
             and not coalesce(array_to_string(proconfig, ' ') like 'search_path=%', false)",
    )
    .fetch_all(&fixture.owner)
    .await
    .unwrap();
    assert_eq!(unfixed, Vec::<String>::new());
    login.close().await.unwrap();
    fixture.finish().await;
}
