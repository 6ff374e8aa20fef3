//! `/api/v1/ledger/statements`: what closed months charged, in the bytes that were kept.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use db::{ChargeFilter, PeriodCut, StatementRow};
use domain::billing::money::decimal;
use domain::billing::statement::{Class, Line};
use domain::billing::{Currency, Item, Month, Rate};
use domain::energy::Provenance;
use domain::{Digest, Name, TenantId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::carbon::EVERYONES;
use super::extract::{Path, Query};
use super::page::{Page, asked};
use super::periods::month;
use super::refusals::{Keyed, Named};
use super::{Shared, schema};
use crate::app::App;
use crate::flow::Error;
use crate::flow::close::Drawn;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_statements))
        .routes(routes!(get_statement))
}

/// What a tenant owes for a month. It never changes, to the byte.
#[derive(Serialize, ToSchema)]
struct Statement {
    /// The month.
    #[schema(value_type = schema::Month)]
    month: Month,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// When it ended, exclusively.
    #[serde(with = "time::serde::rfc3339")]
    to: OffsetDateTime,
    /// The tenant.
    #[schema(value_type = Uuid)]
    tenant: TenantId,
    /// Carbon is told by what was known then.
    #[serde(with = "time::serde::rfc3339")]
    as_of: OffsetDateTime,
    /// SHA-256 over the hashes of the postings that entered the ledger since the cut of the month before.
    #[schema(value_type = schema::Digest)]
    postings_digest: Digest,
    /// What all lines of a currency sum up to, to the last minor unit.
    totals: Vec<Total>,
    /// The lines, by month of use, class, deployment and item.
    lines: Vec<StatementLine>,
    /// Model work by deployment and graph. Energy is counted by deployment: the ledger does not split it by graph.
    graphs: Vec<GraphWork>,
}

/// A sum of money.
#[derive(Serialize, ToSchema)]
#[schema(as = StatementTotal)]
struct Total {
    /// The currency.
    #[schema(value_type = schema::Currency)]
    currency: Currency,
    /// A decimal of its major unit.
    #[schema(example = "12.05")]
    amount: String,
    /// The same in its minor units.
    minor_units: i64,
}

/// A line of a statement.
#[derive(Serialize, ToSchema)]
struct StatementLine {
    /// In which month it was used.
    #[schema(value_type = schema::Month)]
    month: Month,
    /// The month's own, or a correction.
    #[schema(value_type = schema::Class)]
    class: Class,
    /// The deployment; null for what belongs to none.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// What it is for.
    #[schema(value_type = schema::Item)]
    item: Item,
    /// The number of the price plan; null where none held.
    plan: Option<i64>,
    /// The first instant that it can be of.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// The first one after these.
    #[serde(with = "time::serde::rfc3339")]
    to: OffsetDateTime,
    /// How much, exactly: a whole number of µJ of energy, units of fuel, byte·ns of memory, calls, µs of the month,
    /// or µg of carbon by the location's average.
    #[schema(pattern = "^-?[0-9]+$")]
    quantity: String,
    /// The same in the unit that is priced, rounded to 12 digits behind the point.
    priced_quantity: String,
    /// That unit.
    priced_unit: String,
    /// What one of it costs, in the currency's major unit.
    #[schema(value_type = schema::Rate)]
    rate: Rate,
    /// The currency; `XXX` without a plan.
    #[schema(value_type = schema::Currency)]
    currency: Currency,
    /// What the line comes to, as a decimal of the major unit.
    amount: String,
    /// The same in minor units.
    minor_units: i64,
    /// The least of how readings came about, of lines of energy.
    #[schema(value_type = Option<schema::Provenance>)]
    provenance: Option<Provenance>,
    /// Location-based carbon in µg, of lines of carbon; null where nothing is known.
    location_ug: Option<i64>,
    /// Market-based carbon.
    market_ug: Option<i64>,
    /// Embodied carbon, the likely mass.
    embodied_ug: Option<i64>,
}

impl From<&Line> for StatementLine {
    fn from(line: &Line) -> Self {
        let told = line.emitted.as_ref();
        Self {
            month: line.month,
            class: line.class,
            deployment: line.deployment.clone(),
            item: line.item,
            plan: line.plan,
            from: line.from,
            to: line.to,
            quantity: line.quantity.to_string(),
            priced_quantity: decimal(line.quantity, line.item.per(line.month), 12),
            priced_unit: line.item.unit().to_owned(),
            rate: line.rate,
            currency: line.currency,
            amount: line.currency.decimal(line.amount),
            minor_units: line.amount,
            provenance: line.provenance,
            location_ug: told.and_then(|told| told.location_ug),
            market_ug: told.and_then(|told| told.market_ug),
            embodied_ug: told.and_then(|told| told.embodied_ug),
        }
    }
}

/// Model work on a graph.
#[derive(Serialize, ToSchema)]
struct GraphWork {
    /// The deployment; null for what belongs to none.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// The graph's digest.
    #[schema(value_type = schema::Digest)]
    graph: Digest,
    /// Runs of it.
    runs: u64,
    /// Rows over all runs.
    rows: u64,
    /// CPU time, in nanoseconds.
    cpu_ns: u64,
    /// Tokens over all runs.
    tokens: u64,
}

/// A statement as it is kept: the bytes that are served from then on.
pub(super) fn written(cut: &PeriodCut, drawn: &Drawn) -> Result<StatementRow, Error> {
    let totals = drawn.statement.totals.iter().map(|(currency, units)| Total {
        currency: *currency,
        amount: currency.decimal(*units),
        minor_units: *units,
    });
    let graphs = drawn.graphs.iter().map(|graph| GraphWork {
        deployment: graph.deployment.clone(),
        graph: graph.graph,
        runs: graph.runs,
        rows: graph.rows,
        cpu_ns: graph.cpu_ns,
        tokens: graph.tokens,
    });
    let statement = Statement {
        month: cut.month,
        from: cut.month.begin(),
        to: cut.month.end(),
        tenant: drawn.tenant,
        as_of: cut.as_of,
        postings_digest: cut.postings_digest,
        totals: totals.collect(),
        lines: drawn.statement.lines.iter().map(StatementLine::from).collect(),
        graphs: graphs.collect(),
    };
    let body = serde_json::to_string(&statement).map_err(|_| Error::Internal)?;
    Ok(StatementRow {
        month: cut.month,
        tenant: drawn.tenant,
        digest: Digest::of(body.as_bytes()),
        body,
    })
}

/// A statement without what is in it.
#[derive(Serialize, ToSchema)]
struct StatementRef {
    /// The month.
    #[schema(value_type = schema::Month)]
    month: Month,
    /// The tenant.
    #[schema(value_type = Uuid)]
    tenant: TenantId,
    /// SHA-256 of the statement's bytes.
    #[schema(value_type = schema::Digest)]
    digest: Digest,
}

impl From<StatementRow> for StatementRef {
    fn from(row: StatementRow) -> Self {
        Self {
            month: row.month,
            tenant: row.tenant,
            digest: row.digest,
        }
    }
}

asked! {
    /// Which statements.
    pub struct StatementsAsked {
        /// Only those of this month.
        #[param(value_type = Option<schema::Month>)]
        month: Option<Month>,
        /// Only those of this tenant.
        #[param(value_type = Option<Uuid>)]
        tenant: Option<TenantId>,
    }
}

/// List statements
///
/// Of closed months, the latest first. Admins, billing and auditors see everyone's; a tenant, with a key that manages or
/// reads, its own.
#[utoipa::path(
    get, path = "/api/v1/ledger/statements", tag = "billing",
    params(StatementsAsked),
    responses((status = 200, body = Page<StatementRef>, description = "A page of them."), Keyed)
)]
async fn list_statements(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<StatementsAsked>,
) -> Result<Json<Page<StatementRef>>, Error> {
    let own = principal.sees(&EVERYONES, asked.tenant)?;
    let listing = asked.of::<(Month, TenantId)>("statements")?;
    let filter = ChargeFilter {
        tenant: asked.tenant,
        month: asked.month,
    };
    let rows = match own {
        Some(own) => {
            let mut tx = app.db.tenant_tx(own).await?;
            tx.statements_list(filter, &listing.cut).await?
        }
        None => {
            let mut tx = app.db.billing_tx().await?;
            tx.statements_list(filter, &listing.cut).await?
        }
    };
    Ok(listing.page(rows))
}

/// Whose.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Whose {
    /// The tenant: its own where it is left out by a tenant's key, and needed by every other.
    #[param(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
}

/// Get a statement
///
/// A tenant's statement for a closed month, in the same bytes every time: they were kept when the month was closed, and
/// `etag` is their SHA-256.
#[utoipa::path(
    get, path = "/api/v1/ledger/statements/{month}", tag = "billing",
    params(("month" = schema::Month, Path, description = "The month."), Whose),
    responses((status = 200, body = Statement, description = "The statement."), Keyed, Named)
)]
async fn get_statement(
    State(app): Shared,
    principal: Principal,
    Path(text): Path<String>,
    Query(whose): Query<Whose>,
) -> Result<Response, Error> {
    let own = principal.sees(&EVERYONES, whose.tenant)?;
    let month = month(&text)?;
    let row = match (own, whose.tenant) {
        (Some(own), _) => app.db.tenant_tx(own).await?.statement(month, own).await?,
        (None, Some(tenant)) => app.db.billing_tx().await?.statement(month, tenant).await?,
        (None, None) => return Err(Error::invalid("tenant", "say whose statement")),
    };
    let row = row.ok_or_else(|| Error::not_found("statement", month))?;
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::ETAG, format!("\"{}\"", row.digest.hex())),
    ];
    Ok((headers, row.body).into_response())
}
