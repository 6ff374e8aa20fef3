//! The estimator against machines that are known.
