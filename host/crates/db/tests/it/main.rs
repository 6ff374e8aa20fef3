//! The database as its run-time roles see it, on a real Postgres.
//!
//! `DATABASE_URL` names a superuser of a throwaway cluster; every test has a database of its own.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests may fail like the tests themselves, and some set dates beside now"
)]
#![allow(clippy::type_complexity, reason = "tables of cases are read, not named")]

mod append_only;
mod archive;
mod audit;
mod audit_trail;
mod billing;
mod blocks;
mod carbon;
mod checkpoints;
mod idempotency;
mod isolation;
mod keys;
mod lists;
mod open;
mod partitions;
mod posting;
mod registry;
mod stored;
mod support;
mod upgrade;
mod usage;
