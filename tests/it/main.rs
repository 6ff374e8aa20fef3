//! Features, each in a file, through the real HTTP API.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "tests fail by panicking, their tables of cases are long, and some set dates beside now"
)]

mod allocation;
mod anchors;
mod api;
mod archive;
mod attribution;
mod audit;
mod audit_trail;
mod backends;
mod backup;
mod billing;
mod bodies;
mod calibrate;
mod carbon;
mod checkpoints;
mod cli;
mod collect;
mod config;
mod crash;
mod disconnect;
mod disk;
mod drain;
mod embed;
mod fields;
mod hostile_graph;
mod hostile_guests;
mod idempotency;
mod js;
mod keys;
mod lifecycle;
mod lists;
mod logs;
mod meters;
mod new;
mod ocr;
mod openapi;
mod parameters;
mod pipelines;
mod probe;
mod proof;
mod python;
mod quotas;
mod recovery;
mod reference_nn;
mod released;
mod replies;
mod roles;
mod rotation;
mod sandbox;
mod schemathesis;
mod signer;
mod storage;
mod tamper;
mod timeouts;
mod tls;
mod usage;
mod v2;
mod vad;
mod windows;
