//! `/v2`: the Open Inference Protocol over REST, with its own form of errors.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, HttpBody as _};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use domain::{DType, Limits, Name, Signature, TenantId, TensorSpec, UsageCell};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::Path;
use super::problem::{Problem, cost};
use super::refusals::{V2Keyed, V2Running};
use super::tensors::parameters::Object;
use super::tensors::{self, reply};
use super::{Shared, body, named, schema};
use crate::app::App;
use crate::flow::Error;
use crate::flow::admit::Room;
use crate::flow::invoke::{Answer, Encoding, Parsed, invoke};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(server))
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(get_model))
        .routes(routes!(get_model_version))
        .routes(routes!(model_ready))
        .routes(routes!(model_version_ready))
        .routes(routes!(infer))
        .routes(routes!(infer_version))
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

/// What the server is.
#[derive(Serialize, ToSchema)]
struct Server {
    /// Its name.
    #[schema(example = "wattle")]
    name: &'static str,
    /// Its version.
    version: &'static str,
    /// The protocol's extensions that it has.
    extensions: Vec<&'static str>,
}

/// Get the server's metadata
#[utoipa::path(
    get, path = "/v2", tag = "models", security(()),
    responses((status = 200, body = Server, description = "What the server is."))
)]
async fn server() -> Json<Server> {
    Json(Server {
        name: "wattle",
        version: env!("CARGO_PKG_VERSION"),
        extensions: Vec::new(),
    })
}

/// Whether the server is there.
#[derive(Serialize, ToSchema)]
struct Live {
    /// True.
    live: bool,
}

/// Ask whether the server is live
#[utoipa::path(
    get, path = "/v2/health/live", tag = "models", security(()),
    responses((status = 200, body = Live, description = "It answers."))
)]
async fn live() -> Json<Live> {
    Json(Live { live: true })
}

/// Whether the server takes calls.
#[derive(Serialize, ToSchema)]
struct Ready {
    /// Whether it does.
    ready: bool,
}

/// Ask whether the server is ready
#[utoipa::path(
    get, path = "/v2/health/ready", tag = "models", security(()),
    responses(
        (status = 200, body = Ready, description = "It takes calls."),
        (status = 503, body = Ready, description = "It takes none now."),
    )
)]
async fn ready(State(app): Shared) -> (StatusCode, Json<Ready>) {
    let ready = app.ready();
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(Ready { ready }))
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

/// A deployment, which the protocol calls a model. `parameters` are an addition to the protocol.
#[derive(Serialize, ToSchema)]
struct Model<'a> {
    /// The deployment's name.
    #[schema(value_type = schema::Name)]
    name: &'a Name,
    /// The release that was asked for, or the one that the deployment points to.
    #[schema(value_type = Vec<String>, example = json!(["1"]))]
    versions: [String; 1],
    /// `wattle_pipeline`, or `onnx` for a graph that is served as it is.
    platform: &'a str,
    /// The tensors that a call sends.
    inputs: Vec<Spec<'a>>,
    /// The tensors that it gets.
    outputs: Vec<Spec<'a>>,
    /// What the pipeline says of itself.
    #[serde(skip_serializing_if = "Object::is_empty")]
    #[schema(value_type = HashMap<String, Value>)]
    parameters: Object<'a>,
}

/// A tensor in a model's metadata. `optional` and `parameters` are additions to the protocol.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelTensor)]
struct Spec<'a> {
    /// The tensor's name.
    name: &'a str,
    /// The type of its elements.
    #[schema(value_type = schema::Datatype)]
    datatype: DType,
    /// Its dimensions; -1 is free.
    #[schema(example = json!([-1, 100]))]
    shape: Vec<i64>,
    /// Whether a call may leave it out, or an answer that was not asked for it by name.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
    /// What the pipeline says of it.
    #[serde(skip_serializing_if = "Object::is_empty")]
    #[schema(value_type = HashMap<String, Value>)]
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

/// Get a model
///
/// What the deployment takes and gives.
#[utoipa::path(
    get, path = "/v2/models/{name}", tag = "models",
    params(("name" = schema::Name, Path, description = "The deployment's name.")),
    responses((status = 200, body = Model<'_>, description = "The deployment's current release."), V2Keyed)
)]
async fn get_model(s: Shared, who: Who, path: Result<Path<String>, Error>) -> Result<Response, V2Error> {
    let Path(name) = path?;
    model(s, who, &name, None).await
}

/// Get a version of a model
#[utoipa::path(
    get, path = "/v2/models/{name}/versions/{version}", tag = "models",
    params(
        ("name" = schema::Name, Path, description = "The deployment's name."),
        ("version" = u32, Path, description = "The release's number."),
    ),
    responses((status = 200, body = Model<'_>, description = "That release."), V2Keyed)
)]
async fn get_model_version(s: Shared, who: Who, path: Result<Pair, Error>) -> Result<Response, V2Error> {
    let Path((name, version)) = path?;
    model(s, who, &name, Some(&version)).await
}

async fn model(State(app): Shared, who: Who, name: &str, version: Option<&str>) -> Result<Response, V2Error> {
    let row = row(&app, who, name, version).await?;
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

/// Whether a deployment can be called.
#[derive(Serialize, ToSchema)]
struct ModelReady {
    /// The deployment's name.
    #[schema(value_type = schema::Name)]
    name: Name,
    /// Whether it can.
    ready: bool,
}

/// Ask whether a model is ready
#[utoipa::path(
    get, path = "/v2/models/{name}/ready", tag = "models",
    params(("name" = schema::Name, Path, description = "The deployment's name.")),
    responses((status = 200, body = ModelReady, description = "Whether it can be called."), V2Keyed)
)]
async fn model_ready(
    s: Shared,
    who: Who,
    path: Result<Path<String>, Error>,
) -> Result<Json<ModelReady>, V2Error> {
    let Path(name) = path?;
    readiness(s, who, &name, None).await
}

/// Ask whether a version of a model is ready
#[utoipa::path(
    get, path = "/v2/models/{name}/versions/{version}/ready", tag = "models",
    params(
        ("name" = schema::Name, Path, description = "The deployment's name."),
        ("version" = u32, Path, description = "The release's number."),
    ),
    responses((status = 200, body = ModelReady, description = "Whether it can be called."), V2Keyed)
)]
async fn model_version_ready(
    s: Shared,
    who: Who,
    path: Result<Pair, Error>,
) -> Result<Json<ModelReady>, V2Error> {
    let Path((name, version)) = path?;
    readiness(s, who, &name, Some(&version)).await
}

async fn readiness(
    State(app): Shared,
    who: Who,
    name: &str,
    version: Option<&str>,
) -> Result<Json<ModelReady>, V2Error> {
    let row = row(&app, who, name, version).await?;
    Ok(Json(ModelReady {
        name: row.deployment.clone(),
        ready: app.ready(),
    }))
}

/// Call a model
///
/// Runs the deployment's current release. Headers say which receipt the call has and what it probably cost.
#[utoipa::path(
    post, path = "/v2/models/{name}/infer", tag = "models",
    params(("name" = schema::Name, Path, description = "The deployment's name.")),
    request_body = schema::InferRequest,
    responses((status = 200, body = schema::InferResponse, description = "The answer."), V2Keyed, V2Running)
)]
async fn infer(s: Shared, who: Who, path: Result<Path<String>, Error>, body: Body) -> Response {
    call(s, who, path.map(|Path(name)| (name, None)), body).await
}

/// Call a version of a model
#[utoipa::path(
    post, path = "/v2/models/{name}/versions/{version}/infer", tag = "models",
    params(
        ("name" = schema::Name, Path, description = "The deployment's name."),
        ("version" = u32, Path, description = "The release's number."),
    ),
    request_body = schema::InferRequest,
    responses((status = 200, body = schema::InferResponse, description = "The answer."), V2Keyed, V2Running)
)]
async fn infer_version(s: Shared, who: Who, path: Result<Pair, Error>, body: Body) -> Response {
    call(
        s,
        who,
        path.map(|Path((name, version))| (name, Some(version))),
        body,
    )
    .await
}

/// Bytes of a body that is read and parsed like any small request. One that is longer, or does not say, counts
/// among its tenant's, and is parsed apart from the threads that serve HTTP.
const SMALL_BYTES: u64 = 64 << 10;

/// The body of a call until there is a place for the call.
struct Unparsed {
    bytes: Bytes,
    room: Option<Room>,
}

impl Unparsed {
    async fn read(app: &App, tenant: TenantId, body: Body) -> Result<Self, Error> {
        let (limit_bytes, told) = (app.config.body_max_mib << 20, body.size_hint().exact());
        let mut room = match told {
            Some(..=SMALL_BYTES) => None,
            Some(bytes) if bytes > limit_bytes => return Err(Error::TooLarge { limit_bytes }),
            _ => Some(app.admission.room(tenant, told).await?),
        };
        let bytes = body::read(body, limit_bytes).await?;
        if let Some(room) = &mut room {
            room.shrink(bytes.len() as u64);
        }
        Ok(Self { bytes, room })
    }

    async fn parse(self, threads: &Handle) -> Result<Parsed, Error> {
        let is_small = self.room.is_none();
        // The bytes, and the room for them, go with it: also when the caller does not wait for it.
        let parse = move || {
            let cell = UsageCell::default();
            let request = inference::metered(&cell, || tensors::request(&self.bytes));
            let cpu_ns = cell.snapshot().cpu_ns;
            drop(self);
            request.map(|request| Parsed { request, cpu_ns })
        };
        if is_small {
            return parse();
        }
        let parsed = threads.spawn_blocking(parse).await;
        parsed.map_err(|_| Error::Internal)?
    }
}

type Called = Result<(String, Option<String>), Error>;

async fn call(State(app): Shared, who: Who, called: Called, body: Body) -> Response {
    let started = Instant::now();
    let (mut response, recorded) = match answer(&app, who, called, body).await {
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

async fn answer(app: &Arc<App>, who: Who, called: Called, body: Body) -> Result<Answer<Bytes>, Error> {
    let tenant = who?.invokes()?;
    let (name, version) = called?;
    let deployment = named(&name)?;
    let number = number(&name, version.as_deref())?;
    let body = Unparsed::read(app, tenant, body).await?;
    let called = deployment.clone();
    let json = Encoding {
        name: "JSON",
        has: reply::has_form,
        encode: move |id: &str, release, response, limits: &Limits| {
            reply::encode(id, called.as_str(), release, &response, limits)
        },
    };
    invoke(app, tenant, &deployment, number, body.parse(&app.guests), json).await
}
