//! The backends, a file each.

pub mod rten;
