//! The HTTP API: the only room that knows axum.

mod auth;
mod body;
mod components;
mod deployments;
mod graphs;
mod keys;
mod ledger;
mod listen;
mod ops;
mod problem;
mod receipts;
mod tenants;
mod tensors;
mod v2;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::Principal;
pub use listen::{Connections, serve};
pub use ops::router as ops_router;
use problem::Problem;

use crate::app::App;
use crate::flow::Error;
use crate::flow::publish::Published;

type Shared = axum::extract::State<Arc<App>>;

/// The API and the V2 protocol, over `app`.
pub fn router(app: Arc<App>) -> Router {
    let body_cap = usize::try_from(app.config.body_max_mib << 20).unwrap_or(usize::MAX);
    Router::new()
        .merge(tenants::router())
        .merge(keys::router())
        .merge(components::router())
        .merge(graphs::router())
        .merge(deployments::router())
        .merge(receipts::router())
        .merge(ledger::router())
        .merge(v2::router())
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(body_cap))
        .layer(axum::middleware::map_request_with_state(
            app.clone(),
            body::patient,
        ))
        .layer(CatchPanicLayer::custom(
            |_panic: Box<dyn std::any::Any + Send>| Error::Internal.into_response(),
        ))
        .with_state(app)
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

/// An instant as the API writes it.
fn instant(at: time::OffsetDateTime) -> String {
    // Years beyond 9999 have no RFC 3339 form; no clock here shows them.
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

/// A whole list.
fn listed(items: impl Iterator<Item = Value>) -> Json<Value> {
    Json(json!({ "items": items.collect::<Vec<_>>() }))
}

/// The answer to an upload: 201 with a new row, 200 with the one that was there, and what it cost.
fn published<Row>(published: &Published<Row>, view: fn(&Row) -> Value) -> impl IntoResponse + use<Row> {
    let Published { row, fresh, recorded } = published;
    let mut body = view(row);
    body["invocation"] = json!(recorded.finished.call.invocation);
    let status = match fresh {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    (status, problem::cost(recorded, None), Json(body))
}

/// All uploads under a name: whatever has a name has at least one.
fn uploads(
    what: &'static str,
    name: &domain::Name,
    rows: impl ExactSizeIterator<Item = Value>,
) -> Result<Json<Value>, Error> {
    match rows.len() {
        0 => Err(Error::not_found(what, name)),
        _ => Ok(listed(rows)),
    }
}

/// How many rows a page has.
fn page_limit(asked: Option<u32>) -> Result<u32, Error> {
    match asked.unwrap_or(50) {
        limit @ 1..=500 => Ok(limit),
        limit => Err(Error::invalid("limit", format!("{limit} rows: ask for 1 to 500"))),
    }
}
