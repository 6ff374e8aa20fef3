//! What stops a call from outside.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};

use domain::Outcome;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::outcome::Stop;
use crate::turns::Place;

/// The deadline and the cancel token of a call, and what came of them.
pub(crate) struct Guard {
    deadline: Instant,
    cancel: CancellationToken,
    /// Fires when the call must end, for whichever reason.
    stop: CancellationToken,
    ended: OnceLock<Outcome>,
    computing: AtomicBool,
}

impl Guard {
    pub(crate) fn new(deadline: Instant, cancel: CancellationToken) -> Self {
        let stop = CancellationToken::new();
        Self {
            deadline,
            cancel,
            stop,
            ended: OnceLock::new(),
            computing: AtomicBool::new(false),
        }
    }

    /// What a wait on the guest's behalf must heed.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Why the call must end, if it must. Looks at the clock.
    pub(crate) fn look(&self) -> Option<Stop> {
        if self.cancel.is_cancelled() {
            self.end(Outcome::Cancelled);
        } else if Instant::now() >= self.deadline {
            self.end(Outcome::DeadlineExceeded);
        }
        self.ended()
    }

    /// Why the call was told to end, if it was.
    pub(crate) fn ended(&self) -> Option<Stop> {
        self.ended
            .get()
            .map(|&outcome| Stop::new(outcome, "the call was stopped"))
    }

    /// Whether a graph works for the call just now. A stopped call waits for it, so that the work is in the
    /// cell before the call ends: a short grace, but as long as a load may take where its process is new.
    pub(crate) fn set_computing(&self, computing: bool) {
        self.computing.store(computing, Ordering::Relaxed);
    }

    fn end(&self, outcome: Outcome) {
        self.ended.get_or_init(|| outcome);
        self.stop.cancel();
    }

    /// Runs `call` to its end, a turn for each poll, or drops it as soon as it must stop and no graph works
    /// for it.
    pub(crate) async fn drive<T>(
        &self,
        mut place: Place<'_>,
        mut call: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
    ) -> wasmtime::Result<T> {
        let mut deadline = pin!(tokio::time::sleep_until(self.deadline));
        let mut cancelled = pin!(self.cancel.cancelled());
        poll_fn(|cx| {
            if self.ended.get().is_none() {
                if cancelled.as_mut().poll(cx).is_ready() {
                    self.end(Outcome::Cancelled);
                } else if deadline.as_mut().poll(cx).is_ready() {
                    self.end(Outcome::DeadlineExceeded);
                }
            }
            match self.ended() {
                Some(stop) if !self.computing.load(Ordering::Relaxed) => Poll::Ready(Err(stop.into())),
                _ => {
                    let _turn = ready!(place.poll_turn(cx));
                    call.as_mut().poll(cx)
                }
            }
        })
        .await
    }
}
