//! Wattle's rules as plain values: ids, units, tensors, limits, usage, attribution, postings and billing.
//!
//! Nothing here reads a clock, a file or a socket, so every rule can be tested as arithmetic.

pub mod account;
pub mod allocation;
pub mod archive;
pub mod attribution;
pub mod backend;
pub mod batch;
pub mod billing;
pub mod calibrate;
pub mod carbon;
pub mod checkpoint;
pub mod correction;
pub mod encoding;
pub mod energy;
pub mod estimator;
pub mod ids;
pub mod label;
pub mod limits;
pub mod merkle;
pub mod name;
pub mod outcome;
pub mod posting;
pub mod proof;
pub mod role;
pub mod rounding;
pub mod signature;
pub mod tensor;
pub mod usage;
pub mod verify;
pub mod weights;
pub mod window;

pub use backend::{BackendChoice, GoldenCheck, Placement};
pub use ids::{Digest, Epoch, InvocationId, KeyId, NodeId, TenantId};
pub use label::Label;
pub use limits::Limits;
pub use name::Name;
pub use outcome::Outcome;
pub use role::Role;
pub use signature::{PublicKey, SigningKey};
pub use tensor::{DType, Parameter, Signature, Tensor, TensorSpec};
pub use usage::{Usage, UsageCell, Work};
