//! Whose guest runs next.
//!
//! A guest runs until it waits, or for about a millisecond, and then needs another turn. There are as many
//! turns at once as threads for guests. While guests of several tenants wait, their tenants take turns, however
//! many calls each has; and one tenant has at most half of them, so that another's next call finds a thread
//! at once and the kernel shares the cores between the two.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use domain::TenantId;

/// The turns of a host.
pub(crate) struct Turns {
    /// Turns of one tenant at once.
    share: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    taken: HashMap<TenantId, usize>,
    /// Tenants whose calls wait, the one to be served next in front.
    waiting: VecDeque<(TenantId, VecDeque<(u64, Waker)>)>,
    /// Tickets of those that were called and have not come yet.
    called: HashSet<u64>,
    tickets: u64,
}

/// A call's place among those that take turns.
pub(crate) struct Place<'a> {
    turns: &'a Turns,
    tenant: TenantId,
    ticket: Option<u64>,
}

/// The right to run, given back when dropped.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    tenant: TenantId,
}

impl Turns {
    pub(crate) fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        Self {
            share: threads.div_ceil(2),
            state: Mutex::new(State {
                free: threads,
                taken: HashMap::new(),
                waiting: VecDeque::new(),
                called: HashSet::new(),
                tickets: 0,
            }),
        }
    }

    pub(crate) fn place(&self, tenant: TenantId) -> Place<'_> {
        Place {
            turns: self,
            tenant,
            ticket: None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, tenant: TenantId) {
        let mut state = self.state();
        state.free += 1;
        if let Some(taken) = state.taken.get_mut(&tenant) {
            *taken -= 1;
            if *taken == 0 {
                state.taken.remove(&tenant);
            }
        }
        let called = state.call(self.share);
        drop(state);
        if let Some(waker) = called {
            waker.wake();
        }
    }
}

impl State {
    fn may_take(&self, tenant: TenantId, share: usize) -> bool {
        self.free > 0 && self.taken.get(&tenant).is_none_or(|&taken| taken < share)
    }

    fn take(&mut self, tenant: TenantId) {
        self.free -= 1;
        *self.taken.entry(tenant).or_default() += 1;
    }

    /// Takes a turn for the next who may have one.
    fn call(&mut self, share: usize) -> Option<Waker> {
        let next = self
            .waiting
            .iter()
            .position(|(tenant, _)| self.may_take(*tenant, share))?;
        let (tenant, mut queue) = self.waiting.remove(next)?;
        let (ticket, waker) = queue.pop_front()?;
        if !queue.is_empty() {
            self.waiting.push_back((tenant, queue));
        }
        self.take(tenant);
        self.called.insert(ticket);
        Some(waker)
    }

    fn queue(&mut self, tenant: TenantId) -> Option<&mut VecDeque<(u64, Waker)>> {
        let found = self.waiting.iter_mut().find(|(waiting, _)| *waiting == tenant);
        found.map(|(_, queue)| queue)
    }

    fn wait(&mut self, tenant: TenantId, waker: Waker) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        match self.queue(tenant) {
            Some(queue) => queue.push_back((ticket, waker)),
            None => self.waiting.push_back((tenant, [(ticket, waker)].into())),
        }
        ticket
    }

    fn leave(&mut self, tenant: TenantId, ticket: u64) {
        if let Some(queue) = self.queue(tenant) {
            queue.retain(|(waiting, _)| *waiting != ticket);
        }
        self.waiting.retain(|(_, queue)| !queue.is_empty());
    }
}

impl<'a> Place<'a> {
    /// A turn, now or when the task is woken.
    pub(crate) fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<Turn<'a>> {
        let (turns, tenant) = (self.turns, self.tenant);
        let mut state = turns.state();
        match self.ticket {
            None if state.may_take(tenant, turns.share) => state.take(tenant),
            None => {
                self.ticket = Some(state.wait(tenant, cx.waker().clone()));
                return Poll::Pending;
            }
            Some(ticket) if state.called.remove(&ticket) => self.ticket = None,
            Some(ticket) => {
                let mut queue = state.queue(tenant).into_iter().flatten();
                if let Some((_, waker)) = queue.find(|(waiting, _)| *waiting == ticket) {
                    waker.clone_from(cx.waker());
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Turn { turns, tenant })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.turns.state();
        let called = state.called.remove(&ticket);
        if !called {
            state.leave(self.tenant, ticket);
        }
        drop(state);
        if called {
            self.turns.give_back(self.tenant);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.give_back(self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn tenant(id: u128) -> TenantId {
        TenantId(Uuid::from_u128(id))
    }

    fn poll<'a>(place: &mut Place<'a>) -> Option<Turn<'a>> {
        match place.poll_turn(&Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    fn nothing_is_taken(turns: &Turns) -> bool {
        let state = turns.state();
        state.taken.is_empty() && state.waiting.is_empty() && state.called.is_empty() && state.free == 4
    }

    #[test]
    fn one_tenant_leaves_half_to_the_others() {
        let turns = Turns::new(4);
        let mut greedy: Vec<_> = (0..3).map(|_| turns.place(tenant(1))).collect();
        let held: Vec<_> = greedy.iter_mut().filter_map(poll).collect();
        assert_eq!(held.len(), 2);
        let other = poll(&mut turns.place(tenant(2)));
        assert!(other.is_some());
        drop(held);
        assert_eq!(greedy.iter_mut().filter_map(poll).count(), 3);
        drop((other, greedy));
        assert!(nothing_is_taken(&turns));
    }

    #[test]
    fn tenants_take_turns_however_many_calls_each_has() {
        let turns = Turns::new(1);
        let held = poll(&mut turns.place(tenant(9)));
        let mut places: Vec<_> = [1, 1, 1, 2, 3].map(|id| turns.place(tenant(id))).into();
        assert!(places.iter_mut().all(|place| poll(place).is_none()));
        drop(held);
        let mut order = Vec::new();
        while !places.is_empty() {
            let index = places.iter_mut().position(|place| poll(place).is_some()).unwrap();
            order.push(places.remove(index).tenant);
        }
        assert_eq!(order, [1, 2, 3, 1, 1].map(tenant));
    }

    #[test]
    fn who_leaves_holds_up_nobody() {
        let turns = Turns::new(4);
        let mut places: Vec<_> = (0..5).map(|_| turns.place(tenant(1))).collect();
        let mut held: Vec<_> = places.iter_mut().map(poll).collect();
        // The third is called, and goes away before it comes; so does the fourth, which waits.
        held.remove(0);
        drop(places.drain(2..4));
        assert!(poll(&mut places[2]).is_some(), "the turn passes on to the fifth");
        drop((held, places));
        assert!(nothing_is_taken(&turns));
    }
}
