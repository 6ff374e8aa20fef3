//! The Wattle host: models for many tenants, in sandboxes, with every joule in a ledger.

pub mod anchors;
pub mod app;
mod archives;
pub mod backup;
pub mod blobs;
pub mod cli;
pub mod clock;
mod columnar;
pub mod config;
pub mod fault;
pub mod flow;
mod fresh;
pub mod http;
pub mod keys;
mod metrics;
mod notify;
mod onnxruntime;
mod secret_file;
mod serve;
pub mod signer;

pub use serve::serve;
