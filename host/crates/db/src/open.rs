//! Opening a database: migrate as the owner, then serve as the run-time login.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::DbError;

/// The migrations, compiled in.
pub static MIGRATOR: Migrator = sqlx::migrate!("../../../migrations");

/// How many connections, and how long to wait for one.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections of the pool; listening for changed keys takes one more.
    pub max_connections: u32,
    /// How long a transaction waits for a connection before Postgres counts as unavailable.
    pub acquire_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 8,
            acquire_timeout: Duration::from_secs(3),
        }
    }
}

/// The database, cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    pub(crate) pool: PgPool,
    pub(crate) run: PgConnectOptions,
}

impl Db {
    /// Migrates as the owner, makes the login role of `run_url` if it is absent, makes partitions three
    /// months ahead, and connects as that role.
    pub async fn open(owner_url: &str, run_url: &str, options: &Options) -> Result<Self, DbError> {
        let (owner, run) = (
            PgConnectOptions::from_str(owner_url)?,
            PgConnectOptions::from_str(run_url)?,
        );
        // A pool of one and not a bare connection: the migrator's future over one of those is not `Send`.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(options.acquire_timeout)
            .connect_with(owner.clone())
            .await?;
        MIGRATOR.run(&pool).await?;
        if run.get_username() != owner.get_username() {
            sqlx::query!("select wattle_make_login($1)", run.get_username())
                .fetch_one(&pool)
                .await?;
        }
        sqlx::query!("select wattle_make_partitions(now() + interval '3 months')")
            .fetch_one(&pool)
            .await?;
        pool.close().await;
        Self::connect(run, options).await
    }

    /// Makes the roles of the run time that are absent, as the first migration does: a dump of a database, which has
    /// none, can be loaded then.
    pub async fn make_roles(owner_url: &str) -> Result<(), DbError> {
        let mut owner = PgConnection::connect(owner_url).await?;
        sqlx::query!(
            "do $$
             declare
                 role_name text;
             begin
                 perform pg_advisory_xact_lock(hashtextextended('wattle roles', 0));
                 foreach role_name in array array['wattle_tenant', 'wattle_writer', 'wattle_billing', 'wattle_admin'] loop
                     if not exists (select from pg_roles where rolname = role_name) then
                         execute format('create role %I nologin', role_name);
                     end if;
                 end loop;
             end
             $$"
        )
        .execute(&mut owner)
        .await?;
        Ok(owner.close().await?)
    }

    /// Connects to a database that another process has migrated.
    pub async fn connect_only(run_url: &str, options: &Options) -> Result<Self, DbError> {
        Self::connect(PgConnectOptions::from_str(run_url)?, options).await
    }

    async fn connect(run: PgConnectOptions, options: &Options) -> Result<Self, DbError> {
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            .connect_with(run.clone())
            .await?;
        Ok(Self { pool, run })
    }

    /// Whether Postgres answers.
    pub async fn ping(&self) -> Result<(), DbError> {
        sqlx::query!("select 1 as one").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// Closes every connection; what is still waited for fails as unavailable.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
