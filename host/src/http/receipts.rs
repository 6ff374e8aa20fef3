//! `/api/v1/receipts`: what each call used and cost, provisional and then final.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use db::ReceiptLineRow;
use domain::posting::Call;
use domain::{InvocationId, Outcome, TenantId, Usage, usage};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Principal;
use super::{Shared, instant};
use crate::app::App;
use crate::flow::Error;
use crate::flow::live::Pending;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/receipts", get(list))
        .route("/api/v1/receipts/{id}", get(one))
}

async fn one(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Error> {
    let tenant = principal.belongs()?;
    let missing = || Error::not_found("receipt", &id);
    let invocation: InvocationId = id.parse().map_err(|_| missing())?;
    // Asked first: between the two questions a receipt may become final, never the other way.
    let pending = app
        .live
        .pending(invocation)
        .filter(|pending| pending.finished.call.tenant == tenant);
    let lines = app.db.tenant_tx(tenant).await?.receipt_get(invocation).await?;
    receipt(&lines, pending.as_ref()).map(Json).ok_or_else(missing)
}

/// The receipt that lines and the record of a call that is not final make together.
fn receipt(lines: &[ReceiptLineRow], pending: Option<&Pending>) -> Option<Value> {
    let last = lines.last();
    let outcome = last.and_then(|row| row.line.outcome);
    if let (Some(row), Some(outcome)) = (last, outcome) {
        let mut used = Usage::default();
        lines.iter().for_each(|row| used.absorb(&row.line.usage));
        let energy = lines.iter().map(|row| row.line.energy_uj).sum::<Option<u64>>();
        let mut view = view(&row.line.call, outcome, &used);
        view["state"] = json!("final");
        view["fuel_schedule"] = json!(row.fuel_schedule);
        view["energy_uj"] = json!(energy);
        view["lines"] = lines.iter().map(line).collect();
        return Some(view);
    }
    let pending = pending?;
    let finished = &pending.finished;
    let mut view = view(&finished.call, finished.outcome, &finished.usage);
    view["state"] = json!("provisional");
    view["fuel_schedule"] = json!(usage::FUEL_SCHEDULE);
    view["energy_uj"] = Value::Null;
    view["provisional_energy_uj"] = json!(pending.provisional_uj);
    view["lines"] = lines.iter().map(line).collect();
    Some(view)
}

fn view(call: &Call, outcome: Outcome, used: &Usage) -> Value {
    json!({
        "id": call.invocation,
        "kind": call.kind.as_str(),
        "deployment": call.deployment,
        "release": call.release,
        "outcome": outcome,
        "started_at": instant(call.started_at),
        "fuel": used.fuel,
        "cpu_ns": used.cpu_ns,
        "model_ns": used.model_ns(),
        "bytes_in": used.bytes_in,
        "bytes_out": used.bytes_out,
        "peak_memory_bytes": used.peak_memory_bytes,
        "work": used.work,
    })
}

fn line(row: &ReceiptLineRow) -> Value {
    json!({
        "posting": { "node": row.posting.node, "epoch": row.posting.epoch, "seq": row.posting.seq },
        "ordinal": row.line.ordinal,
        "from": instant(row.from),
        "to": instant(row.to),
        "fuel": row.line.usage.fuel,
        "cpu_ns": row.line.usage.cpu_ns,
        "model_ns": row.line.usage.model_ns(),
        "energy_uj": row.line.energy_uj,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    cursor: Option<InvocationId>,
    limit: Option<u32>,
}

async fn list(
    State(app): Shared,
    principal: Principal,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<impl IntoResponse, Error> {
    let tenant: TenantId = principal.belongs()?;
    let Query(page) = page.map_err(|error| Error::invalid("query", error.body_text()))?;
    let limit = super::page_limit(page.limit)?;
    let rows = app
        .db
        .tenant_tx(tenant)
        .await?
        .receipts_list(page.cursor, limit)
        .await?;
    let next = rows
        .last()
        .filter(|_| rows.len() as u64 == u64::from(limit))
        .map(|row| row.invocation);
    let items: Vec<Value> = rows.iter().map(summary).collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

fn summary(row: &db::Receipt) -> Value {
    json!({
        "id": row.invocation,
        "state": if row.complete { "final" } else { "provisional" },
        "kind": row.kind.as_str(),
        "deployment": row.deployment,
        "release": row.release,
        "outcome": row.outcome,
        "started_at": instant(row.started_at),
        "fuel": row.fuel,
        "cpu_ns": row.cpu_ns,
        "model_ns": row.model_ns,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "peak_memory_bytes": row.peak_memory_bytes,
        "energy_uj": row.energy_uj,
    })
}
