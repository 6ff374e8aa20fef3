//! A simulated host that judges the attribution: it knows what each call truly cost.
//!
//! Its physics are its own and share nothing with the code that is judged, which is the real one: the
//! sealer, the estimator and the split of `domain`, driven slice by slice by a clock that is a counter.
//! What a scenario can say stands in [`scenario`], the physics and their sources in [`machine`], and what
//! counts as truth in [`shapley`].

pub mod drive;
pub mod machine;
pub mod meter;
pub mod random;
pub mod scenario;
pub mod score;
pub mod shapley;
pub mod work;

pub use drive::run;
pub use scenario::Scenario;
pub use score::Score;
