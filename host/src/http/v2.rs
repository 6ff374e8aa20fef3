//! `/v2`: the Open Inference Protocol over REST, with its own form of errors.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use domain::{DType, Limits, Name, Signature, TensorSpec};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::auth::Principal;
use super::problem::{Problem, cost};
use super::tensors::parameters::Object;
use super::tensors::{self, reply};
use super::{Shared, body, named};
use crate::app::App;
use crate::flow::Error;
use crate::flow::invoke::{Answer, Encoding, invoke};

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

#[derive(Serialize)]
struct Model<'a> {
    name: &'a Name,
    versions: [String; 1],
    platform: &'a str,
    inputs: Vec<Spec<'a>>,
    outputs: Vec<Spec<'a>>,
    #[serde(skip_serializing_if = "Object::is_empty")]
    parameters: Object<'a>,
}

/// A tensor in a model's metadata. `optional` and `parameters` are additions to the protocol.
#[derive(Serialize)]
struct Spec<'a> {
    name: &'a str,
    datatype: DType,
    shape: Vec<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
    #[serde(skip_serializing_if = "Object::is_empty")]
    parameters: Object<'a>,
}

impl<'a> Spec<'a> {
    fn of(spec: &'a TensorSpec) -> Self {
        Self {
            name: &spec.name,
            datatype: spec.dtype,
            shape: spec.shape.iter().map(|axis| axis.map_or(-1, i64::from)).collect(),
            optional: spec.optional,
            parameters: Object::of(&spec.parameters),
        }
    }
}

async fn model(
    State(app): Shared,
    who: Who,
    name: String,
    version: Option<String>,
) -> Result<Response, V2Error> {
    let row = row(&app, who, &name, version.as_deref()).await?;
    let Signature {
        inputs,
        outputs,
        parameters,
    } = &row.spec.signature;
    let model = Model {
        name: &row.deployment,
        versions: [row.number.to_string()],
        platform: match row.spec.component {
            Some(_) => "wattle_pipeline",
            None => "onnx",
        },
        inputs: inputs.iter().map(Spec::of).collect(),
        outputs: outputs.iter().map(Spec::of).collect(),
        parameters: Object::of(parameters),
    };
    Ok(Json(model).into_response())
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

async fn infer(State(app): Shared, who: Who, name: String, version: Option<String>, body: Body) -> Response {
    let started = Instant::now();
    let (mut response, recorded) = match answer(&app, who, &name, version.as_deref(), body).await {
        Ok(Answer { reply, recorded }) => {
            let response = ([("content-type", "application/json")], reply).into_response();
            (response, Some(recorded))
        }
        Err(error) => {
            let recorded = error.recorded().cloned();
            (Problem::from(error).into_v2(), recorded)
        }
    };
    if let Some(recorded) = recorded {
        let cost = cost(&recorded, Some(started.elapsed()));
        response.headers_mut().extend(cost);
    }
    response
}

async fn answer(
    app: &Arc<App>,
    who: Who,
    name: &str,
    version: Option<&str>,
    body: Body,
) -> Result<Answer<Bytes>, Error> {
    let tenant = who?.invokes()?;
    let deployment = named(name)?;
    let number = number(name, version)?;
    let bytes = body::read(body, app.config.body_max_mib << 20).await?;
    let request = tensors::request(&bytes)?;
    drop(bytes);
    let (id, called) = (request.id.clone(), deployment.clone());
    let json = Encoding {
        name: "JSON",
        has: reply::has_form,
        encode: move |release, response, limits: &Limits| {
            reply::encode(&id, called.as_str(), release, &response, limits)
        },
    };
    invoke(app, tenant, &deployment, number, request, json).await
}
