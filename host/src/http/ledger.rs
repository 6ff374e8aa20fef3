//! `/api/v1/ledger`: what billing and auditors read.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::energy::Provenance;
use domain::posting::{PostingKind, Unit};
use domain::{Digest, Epoch, NodeId, TenantId};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::auth::Principal;
use super::extract::Query;
use super::page::{Page, Part};
use super::refusals::Keyed;
use super::{Items, Shared, listed, schema};
use crate::app::App;
use crate::flow::{Error, archived};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_balances))
        .routes(routes!(check_ledger))
        .routes(routes!(list_windows))
}

/// What an account holds of a unit.
#[derive(Serialize, ToSchema)]
struct Balance {
    /// The account.
    #[schema(example = "unattributed")]
    account: String,
    /// The unit.
    #[schema(value_type = schema::Unit)]
    unit: Unit,
    /// What it holds; what a source gave is below zero.
    amount: i64,
}

impl From<db::Balance> for Balance {
    fn from(row: db::Balance) -> Self {
        Self {
            account: row.account.to_string(),
            unit: row.unit,
            amount: row.amount,
        }
    }
}

/// List balances
#[utoipa::path(
    get, path = "/api/v1/ledger/balances", tag = "ledger",
    responses((status = 200, body = Items<Balance>, description = "Every account's balance."), Keyed)
)]
async fn list_balances(State(app): Shared, principal: Principal) -> Result<Json<Items<Balance>>, Error> {
    principal.audits()?;
    Ok(listed(app.db.billing_tx().await?.balances().await?))
}

/// The books, recomputed from the raw rows.
#[derive(Serialize, ToSchema)]
struct Check {
    /// Microjoules by which meters and transfers differ, over all roots: 0 in a sound ledger.
    gap_uj: u64,
    /// Windows that do not begin where the one before ended: 0 in a sound ledger.
    breaks: u64,
    /// Deployments of a window whose receipts and transfers differ, at most 100: 0 in a sound ledger.
    mismatches: usize,
    /// Hours of usage that are not what their receipt lines sum up to: 0 in a sound ledger.
    usage_mismatches: u64,
    /// Postings whose hash is not that of what stands in them, at most 100: 0 in a sound ledger.
    chain_breaks: usize,
    /// Postings of corrections that are not what was asked for: 0 in a sound ledger.
    correction_mismatches: u64,
    /// Files of receipt lines that left the database.
    archives: u64,
    /// What is wrong with which of them: nothing in a sound ledger.
    archive_faults: Vec<ArchiveFault>,
    /// How many windows there are.
    windows: u64,
    /// Energy of all tenants, in microjoules.
    energy_uj: u64,
    /// Energy that no one used, in microjoules.
    unattributed_uj: u64,
    /// Fuel of all tenants.
    fuel: u64,
    /// The meter of this host.
    meter: String,
    /// Why no more windows are posted; null where they are.
    refused: Option<String>,
    /// Every source of readings.
    roots: Vec<Root>,
    /// Every tenant's sums.
    tenants: Vec<TenantSums>,
}

/// A source of readings: what its counter says, and what the transfers say.
#[derive(Serialize, ToSchema)]
struct Root {
    /// The host's node.
    #[schema(value_type = Uuid)]
    node: NodeId,
    /// The root's name.
    root: String,
    /// The boot in which its counter counts.
    boot_id: Option<Uuid>,
    /// How its readings come about.
    #[schema(value_type = Option<schema::Provenance>)]
    provenance: Option<Provenance>,
    /// Windows with its readings.
    windows: u64,
    /// Windows that do not begin where the one before ended.
    breaks: u64,
    /// Its counter at the start of the first window, in microjoules.
    start_uj: u64,
    /// Its counter at the end of the last one, in microjoules.
    end_uj: u64,
    /// What transfers took from it, in microjoules.
    transfers_uj: i64,
    /// By how much that differs from the counter, in microjoules.
    gap_uj: i64,
}

impl From<db::Gap> for Root {
    fn from(row: db::Gap) -> Self {
        Self {
            node: row.node,
            root: row.root,
            boot_id: row.boot_id,
            provenance: row.provenance,
            windows: row.windows,
            breaks: row.breaks,
            start_uj: row.start_uj,
            end_uj: row.end_uj,
            transfers_uj: row.transfers_uj,
            gap_uj: row.gap_uj,
        }
    }
}

/// An archive that is missing, or is not what was archived.
#[derive(Serialize, ToSchema)]
struct ArchiveFault {
    /// The archive's number.
    archive: i64,
    /// `archive_missing` or `archive_damaged`, for programs.
    #[schema(example = "archive_missing")]
    code: &'static str,
    /// What is wrong with it.
    what: String,
}

impl From<archived::ArchiveFault> for ArchiveFault {
    fn from(fault: archived::ArchiveFault) -> Self {
        let archived::ArchiveFault { archive, code, what } = fault;
        Self { archive, code, what }
    }
}

/// What receipts and transfers say of one tenant.
#[derive(Serialize, ToSchema)]
struct TenantSums {
    /// The tenant.
    #[schema(value_type = Uuid)]
    tenant: TenantId,
    /// Energy on its receipts, in microjoules.
    receipts_uj: u64,
    /// Energy in its transfers, in microjoules.
    dynamic_uj: u64,
    /// Fuel on its receipts.
    fuel_receipts: u64,
    /// Fuel in its transfers.
    fuel_transfers: u64,
}

impl From<db::TenantSums> for TenantSums {
    fn from(row: db::TenantSums) -> Self {
        Self {
            tenant: row.tenant,
            receipts_uj: row.receipts_uj,
            dynamic_uj: row.dynamic_uj,
            fuel_receipts: row.fuel_receipts,
            fuel_transfers: row.fuel_transfers,
        }
    }
}

/// Check the ledger
///
/// Recomputes the books from the raw rows, by SQL that knows nothing of attribution. Every archive is read and compared
/// with the sums that stand for it.
#[utoipa::path(
    get, path = "/api/v1/ledger/check", tag = "ledger",
    responses((status = 200, body = Check, description = "What was found."), Keyed)
)]
async fn check_ledger(State(app): Shared, principal: Principal) -> Result<Json<Check>, Error> {
    principal.audits()?;
    let mut tx = app.db.billing_tx().await?;
    let totals = tx.totals().await?;
    let gaps = tx.ledger_gap().await?;
    let tenants = tx.receipts_vs_transfers().await?;
    let mismatches = tx.receipt_mismatches(100).await?.len();
    let usage_mismatches = tx.usage_mismatches().await?;
    let chain_breaks = tx.chain_breaks(100).await?.len();
    let correction_mismatches = tx.correction_mismatches().await?;
    drop(tx);
    let (archives, archive_faults) = archived::check(&app).await?;
    Ok(Json(Check {
        // Gaps of different roots must not cancel out.
        gap_uj: gaps.iter().map(|gap| gap.gap_uj.unsigned_abs()).sum(),
        breaks: gaps.iter().map(|gap| gap.breaks).sum(),
        mismatches,
        usage_mismatches,
        chain_breaks,
        correction_mismatches,
        archives,
        archive_faults: archive_faults.into_iter().map(ArchiveFault::from).collect(),
        windows: totals.windows,
        energy_uj: totals.energy_uj,
        unattributed_uj: totals.unattributed_uj,
        fuel: totals.fuel,
        meter: app.meters.description().to_owned(),
        refused: app.ledger_fault().map(str::to_owned),
        roots: gaps.into_iter().map(Root::from).collect(),
        tenants: tenants.into_iter().map(TenantSums::from).collect(),
    }))
}

/// A posting of the ledger, a link of its chain.
#[derive(Serialize, ToSchema)]
struct Window {
    /// The host's node.
    #[schema(value_type = Uuid)]
    node: NodeId,
    /// The start of the host that sealed it.
    #[schema(value_type = Uuid)]
    epoch: Epoch,
    /// Counts the postings of that start from 0.
    seq: u64,
    /// What it is.
    #[schema(value_type = schema::PostingKind)]
    kind: PostingKind,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    to: OffsetDateTime,
    /// When it entered the ledger.
    #[serde(with = "time::serde::rfc3339")]
    posted_at: OffsetDateTime,
    /// Its energy, in microjoules; null where no reading covers it.
    energy_uj: Option<u64>,
    /// The digest of what it was computed from.
    #[schema(value_type = schema::Digest)]
    input_digest: Digest,
    /// The root of the Merkle tree over its receipt lines.
    #[schema(value_type = schema::Digest)]
    merkle_root: Digest,
    /// The hash of the posting before.
    #[schema(value_type = schema::Digest)]
    prev_hash: Digest,
    /// Its own hash, over all of that.
    #[schema(value_type = schema::Digest)]
    hash: Digest,
}

impl From<db::Window> for Window {
    fn from(row: db::Window) -> Self {
        Self {
            node: row.key.node,
            epoch: row.key.epoch,
            seq: row.key.seq,
            kind: row.kind,
            from: row.from,
            to: row.to,
            posted_at: row.posted_at,
            energy_uj: row.energy_uj,
            input_digest: row.input_digest,
            merkle_root: row.merkle_root,
            prev_hash: row.prev_hash,
            hash: row.hash,
        }
    }
}

/// List windows
///
/// Every posting, in the order of the ledger.
#[utoipa::path(
    get, path = "/api/v1/ledger/windows", tag = "ledger",
    params(Part),
    responses((status = 200, body = Page<Window>, description = "A page of them."), Keyed)
)]
async fn list_windows(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Part>,
) -> Result<Json<Page<Window>>, Error> {
    principal.audits()?;
    let listing = asked.of("windows")?;
    let rows = app.db.billing_tx().await?.windows(&listing.cut).await?;
    Ok(listing.page(rows))
}
