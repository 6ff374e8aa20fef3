//! Postings as version 2 of the encoding has them: their transfers do not say what they cite.

use domain::account::Account;
use domain::posting::{self, PostingKind, PostingRoot, ReceiptLine, TransferKind, Unit};
use domain::{Digest, Epoch, Name, NodeId, TenantId};
use serde::Deserialize;
use time::OffsetDateTime;

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Posting {
    node: NodeId,
    epoch: Epoch,
    seq: u64,
    kind: PostingKind,
    from: OffsetDateTime,
    to: OffsetDateTime,
    fuel_schedule: u32,
    roots: Vec<PostingRoot>,
    transfers: Vec<Transfer>,
    lines: Vec<ReceiptLine>,
    input_digest: Digest,
    merkle_root: Digest,
    prev_hash: Digest,
    hash: Digest,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Transfer {
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

impl From<Posting> for posting::Posting {
    fn from(old: Posting) -> Self {
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
            lines: old.lines,
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

#[cfg(test)]
impl From<posting::Posting> for Posting {
    fn from(new: posting::Posting) -> Self {
        let transfer = |new: posting::Transfer| Transfer {
            ordinal: new.ordinal,
            credit: new.credit,
            debit: new.debit,
            root: new.root,
            unit: new.unit,
            kind: new.kind,
            tenant: new.tenant,
            deployment: new.deployment,
            release: new.release,
            amount: new.amount,
        };
        Self {
            node: new.node,
            epoch: new.epoch,
            seq: new.seq,
            kind: new.kind,
            from: new.from,
            to: new.to,
            fuel_schedule: new.fuel_schedule,
            roots: new.roots,
            transfers: new.transfers.into_iter().map(transfer).collect(),
            lines: new.lines,
            input_digest: new.input_digest,
            merkle_root: new.merkle_root,
            prev_hash: new.prev_hash,
            hash: new.hash,
        }
    }
}
