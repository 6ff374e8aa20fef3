//! `/v2`: the Open Inference Protocol over REST, with its own form of errors.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use domain::TensorSpec;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::auth::Principal;
use super::problem::Problem;
use super::{Shared, body, named, tensors};
use crate::app::App;
use crate::flow::Error;
use crate::flow::invoke::{Answer, invoke};
use crate::flow::metered::Recorded;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(async || Json(json!({ "live": true }))))
        .route("/v2/health/ready", get(ready))
        .route(
            "/v2/models/{name}",
            get(async |s: Shared, p: Who, Path(n): Path<String>| model(s, p, n, None).await),
        )
        .route(
            "/v2/models/{name}/versions/{version}",
            get(async |s: Shared, p: Who, Path((n, v)): Pair| model(s, p, n, Some(v)).await),
        )
        .route(
            "/v2/models/{name}/ready",
            get(async |s: Shared, p: Who, Path(n): Path<String>| model_ready(s, p, n, None).await),
        )
        .route(
            "/v2/models/{name}/versions/{version}/ready",
            get(async |s: Shared, p: Who, Path((n, v)): Pair| model_ready(s, p, n, Some(v)).await),
        )
        .route(
            "/v2/models/{name}/infer",
            post(async |s: Shared, p: Who, Path(n): Path<String>, b: Body| infer(s, p, n, None, b).await),
        )
        .route(
            "/v2/models/{name}/versions/{version}/infer",
            post(async |s: Shared, p: Who, Path((n, v)): Pair, b: Body| infer(s, p, n, Some(v), b).await),
        )
}

type Pair = Path<(String, String)>;
type Who = Result<Principal, Error>;

/// An error in the protocol's own form.
struct V2Error(Error);

impl<E: Into<Error>> From<E> for V2Error {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for V2Error {
    fn into_response(self) -> Response {
        Problem::from(self.0).into_v2()
    }
}

async fn server() -> Json<Value> {
    Json(json!({ "name": "wattle", "version": env!("CARGO_PKG_VERSION"), "extensions": [] }))
}

async fn ready(State(app): Shared) -> impl IntoResponse {
    let status = if app.ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({ "ready": app.ready() })))
}

async fn row(app: &Arc<App>, who: Who, name: &str, version: Option<&str>) -> Result<Arc<db::Release>, Error> {
    let tenant = who?.belongs()?;
    app.releases
        .row(app, tenant, &named(name)?, number(name, version)?)
        .await
}

fn number(name: &str, version: Option<&str>) -> Result<Option<u32>, Error> {
    let missing = |version: &str| Error::not_found("release", format!("{name}/{version}"));
    version
        .map(|version| version.parse().map_err(|_| missing(version)))
        .transpose()
}

async fn model(
    State(app): Shared,
    who: Who,
    name: String,
    version: Option<String>,
) -> Result<Json<Value>, V2Error> {
    let row = row(&app, who, &name, version.as_deref()).await?;
    Ok(Json(json!({
        "name": row.deployment,
        "versions": [row.number.to_string()],
        "platform": if row.spec.component.is_some() { "wattle_pipeline" } else { "onnx" },
        "inputs": row.spec.signature.inputs.iter().map(spec).collect::<Vec<_>>(),
        "outputs": row.spec.signature.outputs.iter().map(spec).collect::<Vec<_>>(),
    })))
}

fn spec(spec: &TensorSpec) -> Value {
    let shape: Vec<i64> = spec.shape.iter().map(|axis| axis.map_or(-1, i64::from)).collect();
    json!({ "name": spec.name, "datatype": spec.dtype, "shape": shape })
}

async fn model_ready(
    State(app): Shared,
    who: Who,
    name: String,
    version: Option<String>,
) -> Result<Json<Value>, V2Error> {
    let row = row(&app, who, &name, version.as_deref()).await?;
    Ok(Json(json!({ "name": row.deployment, "ready": app.ready() })))
}

async fn infer(
    State(app): Shared,
    who: Who,
    name: String,
    version: Option<String>,
    body: Body,
) -> Result<Response, V2Error> {
    let started = Instant::now();
    let tenant = who?.invokes()?;
    let deployment = named(&name)?;
    let number = number(&name, version.as_deref())?;
    let bytes = body::read(body, app.config.body_max_mib << 20).await?;
    let request = tensors::request(&bytes)?;
    let id = request.id.clone();
    let answer = invoke(&app, tenant, &deployment, number, request).await?;
    let reply = tensors::response(&id, deployment.as_str(), &answer)?;
    let mut response = ([("content-type", "application/json")], reply).into_response();
    mark(response.headers_mut(), &answer, started);
    Ok(response)
}

/// What the call cost, in headers.
fn mark(headers: &mut HeaderMap, answer: &Answer, started: Instant) {
    let Recorded {
        finished,
        provisional_uj,
    } = &answer.recorded;
    let ms = |ns: u64| ns as f64 / 1e6;
    let (guest, model) = (ms(finished.usage.cpu_ns), ms(finished.usage.model_ns()));
    let total = started.elapsed().as_secs_f64() * 1e3;
    let timing = format!("guest;dur={guest:.3}, model;dur={model:.3}, total;dur={total:.3}");
    let values = [
        ("wattle-receipt", Some(finished.call.invocation.to_string())),
        ("wattle-energy-uj", provisional_uj.map(|uj| uj.to_string())),
        ("wattle-fuel", Some(finished.usage.fuel.to_string())),
        ("server-timing", Some(timing)),
    ];
    for (name, value) in values {
        if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(&value)) {
            headers.insert(name, value);
        }
    }
}
