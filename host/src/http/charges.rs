//! `/api/v1/ledger/charges` and the export of a month: the lines of statements in the columns of FOCUS.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use db::{Action, Charge, ChargeFilter};
use domain::TenantId;
use domain::billing::Month;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::carbon::EVERYONES;
use super::extract::{Path, Query};
use super::focus::{COLUMNS, FocusCharge, cells};
use super::page::asked;
use super::periods::month;
use super::refusals::{Keyed, Named};
use super::{Shared, csv, schema};
use crate::app::App;
use crate::columnar;
use crate::flow::Error;

/// How many charges are read at once for an export.
const CHUNK: u32 = 5_000;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_charges))
        .routes(routes!(export_period))
}

asked! {
    /// Which charges.
    pub struct ChargesAsked {
        /// Only those of this month's statements.
        #[param(value_type = Option<schema::Month>)]
        month: Option<Month>,
        /// Only those of this tenant.
        #[param(value_type = Option<Uuid>)]
        tenant: Option<TenantId>,
    }
}

/// Charges, and where to go on.
#[derive(Serialize, ToSchema)]
struct Charges {
    /// The charges, in the order in which they were made.
    items: Vec<FocusCharge>,
    /// The `cursor` of whatever comes after them, now or later: keep it once they are worked up.
    next: String,
    /// Whether there is more already.
    more: bool,
}

/// Pull charges
///
/// The lines of all statements in the columns of FOCUS 1.2, for a billing system that asks again and again. Keep `next`
/// once a page is worked up, and ask with it from then on: each charge comes at least once, and in the same order every
/// time; `InvoiceId` with what is charged names it. New ones come when a month is closed. Admins, billing and auditors
/// get everyone's; a tenant, with a key that manages or reads, its own.
#[utoipa::path(
    get, path = "/api/v1/ledger/charges", tag = "billing",
    params(ChargesAsked),
    responses((status = 200, body = Charges, description = "A page of them."), Keyed)
)]
async fn list_charges(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<ChargesAsked>,
) -> Result<Json<Charges>, Error> {
    let own = principal.sees(&EVERYONES, asked.tenant)?;
    let listing = asked.of::<i64>("charges")?;
    let filter = ChargeFilter {
        tenant: asked.tenant,
        month: asked.month,
    };
    let _turn = app.admission.read(own).await?;
    let (mut after, limit) = (listing.cut.after.unwrap_or_default(), listing.cut.limit);
    let mut rows = read(&app, own, filter, after, limit + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    after = rows.last().map_or(after, |charge| charge.id);
    Ok(Json(Charges {
        items: rows.into_iter().map(FocusCharge::from).collect(),
        next: listing.cursor(&after),
        more,
    }))
}

async fn read(
    app: &App,
    own: Option<TenantId>,
    filter: ChargeFilter,
    after: i64,
    limit: u32,
) -> Result<Vec<Charge>, Error> {
    Ok(match own {
        Some(own) => app.db.tenant_tx(own).await?.charges(filter, after, limit).await?,
        None => app.db.billing_tx().await?.charges(filter, after, limit).await?,
    })
}

/// How an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// CSV (RFC 4180), with a header.
    #[default]
    Csv,
    /// Parquet, uncompressed.
    Parquet,
}

/// Which export.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ExportAsked {
    /// Only the charges of this tenant.
    #[param(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// How it is written.
    #[serde(default)]
    #[param(inline, value_type = Option<Format>)]
    format: Format,
}

/// Export a month
///
/// All charges of a closed month's statements in the columns of FOCUS 1.2, and our own that begin with `x_`: the same
/// bytes every time. Admins, billing and auditors get everyone's, which the audit trail has; a tenant, with a key that
/// manages or reads, its own.
#[utoipa::path(
    get, path = "/api/v1/ledger/periods/{month}/export", tag = "billing",
    params(("month" = schema::Month, Path, description = "The month."), ExportAsked),
    responses(
        (
            status = 200, description = "The charges.",
            content((String = "text/csv"), (schema::File = "application/vnd.apache.parquet"))
        ),
        Keyed, Named
    )
)]
async fn export_period(
    State(app): Shared,
    principal: Principal,
    Path(text): Path<String>,
    Query(asked): Query<ExportAsked>,
) -> Result<Response, Error> {
    let own = principal.sees(&EVERYONES, asked.tenant)?;
    let month = month(&text)?;
    let _turn = app.admission.read(own).await?;
    let closed = match own {
        Some(own) => app.db.tenant_tx(own).await?.is_closed(month).await?,
        None => app.db.billing_tx().await?.is_closed(month).await?,
    };
    if !closed {
        return Err(Error::not_found("period", month));
    }
    let filter = ChargeFilter {
        tenant: asked.tenant,
        month: Some(month),
    };
    let charges = all(&app, own, filter).await?;
    if own.is_none() {
        let mut tx = app.db.admin_tx().await?;
        let details = json!({ "charges": charges.len() });
        tx.audit(
            principal.actor,
            asked.tenant,
            Action::PeriodExport,
            month,
            details,
        )
        .await?;
        tx.commit().await?;
    }
    let (kind, suffix, body) = match asked.format {
        Format::Csv => {
            let columns = COLUMNS.map(|(name, _)| name);
            ("text/csv", "csv", csv::written(&columns, &charges).into_bytes())
        }
        Format::Parquet => {
            let rows: Vec<_> = charges.iter().map(cells).collect();
            let file = columnar::written("charge", &COLUMNS, &rows).map_err(|error| {
                tracing::error!(%error, %month, "charges do not fit the columns of an export");
                Error::Internal
            })?;
            ("application/vnd.apache.parquet", "parquet", file)
        }
    };
    let name = format!("attachment; filename=\"wattle-{month}.{suffix}\"");
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    Ok((headers, body).into_response())
}

async fn all(app: &App, own: Option<TenantId>, filter: ChargeFilter) -> Result<Vec<FocusCharge>, Error> {
    let (mut charges, mut after) = (Vec::new(), 0);
    loop {
        let rows = read(app, own, filter, after, CHUNK).await?;
        let Some(last) = rows.last() else {
            return Ok(charges);
        };
        after = last.id;
        charges.extend(rows.into_iter().map(FocusCharge::from));
    }
}
