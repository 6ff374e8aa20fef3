//! Sealing: the slices of a window become one posting.
//!
//! **Counters.** The sealer keeps the last reading of each root. A reading of the same boot closes a
//! span, whose energy is placed. A root seen first, or in a new boot, gives a baseline that charges
//! nothing: the posting then has a row that starts there. The ledger takes one row per root and posting,
//! so whoever seals lets no window span two boots of a root: [`Sealer::boots_anew`] says when to seal
//! first. Only what finds a boot within the slices it is given makes two rows of it.
//!
//! A counter that falls within a boot is not believed: the root waits where it was. When a root missed
//! slices, or a slice says that something was wrong with it, nobody knows when the energy was taken: it is
//! `unattributed`, and the row names the faults, also where it does not move. A root that was never read has
//! no row to name them in. Rows start where the row before them of the same root and boot ended, whatever
//! happened between, so that for each root and window Σ transfers = Σ (end − start), to the microjoule.
//!
//! **Receipts.** Each invocation has one line per window, and the same numbers go into transfers by
//! root, tenant, deployment and release, so lines and dynamic transfers agree at both grains.
//!
//! **Crashes.** What the host used between the last reading and its death is known from the finished
//! calls' records only, and what the machine took until the next reading belongs to nobody in
//! particular. [`Sealer::seal_crash`] therefore closes the epoch that died: all energy up to the
//! reading at the restart is `unattributed`; what finished calls used beyond what slices had claimed
//! becomes fuel transfers and lines without energy (a line that slices of the same window gave energy
//! keeps it); and each call that slices know and that never finished ends as [`Outcome::HostLost`]
//! with nothing added.

mod draft;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::allocation::Allocation;
use crate::attribution::{self, Claimant, Span};
use crate::correction::Correction;
use crate::energy::Reading;
use crate::posting::{Call, Finished, Posting, PostingKind, ReceiptLine, Slice, Transfer, TransferKind};
use crate::usage::FUEL_SCHEDULE;
use crate::{Digest, Epoch, InvocationId, NodeId, Outcome, Usage, encoding};
use draft::Draft;

/// What the journal holds of an epoch that died, beyond its sealed windows and its slices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// Wall time of the restart.
    pub at: OffsetDateTime,
    /// The readings at the restart, with which the next epoch begins.
    pub readings: Vec<Reading>,
    /// The records of calls whose end no slice has claimed.
    pub finished: Vec<Finished>,
}

/// A receipt with lines in sealed windows, but not its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenReceipt {
    /// The call.
    pub call: Call,
    /// Lines up to now.
    pub lines: u32,
    /// What these lines say was used.
    pub used: Usage,
}

/// The receipts that sealed windows have begun and not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenReceipts(BTreeMap<InvocationId, OpenReceipt>);

impl OpenReceipts {
    /// Notes the lines of the next sealed window. Recovery calls it for each of an epoch's, in order.
    pub fn absorb(&mut self, lines: &[ReceiptLine]) {
        for line in lines {
            let id = line.call.invocation;
            if line.outcome.is_some() {
                self.0.remove(&id);
                continue;
            }
            let receipt = self.0.entry(id).or_insert_with(|| OpenReceipt {
                call: line.call.clone(),
                lines: 0,
                used: Usage::default(),
            });
            receipt.lines = line.ordinal.saturating_add(1);
            receipt.used.absorb(&line.usage);
        }
    }

    /// Notes a receipt that sealed windows have begun and not ended.
    pub fn insert(&mut self, receipt: OpenReceipt) {
        self.0.insert(receipt.call.invocation, receipt);
    }

    /// The receipt of `invocation`, if it is open.
    pub fn get(&self, invocation: InvocationId) -> Option<&OpenReceipt> {
        self.0.get(&invocation)
    }

    /// All of them, by invocation.
    pub fn iter(&self) -> impl Iterator<Item = &OpenReceipt> {
        self.0.values()
    }
}

/// Turns slices into postings, each linked to the one before.
#[derive(Clone, Debug)]
pub struct Sealer {
    node: NodeId,
    epoch: Epoch,
    next_seq: u64,
    head: Digest,
    from: OffsetDateTime,
    /// The last reading believed of each root.
    last: Vec<Reading>,
    /// Roots that the last slice had no reading of.
    missed: BTreeSet<String>,
    open: OpenReceipts,
}

impl Sealer {
    /// A sealer whose next posting is `(node, epoch, next_seq)`, follows the posting with the hash
    /// `prev_hash`, and begins at the wall time `from` with the readings `baseline`.
    pub fn new(
        node: NodeId,
        epoch: Epoch,
        next_seq: u64,
        prev_hash: Digest,
        from: OffsetDateTime,
        baseline: Vec<Reading>,
        open: OpenReceipts,
    ) -> Self {
        let (head, from, last, missed) = (prev_hash, whole_us(from), baseline, BTreeSet::new());
        Self {
            node,
            epoch,
            next_seq,
            head,
            from,
            last,
            missed,
            open,
        }
    }

    /// Seals a window of `slices`, in their order; there should be at least one.
    pub fn seal(&mut self, slices: &[Slice]) -> Posting {
        self.close(slices, None)
    }

    /// Seals what an epoch that died left: its `slices` after the last sealed window, if any, and the
    /// rest, as the module's documentation says. It is the epoch's last posting.
    pub fn seal_crash(&mut self, slices: &[Slice], crash: &Crash) -> Posting {
        self.close(slices, Some(crash))
    }

    /// Seals an allocation of idle energy: a posting of the same chain, between two windows. The next window
    /// begins where the last one ended, as if there were none.
    pub fn allocate(&mut self, allocation: &Allocation) -> Posting {
        let inputs = encoding::allocation_digest(allocation);
        let span = (allocation.from, allocation.to);
        self.move_only(PostingKind::Allocation, span, allocation.transfers(), inputs)
    }

    /// Seals a correction at the wall time `at`: a posting of the same chain, as an allocation is.
    pub fn correct(&mut self, correction: &Correction, at: OffsetDateTime) -> Posting {
        let transfers = correction.transfers();
        self.move_only(PostingKind::Correction, (at, at), transfers, correction.digest())
    }

    /// A posting without counters and lines.
    fn move_only(
        &mut self,
        kind: PostingKind,
        (from, to): (OffsetDateTime, OffsetDateTime),
        transfers: Vec<Transfer>,
        input_digest: Digest,
    ) -> Posting {
        let mut posting = Posting {
            node: self.node,
            epoch: self.epoch,
            seq: self.next_seq,
            kind,
            from: whole_us(from),
            to: whole_us(to),
            fuel_schedule: FUEL_SCHEDULE,
            roots: Vec::new(),
            transfers,
            lines: Vec::new(),
            input_digest,
            merkle_root: Digest::ZERO,
            prev_hash: self.head,
            hash: Digest::ZERO,
        };
        posting.merkle_root = posting.compute_merkle_root();
        posting.hash = posting.compute_hash();
        self.next_seq += 1;
        self.head = posting.hash;
        posting
    }

    /// The readings where the next window begins, one per root.
    pub fn baseline(&self) -> &[Reading] {
        &self.last
    }

    /// Whether one of `readings` is of another boot than its root's last reading in `slices` or, without
    /// one there, in the baseline: then these slices are to be sealed first.
    pub fn boots_anew(&self, slices: &[Slice], readings: &[Reading]) -> bool {
        let anew = |now: &Reading| {
            let mut before = slices
                .iter()
                .rev()
                .flat_map(|slice| &slice.readings)
                .chain(&self.last);
            let last = before.find(|last| last.root.name == now.root.name);
            last.is_some_and(|last| last.boot_id != now.boot_id)
        };
        readings.iter().any(anew)
    }

    /// The hash of the last posting.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// The number of the next posting.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The receipts that go on in the next window.
    pub fn open(&self) -> &OpenReceipts {
        &self.open
    }

    fn close(&mut self, slices: &[Slice], crash: Option<&Crash>) -> Posting {
        let input_digest = encoding::inputs_digest(&self.last, slices, crash);
        let mut draft = Draft::default();
        for slice in slices {
            self.attribute(slice, &mut draft);
        }
        if let Some(crash) = crash {
            self.settle(crash, &mut draft);
        }
        let ends = slices
            .last()
            .map(|slice| slice.at)
            .into_iter()
            .chain(crash.map(|crash| crash.at));
        // A wall clock may be set back; windows never overlap.
        let to = ends.map(whole_us).fold(self.from, Ord::max);

        let mut posting = Posting {
            node: self.node,
            epoch: self.epoch,
            seq: self.next_seq,
            kind: PostingKind::Window,
            from: self.from,
            to,
            fuel_schedule: FUEL_SCHEDULE,
            roots: draft.sorted_roots(),
            transfers: draft.numbered_transfers(self.node),
            lines: draft.numbered_lines(&self.open),
            input_digest,
            merkle_root: Digest::ZERO,
            prev_hash: self.head,
            hash: Digest::ZERO,
        };
        posting.merkle_root = posting.compute_merkle_root();
        posting.hash = posting.compute_hash();

        self.open.absorb(&posting.lines);
        self.next_seq += 1;
        self.head = posting.hash;
        self.from = to;
        posting
    }

    fn attribute(&mut self, slice: &Slice, draft: &mut Draft) {
        for claim in &slice.claims {
            draft.claim(&claim.call, &claim.usage, claim.outcome);
        }
        let mut covered = false;
        for reading in &slice.readings {
            let root = &reading.root.name;
            let Some(span) = self.advance(reading, draft) else {
                continue;
            };
            let faulty = slice.faults.iter().any(|fault| fault.root == *root);
            if faulty || self.missed.contains(root) {
                draft.charge(root, TransferKind::Unattributed, span.energy_uj);
                continue;
            }
            covered = true;
            let span = span.over_fitted_floor(slice, &reading.root);
            let shares = attribution::split(&span, &attribution::costs(slice, &reading.root));
            draft.charge(root, TransferKind::Idle, shares.idle_uj);
            draft.charge(root, TransferKind::Unattributed, shares.unattributed_uj);
            for (claimant, uj) in shares.used_uj {
                match claimant {
                    Claimant::Invocation(id) => draft.charge_call(root, id, uj),
                    Claimant::System => draft.charge(root, TransferKind::System, uj),
                    Claimant::Foreign => draft.charge(root, TransferKind::Foreign, uj),
                }
            }
        }
        for fault in &slice.faults {
            if let Some(last) = self.last.iter().find(|last| last.root.name == fault.root) {
                draft.mark(last, fault.kind);
            }
        }
        if covered {
            slice
                .claims
                .iter()
                .for_each(|claim| draft.cover(claim.call.invocation));
        }
        // Not read, or not believed: either way its next span is longer than a slice.
        let missed = self.last.iter().filter(|last| !slice.readings.contains(last));
        self.missed = missed.map(|last| last.root.name.clone()).collect();
    }

    /// Moves a root on to `now`, in the draft's rows too; gives the span if one was closed.
    fn advance(&mut self, now: &Reading, draft: &mut Draft) -> Option<Span> {
        let Some(last) = self.last.iter_mut().find(|last| last.root.name == now.root.name) else {
            draft.begin(now);
            self.last.push(now.clone());
            return None;
        };
        if last.boot_id != now.boot_id {
            draft.begin(now);
            *last = now.clone();
            return None;
        }
        let Some(span) = Span::between(last, now) else {
            draft.extend(last, last);
            return None;
        };
        draft.extend(last, now);
        *last = now.clone();
        Some(span)
    }

    /// What a crash left: energy without use, use without energy, and calls without an end.
    fn settle(&mut self, crash: &Crash, draft: &mut Draft) {
        for reading in &crash.readings {
            if let Some(span) = self.advance(reading, draft) {
                draft.charge(&reading.root.name, TransferKind::Unattributed, span.energy_uj);
            }
        }
        for finished in &crash.finished {
            let id = finished.call.invocation;
            let mut claimed = self
                .open
                .get(id)
                .map(|open| open.used.clone())
                .unwrap_or_default();
            if let Some(line) = draft.line(id) {
                claimed.absorb(&line.usage);
            }
            draft.claim(
                &finished.call,
                &finished.usage.since(&claimed),
                Some(finished.outcome),
            );
        }
        let ended = |call: &Call| {
            draft
                .line(call.invocation)
                .is_some_and(|line| line.outcome.is_some())
        };
        let begun = self
            .open
            .iter()
            .map(|open| &open.call)
            .chain(draft.lines().map(|line| &line.call));
        let lost: BTreeMap<_, _> = begun
            .filter(|call| !ended(call))
            .map(|call| (call.invocation, call.clone()))
            .collect();
        for call in lost.values() {
            draft.claim(call, &Usage::default(), Some(Outcome::HostLost));
        }
    }
}

/// The database keeps microseconds.
fn whole_us(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_microsecond(at.microsecond()).unwrap_or(at)
}
