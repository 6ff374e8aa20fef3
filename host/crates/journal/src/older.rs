//! Records as earlier versions of the encoding have them. Model work said nothing of tokens up to version 3, and
//! transfers not what they cite up to version 2.

use std::sync::Arc;

use domain::account::Account;
use domain::energy::{Activity, MeterFault, Reading};
use domain::posting::{self, Call, PostingKind, PostingRoot, TransferKind, Unit};
use domain::weights::RootWeights;
use domain::{Digest, Epoch, Label, Name, NodeId, Outcome, TenantId};
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::fold::Checkpoint;
use crate::record;

/// What a frame holds, with the transfers of its version.
#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) enum Entry<T> {
    Checkpoint(Box<Checkpoint>),
    Record(Record<T>),
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) enum Record<T> {
    EpochStarted {
        epoch: Epoch,
        node: NodeId,
        boot_id: Uuid,
        at: OffsetDateTime,
        readings: Vec<Reading>,
    },
    Finished(Finished),
    Slice(Slice),
    Sealed(Box<Posting<T>>),
    Drained {
        epoch: Epoch,
        seq: u64,
    },
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Finished {
    call: Call,
    outcome: Outcome,
    usage: Usage,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Slice {
    index: u64,
    at: OffsetDateTime,
    readings: Vec<Reading>,
    activity: Activity,
    claims: Vec<Claim>,
    faults: Vec<MeterFault>,
    weights: Vec<RootWeights>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Claim {
    call: Call,
    usage: Usage,
    outcome: Option<Outcome>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Posting<T> {
    node: NodeId,
    epoch: Epoch,
    seq: u64,
    kind: PostingKind,
    from: OffsetDateTime,
    to: OffsetDateTime,
    fuel_schedule: u32,
    roots: Vec<PostingRoot>,
    transfers: Vec<T>,
    lines: Vec<ReceiptLine>,
    input_digest: Digest,
    merkle_root: Digest,
    prev_hash: Digest,
    hash: Digest,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct ReceiptLine {
    call: Call,
    ordinal: u32,
    outcome: Option<Outcome>,
    usage: Usage,
    energy_uj: Option<u64>,
}

/// A transfer of version 2.
#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Transfer {
    ordinal: u32,
    credit: Account,
    debit: Account,
    root: Option<String>,
    unit: Unit,
    kind: TransferKind,
    tenant: Option<TenantId>,
    deployment: Option<Name>,
    release: Option<u32>,
    amount: u64,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Usage {
    fuel: u64,
    cpu_ns: u64,
    bytes_in: u64,
    bytes_out: u64,
    peak_memory_bytes: u64,
    work: Vec<Work>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Work {
    graph: Digest,
    backend: Label,
    device: Label,
    precision: Label,
    runs: u64,
    rows: u64,
    cpu_ns: u64,
    busy_ns: u64,
}

impl<T: Into<posting::Transfer>> From<Entry<T>> for record::Entry {
    fn from(old: Entry<T>) -> Self {
        match old {
            Entry::Checkpoint(checkpoint) => Self::Checkpoint(checkpoint),
            Entry::Record(record) => Self::Record(record.into()),
        }
    }
}

impl<T: Into<posting::Transfer>> From<Record<T>> for record::Record {
    fn from(old: Record<T>) -> Self {
        match old {
            Record::EpochStarted {
                epoch,
                node,
                boot_id,
                at,
                readings,
            } => Self::EpochStarted {
                epoch,
                node,
                boot_id,
                at,
                readings,
            },
            Record::Finished(old) => Self::Finished(Arc::new(posting::Finished {
                call: old.call,
                outcome: old.outcome,
                usage: old.usage.into(),
            })),
            Record::Slice(slice) => Self::Slice(slice.into()),
            Record::Sealed(posting) => Self::Sealed(Arc::new((*posting).into())),
            Record::Drained { epoch, seq } => Self::Drained { epoch, seq },
        }
    }
}

impl From<Slice> for posting::Slice {
    fn from(old: Slice) -> Self {
        let claims = old.claims.into_iter().map(|old| posting::Claim {
            call: old.call,
            usage: old.usage.into(),
            outcome: old.outcome,
        });
        Self {
            index: old.index,
            at: old.at,
            readings: old.readings,
            activity: old.activity,
            claims: claims.collect(),
            faults: old.faults,
            weights: old.weights,
        }
    }
}

impl<T: Into<posting::Transfer>> From<Posting<T>> for posting::Posting {
    fn from(old: Posting<T>) -> Self {
        let lines = old.lines.into_iter().map(|old| posting::ReceiptLine {
            call: old.call,
            ordinal: old.ordinal,
            outcome: old.outcome,
            usage: old.usage.into(),
            energy_uj: old.energy_uj,
        });
        Self {
            node: old.node,
            epoch: old.epoch,
            seq: old.seq,
            kind: old.kind,
            from: old.from,
            to: old.to,
            fuel_schedule: old.fuel_schedule,
            roots: old.roots,
            transfers: old.transfers.into_iter().map(Into::into).collect(),
            lines: lines.collect(),
            input_digest: old.input_digest,
            merkle_root: old.merkle_root,
            prev_hash: old.prev_hash,
            hash: old.hash,
        }
    }
}

impl From<Transfer> for posting::Transfer {
    fn from(old: Transfer) -> Self {
        Self {
            ordinal: old.ordinal,
            credit: old.credit,
            debit: old.debit,
            root: old.root,
            unit: old.unit,
            kind: old.kind,
            tenant: old.tenant,
            deployment: old.deployment,
            release: old.release,
            amount: old.amount,
            cites: None,
        }
    }
}

impl From<Usage> for domain::Usage {
    fn from(old: Usage) -> Self {
        let work = old.work.into_iter().map(|old| domain::Work {
            graph: old.graph,
            backend: old.backend,
            device: old.device,
            precision: old.precision,
            runs: old.runs,
            rows: old.rows,
            cpu_ns: old.cpu_ns,
            busy_ns: old.busy_ns,
            tokens: 0,
        });
        Self {
            fuel: old.fuel,
            cpu_ns: old.cpu_ns,
            bytes_in: old.bytes_in,
            bytes_out: old.bytes_out,
            peak_memory_bytes: old.peak_memory_bytes,
            work: work.collect(),
        }
    }
}
