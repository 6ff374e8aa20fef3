//! `/api/v1/ledger/factors`: carbon intensities of grids, and when each became known.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, FactorFilter, FactorRow};
use domain::carbon::{Fact, Factor, Method, Signal, Zone};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::carbon::believable;
use super::extract::Query;
use super::idempotency::Act;
use super::page::{Page, asked};
use super::refusals::{Bodied, Keyed};
use super::{Shared, body, json, schema};
use crate::app::App;
use crate::flow::Error;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_factors, add_factor))
}

/// A carbon intensity of a grid.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewFactor {
    /// Of which grid.
    #[schema(value_type = schema::Zone)]
    zone: Zone,
    /// Of which plants.
    #[serde(deserialize_with = "json::word")]
    #[schema(value_type = schema::Signal)]
    signal: Signal,
    /// By which way of counting it is used.
    #[serde(deserialize_with = "json::word")]
    #[schema(value_type = schema::Method)]
    method: Method,
    /// Since when it holds; from 1990 to 2100.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// Until when, exclusively.
    #[serde(with = "time::serde::rfc3339")]
    to: OffsetDateTime,
    /// In milligrams of CO₂ equivalent per kWh.
    #[schema(maximum = 10_000_000, example = 380_950)]
    mg_per_kwh: u64,
    /// Who says so.
    #[schema(min_length = 1, max_length = 200, example = "own meter")]
    source: String,
    /// In which edition.
    #[schema(min_length = 1, max_length = 200, example = "2026-03")]
    version: String,
    /// Whether it was guessed where nothing was measured.
    is_estimated: bool,
}

impl TryFrom<NewFactor> for Factor {
    type Error = Error;
    fn try_from(new: NewFactor) -> Result<Self, Error> {
        let fact = Fact {
            zone: new.zone,
            from: new.from,
            to: new.to,
            intensity: new.mg_per_kwh,
            source: new.source,
            version: new.version,
            is_estimated: new.is_estimated,
        };
        Self::new(new.signal, new.method, fact).map_err(|error| Error::invalid(error.field, error.message))
    }
}

/// A factor as it is kept.
#[derive(Serialize, ToSchema)]
struct KnownFactor {
    /// Its number, in the order in which they became known.
    id: i64,
    /// Of which grid.
    #[schema(value_type = schema::Zone)]
    zone: Zone,
    /// Of which plants.
    #[schema(value_type = schema::Signal)]
    signal: Signal,
    /// By which way of counting it is used.
    #[schema(value_type = schema::Method)]
    method: Method,
    /// Since when it holds.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// Until when, exclusively.
    #[serde(with = "time::serde::rfc3339")]
    to: OffsetDateTime,
    /// In milligrams of CO₂ equivalent per kWh.
    mg_per_kwh: u64,
    /// Who says so.
    source: String,
    /// In which edition.
    version: String,
    /// Whether it was guessed where nothing was measured.
    is_estimated: bool,
    /// When it became known: valuations as of an earlier instant do not have it.
    #[serde(with = "time::serde::rfc3339")]
    known_at: OffsetDateTime,
}

impl From<FactorRow> for KnownFactor {
    fn from(row: FactorRow) -> Self {
        let (signal, method, fact) = row.known.it.parts();
        Self {
            id: row.id,
            zone: fact.zone,
            signal,
            method,
            from: fact.from,
            to: fact.to,
            mg_per_kwh: fact.intensity,
            source: fact.source,
            version: fact.version,
            is_estimated: fact.is_estimated,
            known_at: row.known.known_at,
        }
    }
}

asked! {
    /// Which factors.
    pub struct FactorsAsked {
        /// Only those of this zone.
        #[param(value_type = Option<schema::Zone>)]
        zone: Option<Zone>,
        /// Only those of this signal.
        #[param(value_type = Option<schema::Signal>)]
        signal: Option<Signal>,
        /// Only those of this method.
        #[param(value_type = Option<schema::Method>)]
        method: Option<Method>,
        /// Only those that hold at this instant.
        #[serde(default, with = "time::serde::rfc3339::option")]
        at: Option<OffsetDateTime>,
        /// Only those that were known at this instant.
        #[serde(default, with = "time::serde::rfc3339::option")]
        as_of: Option<OffsetDateTime>,
    }
}

/// List factors
///
/// Carbon intensities, in the order in which they became known. What a source says later of the same start replaces
/// what it said before. Of those that cover the same time one that is no estimate counts before one that is, then the
/// one that begins last; of those that begin together, the one that became known last.
#[utoipa::path(
    get, path = "/api/v1/ledger/factors", tag = "ledger",
    params(FactorsAsked),
    responses((status = 200, body = Page<KnownFactor>, description = "A page of them."), Keyed)
)]
async fn list_factors(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<FactorsAsked>,
) -> Result<Json<Page<KnownFactor>>, Error> {
    principal.audits()?;
    believable("at", asked.at)?;
    believable("as_of", asked.as_of)?;
    let listing = asked.of("factors")?;
    let filter = FactorFilter {
        zone: asked.zone,
        signal: asked.signal,
        method: asked.method,
        at: asked.at,
        as_of: asked.as_of,
    };
    let rows = app
        .db
        .billing_tx()
        .await?
        .factors_list(&filter, &listing.cut)
        .await?;
    Ok(listing.page(rows))
}

/// Bring or revise a factor
///
/// With the zone, signal, method and start of one that is there it revises that one: valuations as of an instant
/// before that stay as they are. What is known already is answered with 200 and not kept twice. Give a source of your
/// own: what a provider of the host says under its own name is taken from it anew each hour. For billing and admins.
#[utoipa::path(
    post, path = "/api/v1/ledger/factors", tag = "ledger",
    request_body = NewFactor,
    responses(
        (status = 201, body = KnownFactor, description = "The factor, as it is kept."),
        (status = 200, body = KnownFactor, description = "It was known already."),
        Keyed, Bodied
    )
)]
async fn add_factor(
    State(app): Shared,
    act: Act,
    body: body::Json,
) -> Result<(StatusCode, Json<KnownFactor>), Error> {
    act.bills()?;
    let factor = Factor::try_from(body.read::<NewFactor>().await?)?;
    let mut tx = app.db.admin_tx().await?;
    let (status, row) = match tx.factor_add(&factor).await? {
        Some(row) => (StatusCode::CREATED, row),
        None => (
            StatusCode::OK,
            tx.factor_newest(&factor).await?.ok_or(Error::Internal)?,
        ),
    };
    let known = KnownFactor::from(row);
    if status == StatusCode::CREATED {
        let details = json!({ "zone": known.zone, "mg_per_kwh": known.mg_per_kwh });
        tx.audit(act.actor, None, Action::FactorAdd, known.id, details)
            .await?;
    }
    act.commit(tx, status, &known).await?;
    Ok((status, Json(known)))
}
