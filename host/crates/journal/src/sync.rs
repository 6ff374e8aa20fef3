//! The thread that makes written records last, in groups, without holding up whoever wrote them.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;

use crate::writer::Shared;

/// Within this, what is written lasts, on a disk that syncs fast enough: a millisecond less than
/// [`crate::Mode::Standard`] says, for timers and threads that are late.
const LASTS_WITHIN: Duration = Duration::from_millis(9);

/// Records gather for as long at least, however long a sync takes: each costs something.
const LEAST_GATHERING: Duration = Duration::from_millis(3);

/// How long records gather where a sync takes `sync`: one that is written while a sync runs waits for that one, for
/// this, and for its own.
fn gathering(sync: Duration) -> Duration {
    LASTS_WITHIN.saturating_sub(sync * 2).max(LEAST_GATHERING)
}

#[derive(Default)]
struct Work {
    dirty: Option<Arc<File>>,
    stopping: bool,
}

/// Syncs a file soon after it was marked. Dropping it syncs what is left and ends the thread.
pub(crate) struct Syncer {
    work: Arc<(Mutex<Work>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    pub(crate) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let work = Arc::new((Mutex::new(Work::default()), Condvar::new()));
        let theirs = Arc::clone(&work);
        let thread = Builder::new()
            .name("journal-sync".into())
            .spawn(move || run(&theirs, &shared))?;
        Ok(Self {
            work,
            thread: Some(thread),
        })
    }

    /// Says that `file` has something to sync. A file before it is synced by the one who changes files.
    pub(crate) fn mark(&self, file: &Arc<File>) {
        let (work, woken) = &*self.work;
        let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
        if work.dirty.is_none() {
            woken.notify_one();
        }
        work.dirty = Some(Arc::clone(file));
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        let (work, woken) = &*self.work;
        work.lock().unwrap_or_else(PoisonError::into_inner).stopping = true;
        woken.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed, and there is nothing left to save.
            let _ = thread.join();
        }
    }
}

fn run((work, woken): &(Mutex<Work>, Condvar), shared: &Shared) {
    // The longest sync of late: a slow one is forgotten by and by.
    let mut longest = LASTS_WITHIN;
    loop {
        let guard = work.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |work: &mut Work| work.dirty.is_none() && !work.stopping;
        let guard = woken
            .wait_while(guard, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let goes_on = |work: &mut Work| !work.stopping;
        let (mut guard, _) = woken
            .wait_timeout_while(guard, gathering(longest), goes_on)
            .unwrap_or_else(PoisonError::into_inner);
        let Some(file) = guard.dirty.take() else {
            return;
        };
        drop(guard);
        let begun = Instant::now();
        if let Err(source) = shared.sync(&file) {
            tracing::error!(error = %source, "the journal cannot be synced; it takes no more records");
        }
        longest = begun.elapsed().max(longest * 255 / 256);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_waits_for_two_syncs_and_what_gathers_between_them() {
        let ms = Duration::from_millis;
        for sync in [Duration::ZERO, ms(1), ms(3)] {
            assert_eq!(sync * 2 + gathering(sync), LASTS_WITHIN, "{sync:?}");
        }
        for sync in [ms(4), ms(100), Duration::from_secs(3600)] {
            assert_eq!(gathering(sync), LEAST_GATHERING, "{sync:?}");
        }
    }
}
