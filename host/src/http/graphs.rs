//! `/api/v1/graphs`: models that pipelines load by name.

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
        .route("/api/v1/graphs", get(list))
        .route("/api/v1/graphs/{name}/versions", get(versions).post(upload))
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
    let bytes = body::upload(body, app.config.graph_max_mib << 20).await?;
    let published = publish::graph(&app, tenant, name, bytes).await?;
    Ok(super::published(&published, view))
}

async fn list(State(app): Shared, principal: Principal) -> Result<impl IntoResponse, Error> {
    let rows = app.db.tenant_tx(principal.reads()?).await?.graphs_list().await?;
    Ok(listed(rows.iter().map(|row| {
        json!({
            "graph": row.name,
            "versions": row.versions,
            "newest": row.newest,
            "uploaded_at": super::instant(row.uploaded_at),
        })
    })))
}

async fn versions(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Error> {
    let name = named(&name)?;
    let rows = app
        .db
        .tenant_tx(principal.reads()?)
        .await?
        .graph_versions_list(&name)
        .await?;
    super::uploads("graph", &name, rows.iter().map(view))
}

fn view(row: &db::GraphVersion) -> Value {
    json!({
        "graph": row.graph,
        "version": row.digest,
        "bytes": row.bytes,
        "encoding": row.encoding,
        "signature": row.signature,
        "created_at": super::instant(row.created_at),
    })
}
