//! Every error's answer: `application/problem+json` (RFC 9457) with a stable code, in one match.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use db::DbError;
use domain::{InvocationId, Outcome, Parameter};
use inference::LoadError;
use runtime::{CompileError, Failure, InspectError};
use serde::Serialize;
use utoipa::ToSchema;

use super::tensors::parameters::Object;
use crate::flow::Error;
use crate::flow::metered::Recorded;

/// An error as the API answers it.
#[derive(Debug)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// The stable code.
    pub code: String,
    /// What happened and what to do, for people.
    pub detail: String,
    /// Where in the request it is, if it is in one place.
    pub field: Option<String>,
    /// Seconds after which to try again, where that is known.
    pub retry_after_s: Option<u64>,
    /// What a call that ran says of its failure: whether the same may succeed later, and a pipeline's
    /// details for programs.
    pub failed: Option<(bool, Vec<Parameter>)>,
    /// What was recorded, where a call was accepted.
    pub recorded: Option<Box<Recorded>>,
}

/// The members that a problem and V2's error have in common.
#[derive(Serialize, ToSchema)]
#[schema(as = ErrorDetails)]
struct Details<'a> {
    /// What went wrong, for programs: it stays what it is.
    #[schema(example = "invalid_field")]
    code: &'a str,
    /// Where in the request it is: a path into the body, or the name of a parameter or header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "limits.fuel")]
    field: Option<&'a str>,
    /// Whether the same call may succeed later; of calls that ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    /// What a pipeline says of its failure.
    #[serde(skip_serializing_if = "Object::is_empty")]
    #[schema(value_type = HashMap<String, Value>)]
    parameters: Object<'a>,
    /// The receipt, where the call was accepted before it failed: it is charged.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    receipt: Option<InvocationId>,
}

/// An error of `/v2`, in the form of the Open Inference Protocol.
#[derive(Serialize, ToSchema)]
#[schema(as = V2Error)]
pub(super) struct V2Body<'a> {
    /// What happened and what to do, for people.
    error: &'a str,
    #[serde(flatten)]
    details: Details<'a>,
}

/// An error, in the form of RFC 9457.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body<'a> {
    /// A name for the kind of problem, made of its code.
    #[schema(example = "urn:wattle:problem:invalid_field")]
    r#type: String,
    /// The status, in words.
    #[schema(example = "Unprocessable Entity")]
    title: &'a str,
    /// The status.
    #[schema(example = 422)]
    status: u16,
    /// What happened and what to do, for people.
    #[schema(example = "limits.fuel: must be from 1 to 1000000000000")]
    detail: &'a str,
    #[serde(flatten)]
    details: Details<'a>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: impl Into<String>, detail: impl ToString) -> Self {
        Self {
            status,
            code: code.into(),
            detail: detail.to_string(),
            field: None,
            retry_after_s: None,
            failed: None,
            recorded: None,
        }
    }

    /// The answer in the form of the V2 protocol.
    pub fn into_v2(self) -> Response {
        let body = V2Body {
            error: &self.detail,
            details: self.details(),
        };
        let mut response = (self.status, Json(body)).into_response();
        self.mark(&mut response);
        response
    }

    fn details(&self) -> Details<'_> {
        let (retryable, parameters) = self
            .failed
            .as_ref()
            .map_or((None, &[][..]), |(retryable, parameters)| {
                (Some(*retryable), parameters)
            });
        let receipt = self.recorded.as_ref();
        Details {
            code: &self.code,
            field: self.field.as_deref(),
            retryable,
            parameters: Object::of(parameters),
            receipt: receipt.map(|recorded| recorded.finished.call.invocation),
        }
    }

    fn mark(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if let Some(recorded) = &self.recorded {
            headers.extend(cost(recorded, None));
        }
        // What only the operator can mend is not better in a second.
        let mendable = !matches!(self.code.as_str(), "journal_broken" | "ledger_refuses");
        let busy = matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        let retry_after_s = self.retry_after_s.or((busy && mendable).then_some(1));
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: format!("urn:wattle:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            details: self.details(),
        };
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
    #[allow(clippy::too_many_lines, reason = "a table, read row by row")]
    fn from(error: Error) -> Self {
        use StatusCode as S;
        if let Error::Accepted { recorded, cause } = error {
            return accepted(recorded, *cause);
        }
        let detail = error.to_string();
        let problem = |status, code: &str| Self::new(status, code, &detail);
        match &error {
            Error::Unauthorised => problem(S::UNAUTHORIZED, "unauthorised"),
            Error::Forbidden(_) => problem(S::FORBIDDEN, "forbidden"),
            Error::BootstrapSpent => problem(S::UNAUTHORIZED, "bootstrap_key_spent"),
            Error::FirstAdminOnly => problem(S::FORBIDDEN, "first_admin_key_only"),
            Error::TenantSuspended => problem(S::FORBIDDEN, "tenant_suspended"),
            Error::TenantClosed => problem(S::FORBIDDEN, "tenant_closed"),
            Error::NotFound { what, .. } => problem(S::NOT_FOUND, &format!("{what}_not_found")),
            Error::Exists { what, .. } => problem(S::CONFLICT, &format!("{what}_exists")),
            Error::Invalid { field, .. } => Self {
                field: Some(field.clone()),
                ..problem(S::UNPROCESSABLE_ENTITY, "invalid_field")
            },
            Error::StorageQuota { .. } => problem(S::INSUFFICIENT_STORAGE, "storage_quota_exceeded"),
            Error::MediaType => problem(S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Error::StorageWaits { .. } => problem(S::INSUFFICIENT_STORAGE, "storage_not_collected"),
            Error::UploadQuota { retry_after_s, .. } => {
                later(*retry_after_s, problem(S::TOO_MANY_REQUESTS, "upload_quota"))
            }
            Error::ClosedIsFinal => problem(S::CONFLICT, "tenant_closed"),
            Error::KeyEnded(_) => problem(S::CONFLICT, "key_ended"),
            Error::IdempotencyKeyReused => problem(S::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            Error::IdempotencyKeyInUse => later(1, problem(S::CONFLICT, "idempotency_key_in_use")),
            Error::IdempotencyKeyRefused => problem(S::UNPROCESSABLE_ENTITY, "idempotency_key_not_taken"),
            Error::TooLarge { .. } => problem(S::PAYLOAD_TOO_LARGE, "body_too_large"),
            Error::BodyTimeout { .. } => problem(S::REQUEST_TIMEOUT, "body_timeout"),
            Error::Inspect(inner @ InspectError::Host(_)) => {
                logged(S::SERVICE_UNAVAILABLE, inner.code(), &error)
            }
            Error::Inspect(inner) => problem(S::UNPROCESSABLE_ENTITY, inner.code()),
            Error::Compile(inner @ CompileError::Io(_)) => {
                logged(S::SERVICE_UNAVAILABLE, inner.code(), &error)
            }
            Error::Compile(inner) => problem(S::UNPROCESSABLE_ENTITY, inner.code()),
            Error::Load(inner @ LoadError::Unavailable { .. }) => {
                logged(S::SERVICE_UNAVAILABLE, inner.code(), &error)
            }
            Error::Load(inner) => problem(S::UNPROCESSABLE_ENTITY, inner.code()),
            Error::QueueFull { .. } => problem(S::TOO_MANY_REQUESTS, "queue_full"),
            Error::QueueTimeout { .. } => problem(S::SERVICE_UNAVAILABLE, "queue_timeout"),
            Error::JournalFilling => problem(S::SERVICE_UNAVAILABLE, "journal_filling"),
            Error::LedgerRefuses => problem(S::SERVICE_UNAVAILABLE, "ledger_refuses"),
            Error::DiskFull => later(5, problem(S::SERVICE_UNAVAILABLE, "journal_disk_full")),
            Error::JournalBroken => problem(S::SERVICE_UNAVAILABLE, "journal_broken"),
            Error::Draining => problem(S::SERVICE_UNAVAILABLE, "draining"),
            Error::Failed(failure) => Self {
                failed: Some((failure.retryable, failure.parameters.clone())),
                ..Self::new(failure_status(failure), failure.code.clone(), &detail)
            },
            Error::ReceiptNotFinal(_) => later(1, problem(S::CONFLICT, "receipt_not_final")),
            Error::ReceiptNotProven { retry_after_s, .. } => {
                later(*retry_after_s, problem(S::CONFLICT, "receipt_not_proven"))
            }
            Error::Archive(inner) => {
                tracing::error!(%error, code = inner.code(), "an archive does not fit");
                problem(S::INTERNAL_SERVER_ERROR, inner.code())
            }
            Error::Accepted { .. } => problem(S::INTERNAL_SERVER_ERROR, "internal"),
            Error::Carbon(inner) => problem(S::UNPROCESSABLE_ENTITY, inner.code()),
            Error::TooMuchUse { .. } => problem(S::UNPROCESSABLE_ENTITY, "too_much_use"),
            Error::Period(inner) => problem(S::CONFLICT, inner.code()),
            Error::Money(_) => problem(S::UNPROCESSABLE_ENTITY, "too_much_money"),
            Error::Journal(inner) => logged(S::SERVICE_UNAVAILABLE, inner.code(), &error),
            Error::Db(inner) => database(inner, &error),
            Error::Blob(_) => logged(S::SERVICE_UNAVAILABLE, "blob_store_unavailable", &error),
            Error::Io(_) => logged(S::SERVICE_UNAVAILABLE, "storage_unavailable", &error),
            Error::Internal => logged(S::INTERNAL_SERVER_ERROR, "internal", &error),
        }
    }
}

/// A problem that may be none so many seconds later.
fn later(retry_after_s: u64, problem: Problem) -> Problem {
    Problem {
        retry_after_s: Some(retry_after_s),
        ..problem
    }
}

/// The answer to an accepted call that came to nothing: what is recorded as the host's fault is answered so.
fn accepted(recorded: Box<Recorded>, cause: Error) -> Problem {
    let span = tracing::error_span!("call", invocation = %recorded.finished.call.invocation);
    let _logged = span.enter();
    let said = cause.to_string();
    let mut problem = Problem::from(cause);
    if recorded.finished.outcome == Outcome::HostFault && problem.status.is_client_error() {
        let code = &problem.code;
        tracing::error!(error = said, code, "an accepted call failed in the host");
        problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, problem.code, OURS);
    }
    Problem {
        recorded: Some(recorded),
        ..problem
    }
}

/// What a call used and may have cost, in headers; with how long the caller waited, where that is known.
pub(super) fn cost(recorded: &Recorded, total: Option<Duration>) -> HeaderMap {
    let Recorded {
        finished,
        provisional_uj,
        ..
    } = recorded;
    let (guest, model) = (Ms(finished.usage.cpu_ns), Ms(finished.usage.model_ns()));
    let mut timing = format!("guest;dur={guest}, model;dur={model}");
    if let Some(total) = total {
        let total = Ms(u64::try_from(total.as_nanos()).unwrap_or(u64::MAX));
        timing = format!("{timing}, total;dur={total}");
    }
    let values = [
        (&RECEIPT, text(finished.call.invocation.to_string())),
        (&ENERGY, provisional_uj.map(HeaderValue::from)),
        (&FUEL, Some(finished.usage.fuel.into())),
        (&TIMING, text(timing)),
    ];
    let header = |(name, value): (&'static HeaderName, Option<HeaderValue>)| Some((name.clone(), value?));
    values.into_iter().filter_map(header).collect()
}

fn text(text: String) -> Option<HeaderValue> {
    text.try_into().ok()
}

static RECEIPT: HeaderName = HeaderName::from_static("wattle-receipt");
static ENERGY: HeaderName = HeaderName::from_static("wattle-energy-uj");
static FUEL: HeaderName = HeaderName::from_static("wattle-fuel");
static TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Nanoseconds, shown in milliseconds with three decimals.
struct Ms(u64);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.saturating_add(500) / 1_000;
        write!(f, "{}.{:03}", us / 1_000, us % 1_000)
    }
}

/// The status of a call that ran and did not answer.
fn failure_status(failure: &Failure) -> StatusCode {
    match failure.outcome {
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
        Outcome::HostFault if failure.retryable => StatusCode::SERVICE_UNAVAILABLE,
        Outcome::HostFault | Outcome::HostLost => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

const OURS: &str = "the host could not do this now: try again; the operator's log has the cause";

/// A failure of the host: the cause goes to the log, the caller learns only that it is ours.
fn logged(status: StatusCode, code: &str, error: &Error) -> Problem {
    tracing::error!(%error, code, "a request failed in the host");
    Problem::new(status, code, OURS)
}

fn database(inner: &DbError, error: &Error) -> Problem {
    match inner {
        DbError::Unavailable(_) => logged(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", error),
        _ => logged(StatusCode::INTERNAL_SERVER_ERROR, "internal", error),
    }
}
