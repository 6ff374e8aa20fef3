//! The use cases, each straight down its file.

pub mod admit;
pub mod allocate;
pub mod archive;
pub mod archived;
mod bare;
mod brief;
pub mod calibrate;
pub mod carbon;
pub mod checkpoint;
pub mod close;
pub mod collect;
pub mod compare;
pub mod correct;
pub mod deploy;
pub mod error;
pub mod invoke;
pub mod learnt;
pub mod live;
mod loaded;
pub mod metered;
pub mod meters;
pub mod prove;
pub mod publish;
pub mod quota;
pub mod recover;
pub mod releases;
pub mod seal;
mod signature;
pub mod verify;
pub mod worth;

pub use error::Error;
