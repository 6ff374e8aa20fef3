//! Calls that are brief begin on the thread that read them, which spares two ways between threads; what turns
//! out to be longer goes on on the guests' threads, so that no guest holds up who serves HTTP.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::Poll;

use domain::UsageCell;
use tokio::runtime::Handle;
use tokio::task::JoinError;

/// CPU time of a guest and of models on its thread, in nanoseconds, within which a call is brief: some times what it
/// takes to read a call. Whoever calls at once as often as he may keeps the threads that read calls busy for that long
/// each time.
const BRIEF_NS: u64 = 250_000;

/// Bytes of tensors and parameters in and out of a call that is brief: more take their time to be written down.
pub const SMALL_BYTES: u64 = 64 << 10;

/// So many brief calls of a release on end make its next one be expected to be brief. A guest yields every few
/// milliseconds: one that is long on purpose every now and then takes that much of a thread, once in this many.
const TRUST: u32 = 100;

/// How long the calls of a release have been lately.
#[derive(Debug, Default)]
pub struct Habit(AtomicU32);

impl Habit {
    /// Whether the next call is expected to be brief.
    pub fn is_brief(&self) -> bool {
        self.0.load(Relaxed) >= TRUST
    }

    /// Learns from a call that has ended.
    pub fn note(&self, cell: &UsageCell) {
        if !is_brief(cell) {
            self.0.store(0, Relaxed);
        } else if !self.is_brief() {
            self.0.fetch_add(1, Relaxed);
        }
    }
}

/// Whether a call has been brief so far, up to when it last waited.
pub fn is_brief(cell: &UsageCell) -> bool {
    cell.here_ns() <= BRIEF_NS && cell.bytes_out() <= SMALL_BYTES
}

/// Work that somebody waits for. It does not end with the waiting: what is not done when this is dropped goes on on the
/// threads of `guests`.
struct Outliving<T: Send + 'static> {
    work: Option<Work<T>>,
    guests: Handle,
}

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<T: Send + 'static> Drop for Outliving<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.guests.spawn(work);
        }
    }
}

/// Does `work`, whose use of the CPU enters `cell`, here as long as it is brief and somebody waits for it, then on the
/// threads of `guests`.
pub async fn brief_first<T: Send + 'static>(
    work: Work<T>,
    cell: Arc<UsageCell>,
    guests: Handle,
) -> Result<T, JoinError> {
    let mut outliving = Outliving {
        work: Some(work),
        guests: guests.clone(),
    };
    let here = std::future::poll_fn(|cx| {
        // Away while it is polled: what panics is not asked again.
        let Some(mut work) = outliving.work.take() else {
            return Poll::Pending;
        };
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending if is_brief(&cell) => {
                outliving.work = Some(work);
                Poll::Pending
            }
            Poll::Pending => Poll::Ready(Err(work)),
        }
    });
    match here.await {
        Ok(done) => Ok(done),
        Err(work) => guests.spawn(work).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the threads that a future was polled on.
    async fn threads(cell: Arc<UsageCell>, cpu_ns: [u64; 3]) -> Vec<String> {
        let mut seen = Vec::new();
        for cpu_ns in cpu_ns {
            cell.add_cpu_ns(cpu_ns);
            seen.push(std::thread::current().name().unwrap_or_default().to_owned());
            tokio::task::yield_now().await;
        }
        seen
    }

    #[tokio::test]
    async fn what_is_long_goes_to_the_guests_threads() {
        let guests = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("guest")
            .build()
            .unwrap();
        for (cpu_ns, on_guests) in [
            ([1, 1, 1], 0),
            ([BRIEF_NS, 1, 1], 1),
            ([1, BRIEF_NS, BRIEF_NS], 1),
        ] {
            let cell = Arc::new(UsageCell::default());
            let work = Box::pin(threads(cell.clone(), cpu_ns));
            let seen = brief_first(work, cell, guests.handle().clone()).await.unwrap();
            assert_eq!(
                seen.iter().filter(|name| *name == "guest").count(),
                on_guests,
                "{cpu_ns:?}"
            );
        }
        guests.shutdown_background();
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_done_all_the_same() {
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (go_on, goes_on) = tokio::sync::oneshot::channel::<()>();
        let (done, is_done) = tokio::sync::oneshot::channel();
        let work = Box::pin(async move {
            begun.send(()).unwrap();
            goes_on.await.unwrap();
            done.send(()).unwrap();
        });
        let waiting = brief_first(work, Arc::default(), Handle::current());
        tokio::select! {
            biased;
            _ = waiting => unreachable!("it waits"),
            begins = begins => begins.unwrap(),
        }
        go_on.send(()).unwrap();
        is_done.await.unwrap();
    }

    #[test]
    fn trust_is_earned_slowly_and_lost_at_once() {
        let (habit, brief, long) = (Habit::default(), UsageCell::default(), UsageCell::default());
        // A model on the call's own thread takes that thread's time too.
        long.add_cpu_ns(BRIEF_NS);
        assert!(is_brief(&long));
        long.note_work_here(1);
        for _ in 0..2 {
            for _ in 0..TRUST {
                assert!(!habit.is_brief());
                habit.note(&brief);
            }
            assert!(habit.is_brief());
            habit.note(&long);
        }
    }
}
