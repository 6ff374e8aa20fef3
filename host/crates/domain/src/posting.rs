//! What enters the ledger at once: a posting with its roots, transfers and receipt lines.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::account::Account;
use crate::energy::{Activity, FaultKind, MeterFault, Reading, Root};
use crate::weights::RootWeights;
use crate::{Digest, Epoch, InvocationId, Name, NodeId, Outcome, TenantId, Usage};

/// What an invocation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// A call of a deployment.
    Infer,
    /// Inspecting and compiling an upload.
    Publish,
    /// Loading graphs and asking a component to describe itself, for a release.
    Deploy,
}

impl CallKind {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Publish => "publish",
            Self::Deploy => "deploy",
        }
    }
}

/// Who called what, and when: everything of an invocation that does not change while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The invocation.
    pub invocation: InvocationId,
    /// What it is for.
    pub kind: CallKind,
    /// Who pays.
    pub tenant: TenantId,
    /// The deployment; none for a publish.
    pub deployment: Option<Name>,
    /// The release's number; none for a publish.
    pub release: Option<u32>,
    /// When it was admitted.
    pub started_at: OffsetDateTime,
}

/// The record of an ended invocation, journalled before its reply leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The call.
    pub call: Call,
    /// How it ended.
    pub outcome: Outcome,
    /// All that it used.
    pub usage: Usage,
}

/// What an invocation used within one slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The call.
    pub call: Call,
    /// What it used in this slice, not before.
    pub usage: Usage,
    /// How it ended, if it did so in this slice; a call has exactly one claim with an outcome.
    pub outcome: Option<Outcome>,
}

/// The span since the slice before it (or since the baseline): what was metered and who used what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Counts the slices of an epoch from 0.
    pub index: u64,
    /// Wall time of the cut.
    pub at: OffsetDateTime,
    /// The readings at the cut, one per root.
    pub readings: Vec<Reading>,
    /// CPU time used in the slice, by whom.
    pub activity: Activity,
    /// Every invocation that ran in the slice.
    pub claims: Vec<Claim>,
    /// What was wrong with which root. A span that such a root closes here is nobody's in particular, and
    /// without a reading here, the one that it closes next.
    pub faults: Vec<MeterFault>,
    /// By what it is shared: fitted to earlier slices, at most one entry per root. A root without one is
    /// shared by equal weights over the floor of its reading.
    pub weights: Vec<RootWeights>,
}

impl Slice {
    /// The weights that the slice carries for `root`.
    pub fn weights_of(&self, root: &Root) -> Option<&RootWeights> {
        self.weights.iter().find(|weights| weights.root == root.name)
    }
}

/// The kind of a posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostingKind {
    /// A sealed window.
    Window,
    /// Idle energy moved to those who reserved.
    Allocation,
    /// A repair of earlier transfers.
    Correction,
}

impl PostingKind {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Allocation => "allocation",
            Self::Correction => "correction",
        }
    }
}

/// A unit of account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Microjoules.
    Uj,
    /// Fuel.
    Fuel,
}

impl Unit {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uj => "uj",
            Self::Fuel => "fuel",
        }
    }
}

/// Why an amount moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferKind {
    /// Caused by a tenant's use.
    Dynamic,
    /// Taken by the machine with nothing to do.
    Idle,
    /// Caused by the host's own work.
    System,
    /// Caused by load that is not ours.
    Foreign,
    /// Not to be placed.
    Unattributed,
    /// Idle energy moved to those who reserved.
    Allocation,
    /// A repair.
    Correction,
}

impl TransferKind {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Idle => "idle",
            Self::System => "system",
            Self::Foreign => "foreign",
            Self::Unattributed => "unattributed",
            Self::Allocation => "allocation",
            Self::Correction => "correction",
        }
    }
}

/// One root's counters at both ends of a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostingRoot {
    /// The root.
    pub root: Root,
    /// The boot in which the counter counts.
    pub boot_id: Uuid,
    /// The counter where the window begins, which is where the one before it ended, in microjoules.
    pub start_uj: u64,
    /// The counter where the window ends, in microjoules.
    pub end_uj: u64,
    /// What was wrong with the meter within the window, each kind once and in their order.
    pub faults: Vec<FaultKind>,
}

/// One immutable movement between two accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Counts the transfers of a posting from 0.
    pub ordinal: u32,
    /// The source.
    pub credit: Account,
    /// The user.
    pub debit: Account,
    /// The root; none for fuel.
    pub root: Option<String>,
    /// The unit.
    pub unit: Unit,
    /// Why.
    pub kind: TransferKind,
    /// Who caused it, where someone did.
    pub tenant: Option<TenantId>,
    /// By which deployment.
    pub deployment: Option<Name>,
    /// By which release.
    pub release: Option<u32>,
    /// How much; above 0.
    pub amount: u64,
    /// The hash of the posting that it repairs, of corrections. One that was sealed before hashes covered this has it
    /// from the ledger alone.
    pub cites: Option<Digest>,
}

/// The part of a receipt that fell into one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptLine {
    /// The call.
    pub call: Call,
    /// Counts the lines of a receipt from 0.
    pub ordinal: u32,
    /// How it ended, on the last line only: then the receipt has `ordinal + 1` lines.
    pub outcome: Option<Outcome>,
    /// What was used in this window.
    pub usage: Usage,
    /// Dynamic energy over all roots in microjoules; none where no reading covers the use.
    pub energy_uj: Option<u64>,
}

/// What enters the ledger at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting {
    /// The node.
    pub node: NodeId,
    /// The start of the host that sealed it.
    pub epoch: Epoch,
    /// Counts the postings of an epoch from 0.
    pub seq: u64,
    /// The kind.
    pub kind: PostingKind,
    /// Wall time where it begins.
    pub from: OffsetDateTime,
    /// Wall time where it ends; the partition key of everything under it.
    pub to: OffsetDateTime,
    /// The fuel schedule of its lines.
    pub fuel_schedule: u32,
    /// Counters, one entry per root.
    pub roots: Vec<PostingRoot>,
    /// Movements.
    pub transfers: Vec<Transfer>,
    /// Receipt lines, sorted by invocation.
    pub lines: Vec<ReceiptLine>,
    /// The digest of its inputs: slices of a window, cited transfers of the others.
    pub input_digest: Digest,
    /// The Merkle root of its receipt lines.
    pub merkle_root: Digest,
    /// The hash of the node's posting before it; [`Digest::ZERO`] for the first.
    pub prev_hash: Digest,
    /// The hash of all of the above.
    pub hash: Digest,
}
