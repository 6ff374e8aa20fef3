//! `/api/v1/components`: what tenants upload to run.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};

use super::auth::Principal;
use super::{Shared, body, listed, named};
use crate::app::App;
use crate::flow::{Error, publish};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/components", get(list))
        .route("/api/v1/components/{name}/revisions", get(revisions).post(upload))
        .layer(axum::extract::DefaultBodyLimit::disable())
}

async fn upload(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
    body: Body,
) -> Result<impl IntoResponse, Error> {
    let tenant = principal.manages()?;
    let name = named(&name)?;
    let _turn = app.admission.turn(tenant).await?;
    let bytes = body::upload(body, app.config.component_max_mib << 20).await?;
    let published = publish::component(&app, tenant, name, bytes).await?;
    Ok(super::published(&published, view))
}

async fn list(State(app): Shared, principal: Principal) -> Result<impl IntoResponse, Error> {
    let rows = app
        .db
        .tenant_tx(principal.reads()?)
        .await?
        .components_list()
        .await?;
    Ok(listed(rows.iter().map(|row| {
        json!({
            "component": row.name,
            "revisions": row.revisions,
            "newest": row.newest,
            "uploaded_at": super::instant(row.uploaded_at),
        })
    })))
}

async fn revisions(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Error> {
    let name = named(&name)?;
    let rows = app
        .db
        .tenant_tx(principal.reads()?)
        .await?
        .revisions_list(&name)
        .await?;
    super::uploads("component", &name, rows.iter().map(view))
}

fn view(row: &db::Revision) -> Value {
    json!({
        "component": row.component,
        "revision": row.digest,
        "bytes": row.bytes,
        "created_at": super::instant(row.created_at),
    })
}
