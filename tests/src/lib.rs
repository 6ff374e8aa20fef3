//! The harness: a whole host on a real Postgres, spoken to over HTTP, audited when a test ends.

pub mod audit;
pub mod client;
pub mod cluster;
pub mod crash;
pub mod disk;
pub mod guests;
pub mod host;
pub mod process;
pub mod s3;
pub mod sim;
pub mod times;

pub use client::Client;
pub use host::TestHost;
