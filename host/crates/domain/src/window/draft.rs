//! A window while it is being made: rows, amounts and lines under their keys.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::OpenReceipts;
use crate::account::Account;
use crate::energy::{FaultKind, Reading};
use crate::posting::{Call, PostingRoot, ReceiptLine, Transfer, TransferKind, Unit};
use crate::{InvocationId, Name, NodeId, Outcome, TenantId, Usage};

/// Who pays a dynamic transfer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Payer {
    tenant: TenantId,
    deployment: Option<Name>,
    release: Option<u32>,
}

impl Payer {
    fn of(call: &Call) -> Self {
        Self {
            tenant: call.tenant,
            deployment: call.deployment.clone(),
            release: call.release,
        }
    }
}

/// All of a transfer but its amount: one key is one transfer, and transfers stand in its order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Movement {
    unit: Unit,
    root: Option<String>,
    kind: TransferKind,
    payer: Option<Payer>,
}

impl Movement {
    fn into_transfer(self, ordinal: u32, amount: u64, node: NodeId) -> Transfer {
        let account = match self.kind {
            TransferKind::Idle => Account::Idle,
            TransferKind::System => Account::System,
            TransferKind::Foreign => Account::Foreign,
            _ => Account::Unattributed,
        };
        let (tenant, deployment, release) = match self.payer {
            Some(payer) => (Some(payer.tenant), payer.deployment, payer.release),
            None => (None, None, None),
        };
        Transfer {
            ordinal,
            credit: self.root.clone().map_or(Account::Fuel(node), Account::Meter),
            debit: tenant.map_or(account, Account::Tenant),
            root: self.root,
            unit: self.unit,
            kind: self.kind,
            tenant,
            deployment,
            release,
            amount,
            cites: None,
        }
    }
}

/// A window while it is being made.
#[derive(Default)]
pub(super) struct Draft {
    roots: Vec<PostingRoot>,
    amounts: BTreeMap<Movement, u64>,
    lines: BTreeMap<InvocationId, ReceiptLine>,
}

impl Draft {
    /// The line of `invocation`, if it has one.
    pub(super) fn line(&self, invocation: InvocationId) -> Option<&ReceiptLine> {
        self.lines.get(&invocation)
    }

    /// All lines, by invocation.
    pub(super) fn lines(&self) -> impl Iterator<Item = &ReceiptLine> {
        self.lines.values()
    }

    /// A row that starts at the baseline `now`.
    pub(super) fn begin(&mut self, now: &Reading) {
        let (root, at_uj) = (now.root.clone(), now.counter_uj);
        self.roots.push(PostingRoot {
            root,
            boot_id: now.boot_id,
            start_uj: at_uj,
            end_uj: at_uj,
            faults: Vec::new(),
        });
    }

    /// Moves the root's row from `last` to `now`, of the same boot.
    pub(super) fn extend(&mut self, last: &Reading, now: &Reading) {
        let continues = |row: &&mut PostingRoot| row.root.name == last.root.name;
        if self.roots.iter_mut().rfind(continues).is_none() {
            self.begin(last);
        }
        if let Some(row) = self.roots.iter_mut().rfind(continues) {
            row.root = now.root.clone();
            row.end_uj = now.counter_uj;
        }
    }

    /// Marks the root's row, which stands at `last`, with a fault of its meter.
    pub(super) fn mark(&mut self, last: &Reading, kind: FaultKind) {
        self.extend(last, last);
        let is_its = |row: &&mut PostingRoot| row.root.name == last.root.name;
        if let Some(row) = self.roots.iter_mut().rfind(is_its)
            && let Err(at) = row.faults.binary_search(&kind)
        {
            row.faults.insert(at, kind);
        }
    }

    fn add(&mut self, movement: Movement, amount: u64) {
        if amount > 0 {
            let sum = self.amounts.entry(movement).or_default();
            // No meter and no fuel limit comes near; should one, `Posting::verify` names the gap.
            *sum = sum.saturating_add(amount);
        }
    }

    /// Energy that no call caused.
    pub(super) fn charge(&mut self, root: &str, kind: TransferKind, uj: u64) {
        self.add(
            Movement {
                unit: Unit::Uj,
                root: Some(root.to_owned()),
                kind,
                payer: None,
            },
            uj,
        );
    }

    /// Energy that a call caused; its claim is in the draft already.
    pub(super) fn charge_call(&mut self, root: &str, invocation: InvocationId, uj: u64) {
        let Some(line) = self.lines.get_mut(&invocation) else {
            return self.charge(root, TransferKind::Unattributed, uj);
        };
        line.energy_uj = Some(line.energy_uj.unwrap_or(0).saturating_add(uj));
        let payer = Some(Payer::of(&line.call));
        let kind = TransferKind::Dynamic;
        self.add(
            Movement {
                unit: Unit::Uj,
                root: Some(root.to_owned()),
                kind,
                payer,
            },
            uj,
        );
    }

    /// Says that a reading covers the call's use, even if it caused no energy.
    pub(super) fn cover(&mut self, invocation: InvocationId) {
        if let Some(line) = self.lines.get_mut(&invocation) {
            line.energy_uj.get_or_insert(0);
        }
    }

    /// What a call used, as a part of its line and as fuel.
    pub(super) fn claim(&mut self, call: &Call, usage: &Usage, outcome: Option<Outcome>) {
        match self.lines.entry(call.invocation) {
            Entry::Occupied(mut entry) => {
                let line = entry.get_mut();
                line.usage.absorb(usage);
                line.outcome = outcome.or(line.outcome);
            }
            Entry::Vacant(entry) => {
                let (call, usage) = (call.clone(), usage.clone());
                entry.insert(ReceiptLine {
                    call,
                    ordinal: 0,
                    outcome,
                    usage,
                    energy_uj: None,
                });
            }
        }
        let payer = Some(Payer::of(call));
        self.add(
            Movement {
                unit: Unit::Fuel,
                root: None,
                kind: TransferKind::Dynamic,
                payer,
            },
            usage.fuel,
        );
    }

    /// By name, and for one name in the order of its boots.
    pub(super) fn sorted_roots(&mut self) -> Vec<PostingRoot> {
        self.roots.sort_by(|a, b| a.root.name.cmp(&b.root.name));
        std::mem::take(&mut self.roots)
    }

    pub(super) fn numbered_transfers(&mut self, node: NodeId) -> Vec<Transfer> {
        let amounts = std::mem::take(&mut self.amounts);
        let numbered = (0..).zip(amounts);
        numbered
            .map(|(ordinal, (movement, amount))| movement.into_transfer(ordinal, amount, node))
            .collect()
    }

    pub(super) fn numbered_lines(self, open: &OpenReceipts) -> Vec<ReceiptLine> {
        let number = |line: ReceiptLine| {
            let ordinal = open.get(line.call.invocation).map_or(0, |receipt| receipt.lines);
            ReceiptLine { ordinal, ..line }
        };
        self.lines.into_values().map(number).collect()
    }
}
