//! Time and identity: the one place that reads the wall clock and mints ids.

use domain::{Epoch, InvocationId};
use time::OffsetDateTime;
use uuid::Uuid;

/// Wall time and fresh ids. Tests replace it to make a day pass at once.
pub trait Clock: Send + Sync {
    /// The wall time, in UTC.
    fn now(&self) -> OffsetDateTime;

    /// A fresh UUIDv7 of now: later ones sort behind earlier ones, also within a millisecond.
    fn mint(&self) -> Uuid;

    /// The id of a new invocation.
    fn invocation(&self) -> InvocationId {
        InvocationId(self.mint())
    }

    /// The id of a new epoch.
    fn epoch(&self) -> Epoch {
        Epoch(Uuid::new_v4())
    }
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "everyone else takes the time from here")]
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    #[expect(clippy::disallowed_methods, reason = "everyone else takes ids from here")]
    fn mint(&self) -> Uuid {
        Uuid::now_v7()
    }
}
