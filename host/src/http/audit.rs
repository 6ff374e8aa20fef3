//! `/api/v1/audit`: who did what.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use db::{Action, Actor, AuditCursor, AuditFilter, Cut};
use domain::{KeyId, Role, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::Query;
use super::page::{Page, asked};
use super::refusals::Keyed;
use super::{Items, Shared, csv, schema};
use crate::app::App;
use crate::flow::Error;

/// The most acts of one export, and how many of them are read at once.
const MOST: u32 = 100_000;
const CHUNK: u32 = 5_000;

/// The columns of an export, in their order.
const COLUMNS: [&str; 9] = [
    "id", "at", "actor", "key", "role", "tenant", "action", "object", "details",
];

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_audit))
        .routes(routes!(export_audit))
}

/// An act: something that was changed, and who did it.
#[derive(Serialize, ToSchema)]
struct AuditEvent {
    /// Its number; later ones have greater numbers.
    id: i64,
    /// When it was done.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// With what it was done.
    #[schema(value_type = schema::Actor)]
    actor: &'static str,
    /// The key's id; null where it was no key.
    #[schema(value_type = Option<Uuid>)]
    key: Option<KeyId>,
    /// What the key could do then.
    #[schema(value_type = schema::Role)]
    role: Role,
    /// Whom it concerns; null for the platform.
    #[schema(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// What was done.
    #[schema(value_type = schema::Action)]
    action: Action,
    /// The id or the name of what it was done to.
    object: String,
    /// What else there is to know, such as an upload's digest.
    #[schema(value_type = Object)]
    details: Value,
}

impl From<db::AuditEvent> for AuditEvent {
    fn from(row: db::AuditEvent) -> Self {
        Self {
            id: row.id,
            at: row.at,
            actor: Actor::as_str(row.actor),
            key: row.actor.key(),
            role: row.actor.role(),
            tenant: row.tenant,
            action: row.action,
            object: row.object,
            details: row.details,
        }
    }
}

asked! {
    /// Which acts.
    pub struct Asked {
        /// Only those that concern this tenant.
        #[param(value_type = Option<Uuid>)]
        tenant: Option<TenantId>,
        /// Only those of the key with this id.
        #[param(value_type = Option<Uuid>)]
        key: Option<KeyId>,
        /// Only those of this kind.
        #[param(value_type = Option<schema::Action>)]
        action: Option<Action>,
        /// Only those that were done then or later.
        #[serde(default, with = "time::serde::rfc3339::option")]
        from: Option<OffsetDateTime>,
        /// Only those that were done before.
        #[serde(default, with = "time::serde::rfc3339::option")]
        to: Option<OffsetDateTime>,
    }
}

/// List acts
///
/// Everything that was made, changed or hidden, the latest first. Admins and auditors see all of it; a tenant, with a
/// key that manages or reads, what concerns it.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "audit",
    params(Asked),
    responses((status = 200, body = Page<AuditEvent>, description = "A page of them."), Keyed)
)]
async fn list_audit(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Asked>,
) -> Result<Json<Page<AuditEvent>>, Error> {
    let own = principal.sees(&[Role::Admin, Role::Auditor], asked.tenant)?;
    let listing = asked.of("audit")?;
    let filter = AuditFilter {
        tenant: asked.tenant,
        key: asked.key,
        action: asked.action,
        from: asked.from,
        to: asked.to,
    };
    let _turn = app.admission.read(own).await?;
    Ok(listing.page(read(&app, own, &filter, &listing.cut).await?))
}

async fn read(
    app: &App,
    own: Option<TenantId>,
    filter: &AuditFilter,
    cut: &Cut<AuditCursor>,
) -> Result<db::Page<db::AuditEvent, AuditCursor>, Error> {
    Ok(match own {
        Some(own) => app.db.tenant_tx(own).await?.audit_list(filter, cut).await?,
        None => app.db.billing_tx().await?.audit_list(filter, cut).await?,
    })
}

/// How an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AuditFormat)]
enum Format {
    /// CSV (RFC 4180), with a header; what else there is to know is JSON in a cell.
    #[default]
    Csv,
    /// JSON.
    Json,
}

/// Which export.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ExportAsked {
    /// Only acts that concern this tenant.
    #[param(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// Only those of the key with this id.
    #[param(value_type = Option<Uuid>)]
    key: Option<KeyId>,
    /// Only those of this kind.
    #[param(value_type = Option<schema::Action>)]
    action: Option<Action>,
    /// Only those that were done then or later.
    #[serde(default, with = "time::serde::rfc3339::option")]
    from: Option<OffsetDateTime>,
    /// Only those that were done before.
    #[serde(default, with = "time::serde::rfc3339::option")]
    to: Option<OffsetDateTime>,
    /// How it is written.
    #[serde(default)]
    #[param(inline, value_type = Option<Format>)]
    format: Format,
}

/// Export acts
///
/// All of a span at once, the earliest first, at most 100,000: of more, ask for a shorter time (`too_much_use`). An export
/// is an act too, which the next one has. Admins and auditors get all of them; a tenant, with a key that manages or
/// reads, what concerns it.
#[utoipa::path(
    get, path = "/api/v1/audit/export", tag = "audit",
    params(ExportAsked),
    responses(
        (
            status = 200, description = "The acts.",
            content((String = "text/csv"), (Items<AuditEvent> = "application/json"))
        ),
        Keyed
    )
)]
async fn export_audit(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<ExportAsked>,
) -> Result<Response, Error> {
    let own = principal.sees(&[Role::Admin, Role::Auditor], asked.tenant)?;
    let filter = AuditFilter {
        tenant: asked.tenant,
        key: asked.key,
        action: asked.action,
        from: asked.from,
        to: asked.to,
    };
    let _turn = app.admission.read(own).await?;
    let items = all(&app, own, &filter).await?;
    let details = json!({ "acts": items.len(), "format": asked.format });
    exported(&app, &principal, own, asked.tenant, details).await?;
    let (kind, suffix, body) = match asked.format {
        Format::Csv => ("text/csv", "csv", csv::written(&COLUMNS, &items).into_bytes()),
        Format::Json => {
            let body = serde_json::to_vec(&Items { items }).map_err(|_| Error::Internal)?;
            ("application/json", "json", body)
        }
    };
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"wattle-audit.{suffix}\""),
        ),
    ];
    Ok((headers, body).into_response())
}

/// All that `filter` leaves in, the earliest first.
async fn all(app: &App, own: Option<TenantId>, filter: &AuditFilter) -> Result<Vec<AuditEvent>, Error> {
    let (mut acts, mut cut) = (Vec::new(), Cut::first(CHUNK));
    loop {
        let page = read(app, own, filter, &cut).await?;
        acts.extend(page.items.into_iter().map(AuditEvent::from));
        if acts.len() > MOST as usize {
            return Err(Error::TooMuchUse {
                what: "acts",
                limit: MOST,
            });
        }
        cut.after = page.next;
        if cut.after.is_none() {
            acts.reverse();
            return Ok(acts);
        }
    }
}

/// Writes down that acts were taken away, before they are.
async fn exported(
    app: &App,
    principal: &Principal,
    own: Option<TenantId>,
    tenant: Option<TenantId>,
    details: Value,
) -> Result<(), Error> {
    let (actor, action) = (principal.actor, Action::AuditExport);
    match own {
        Some(own) => {
            let mut tx = app.db.tenant_tx(own).await?;
            tx.audit(actor, action, "audit", details).await?;
            tx.commit().await?;
        }
        None => {
            let mut tx = app.db.admin_tx().await?;
            tx.audit(actor, tenant, action, "audit", details).await?;
            tx.commit().await?;
        }
    }
    Ok(())
}
