//! Every error's answer: `application/problem+json` (RFC 9457) with a stable code, in one match.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use db::DbError;
use domain::{InvocationId, Outcome};
use runtime::{CompileError, InspectError};
use serde_json::json;

use crate::flow::Error;

/// An error as the API answers it.
#[derive(Debug)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// The stable code.
    pub code: String,
    /// What happened and what to do, for people.
    pub detail: String,
    /// The receipt, where a call was accepted.
    pub receipt: Option<InvocationId>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: impl Into<String>, detail: impl ToString) -> Self {
        Self {
            status,
            code: code.into(),
            detail: detail.to_string(),
            receipt: None,
        }
    }

    /// The answer in the form of the V2 protocol.
    pub fn into_v2(self) -> Response {
        let body = json!({ "error": self.detail, "code": self.code });
        let mut response = (self.status, Json(body)).into_response();
        self.mark(&mut response);
        response
    }

    fn mark(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if let Some(receipt) = self.receipt
            && let Ok(value) = HeaderValue::from_str(&receipt.to_string())
        {
            headers.insert("wattle-receipt", value);
        }
        if matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut body = json!({
            "type": format!("urn:wattle:problem:{}", self.code),
            "title": title,
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(receipt) = self.receipt {
            body["receipt"] = json!(receipt);
        }
        let mut response = (self.status, Json(body)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        self.mark(&mut response);
        response
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        use StatusCode as S;
        let detail = error.to_string();
        let problem = |status, code: &str| Self::new(status, code, &detail);
        match &error {
            Error::Unauthorised => problem(S::UNAUTHORIZED, "unauthorised"),
            Error::Forbidden(_) => problem(S::FORBIDDEN, "forbidden"),
            Error::BootstrapSpent => problem(S::UNAUTHORIZED, "bootstrap_key_spent"),
            Error::TenantInactive(_) => problem(S::FORBIDDEN, "tenant_inactive"),
            Error::NotFound { what, .. } => problem(S::NOT_FOUND, &format!("{what}_not_found")),
            Error::Exists { what, .. } => problem(S::CONFLICT, &format!("{what}_exists")),
            Error::Invalid { .. } => problem(S::UNPROCESSABLE_ENTITY, "invalid_field"),
            Error::TooLarge { .. } => problem(S::PAYLOAD_TOO_LARGE, "body_too_large"),
            Error::Inspect(inner @ InspectError::Host(_)) => {
                logged(S::SERVICE_UNAVAILABLE, inner.code(), &error)
            }
            Error::Inspect(inner) => problem(S::UNPROCESSABLE_ENTITY, inner.code()),
            Error::Compile(inner @ CompileError::Io(_)) => {
                logged(S::SERVICE_UNAVAILABLE, inner.code(), &error)
            }
            Error::Compile(inner) => problem(S::UNPROCESSABLE_ENTITY, inner.code()),
            Error::Load(inner) => problem(S::UNPROCESSABLE_ENTITY, inner.code()),
            Error::Compute(inner) => problem(S::UNPROCESSABLE_ENTITY, inner.code()),
            Error::QueueFull { .. } => problem(S::TOO_MANY_REQUESTS, "queue_full"),
            Error::QueueTimeout { .. } => problem(S::SERVICE_UNAVAILABLE, "queue_timeout"),
            Error::JournalFilling => problem(S::SERVICE_UNAVAILABLE, "journal_filling"),
            Error::JournalBroken => problem(S::SERVICE_UNAVAILABLE, "journal_broken"),
            Error::Draining => problem(S::SERVICE_UNAVAILABLE, "draining"),
            Error::Failed {
                invocation,
                outcome,
                code,
                ..
            } => Self {
                receipt: Some(*invocation),
                ..Self::new(failure_status(*outcome), code.clone(), &detail)
            },
            Error::Journal(inner) => logged(S::SERVICE_UNAVAILABLE, inner.code(), &error),
            Error::Db(inner) => database(inner, &error),
            Error::Blob(_) => logged(S::SERVICE_UNAVAILABLE, "blob_store_unavailable", &error),
            Error::Io(_) => logged(S::SERVICE_UNAVAILABLE, "storage_unavailable", &error),
            Error::Internal => logged(S::INTERNAL_SERVER_ERROR, "internal", &error),
        }
    }
}

/// The status of a call that ran and did not answer.
fn failure_status(outcome: Outcome) -> StatusCode {
    match outcome {
        Outcome::Ok => StatusCode::OK,
        Outcome::GuestFailure
        | Outcome::FuelExhausted
        | Outcome::MemoryExceeded
        | Outcome::TableExceeded
        | Outcome::HandlesExceeded
        | Outcome::TensorsExceeded
        | Outcome::OutputExceeded
        | Outcome::LogExceeded
        | Outcome::ModelFailed
        | Outcome::InvalidOutput
        | Outcome::Trapped => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Outcome::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Outcome::HostFault | Outcome::HostLost => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A failure of the host: the cause goes to the log, the caller learns only that it is ours.
fn logged(status: StatusCode, code: &str, error: &Error) -> Problem {
    tracing::error!(%error, code, "a request failed in the host");
    Problem::new(
        status,
        code,
        "the host could not do this now: try again; the operator's log has the cause",
    )
}

fn database(inner: &DbError, error: &Error) -> Problem {
    match inner {
        DbError::Unavailable(_) => logged(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", error),
        _ => logged(StatusCode::INTERNAL_SERVER_ERROR, "internal", error),
    }
}
