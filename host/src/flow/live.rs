//! The calls of this node that have not reached the ledger yet: running, ended, awaiting their window.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::posting::{Call, Claim, Finished, Posting};
use domain::{InvocationId, Usage, UsageCell};
use tokio::sync::Notify;

use super::Error;

/// Running calls by invocation, and what ended since the last slice was cut.
pub struct Live {
    state: Mutex<State>,
    /// So many ended calls are enough for a slice.
    many: usize,
    full: Notify,
}

#[derive(Default)]
struct State {
    /// No call begins any more, so what runs can only become less.
    draining: bool,
    running: HashMap<InvocationId, Running>,
    ended: Vec<Ended>,
    /// Answered, but not final yet: what a receipt is made from until its posting is in Postgres.
    pending: HashMap<InvocationId, Pending>,
}

struct Running {
    call: Call,
    cell: Arc<UsageCell>,
    seen: Seen,
}

struct Ended {
    finished: Arc<Finished>,
    /// What was seen of it before it ended.
    seen: Seen,
    /// Whether a glance has seen the end.
    glanced: bool,
}

/// What slices and glances have seen of a call. Most end before there is any.
#[derive(Default)]
struct Seen {
    claimed: Option<Box<Usage>>,
    glanced: Option<Box<Usage>>,
}

/// What was used after what was seen last.
fn since(usage: &Usage, seen: Option<&Usage>) -> Usage {
    usage.since(seen.unwrap_or(&Usage::default()))
}

/// What was used up to `now` after what was seen last, if anything, and notes it.
fn more(seen: &mut Option<Box<Usage>>, now: Usage) -> Option<Usage> {
    let is_old = match seen {
        Some(seen) => **seen == now,
        None => now == Usage::default(),
    };
    if is_old {
        return None;
    }
    let more = since(&now, seen.as_deref());
    *seen = Some(Box::new(now));
    Some(more)
}

impl Running {
    fn claim(&self, usage: Usage) -> Claim {
        Claim {
            call: self.call.clone(),
            usage,
            outcome: None,
        }
    }
}

impl Ended {
    /// What it used after what was seen of it last.
    fn claim(&self, seen: Option<&Usage>) -> Claim {
        Claim {
            call: self.finished.call.clone(),
            usage: since(&self.finished.usage, seen),
            outcome: Some(self.finished.outcome),
        }
    }
}

/// An ended call whose last line is not in the ledger yet.
#[derive(Clone)]
pub struct Pending {
    /// The journalled record.
    pub finished: Arc<Finished>,
    /// The figure in the reply, in microjoules.
    pub provisional_uj: Option<u64>,
}

impl Live {
    /// No calls yet; a slice is full when `many` have ended in it.
    pub fn new(many: usize) -> Self {
        Self {
            state: Mutex::default(),
            many,
            full: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `call` runs and adds to `cell`; refused once the host drains. Both are decided under one
    /// lock: whoever sees no call running after the drain has begun has seen the last one.
    pub fn begin(&self, call: Call, cell: Arc<UsageCell>) -> Result<(), Error> {
        let running = Running {
            call,
            cell,
            seen: Seen::default(),
        };
        let mut state = self.state();
        if state.draining {
            return Err(Error::Draining);
        }
        state.running.insert(running.call.invocation, running);
        Ok(())
    }

    /// Refuses every call that has not begun.
    pub fn begin_drain(&self) {
        self.state().draining = true;
    }

    /// Whether calls are refused.
    pub fn draining(&self) -> bool {
        self.state().draining
    }

    /// Notes that a call ended with its record in the journal.
    pub fn end(&self, finished: Arc<Finished>, provisional_uj: Option<u64>) {
        let mut state = self.state();
        let invocation = finished.call.invocation;
        let running = state.running.remove(&invocation);
        let seen = running.map(|running| running.seen).unwrap_or_default();
        state.pending.insert(
            invocation,
            Pending {
                finished: finished.clone(),
                provisional_uj,
            },
        );
        state.ended.push(Ended {
            finished,
            seen,
            glanced: false,
        });
        if state.ended.len() == self.many {
            self.full.notify_one();
        }
    }

    /// Waits until the slice that is open is full.
    pub async fn full(&self) {
        loop {
            self.full.notified().await;
            // It may have been cut since.
            if self.state().ended.len() >= self.many {
                return;
            }
        }
    }

    /// What every call used since this was asked last, for whoever learns between two cuts. What ends and is
    /// cut before the next glance is not seen.
    pub fn glance(&self) -> Vec<Claim> {
        let mut state = self.state();
        let mut claims = Vec::with_capacity(state.ended.len() + state.running.len());
        for ended in state.ended.iter_mut().filter(|ended| !ended.glanced) {
            ended.glanced = true;
            claims.push(ended.claim(ended.seen.glanced.as_deref()));
        }
        for running in state.running.values_mut() {
            let usage = more(&mut running.seen.glanced, running.cell.snapshot());
            claims.extend(usage.map(|usage| running.claim(usage)));
        }
        claims
    }

    /// Cuts a slice: what every call used since the last cut.
    pub fn cut(&self) -> Vec<Claim> {
        let mut state = self.state();
        let ended = std::mem::take(&mut state.ended);
        let ended = ended
            .iter()
            .map(|ended| ended.claim(ended.seen.claimed.as_deref()));
        let mut claims: Vec<Claim> = ended.collect();
        for running in state.running.values_mut() {
            let usage = more(&mut running.seen.claimed, running.cell.snapshot());
            claims.extend(usage.map(|usage| running.claim(usage)));
        }
        claims
    }

    /// The record of a call that ended but is not final.
    pub fn pending(&self, invocation: InvocationId) -> Option<Pending> {
        self.state().pending.get(&invocation).cloned()
    }

    /// Forgets the calls that `posting` made final.
    pub fn posted(&self, posting: &Posting) {
        let mut state = self.state();
        for line in posting.lines.iter().filter(|line| line.outcome.is_some()) {
            state.pending.remove(&line.call.invocation);
        }
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        self.state().running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Outcome, TenantId};
    use time::OffsetDateTime;
    use uuid::Uuid;

    fn call(id: u128) -> Call {
        Call {
            invocation: InvocationId(Uuid::from_u128(id)),
            kind: domain::posting::CallKind::Infer,
            tenant: TenantId(Uuid::from_u128(2)),
            deployment: None,
            release: None,
            started_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_runs_only_becomes_less_once_the_drain_has_begun() {
        let live = Live::new(usize::MAX);
        let threads = 8_u128;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let live = &live;
                scope.spawn(move || {
                    for id in 0.. {
                        let call = call(id * threads + thread);
                        if live.begin(call.clone(), Arc::default()).is_err() {
                            return;
                        }
                        let (outcome, usage) = (Outcome::Ok, Usage::default());
                        live.end(Arc::new(Finished { call, outcome, usage }), None);
                    }
                });
            }
            while live.state().ended.len() < 1_000 {
                std::thread::yield_now();
            }
            live.begin_drain();
            while live.running() > 0 {
                std::thread::yield_now();
            }
            let ended = live.cut().len();
            assert!(ended >= 1_000, "{ended}");
            for _ in 0..1_000 {
                assert_eq!(live.running(), 0);
            }
        });
        assert!(live.cut().is_empty(), "nothing ended after the last had ended");
        assert!(matches!(
            live.begin(call(0), Arc::default()),
            Err(Error::Draining)
        ));
    }

    #[test]
    fn claims_add_up_to_what_was_used() {
        let live = Live::new(usize::MAX);
        let call = call(1);
        let cell = Arc::new(UsageCell::default());
        live.begin(call.clone(), cell.clone()).unwrap();
        assert!(
            live.cut().is_empty(),
            "a call that used nothing yet claims nothing"
        );
        cell.add_fuel(5);
        assert_eq!(live.cut()[0].usage.fuel, 5);
        cell.add_fuel(2);
        let finished = Finished {
            call,
            outcome: Outcome::Ok,
            usage: cell.snapshot(),
        };
        live.end(Arc::new(finished), None);
        let claims = live.cut();
        assert_eq!((claims[0].usage.fuel, claims[0].outcome), (2, Some(Outcome::Ok)));
        assert!(live.cut().is_empty());
    }

    #[test]
    fn glances_between_cuts_see_everything_once() {
        let live = Live::new(usize::MAX);
        let (call, cell) = (call(1), Arc::new(UsageCell::default()));
        live.begin(call.clone(), cell.clone()).unwrap();
        let fuel = |claims: Vec<Claim>| claims.iter().map(|claim| claim.usage.fuel).collect::<Vec<_>>();
        cell.add_fuel(5);
        assert_eq!(fuel(live.glance()), [5]);
        assert!(live.glance().is_empty());
        cell.add_fuel(2);
        assert_eq!(fuel(live.cut()), [7], "a glance takes nothing away");
        let finished = Finished {
            call,
            outcome: Outcome::Ok,
            usage: cell.snapshot(),
        };
        live.end(Arc::new(finished), None);
        assert_eq!(fuel(live.glance()), [2]);
        assert!(live.glance().is_empty());
        assert_eq!(
            fuel(live.cut()),
            [0],
            "the end is claimed, with nothing left to claim"
        );
    }
}
