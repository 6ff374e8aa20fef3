//! `/api/v1/ledger/archives`: the files of receipt lines that left the database, and archiving what is old enough.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, ArchiveRow};
use domain::Digest;
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::Query;
use super::idempotency::Act;
use super::page::{Page, Part};
use super::refusals::Keyed;
use super::{Shared, schema};
use crate::app::App;
use crate::flow::Error;
use crate::flow::archive::{self, Passed};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_archives))
        .routes(routes!(archive_receipts))
}

/// A file of receipt lines in the blob store.
#[derive(Serialize, ToSchema)]
struct Archive {
    /// Counts archives from 1.
    archive: i64,
    /// Of its bytes: their name in the blob store.
    #[schema(value_type = schema::Digest)]
    digest: Digest,
    /// How many bytes it has.
    bytes: u64,
    /// How many postings have their lines in it.
    postings: u64,
    /// How many lines it has.
    lines: u64,
    /// When the first of its windows ended.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// When the last one ended.
    #[serde(with = "time::serde::rfc3339")]
    to: OffsetDateTime,
    /// When the file had been read back and compared with its postings.
    #[serde(with = "time::serde::rfc3339")]
    verified_at: OffsetDateTime,
    /// When its lines left the database; null while they are there still.
    #[serde(with = "time::serde::rfc3339::option")]
    dropped_at: Option<OffsetDateTime>,
}

impl From<ArchiveRow> for Archive {
    fn from(row: ArchiveRow) -> Self {
        Self {
            archive: row.id,
            digest: row.digest,
            bytes: row.bytes,
            postings: row.postings,
            lines: row.lines,
            from: row.first_at,
            to: row.last_at,
            verified_at: row.verified_at,
            dropped_at: row.dropped_at,
        }
    }
}

/// List archives
///
/// In the order in which they were made.
#[utoipa::path(
    get, path = "/api/v1/ledger/archives", tag = "ledger",
    params(Part),
    responses((status = 200, body = Page<Archive>, description = "A page of them."), Keyed)
)]
async fn list_archives(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Part>,
) -> Result<Json<Page<Archive>>, Error> {
    principal.audits()?;
    let listing = asked.of("archives")?;
    let rows = app.db.billing_tx().await?.archives_list(&listing.cut).await?;
    Ok(listing.page(rows))
}

/// What archiving came to.
#[derive(Serialize, ToSchema)]
struct ArchivedReceipts {
    /// Lines of windows that ended before were looked for.
    #[serde(with = "time::serde::rfc3339")]
    before: OffsetDateTime,
    /// Files that were added.
    archives: u64,
    /// Lines in them.
    lines: u64,
    /// Lines that left the database.
    dropped: u64,
}

impl From<Passed> for ArchivedReceipts {
    fn from(passed: Passed) -> Self {
        let Passed {
            before,
            archives,
            lines,
            dropped,
        } = passed;
        Self {
            before,
            archives,
            lines,
            dropped,
        }
    }
}

/// Archive old receipts
///
/// The host does it by itself every few minutes: receipt lines that are older than its limit (`receipts_hot_s`) move to
/// files in the blob store, a month at once, when all of it is old enough. They are read back and compared before they
/// leave the database.
#[utoipa::path(
    post, path = "/api/v1/ledger/archives", tag = "ledger",
    responses((status = 201, body = ArchivedReceipts, description = "What moved."), Keyed)
)]
async fn archive_receipts(
    State(app): Shared,
    act: Act,
) -> Result<(StatusCode, Json<ArchivedReceipts>), Error> {
    act.administers()?;
    let passed = archive::pass(&app).await?;
    let before = passed.before.format(&Rfc3339).map_err(|_| Error::Internal)?;
    let details = json!({ "archives": passed.archives, "lines": passed.lines, "dropped": passed.dropped });
    let answer = ArchivedReceipts::from(passed);
    let mut tx = app.db.admin_tx().await?;
    tx.audit(act.actor, None, Action::LedgerArchive, before, details)
        .await?;
    act.commit(tx, StatusCode::CREATED, &answer).await?;
    Ok((StatusCode::CREATED, Json(answer)))
}
