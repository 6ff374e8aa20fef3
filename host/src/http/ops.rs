//! The operators' listener: is the process alive, does it take calls, what did it count.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::Shared;
use crate::app::App;

/// `/livez`, `/readyz` and `/metrics`.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(app)
}

async fn readyz(State(app): Shared) -> impl IntoResponse {
    let unready = app.unready();
    let status = match unready {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let (code, reason) = unready.unzip();
    (
        status,
        Json(json!({
            "ready": code.is_none(),
            "code": code,
            "reason": reason,
            "draining": app.draining(),
            "meter": app.meters.description(),
        })),
    )
}

async fn metrics(State(app): Shared) -> impl IntoResponse {
    let page = app.metrics.render(&app);
    ([("content-type", "text/plain; version=0.0.4")], page)
}
