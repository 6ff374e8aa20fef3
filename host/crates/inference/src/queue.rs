//! A bounded queue between many callers and one task, which a caller can leave again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The queue. Leaving it frees the place at once: a cancelled job never waits to be skipped.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Notify,
    capacity: usize,
}

struct State<T> {
    jobs: VecDeque<(u64, T)>,
    next: u64,
    closed: bool,
}

/// A place in the queue; dropping it leaves the queue.
pub(crate) struct Place<'a, T> {
    queue: &'a Queue<T>,
    ticket: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            next: 0,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            ready: Notify::new(),
            capacity,
        }
    }

    /// Takes a place at the end, or says how many wait when none is left.
    pub(crate) fn push(&self, job: T) -> Result<Place<'_, T>, usize> {
        let mut state = self.lock();
        if state.jobs.len() >= self.capacity {
            return Err(state.jobs.len());
        }
        let ticket = state.next;
        state.next += 1;
        state.jobs.push_back((ticket, job));
        self.ready.notify_one();
        Ok(Place { queue: self, ticket })
    }

    /// Waits for the next job; `None` once the queue is closed.
    pub(crate) async fn pop(&self) -> Option<T> {
        loop {
            {
                let mut state = self.lock();
                if state.closed {
                    return None;
                }
                if let Some((_, job)) = state.jobs.pop_front() {
                    return Some(job);
                }
            }
            self.ready.notified().await;
        }
    }

    /// The next jobs that are there, at most `most` and up to the first that does not suit.
    pub(crate) fn pop_more(&self, most: usize, suits: impl Fn(&T) -> bool) -> Vec<T> {
        let mut state = self.lock();
        let waiting = state.jobs.iter().take(most);
        let suiting = waiting.take_while(|(_, job)| suits(job)).count();
        state.jobs.drain(..suiting).map(|(_, job)| job).collect()
    }

    /// Closes the queue; jobs that still wait are dropped.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.jobs.clear();
        self.ready.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Place<'_, T> {
    /// Leaves the queue; false if the job is no longer in it.
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.queue.lock();
        let index = state.jobs.iter().position(|(ticket, _)| *ticket == self.ticket);
        index.and_then(|index| state.jobs.remove(index)).is_some()
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        self.leave();
    }
}
