//! The HTTP API: the only room that knows axum.

mod archives;
mod audit;
mod auth;
mod body;
mod carbon;
mod charges;
mod checkpoints;
mod components;
mod corrections;
mod csv;
mod deployments;
mod digested;
mod extract;
mod factors;
mod focus;
mod graph_usage;
mod graphs;
mod idempotency;
mod json;
mod keys;
mod ledger;
mod listen;
mod meters;
mod nodes;
mod openapi;
mod ops;
mod page;
mod periods;
mod plans;
mod problem;
mod proofs;
mod receipts;
mod refusals;
mod schema;
mod statements;
mod tenants;
mod tensors;
mod tls;
mod uploads;
mod usage;
mod v2;
mod verify;
mod weights;

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::InvocationId;
use serde::Serialize;
use utoipa::ToSchema;

pub use auth::Principal;
pub use listen::{Connections, serve};
pub use ops::router as ops_router;
use problem::Problem;
pub use tls::{Reloader, Tls, TlsError};

use crate::app::App;
use crate::flow::Error;

type Shared = axum::extract::State<Arc<App>>;

/// The API, its document and the V2 protocol, over `app`.
pub fn router(app: Arc<App>) -> Router {
    let (routes, _) = openapi::routes().split_for_parts();
    routes
        .route_layer(axum::middleware::from_fn_with_state(app.clone(), checked))
        .merge(openapi::pages())
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(app)
}

/// What is the same for every route: its query is known, and a changing call runs once under its key. One layer, since
/// each costs every call.
async fn checked(state: Shared, path: MatchedPath, request: Request, next: Next) -> Response {
    match openapi::check_query(path.as_str(), &request) {
        Ok(()) => idempotency::layer(state, request, next).await,
        Err(error) => spoken(request.uri(), error.into()),
    }
}

async fn no_route(uri: Uri) -> Response {
    spoken(&uri, Error::not_found("route", uri.path()).into())
}

async fn no_method(method: Method, uri: Uri) -> Response {
    let detail = format!("{} does not take {method}", uri.path());
    spoken(
        &uri,
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail),
    )
}

/// A problem in the form of the protocol that the caller speaks.
fn spoken(uri: &Uri, problem: Problem) -> Response {
    if uri.path().starts_with("/v2") {
        problem.into_v2()
    } else {
        problem.into_response()
    }
}

/// A name from a path.
fn named(text: &str) -> Result<domain::Name, Error> {
    text.parse().map_err(|error| Error::invalid("name", error))
}

/// Refuses a reason that says nothing or cannot be kept.
fn reason(text: &str) -> Result<(), Error> {
    let fits = (1..=500).contains(&text.chars().count()) && !text.contains(char::is_control);
    let message = "say why in 1 to 500 characters, none of them a control character";
    fits.then_some(())
        .ok_or_else(|| Error::invalid("reason", message))
}

/// A whole list.
#[derive(Serialize, ToSchema)]
struct Items<T> {
    /// All of them.
    items: Vec<T>,
}

/// `rows` as the API shows them.
fn listed<Row, View: From<Row>>(rows: Vec<Row>) -> axum::Json<Items<View>> {
    let items = rows.into_iter().map(View::from).collect();
    axum::Json(Items { items })
}

/// What a call made that is charged to its tenant.
#[derive(Serialize, ToSchema)]
struct Charged<T> {
    #[serde(flatten)]
    made: T,
    /// The id of the receipt: see `/api/v1/receipts/{id}`.
    #[schema(value_type = Uuid)]
    invocation: InvocationId,
}
