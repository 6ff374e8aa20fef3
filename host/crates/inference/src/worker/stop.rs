//! Which runs the host no longer wants, inside a graph's process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::session::RunOptions;

/// What the host asks is counted on both sides, so that a stop that comes late never meets the run after. The host stops
/// what it waits for, and nothing that comes after that.
#[derive(Default)]
pub(crate) struct Stops {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of what is being answered.
    current: u64,
    /// The last that is not wanted.
    stopped: u64,
    running: Option<Arc<RunOptions>>,
}

impl Stops {
    /// The host asks the next question.
    pub(super) fn next(&self) {
        self.lock().current += 1;
    }

    /// The host does not want the answer to question `number`.
    pub(super) fn stop(&self, number: u64) {
        let mut state = self.lock();
        state.stopped = number;
        if state.current == number {
            terminate(state.running.as_ref());
        }
    }

    /// Lets a stop end the run with these options, until what this gives is dropped.
    pub(crate) fn arm(&self, options: &Arc<RunOptions>) -> Armed<'_> {
        let mut state = self.lock();
        state.running = Some(Arc::clone(options));
        if state.stopped == state.current {
            terminate(state.running.as_ref());
        }
        Armed(self)
    }

    /// Whether the host does not want the current answer.
    pub(crate) fn is_stopped(&self) -> bool {
        let state = self.lock();
        state.stopped == state.current
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that can be stopped.
pub(crate) struct Armed<'a>(&'a Stops);

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.0.lock().running = None;
    }
}

fn terminate(running: Option<&Arc<RunOptions>>) {
    // Where the library does not take it, the host kills the process after its grace.
    let _ = running.map(|options| options.terminate());
}
