//! `/api/v1/ledger/verify`: the ledger recomputed, part by part, until the first row that does not fit.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use db::LedgerSpan;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::auth::Principal;
use super::extract::Query;
use super::page::{Listing, asked};
use super::refusals::Keyed;
use crate::app::App;
use crate::flow::{Error, verify};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(verify_postings))
        .routes(routes!(verify_checkpoints))
        .routes(routes!(verify_rest))
}

/// What came of a part of the ledger.
#[derive(Serialize, ToSchema)]
struct Verified {
    /// How many rows of this part fit.
    checked: u64,
    /// The first that does not; null where all fit.
    fault: Option<Fault>,
    /// The `cursor` of the next part; null where there is none, or a fault.
    next: Option<String>,
}

/// A row that does not fit.
#[derive(Serialize, ToSchema)]
#[schema(as = LedgerFault)]
struct Fault {
    /// Which.
    #[schema(example = "checkpoint 7")]
    row: String,
    /// What is wrong with it.
    what: String,
    /// `archive_missing` or `archive_damaged` where it is an archive, for programs; else null.
    code: Option<&'static str>,
}

impl Verified {
    fn of(found: verify::Verified, listing: &Listing<i64>) -> Json<Self> {
        let fault = |verify::Fault { row, what, code }| Fault { row, what, code };
        Json(Self {
            checked: found.checked,
            fault: found.fault.map(fault),
            next: found.next.map(|key| listing.cursor(&key)),
        })
    }
}

asked! {
    /// Which part of the ledger: by where windows end.
    pub struct Asked {
        /// Only windows that ended then or later.
        #[serde(default, with = "time::serde::rfc3339::option")]
        from: Option<OffsetDateTime>,
        /// Only windows that ended before.
        #[serde(default, with = "time::serde::rfc3339::option")]
        to: Option<OffsetDateTime>,
    }
}

impl Asked {
    fn span(&self) -> LedgerSpan {
        LedgerSpan {
            from: self.from,
            to: self.to,
        }
    }

    fn part(&self, name: &str) -> Result<Listing<i64>, Error> {
        self.of(format!("verify/{name}"))
    }
}

/// Verify postings
///
/// Each by itself, from its receipt lines up to its hash, and that it follows its node's posting before it. Lines that
/// are archived are read from their files.
#[utoipa::path(
    get, path = "/api/v1/ledger/verify/postings", tag = "ledger",
    params(Asked),
    responses((status = 200, body = Verified, description = "What came of this part."), Keyed)
)]
async fn verify_postings(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Asked>,
) -> Result<Json<Verified>, Error> {
    principal.audits()?;
    let listing = asked.part("postings")?;
    let found = verify::postings(&app.db, &app.blobs, asked.span(), &listing.cut).await?;
    Ok(Verified::of(found, &listing))
}

/// Verify checkpoints
///
/// Each by itself, that it follows the one before it, that a listed key signed it, and that the ledger has the postings
/// that it covers: those of a span, one before it and one behind.
#[utoipa::path(
    get, path = "/api/v1/ledger/verify/checkpoints", tag = "ledger",
    params(Asked),
    responses((status = 200, body = Verified, description = "What came of this part."), Keyed)
)]
async fn verify_checkpoints(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Asked>,
) -> Result<Json<Verified>, Error> {
    principal.audits()?;
    let listing = asked.part("checkpoints")?;
    let found = verify::checkpoints(&app.db, asked.span(), &listing.cut).await?;
    Ok(Verified::of(found, &listing))
}

/// Which part of the ledger: by where windows end.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Rest {
    /// Only rows of windows that ended then or later.
    #[serde(default, with = "time::serde::rfc3339::option")]
    from: Option<OffsetDateTime>,
    /// Only rows of windows that ended before.
    #[serde(default, with = "time::serde::rfc3339::option")]
    to: Option<OffsetDateTime>,
}

/// Verify the rest
///
/// Looks for rows that no posting accounts for.
#[utoipa::path(
    get, path = "/api/v1/ledger/verify/rest", tag = "ledger",
    params(Rest),
    responses((status = 200, body = Verified, description = "What was found."), Keyed)
)]
async fn verify_rest(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Rest>,
) -> Result<Json<Verified>, Error> {
    principal.audits()?;
    let span = LedgerSpan {
        from: asked.from,
        to: asked.to,
    };
    let found = verify::rest(&app.db, span).await?;
    Ok(Verified::of(found, &Listing::new(String::new(), None, None)?))
}
