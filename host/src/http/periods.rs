//! `/api/v1/ledger/periods`: months that are closed, and closing one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, DbError, PeriodCut};
use domain::Digest;
use domain::billing::Month;
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::{Path, Query};
use super::idempotency::Act;
use super::page::{Page, Part};
use super::refusals::{Ended, Keyed};
use super::{Shared, schema, statements};
use crate::app::App;
use crate::flow::Error;
use crate::flow::close::{self, PeriodError};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_periods))
        .routes(routes!(close_period))
}

/// The month that a path names.
pub(super) fn month(text: &str) -> Result<Month, Error> {
    text.parse().map_err(|error| Error::invalid("month", error))
}

/// A month for which the ledger is cut.
#[derive(Serialize, ToSchema)]
struct Period {
    /// The month.
    #[schema(value_type = schema::Month)]
    month: Month,
    /// The place in the ledger of the last posting that its statements can have.
    through: i64,
    /// What carbon is valued by.
    #[serde(with = "time::serde::rfc3339")]
    as_of: OffsetDateTime,
    /// SHA-256 over the hashes of the postings since the cut before, in the order of the ledger.
    #[schema(value_type = schema::Digest)]
    postings_digest: Digest,
    /// When it was closed; null where its statements are still to be drawn up: close it again.
    #[serde(with = "time::serde::rfc3339::option")]
    closed_at: Option<OffsetDateTime>,
    /// How many statements it has.
    statements: Option<u64>,
}

impl From<PeriodCut> for Period {
    fn from(row: PeriodCut) -> Self {
        Self {
            month: row.month,
            through: row.through,
            as_of: row.as_of,
            postings_digest: row.postings_digest,
            closed_at: row.closed_at,
            statements: row.statements,
        }
    }
}

/// List closed months
///
/// The latest first.
#[utoipa::path(
    get, path = "/api/v1/ledger/periods", tag = "billing",
    params(Part),
    responses((status = 200, body = Page<Period>, description = "A page of them."), Keyed)
)]
async fn list_periods(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Part>,
) -> Result<Json<Page<Period>>, Error> {
    principal.audits()?;
    let listing = asked.of::<Month>("periods")?;
    let rows = app.db.billing_tx().await?.periods_list(&listing.cut).await?;
    Ok(listing.page(rows))
}

/// What closing a month came to.
#[derive(Serialize, ToSchema)]
struct ClosedPeriod {
    /// The month.
    #[schema(value_type = schema::Month)]
    month: Month,
    /// How many statements were drawn up.
    statements: usize,
    /// SHA-256 over the hashes of the postings since the cut before, in the order of the ledger.
    #[schema(value_type = schema::Digest)]
    postings_digest: Digest,
}

/// Close a month
///
/// Months (UTC) are closed in their order, when they are over and every node has drained past them or is lost
/// (`period_open`, `period_out_of_order`, `period_not_drained`). The statements are drawn up then, and stay as they
/// are: a closed month is never opened again (`period_closed`). What comes later of it is in the statements of the
/// month that is closed next. For billing and admins.
#[utoipa::path(
    post, path = "/api/v1/ledger/periods/{month}/close", tag = "billing",
    params(("month" = schema::Month, Path, description = "The month.")),
    responses((status = 201, body = ClosedPeriod, description = "It is closed."), Keyed, Ended)
)]
async fn close_period(
    State(app): Shared,
    act: Act,
    Path(text): Path<String>,
) -> Result<(StatusCode, Json<ClosedPeriod>), Error> {
    act.bills()?;
    let month = month(&text)?;
    let cut = close::cut(&app, month).await?;
    let drawn = close::statements(&app, &cut).await?;
    let mut tx = app.db.admin_tx().await?;
    let twice = |error: DbError| match error {
        DbError::Conflict { .. } => Error::Period(PeriodError::Closed(month)),
        other => other.into(),
    };
    for drawn in &drawn {
        let row = statements::written(&cut, drawn)?;
        tx.statement_insert(&row, &drawn.statement.lines)
            .await
            .map_err(twice)?;
    }
    tx.period_close(month, drawn.len()).await.map_err(twice)?;
    let closed = ClosedPeriod {
        month,
        statements: drawn.len(),
        postings_digest: cut.postings_digest,
    };
    let details = json!({ "statements": closed.statements, "through": cut.through });
    tx.audit(act.actor, None, Action::PeriodClose, month, details)
        .await?;
    act.commit(tx, StatusCode::CREATED, &closed).await?;
    Ok((StatusCode::CREATED, Json(closed)))
}
