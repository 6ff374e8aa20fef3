//! `/api/v1/ledger`: what billing and auditors read.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Principal;
use super::{Shared, instant, listed};
use crate::app::App;
use crate::flow::Error;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/ledger/balances", get(balances))
        .route("/api/v1/ledger/check", get(check))
        .route("/api/v1/ledger/windows", get(windows))
}

async fn balances(State(app): Shared, principal: Principal) -> Result<impl IntoResponse, Error> {
    principal.audits()?;
    let rows = app.db.billing_tx().await?.balances().await?;
    Ok(listed(rows.iter().map(
        |row| json!({ "account": row.account.to_string(), "unit": row.unit.as_str(), "amount": row.amount }),
    )))
}

/// Recomputes the books from the raw rows, by SQL that knows nothing of attribution.
async fn check(State(app): Shared, principal: Principal) -> Result<impl IntoResponse, Error> {
    principal.audits()?;
    let mut tx = app.db.billing_tx().await?;
    let totals = tx.totals().await?;
    let gaps = tx.ledger_gap().await?;
    let tenants = tx.receipts_vs_transfers().await?;
    let mismatches = tx.receipt_mismatches(100).await?;
    let chain_breaks = tx.chain_breaks(100).await?;
    let roots = gaps.iter().map(|gap| {
        json!({
            "node": gap.node,
            "root": gap.root,
            "boot_id": gap.boot_id,
            "provenance": gap.provenance.map(domain::energy::Provenance::as_str),
            "windows": gap.windows,
            "breaks": gap.breaks,
            "start_uj": gap.start_uj,
            "end_uj": gap.end_uj,
            "transfers_uj": gap.transfers_uj,
            "gap_uj": gap.gap_uj,
        })
    });
    let tenants = tenants.iter().map(|sums| {
        json!({
            "tenant": sums.tenant,
            "receipts_uj": sums.receipts_uj,
            "dynamic_uj": sums.dynamic_uj,
            "fuel_receipts": sums.fuel_receipts,
            "fuel_transfers": sums.fuel_transfers,
        })
    });
    Ok(Json(json!({
        // Gaps of different roots must not cancel out.
        "gap_uj": gaps.iter().map(|gap| gap.gap_uj.unsigned_abs()).sum::<u64>(),
        "breaks": gaps.iter().map(|gap| gap.breaks).sum::<u64>(),
        "mismatches": mismatches.len(),
        "chain_breaks": chain_breaks.len(),
        "windows": totals.windows,
        "energy_uj": totals.energy_uj,
        "unattributed_uj": totals.unattributed_uj,
        "fuel": totals.fuel,
        "meter": app.meter(),
        "refused": app.ledger_fault(),
        "roots": roots.collect::<Vec<Value>>(),
        "tenants": tenants.collect::<Vec<Value>>(),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    cursor: Option<i64>,
    limit: Option<u32>,
}

async fn windows(
    State(app): Shared,
    principal: Principal,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<impl IntoResponse, Error> {
    principal.audits()?;
    let Query(page) = page.map_err(|error| Error::invalid("query", error.body_text()))?;
    let limit = super::page_limit(page.limit)?;
    let rows = app.db.billing_tx().await?.windows(page.cursor, limit).await?;
    let next = rows
        .last()
        .filter(|_| rows.len() as u64 == u64::from(limit))
        .map(|row| row.id);
    let items = rows.iter().map(|row| {
        json!({
            "node": row.key.node,
            "epoch": row.key.epoch,
            "seq": row.key.seq,
            "kind": row.kind.as_str(),
            "from": instant(row.from),
            "to": instant(row.to),
            "posted_at": instant(row.posted_at),
            "energy_uj": row.energy_uj,
            "input_digest": row.input_digest,
            "merkle_root": row.merkle_root,
            "prev_hash": row.prev_hash,
            "hash": row.hash,
        })
    });
    Ok(Json(
        json!({ "items": items.collect::<Vec<Value>>(), "next": next }),
    ))
}
