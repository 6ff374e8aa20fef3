//! Partitions are made ahead; rows without one are kept and counted.

use db::DbError;
use domain::Digest;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::{Duration, OffsetDateTime};

use crate::support::*;

async fn make(fixture: &Fixture, through: OffsetDateTime) -> Result<u32, DbError> {
    let mut tx = fixture.db.writer_tx().await.unwrap();
    let made = tx.make_partitions(through).await?;
    tx.commit().await.unwrap();
    Ok(made)
}

async fn default_rows(fixture: &Fixture) -> u64 {
    fixture
        .db
        .billing_tx()
        .await
        .unwrap()
        .default_rows()
        .await
        .unwrap()
}

/// Noon of the first of the month that is `months` after that of `now`.
fn month(now: OffsetDateTime, months: i32) -> OffsetDateTime {
    let index = now.year() * 12 + i32::from(u8::from(now.month())) - 1 + months;
    let month = time::Month::January.nth_next(u8::try_from(index.rem_euclid(12)).unwrap());
    let date = time::Date::from_calendar_date(index.div_euclid(12), month, 1).unwrap();
    date.with_hms(12, 0, 0).unwrap().assume_utc()
}

#[sqlx::test(migrations = false)]
async fn are_made_ahead_once(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    // This month and three more, and the default one.
    for parent in ["transfer", "receipt_block"] {
        assert_eq!(leaves(&fixture.owner, parent).await.len(), 5);
    }
    assert_eq!(make(&fixture, month(now, 3)).await.unwrap(), 0);
    assert_eq!(make(&fixture, month(now, 5)).await.unwrap(), 4);
    assert_eq!(make(&fixture, month(now, 5)).await.unwrap(), 0);
    fixture.post(&window(0, Digest::ZERO, month(now, 5))).await;
    assert_eq!(default_rows(&fixture).await, 0);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn two_hosts_make_them_once(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let through = month(fixture.now().await, 5);
    let (one, two) = tokio::join!(make(&fixture, through), make(&fixture, through));
    assert_eq!(one.unwrap() + two.unwrap(), 4);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn rows_of_the_default_partition_are_seen_and_kept(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let now = fixture.now().await;
    let late = window(0, Digest::ZERO, month(now, 5));
    fixture.post(&late).await;
    let rows = late.transfers.len() + late.lines.len();
    assert_eq!(default_rows(&fixture).await, rows as u64);
    // Month 5 stays in the default partition; months 4 and 6 are made nevertheless.
    assert_eq!(make(&fixture, month(now, 6)).await.unwrap(), 4);
    assert_eq!(default_rows(&fixture).await, rows as u64);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn are_not_made_without_end(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let far = fixture.now().await + Duration::days(20 * 366);
    assert!(matches!(make(&fixture, far).await, Err(DbError::Statement(_))));
    fixture.finish().await;
}
