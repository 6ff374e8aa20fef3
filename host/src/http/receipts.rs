//! `/api/v1/receipts`: what each call used and cost, provisional and then final.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use db::{PostingKey, ReceiptFilter, ReceiptLineRow};
use domain::posting::{Call, CallKind};
use domain::usage::Work;
use domain::{Epoch, InvocationId, Name, NodeId, Outcome, Usage, usage};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::{Path, Query};
use super::page::{Page, asked};
use super::refusals::{Keyed, Named};
use super::{Shared, schema};
use crate::app::App;
use crate::flow::live::Pending;
use crate::flow::{Error, archived};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_receipts))
        .routes(routes!(get_receipt))
}

/// Whether a receipt's figures are those of the reply or those of the ledger.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ReceiptState {
    Provisional,
    Final,
}

/// What one call used and cost.
#[derive(Serialize, ToSchema)]
struct Receipt {
    /// The call's id.
    #[schema(value_type = Uuid)]
    id: InvocationId,
    /// Whether its figures may still change.
    state: ReceiptState,
    /// What the call was for.
    #[schema(value_type = schema::CallKind)]
    kind: CallKind,
    /// The deployment; null where none was called.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// Its release; null where none was called.
    release: Option<u32>,
    /// How the call ended.
    #[schema(value_type = schema::Outcome)]
    outcome: Outcome,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    /// Fuel.
    fuel: u64,
    /// The version of the rule that turns work into fuel.
    fuel_schedule: u32,
    /// CPU time of the pipeline and of host calls on its behalf, in nanoseconds.
    cpu_ns: u64,
    /// CPU time of its models, in nanoseconds.
    model_ns: u64,
    /// Bytes of the request and of tensors that went to models.
    bytes_in: u64,
    /// Bytes of the answer and of tensors that came from models.
    bytes_out: u64,
    /// The most memory that the pipeline had at once, in bytes.
    peak_memory_bytes: u64,
    /// Energy in microjoules, by the ledger; null before it is known, or where no reading covers the call.
    energy_uj: Option<u64>,
    /// The figure in the reply, in microjoules, until the receipt is final.
    #[serde(skip_serializing_if = "Option::is_none")]
    provisional_energy_uj: Option<u64>,
    /// The signed checkpoint that covers it: it can be proven then. Null until there is one.
    checkpoint: Option<u64>,
    /// What models did.
    #[schema(value_type = Vec<schema::Work>)]
    work: Vec<Work>,
    /// The parts of it that fell into one window of the ledger each.
    lines: Vec<ReceiptLine>,
}

impl Receipt {
    /// The receipt that lines and the record of a call that is not final make together.
    fn of(lines: &[ReceiptLineRow], pending: Option<&Pending>) -> Option<Self> {
        let last = lines.last();
        let outcome = last.and_then(|row| row.line.outcome);
        if let (Some(row), Some(outcome)) = (last, outcome) {
            let mut used = Usage::default();
            lines.iter().for_each(|row| used.absorb(&row.line.usage));
            let energy_uj = lines.iter().map(|row| row.line.energy_uj).sum();
            return Some(Self {
                state: ReceiptState::Final,
                fuel_schedule: row.fuel_schedule,
                energy_uj,
                ..Self::new(&row.line.call, outcome, used, lines)
            });
        }
        let Pending {
            finished,
            provisional_uj,
        } = pending?;
        Some(Self {
            provisional_energy_uj: *provisional_uj,
            ..Self::new(&finished.call, finished.outcome, finished.usage.clone(), lines)
        })
    }

    /// A provisional one without energy.
    fn new(call: &Call, outcome: Outcome, used: Usage, lines: &[ReceiptLineRow]) -> Self {
        Self {
            id: call.invocation,
            state: ReceiptState::Provisional,
            kind: call.kind,
            deployment: call.deployment.clone(),
            release: call.release,
            outcome,
            started_at: call.started_at,
            fuel: used.fuel,
            fuel_schedule: usage::FUEL_SCHEDULE,
            cpu_ns: used.cpu_ns,
            model_ns: used.model_ns(),
            bytes_in: used.bytes_in,
            bytes_out: used.bytes_out,
            peak_memory_bytes: used.peak_memory_bytes,
            energy_uj: None,
            provisional_energy_uj: None,
            checkpoint: None,
            work: used.work,
            lines: lines.iter().map(ReceiptLine::from).collect(),
        }
    }
}

/// The part of a receipt that fell into one window.
#[derive(Serialize, ToSchema)]
struct ReceiptLine {
    /// The window.
    posting: PostingRef,
    /// Counts the receipt's lines from 0.
    ordinal: u32,
    /// When the window began.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    to: OffsetDateTime,
    /// Fuel.
    fuel: u64,
    /// CPU time of the pipeline, in nanoseconds.
    cpu_ns: u64,
    /// CPU time of its models, in nanoseconds.
    model_ns: u64,
    /// Energy in microjoules; null where no reading covers it.
    energy_uj: Option<u64>,
}

/// Which posting of the ledger.
#[derive(Serialize, ToSchema)]
struct PostingRef {
    /// The host's node.
    #[schema(value_type = Uuid)]
    node: NodeId,
    /// The start of the host that sealed it.
    #[schema(value_type = Uuid)]
    epoch: Epoch,
    /// Counts the postings of that start from 0.
    seq: u64,
}

impl From<PostingKey> for PostingRef {
    fn from(PostingKey { node, epoch, seq }: PostingKey) -> Self {
        Self { node, epoch, seq }
    }
}

impl From<&ReceiptLineRow> for ReceiptLine {
    fn from(row: &ReceiptLineRow) -> Self {
        Self {
            posting: row.posting.into(),
            ordinal: row.line.ordinal,
            from: row.from,
            to: row.to,
            fuel: row.line.usage.fuel,
            cpu_ns: row.line.usage.cpu_ns,
            model_ns: row.line.usage.model_ns(),
            energy_uj: row.line.energy_uj,
        }
    }
}

/// Get a receipt
///
/// It is provisional from the reply until the ledger has the window that the call ended in, then final; once a signed
/// checkpoint covers it, it can be proven. One that is old is read from its archive.
#[utoipa::path(
    get, path = "/api/v1/receipts/{id}", tag = "receipts",
    params(("id" = Uuid, Path, description = "The call's id: `wattle-receipt` in its reply.")),
    responses((status = 200, body = Receipt, description = "The receipt."), Keyed, Named)
)]
async fn get_receipt(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<Receipt>, Error> {
    let tenant = principal.belongs()?;
    let missing = || Error::not_found("receipt", &id);
    let invocation: InvocationId = id.parse().map_err(|_| missing())?;
    // Asked first: between the two questions a receipt may become final, never the other way.
    let pending = app
        .live
        .pending(invocation)
        .filter(|pending| pending.finished.call.tenant == tenant);
    let turn = app.admission.read(Some(tenant));
    let (lines, is_archived) = archived::receipt(&app, tenant, invocation, turn).await?;
    let mut receipt = Receipt::of(&lines, pending.as_ref()).ok_or_else(missing)?;
    receipt.checkpoint = match receipt.state {
        ReceiptState::Provisional => None,
        ReceiptState::Final if is_archived => archived::checkpoint(&app, &lines).await?,
        ReceiptState::Final => {
            let mut tx = app.db.tenant_tx(tenant).await?;
            tx.receipt_checkpoint(invocation).await?
        }
    };
    Ok(Json(receipt))
}

/// A receipt of the ledger, as a list shows it.
#[derive(Serialize, ToSchema)]
struct ReceiptSummary {
    /// The call's id.
    #[schema(value_type = Uuid)]
    id: InvocationId,
    /// Whether its figures may still change.
    state: ReceiptState,
    /// What the call was for.
    #[schema(value_type = schema::CallKind)]
    kind: CallKind,
    /// The deployment; null where none was called.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// Its release; null where none was called.
    release: Option<u32>,
    /// How the call ended; null while it is provisional.
    #[schema(value_type = Option<schema::Outcome>)]
    outcome: Option<Outcome>,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    /// Fuel.
    fuel: u64,
    /// CPU time of the pipeline and of host calls on its behalf, in nanoseconds.
    cpu_ns: u64,
    /// CPU time of its models, in nanoseconds.
    model_ns: u64,
    /// Bytes of the request and of tensors that went to models.
    bytes_in: u64,
    /// Bytes of the answer and of tensors that came from models.
    bytes_out: u64,
    /// The most memory that the pipeline had at once, in bytes.
    peak_memory_bytes: u64,
    /// Energy in microjoules; null where no reading covers the call.
    energy_uj: Option<u64>,
}

impl From<db::Receipt> for ReceiptSummary {
    fn from(row: db::Receipt) -> Self {
        Self {
            id: row.invocation,
            state: match row.complete {
                true => ReceiptState::Final,
                false => ReceiptState::Provisional,
            },
            kind: row.kind,
            deployment: row.deployment,
            release: row.release,
            outcome: row.outcome,
            started_at: row.started_at,
            fuel: row.fuel,
            cpu_ns: row.cpu_ns,
            model_ns: row.model_ns,
            bytes_in: row.bytes_in,
            bytes_out: row.bytes_out,
            peak_memory_bytes: row.peak_memory_bytes,
            energy_uj: row.energy_uj,
        }
    }
}

asked! {
    /// Which receipts.
    pub struct Asked {
        /// Only those of this deployment.
        #[param(value_type = Option<schema::Name>)]
        deployment: Option<Name>,
        /// Only those of calls of this kind.
        #[param(value_type = Option<schema::CallKind>)]
        kind: Option<CallKind>,
        /// Only those of calls that ended so.
        #[param(value_type = Option<schema::Outcome>)]
        outcome: Option<Outcome>,
        /// Only those of calls that were accepted then or later.
        #[serde(default, with = "time::serde::rfc3339::option")]
        from: Option<OffsetDateTime>,
        /// Only those of calls that were accepted before.
        #[serde(default, with = "time::serde::rfc3339::option")]
        to: Option<OffsetDateTime>,
    }
}

/// List receipts
///
/// Those of which the ledger has lines, the newest first. One that is archived is found by its id alone.
#[utoipa::path(
    get, path = "/api/v1/receipts", tag = "receipts",
    params(Asked),
    responses((status = 200, body = Page<ReceiptSummary>, description = "A page of them."), Keyed)
)]
async fn list_receipts(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Asked>,
) -> Result<Json<Page<ReceiptSummary>>, Error> {
    let tenant = principal.belongs()?;
    let listing = asked.of("receipts")?;
    let filter = ReceiptFilter {
        deployment: asked.deployment,
        kind: asked.kind,
        outcome: asked.outcome,
        from: asked.from,
        to: asked.to,
    };
    let _turn = app.admission.read(Some(tenant)).await?;
    let mut tx = app.db.tenant_tx(tenant).await?;
    let rows = tx.receipts_list(&filter, &listing.cut).await?;
    Ok(listing.page(rows))
}
