//! `/api/v1/deployments`: named routes and their releases.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use domain::{Limits, Name};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Principal;
use super::problem::cost;
use super::{Shared, body, listed, named};
use crate::app::App;
use crate::flow::Error;
use crate::flow::deploy::{Pick, Spec, release};
use crate::flow::metered::Recorded;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/deployments", get(list).post(create))
        .route("/api/v1/deployments/{name}", get(one).delete(hide))
        .route("/api/v1/deployments/{name}/releases", post(renew))
        .route("/api/v1/deployments/{name}/releases/{number}", get(release_of))
}

/// [`Spec`] with a name; spelled out, since a flattened one would not say where an error is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: Name,
    #[serde(default)]
    component: Option<Pick>,
    #[serde(default)]
    graphs: BTreeMap<Name, Pick>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    #[serde(default)]
    limits: Limits,
}

async fn create(
    State(app): Shared,
    principal: Principal,
    body: body::Json,
) -> Result<impl IntoResponse, Error> {
    let tenant = principal.manages()?;
    let _turn = app.admission.turn(tenant).await?;
    let New {
        name,
        component,
        graphs,
        settings,
        limits,
    } = body.read().await?;
    let spec = Spec {
        component,
        graphs,
        settings,
        limits,
    };
    let (row, recorded) = release(&app, tenant, &name, spec, true).await?;
    Ok(released(&row, &recorded))
}

async fn renew(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
    body: body::Json,
) -> Result<impl IntoResponse, Error> {
    let tenant = principal.manages()?;
    let name = named(&name)?;
    let _turn = app.admission.turn(tenant).await?;
    let (row, recorded) = release(&app, tenant, &name, body.read().await?, false).await?;
    Ok(released(&row, &recorded))
}

async fn list(State(app): Shared, principal: Principal) -> Result<impl IntoResponse, Error> {
    let rows = app
        .db
        .tenant_tx(principal.reads()?)
        .await?
        .deployments_list()
        .await?;
    Ok(listed(rows.iter().map(|row| {
        json!({
            "name": row.name,
            "release": row.current.number,
            "created_at": super::instant(row.created_at),
        })
    })))
}

async fn one(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Error> {
    Ok(Json(view(
        &*app
            .releases
            .row(&app, principal.reads()?, &named(&name)?, None)
            .await?,
    )))
}

async fn release_of(
    State(app): Shared,
    principal: Principal,
    Path((name, number)): Path<(String, String)>,
) -> Result<impl IntoResponse, Error> {
    let number = number
        .parse()
        .map_err(|_| Error::not_found("release", format!("{name}/{number}")))?;
    Ok(Json(view(
        &*app
            .releases
            .row(&app, principal.reads()?, &named(&name)?, Some(number))
            .await?,
    )))
}

async fn hide(
    State(app): Shared,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Error> {
    let tenant = principal.manages()?;
    let name = named(&name)?;
    let mut tx = app.db.tenant_tx(tenant).await?;
    tx.deployment_delete(&name).await.map_err(|error| match error {
        db::DbError::NotFound(_) => Error::not_found("deployment", &name),
        other => other.into(),
    })?;
    tx.commit().await?;
    app.releases.forget(tenant, &name);
    Ok(StatusCode::NO_CONTENT)
}

/// A new release, and what making it cost.
fn released(row: &db::Release, recorded: &Recorded) -> impl IntoResponse + use<> {
    let mut view = view(row);
    view["invocation"] = json!(recorded.finished.call.invocation);
    (StatusCode::CREATED, cost(recorded, None), Json(view))
}

fn view(row: &db::Release) -> Value {
    let graphs = row.spec.graphs.iter().map(|(alias, graph)| {
        (
            alias.clone(),
            json!({ "name": graph.name, "version": graph.version }),
        )
    });
    json!({
        "name": row.deployment,
        "release": row.number,
        "component": row.spec.component.as_ref().map(|(name, revision)| json!({ "name": name, "revision": revision })),
        "graphs": graphs.collect::<serde_json::Map<_, _>>(),
        "settings": row.spec.settings,
        "limits": row.spec.limits,
        "signature": row.spec.signature,
        "created_at": super::instant(row.created_at),
    })
}
