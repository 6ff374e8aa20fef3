//! `/api/v1/audit`: who did what.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use db::{Action, Actor, AuditFilter};
use domain::{KeyId, Role, TenantId};
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::Query;
use super::page::{Page, asked};
use super::refusals::Keyed;
use super::{Shared, schema};
use crate::app::App;
use crate::flow::Error;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_audit))
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
    let rows = match own {
        Some(own) => {
            app.db
                .tenant_tx(own)
                .await?
                .audit_list(&filter, &listing.cut)
                .await?
        }
        None => {
            app.db
                .billing_tx()
                .await?
                .audit_list(&filter, &listing.cut)
                .await?
        }
    };
    Ok(listing.page(rows))
}
