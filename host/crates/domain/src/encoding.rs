//! The canonical bytes that digests are taken over, and those digests.
//!
//! What is hashed begins with a byte for its kind (0 a receipt line, which is a Merkle leaf; 1 an inner
//! node; 2 a window's inputs; 3 a posting; 4 an allocation's inputs; 5 a correction; 16 a posting as a leaf of a
//! checkpoint; 17 a node's head there; 18 a checkpoint; 19 a signing key's succession) and, save in nodes, the
//! version of this encoding. Then come
//! the fields in the order of the code below, without padding:
//! - integers big-endian in their full width, and counts of lists and bytes of text as 64 bits before
//!   the items: as Postgres sends them, so that SQL can rebuild the bytes;
//! - ids and digests as their raw bytes;
//! - an option as 0, or as 1 and the value;
//! - times as whole microseconds since 1970, rounded down, which is what the database keeps;
//! - enumerations and accounts by their names in the database, so that a new variant moves none.
//!
//! A change here is a new version, and the old one must stay readable.
//!
//! - Version 1: as first released.
//! - Version 2: model work has its device's busy time after its CPU time, and slices have their weights. A
//!   line without busy time is encoded in version 1, so that its leaf is what it always was. What was wrong with
//!   meters follows: slices have it after their weights, and rows of roots at their end; a posting without any is
//!   encoded in version 1. The inputs of allocations and corrections are always in this version. Those of a window are
//!   not kept once it is sealed, and are always in the newest one.
//! - Version 3: transfers have what they cite at their end. A posting that cites nothing is encoded as before. One
//!   that was sealed before cites without its hash saying so: see [`Posting::verify`].
//! - Version 4: model work has its tokens after its busy time. A line without any is encoded as before.

use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::allocation::{Allocation, Reserved};
use crate::correction::Correction;
use crate::energy::{Reading, Root};
use crate::posting::{Call, Finished, Posting, PostingRoot, ReceiptLine, Slice, Transfer};
use crate::weights::{Class, RootWeights};
use crate::window::Crash;
use crate::{Digest, Usage, Work, merkle};

/// The newest version of the encoding.
pub const VERSION: u8 = 4;

/// The versions without what later ones added.
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const THIRD: u8 = 3;

const INPUTS: u8 = 2;
const POSTING: u8 = 3;
const ALLOCATION: u8 = 4;
const CORRECTION: u8 = 5;

/// What `checkpoint` and `signature` encode.
pub(crate) const CHECKED_POSTING: u8 = 16;
pub(crate) const NODE_HEAD: u8 = 17;
pub(crate) const CHECKPOINT: u8 = 18;
pub(crate) const SUCCESSION: u8 = 19;

pub(crate) struct Encoder {
    pub(crate) bytes: Vec<u8>,
    version: u8,
    /// What is hashed already of that which is hashed as it comes.
    hashed: Option<Sha256>,
}

/// Most of what is encoded by itself, such as a line, is shorter.
const USUAL_BYTES: usize = 256;

/// So much is encoded before it is hashed, of what is hashed as it comes.
const PART_BYTES: usize = 16 << 10;

impl Encoder {
    /// An encoder of what begins with `kind` and the version, or, where the kind is that of the tree, with
    /// the version alone.
    pub(crate) fn new(kind: Option<u8>, version: u8) -> Self {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        bytes.extend(kind.into_iter().chain([version]));
        Self {
            bytes,
            version,
            hashed: None,
        }
    }

    /// An encoder of what is wanted for its digest alone, and may be long: it keeps little of it.
    fn hashing(kind: u8, version: u8) -> Self {
        Self {
            hashed: Some(Sha256::new()),
            ..Self::new(Some(kind), version)
        }
    }

    /// The digest of all that was encoded.
    fn into_digest(self) -> Digest {
        let hashed = self.hashed.unwrap_or_default();
        Digest(hashed.chain_update(&self.bytes).finalize().into())
    }

    fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.bytes.extend(text.as_bytes());
    }

    pub(crate) fn uuid(&mut self, id: &Uuid) {
        self.bytes.extend(id.as_bytes());
    }

    pub(crate) fn digest(&mut self, digest: &Digest) {
        self.bytes.extend(digest.0);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    pub(crate) fn time(&mut self, at: OffsetDateTime) {
        let us = at.unix_timestamp_nanos().div_euclid(1_000);
        // Every time that `OffsetDateTime` can hold fits 64 bits of microseconds.
        self.bytes
            .extend(i64::try_from(us).unwrap_or(i64::MAX).to_be_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            encode(self, value);
        }
    }

    fn list<T>(&mut self, items: &[T], encode: impl Fn(&mut Self, &T)) {
        self.u64(items.len() as u64);
        for item in items {
            encode(self, item);
            if let Some(hashed) = &mut self.hashed
                && self.bytes.len() >= PART_BYTES
            {
                hashed.update(&self.bytes);
                self.bytes.clear();
            }
        }
    }

    fn root(&mut self, root: &Root) {
        self.text(&root.name);
        self.text(&root.kind);
        self.text(root.provenance.as_str());
        self.u32(root.uncertainty_ppm);
        self.u32(root.model_version);
    }

    fn reading(&mut self, reading: &Reading) {
        self.root(&reading.root);
        self.uuid(&reading.boot_id);
        self.u64(reading.at_ns);
        self.u64(reading.counter_uj);
        self.u64(reading.floor_uw);
        self.list(&reading.state, |to, word| to.u64(*word));
    }

    fn call(&mut self, call: &Call) {
        self.uuid(&call.invocation.0);
        self.text(call.kind.as_str());
        self.uuid(&call.tenant.0);
        self.option(call.deployment.as_ref(), |to, name| to.text(name.as_str()));
        self.option(call.release, Self::u32);
        self.time(call.started_at);
    }

    fn usage(&mut self, usage: &Usage) {
        self.u64(usage.fuel);
        self.u64(usage.cpu_ns);
        self.u64(usage.bytes_in);
        self.u64(usage.bytes_out);
        self.u64(usage.peak_memory_bytes);
        self.list(&usage.work, |to, work| {
            to.digest(&work.graph);
            to.text(&work.backend);
            to.text(&work.device);
            to.text(&work.precision);
            to.u64(work.runs);
            to.u64(work.rows);
            to.u64(work.cpu_ns);
            if to.version >= SECOND {
                to.u64(work.busy_ns);
            }
            if to.version >= VERSION {
                to.u64(work.tokens);
            }
        });
    }

    fn slice(&mut self, slice: &Slice) {
        self.u64(slice.index);
        self.time(slice.at);
        self.list(&slice.readings, Self::reading);
        self.u64(slice.activity.machine_ns);
        self.u64(slice.activity.host_ns);
        self.u64(slice.activity.postgres_ns);
        self.list(&slice.claims, |to, claim| {
            to.call(&claim.call);
            to.usage(&claim.usage);
            to.option(claim.outcome, |to, outcome| to.text(outcome.as_str()));
        });
        self.list(&slice.weights, Self::weights);
        self.list(&slice.faults, |to, fault| {
            to.text(&fault.root);
            to.text(fault.kind.as_str());
        });
    }

    fn weights(&mut self, weights: &RootWeights) {
        self.text(&weights.root);
        self.u64(weights.floor_uw);
        for weight in weights.base.0 {
            self.u32(weight);
        }
        self.list(&weights.classes, |to, own| {
            to.class(&own.class);
            to.u32(own.guest);
            to.u32(own.model);
            to.u32(own.busy);
        });
    }

    fn class(&mut self, class: &Class) {
        match class {
            Class::Publish => self.text("publish"),
            Class::Deploy => self.text("deploy"),
            Class::Infer {
                tenant,
                deployment,
                release,
            } => {
                self.text("infer");
                self.uuid(&tenant.0);
                self.option(deployment.as_ref(), |to, name| to.text(name.as_str()));
                self.option(*release, Self::u32);
            }
        }
    }

    fn finished(&mut self, finished: &Finished) {
        self.call(&finished.call);
        self.text(finished.outcome.as_str());
        self.usage(&finished.usage);
    }

    fn reserved(&mut self, reserved: &Reserved) {
        self.u64(reserved.byte_seconds);
        self.u64(reserved.place_seconds);
    }

    fn posting_root(&mut self, root: &PostingRoot) {
        self.root(&root.root);
        self.uuid(&root.boot_id);
        self.u64(root.start_uj);
        self.u64(root.end_uj);
        if self.version >= SECOND {
            self.list(&root.faults, |to, kind| to.text(kind.as_str()));
        }
    }

    fn transfer(&mut self, transfer: &Transfer) {
        self.u32(transfer.ordinal);
        self.text(&transfer.credit.to_string());
        self.text(&transfer.debit.to_string());
        self.option(transfer.root.as_ref(), |to, root| to.text(root));
        self.text(transfer.unit.as_str());
        self.text(transfer.kind.as_str());
        self.option(transfer.tenant, |to, tenant| to.uuid(&tenant.0));
        self.option(transfer.deployment.as_ref(), |to, name| to.text(name.as_str()));
        self.option(transfer.release, Self::u32);
        self.u64(transfer.amount);
        if self.version >= THIRD {
            self.option(transfer.cites.as_ref(), Self::digest);
        }
    }
}

/// The digest of a window's inputs: the readings where it begins, its slices, and what a crash left.
pub fn inputs_digest(baseline: &[Reading], slices: &[Slice], crash: Option<&Crash>) -> Digest {
    let mut to = Encoder::hashing(INPUTS, VERSION);
    to.list(baseline, Encoder::reading);
    to.list(slices, Encoder::slice);
    to.option(crash, |to, crash| {
        to.time(crash.at);
        to.list(&crash.readings, Encoder::reading);
        to.list(&crash.finished, Encoder::finished);
    });
    to.into_digest()
}

/// The digest of an allocation's inputs: its span, what it cites, what there is and who reserved what.
pub fn allocation_digest(allocation: &Allocation) -> Digest {
    let mut to = Encoder::new(Some(ALLOCATION), SECOND);
    to.time(allocation.from);
    to.time(allocation.to);
    to.list(&allocation.cited, |to, cited| {
        to.digest(&cited.posting);
        to.text(&cited.root);
        to.u64(cited.idle_uj);
    });
    to.reserved(&allocation.capacity);
    let reserved: Vec<_> = allocation.reserved.iter().collect();
    to.list(&reserved, |to, (tenant, reserved)| {
        to.uuid(&tenant.0);
        to.reserved(reserved);
    });
    to.into_digest()
}

/// The digest of a correction: all of it. Its amount is its 64 bits as they are, a sign first.
pub fn correction_digest(correction: &Correction) -> Digest {
    let mut to = Encoder::new(Some(CORRECTION), SECOND);
    to.uuid(&correction.id);
    to.time(correction.at);
    to.uuid(&correction.tenant.0);
    to.option(correction.deployment.as_ref(), |to, name| to.text(name.as_str()));
    to.text(correction.unit.as_str());
    to.u64(correction.amount.cast_unsigned());
    to.digest(&correction.cites);
    to.text(&correction.reason);
    to.uuid(&correction.key);
    to.into_digest()
}

impl ReceiptLine {
    /// The line's hash as a leaf of its posting's Merkle tree.
    pub fn leaf(&self) -> Digest {
        let any = |what: fn(&Work) -> u64| self.usage.work.iter().any(|work| what(work) > 0);
        let version = match (any(|work| work.tokens), any(|work| work.busy_ns)) {
            (true, _) => VERSION,
            (false, true) => SECOND,
            (false, false) => FIRST,
        };
        let mut to = Encoder::new(None, version);
        to.call(&self.call);
        to.u32(self.ordinal);
        to.option(self.outcome, |to, outcome| to.text(outcome.as_str()));
        to.usage(&self.usage);
        to.option(self.energy_uj, Encoder::u64);
        merkle::leaf(&to.bytes)
    }
}

impl Posting {
    /// The Merkle root of the lines as they stand.
    pub fn compute_merkle_root(&self) -> Digest {
        merkle::root(&self.leaves())
    }

    /// The proof that the line at `index` is under [`Posting::merkle_root`]; none if there is no such line.
    pub fn prove_line(&self, index: usize) -> Option<merkle::Proof> {
        merkle::prove(&self.leaves(), index)
    }

    fn leaves(&self) -> Vec<Digest> {
        self.lines.iter().map(ReceiptLine::leaf).collect()
    }

    /// The hash of all that the posting says, its own hash aside. The lines enter by their number and
    /// Merkle root, so that the chain can be verified after they were archived.
    pub fn compute_hash(&self) -> Digest {
        match self.transfers.iter().any(|transfer| transfer.cites.is_some()) {
            true => self.hash_in(THIRD),
            false => self.compute_hash_without_cites(),
        }
    }

    /// The hash as it was before it covered what transfers cite.
    pub(crate) fn compute_hash_without_cites(&self) -> Digest {
        let has_faults = self.roots.iter().any(|root| !root.faults.is_empty());
        self.hash_in(if has_faults { SECOND } else { FIRST })
    }

    fn hash_in(&self, version: u8) -> Digest {
        let mut to = Encoder::new(Some(POSTING), version);
        to.digest(&self.prev_hash);
        to.uuid(&self.node.0);
        to.uuid(&self.epoch.0);
        to.u64(self.seq);
        to.text(self.kind.as_str());
        to.time(self.from);
        to.time(self.to);
        to.u32(self.fuel_schedule);
        to.list(&self.roots, Encoder::posting_root);
        to.list(&self.transfers, Encoder::transfer);
        to.u64(self.lines.len() as u64);
        to.digest(&self.merkle_root);
        to.digest(&self.input_digest);
        to.into_digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hashed_as_it_comes_has_the_digest_of_the_whole() {
        for items in [0, 1, 3 * PART_BYTES] {
            let items = vec![7; items];
            let (mut whole, mut parts) = (
                Encoder::new(Some(INPUTS), VERSION),
                Encoder::hashing(INPUTS, VERSION),
            );
            for to in [&mut whole, &mut parts] {
                to.list(&items, |to, item| to.u8(*item));
                to.text("behind it");
            }
            assert_eq!(parts.into_digest(), Digest::of(&whole.bytes));
        }
    }
}
