//! Replay as a pure fold over records: what a crash left, and what may be forgotten.
//!
//! The same state runs along in the writer, without the payloads, to know which segments are still
//! needed and to write a checkpoint at the head of each new one.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use domain::energy::Reading;
use domain::posting::{Finished, Posting, PostingKind, Slice};
use domain::window::OpenReceipts;
use domain::{Epoch, InvocationId, NodeId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{Head, Record, Recovered, Torn, Unsealed, baseline};

/// The state at the head of a segment that does not itself need older segments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    start: Option<Start>,
    head: Option<Head>,
    baseline: Vec<Reading>,
    last_readings: Vec<Reading>,
    /// Ends of the slices after the baseline. A window sealed in this segment may cover slices of
    /// segments that are gone by then.
    cuts: Vec<Cut>,
    open: OpenReceipts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cut {
    at: OffsetDateTime,
    readings: Vec<Reading>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Start {
    epoch: Epoch,
    node: NodeId,
    next_seq: u64,
    /// Wall time at the baseline.
    from: OffsetDateTime,
}

/// A record that pins its segment until it is no longer needed.
#[derive(Debug)]
struct Pinned<T> {
    segment: u64,
    record: T,
}

#[derive(Debug)]
struct Undrained {
    key: (Epoch, u64),
    posting: Option<Posting>,
}

#[derive(Debug)]
struct Unclosed {
    /// Calls whose outcome it claims.
    ended: Vec<InvocationId>,
    slice: Option<Slice>,
}

/// The fold. Payloads are there while replaying only.
#[derive(Debug)]
pub(crate) struct State {
    at_rest: Checkpoint,
    undrained: VecDeque<Pinned<Undrained>>,
    /// Those of the last cuts.
    slices: VecDeque<Pinned<Unclosed>>,
    finished: BTreeMap<InvocationId, Pinned<Option<Arc<Finished>>>>,
    /// How many of `finished` each segment holds.
    finished_in: BTreeMap<u64, u64>,
    /// Calls whose outcome is claimed in `slices`.
    ended: HashSet<InvocationId>,
    replaying: bool,
}

impl State {
    /// The state to replay from, given what the first segment begins with.
    pub(crate) fn replay_from(at_rest: Checkpoint) -> Self {
        Self {
            at_rest,
            undrained: VecDeque::new(),
            slices: VecDeque::new(),
            finished: BTreeMap::new(),
            finished_in: BTreeMap::new(),
            ended: HashSet::new(),
            replaying: true,
        }
    }

    /// What a new segment begins with.
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.at_rest
    }

    /// The oldest segment that is still needed, if any is.
    pub(crate) fn pinned_from(&self) -> Option<u64> {
        let undrained = self.undrained.front().map(|pinned| pinned.segment);
        let slice = self.slices.front().map(|pinned| pinned.segment);
        let finished = self.finished_in.keys().next().copied();
        [undrained, slice, finished].into_iter().flatten().min()
    }

    /// Takes in a record that stands in `segment`.
    pub(crate) fn apply(&mut self, segment: u64, record: &Record) {
        match record {
            Record::EpochStarted {
                epoch,
                node,
                at,
                readings,
                ..
            } => self.start(*epoch, *node, *at, readings),
            Record::Finished(finished) => self.finish(segment, finished),
            Record::Slice(slice) => self.slice(segment, slice),
            Record::Sealed(posting) => self.seal(segment, posting),
            Record::Drained { epoch, seq } => {
                self.undrained
                    .retain(|pinned| pinned.record.key != (*epoch, *seq));
            }
        }
    }

    fn start(&mut self, epoch: Epoch, node: NodeId, at: OffsetDateTime, readings: &[Reading]) {
        let rest = &mut self.at_rest;
        // Windows follow on each other: what the epoch before left to seal begins where it ended.
        let follows = rest.cuts.is_empty() && baseline::start(&mut rest.baseline, readings);
        let earlier = rest.start.as_ref().filter(|_| !follows);
        let from = earlier.map_or(at, |start| start.from);
        note(&mut rest.last_readings, readings);
        rest.start = Some(Start {
            epoch,
            node,
            next_seq: 0,
            from,
        });
    }

    fn finish(&mut self, segment: u64, finished: &Arc<Finished>) {
        let invocation = finished.call.invocation;
        if self.ended.contains(&invocation) {
            return;
        }
        self.unfinish(invocation);
        let record = self.replaying.then(|| finished.clone());
        self.finished.insert(invocation, Pinned { segment, record });
        *self.finished_in.entry(segment).or_default() += 1;
    }

    /// Forgets a finished call, now that its outcome is claimed.
    fn unfinish(&mut self, invocation: InvocationId) {
        let Some(pinned) = self.finished.remove(&invocation) else {
            return;
        };
        if let Some(count) = self.finished_in.get_mut(&pinned.segment) {
            *count -= 1;
            if *count == 0 {
                self.finished_in.remove(&pinned.segment);
            }
        }
    }

    fn slice(&mut self, segment: u64, slice: &Slice) {
        let ended = slice.claims.iter().filter(|claim| claim.outcome.is_some());
        let ended: Vec<_> = ended.map(|claim| claim.call.invocation).collect();
        ended.iter().for_each(|&invocation| self.unfinish(invocation));
        self.ended.extend(&ended);
        note(&mut self.at_rest.last_readings, &slice.readings);
        self.at_rest.cuts.push(Cut {
            at: slice.at,
            readings: slice.readings.clone(),
        });
        let slice = self.replaying.then(|| slice.clone());
        self.slices.push_back(Pinned {
            segment,
            record: Unclosed { ended, slice },
        });
    }

    fn seal(&mut self, segment: u64, posting: &Posting) {
        self.at_rest.open.absorb(&posting.lines);
        for line in posting.lines.iter().filter(|line| line.outcome.is_some()) {
            self.unfinish(line.call.invocation);
        }
        if posting.kind == PostingKind::Window {
            self.cover(posting);
        }
        let rest = &mut self.at_rest;
        if let Some(start) = rest.start.as_mut().filter(|start| start.epoch == posting.epoch) {
            start.next_seq = posting.seq + 1;
        }
        rest.head = Some(Head {
            node: posting.node,
            epoch: posting.epoch,
            seq: posting.seq,
            hash: posting.hash,
            to: posting.to,
        });
        let key = (posting.epoch, posting.seq);
        let posting = self.replaying.then(|| posting.clone());
        self.undrained.push_back(Pinned {
            segment,
            record: Undrained { key, posting },
        });
    }

    /// Forgets the slices of a sealed window and moves the baseline to its end.
    fn cover(&mut self, posting: &Posting) {
        let rest = &mut self.at_rest;
        // A wall clock that was set back makes a window end later than its last slice. All slices are
        // its own then: no more are cut before it is sealed, unless someone changes that.
        let last = rest.cuts.iter().rposition(|cut| whole_us(cut.at) == posting.to);
        let covered = last.map_or(rest.cuts.len(), |last| last + 1);
        let gone = rest.cuts.len() - self.slices.len();
        for pinned in self.slices.drain(..covered.saturating_sub(gone)) {
            for invocation in &pinned.record.ended {
                self.ended.remove(invocation);
            }
        }
        let readings = rest.cuts.drain(..covered).map(|cut| cut.readings);
        baseline::advance(&mut rest.baseline, readings, posting, &rest.last_readings);
        if let Some(start) = &mut rest.start {
            start.from = posting.to;
        }
    }

    /// Hands out what was replayed; from here on payloads are no longer kept.
    pub(crate) fn recover(&mut self, torn: Option<Torn>) -> Recovered {
        let undrained = self
            .undrained
            .iter_mut()
            .filter_map(|pinned| pinned.record.posting.take())
            .collect();
        let slices = self
            .slices
            .iter_mut()
            .filter_map(|pinned| pinned.record.slice.take())
            .collect();
        let finished = self
            .finished
            .values_mut()
            .filter_map(|pinned| pinned.record.take())
            .map(Arc::unwrap_or_clone)
            .collect();
        self.replaying = false;
        let at_rest = &self.at_rest;
        let unsealed = at_rest.start.clone().map(|start| Unsealed {
            epoch: start.epoch,
            node: start.node,
            next_seq: start.next_seq,
            from: start.from,
            baseline: at_rest.baseline.clone(),
            slices,
            finished,
            open: at_rest.open.clone(),
        });
        Recovered {
            head: at_rest.head.clone(),
            undrained,
            unsealed,
            last_readings: at_rest.last_readings.clone(),
            torn,
        }
    }
}

/// Moves roots on to `now`. One that is not in it stays where it was, also for a whole run of the host.
fn note(last: &mut Vec<Reading>, now: &[Reading]) {
    for now in now {
        match last.iter_mut().find(|last| last.root.name == now.root.name) {
            Some(last) => last.clone_from(now),
            None => last.push(now.clone()),
        }
    }
}

/// Postings have whole microseconds, as the database does.
fn whole_us(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_microsecond(at.microsecond()).unwrap_or(at)
}

#[cfg(test)]
mod tests;
