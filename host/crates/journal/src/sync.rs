//! The thread that makes written records last, in groups, without holding up whoever wrote them.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::writer::Shared;

/// How long records gather. One that is written while a sync runs waits for that one, this, and its
/// own sync: 10 ms where a sync takes 3.5.
const GATHER: Duration = Duration::from_millis(3);

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
    loop {
        let guard = work.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |work: &mut Work| work.dirty.is_none() && !work.stopping;
        let guard = woken
            .wait_while(guard, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let gathering = |work: &mut Work| !work.stopping;
        let (mut guard, _) = woken
            .wait_timeout_while(guard, GATHER, gathering)
            .unwrap_or_else(PoisonError::into_inner);
        let Some(file) = guard.dirty.take() else {
            return;
        };
        drop(guard);
        if let Err(source) = shared.sync(&file) {
            tracing::error!(error = %source, "the journal cannot be synced; it takes no more records");
        }
    }
}
