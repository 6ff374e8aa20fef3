//! The parts of the host's answers that the command line reads.

use serde::Deserialize;

/// A receipt: what an invocation used and cost.
#[derive(Clone, Debug, Deserialize)]
pub struct Receipt {
    /// The invocation's id.
    pub id: String,
    /// `provisional` or `final`.
    pub state: String,
    /// What kind of invocation it was, such as `infer` or `compile`.
    pub kind: String,
    /// The deployment, for calls.
    #[serde(default)]
    pub deployment: Option<String>,
    /// The release, for calls.
    #[serde(default)]
    pub release: Option<u64>,
    /// How it ended.
    #[serde(default)]
    pub outcome: Option<String>,
    /// When it began.
    #[serde(default)]
    pub started_at: Option<String>,
    /// Fuel.
    pub fuel: u64,
    /// The version of the rule that turns work into fuel.
    #[serde(default)]
    pub fuel_schedule: Option<u32>,
    /// CPU time of the guest in nanoseconds.
    pub cpu_ns: u64,
    /// CPU time of models in nanoseconds.
    pub model_ns: u64,
    /// Bytes in.
    #[serde(default)]
    pub bytes_in: Option<u64>,
    /// Bytes out.
    #[serde(default)]
    pub bytes_out: Option<u64>,
    /// The most linear memory at once.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    /// Final energy in microjoules.
    #[serde(default)]
    pub energy_uj: Option<u64>,
    /// The first guess of it.
    #[serde(default)]
    pub provisional_energy_uj: Option<u64>,
    /// The checkpoint that covers it.
    #[serde(default)]
    pub checkpoint: Option<u64>,
    /// Model work, by graph and place.
    #[serde(default)]
    pub work: Vec<Work>,
    /// Its parts, by window.
    #[serde(default)]
    pub lines: Vec<Line>,
}

impl Receipt {
    /// Whether every part of it is sealed and posted.
    pub fn is_final(&self) -> bool {
        self.state == "final"
    }
}

/// Model work of an invocation.
#[derive(Clone, Debug, Deserialize)]
pub struct Work {
    /// The graph's digest.
    pub graph: String,
    /// Backend and version.
    pub backend: String,
    /// Device.
    pub device: String,
    /// Precision.
    pub precision: String,
    /// Runs.
    pub runs: u64,
    /// Rows over all runs.
    pub rows: u64,
    /// Tokens over all runs.
    #[serde(default)]
    pub tokens: u64,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
}

/// The part of a receipt that fell into one window.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// The window's posting.
    pub posting: Posting,
    /// Start of the window.
    pub from: String,
    /// End of the window.
    pub to: String,
    /// Fuel.
    pub fuel: u64,
    /// CPU time of the guest in nanoseconds.
    pub cpu_ns: u64,
    /// CPU time of models in nanoseconds.
    pub model_ns: u64,
    /// Energy in microjoules; none where no reading covers it.
    #[serde(default)]
    pub energy_uj: Option<u64>,
}

/// A posting's key.
#[derive(Clone, Debug, Deserialize)]
pub struct Posting {
    /// The number within the node's epoch.
    pub seq: u64,
}

/// Whether the books balance, by SQL that knows nothing of the attribution.
#[derive(Clone, Debug, Deserialize)]
pub struct LedgerCheck {
    /// Σ of what the transfers of each root and its counters differ by.
    pub gap_uj: u64,
    /// Windows that do not start where the one before them ended.
    pub breaks: u64,
    /// Postings in which receipts and transfers of a release have different sums.
    pub mismatches: u64,
    /// Hours of usage that are not what their receipt lines sum up to.
    pub usage_mismatches: u64,
    /// Postings that do not name the hash of the one before them.
    pub chain_breaks: u64,
    /// Postings of corrections that are not what was asked for.
    pub correction_mismatches: u64,
    /// What is wrong with archives of receipt lines.
    #[serde(default)]
    pub archive_faults: Vec<ArchiveFault>,
    /// Sealed windows.
    pub windows: u64,
    /// Energy that nobody could be given.
    pub unattributed_uj: u64,
    /// All energy in the ledger.
    pub energy_uj: u64,
    /// The meter in use, in words.
    pub meter: String,
    /// Why the node posts no more windows, if it does not.
    #[serde(default)]
    pub refused: Option<String>,
    /// Each meter, per node and boot.
    pub roots: Vec<RootCheck>,
    /// Each tenant's receipts against its transfers.
    pub tenants: Vec<TenantCheck>,
}

/// An archive that is missing, or is not what was archived.
#[derive(Clone, Debug, Deserialize)]
pub struct ArchiveFault {
    /// The stable code.
    pub code: String,
    /// What is wrong with which.
    pub what: String,
}

/// A meter against the transfers out of it.
#[derive(Clone, Debug, Deserialize)]
pub struct RootCheck {
    /// The root's name.
    pub root: String,
    /// The counter before the first window.
    pub start_uj: u64,
    /// The counter after the last window.
    pub end_uj: u64,
    /// Σ transfers.
    pub transfers_uj: i64,
    /// `measured`, `modelled` or `estimated`.
    #[serde(default)]
    pub provenance: Option<String>,
}

impl RootCheck {
    /// Σ transfers minus what the meter counted.
    pub fn gap_uj(&self) -> i128 {
        i128::from(self.transfers_uj) - (i128::from(self.end_uj) - i128::from(self.start_uj))
    }
}

/// A tenant's receipts against its transfers.
#[derive(Clone, Debug, Deserialize)]
pub struct TenantCheck {
    /// The tenant's id.
    pub tenant: String,
    /// Σ receipts.
    pub receipts_uj: u64,
    /// Σ dynamic transfers.
    pub dynamic_uj: u64,
    /// Σ fuel of receipts.
    pub fuel_receipts: u64,
    /// Σ fuel transfers.
    pub fuel_transfers: u64,
}

/// An account's balance in one unit.
#[derive(Clone, Debug, Deserialize)]
pub struct Balance {
    /// The account.
    pub account: String,
    /// The unit.
    pub unit: String,
    /// What it holds.
    pub amount: i64,
}
