//! Nothing that was posted is ever changed: not by a run-time role, and not by the owner's mistake.

use domain::Digest;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::OffsetDateTime;

use crate::support::*;

/// The tables of the ledger, the audit trail, of releases, of carbon, of billing, of checkpoints and of archives, each
/// with a column to spoil.
const KEPT: [(&str, &str); 25] = [
    ("unit", "code"),
    ("account", "code"),
    ("posting", "kind"),
    ("posting_root", "kind"),
    ("transfer", "amount"),
    ("receipt_block", "fuel"),
    ("audit_event", "object"),
    ("release", "created_at"),
    ("release_graph", "alias"),
    ("factor", "mg_per_kwh"),
    ("site", "pue_ppm"),
    ("valuation", "location_ug"),
    ("price_plan", "per_kwh"),
    ("node_lost", "reason"),
    ("period_cut", "through"),
    ("period_close", "statements"),
    ("correction", "amount"),
    ("statement", "body"),
    ("charge", "amount"),
    ("signer", "node"),
    ("checkpoint", "at"),
    ("checkpoint_head", "seq"),
    ("archive", "bytes"),
    ("archive_sum", "lines"),
    ("archive_drop", "dropped_at"),
];

/// Every table with rows, its partitions included: those of this month and the default ones.
async fn targets(fixture: &Fixture) -> Vec<(String, &'static str)> {
    let mut targets = Vec::new();
    for (table, column) in KEPT {
        targets.push((table.to_owned(), column));
        for leaf in leaves(&fixture.owner, table).await {
            targets.push((leaf, column));
        }
    }
    targets
}

fn statements(table: &str, column: &str) -> [String; 3] {
    [
        format!("update {table} set {column} = {column}"),
        format!("delete from {table}"),
        format!("truncate {table} cascade"),
    ]
}

async fn filled(options: PgConnectOptions) -> Fixture {
    let fixture = Fixture::new(options).await;
    fixture.furnish(A).await;
    let first = window(0, Digest::ZERO, fixture.now().await);
    fixture.post(&first).await;
    fixture.bill(&first).await;
    // So long ago that it lies in the default partitions.
    fixture
        .post(&window(1, first.hash, OffsetDateTime::UNIX_EPOCH))
        .await;
    fixture.checkpoint(1).await;
    fixture.archive(&[&first]).await;
    fixture
}

#[sqlx::test(migrations = false)]
async fn no_role_changes_what_was_posted(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = filled(options).await;
    let mut login = fixture.login().await;
    for (table, column) in targets(&fixture).await {
        for role in ROLES {
            for statement in statements(&table, column) {
                let answer = attempt(&mut login, role, Some(A), &statement).await;
                assert_eq!(answer, Err("42501".into()), "{role}: {statement}");
            }
        }
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn the_owner_is_stopped_by_triggers(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = filled(options).await;
    for (table, column) in targets(&fixture).await {
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {table}")))
            .fetch_one(&fixture.owner)
            .await
            .unwrap();
        for statement in statements(&table, column) {
            // A row trigger has nothing to stop where there is no row; a TRUNCATE is stopped anyway.
            if rows == 0 && !statement.starts_with("truncate") {
                continue;
            }
            let error = sqlx::query(AssertSqlSafe(statement.clone()))
                .execute(&fixture.owner)
                .await;
            assert_eq!(sqlstate(&error.unwrap_err()), "23001", "{statement}");
        }
    }
    let filled: i64 = sqlx::query_scalar(
        "select (select count(*) from transfer_default) * (select count(*) from receipt_block_default)
             * (select count(*) from transfer where at > now() - interval '1 day')",
    )
    .fetch_one(&fixture.owner)
    .await
    .unwrap();
    assert!(
        filled > 0,
        "a partition of each kind must have rows, or this test shows nothing"
    );
    fixture.finish().await;
}
