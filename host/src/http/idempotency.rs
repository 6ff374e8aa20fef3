//! Idempotency keys: a management call that is sent again under its key is not done again.
//!
//! The layer claims the key before the handler runs. The handler's [`Act`] keeps the answer in the transaction
//! of the effect, so that a crash leaves both or neither; an answer without an effect is kept by the layer. A
//! retry gets what was kept, and a host that starts again lets go of what it had claimed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use db::{Claim, Claimed, DbError, Kept, Scope};
use serde::Serialize;

use super::Shared;
use super::auth::Principal;
use super::digested::Digested;
use crate::app::App;
use crate::flow::Error;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Most bytes of an answer that is kept.
const ANSWER_BYTES: usize = 4 << 20;

/// Runs a changing call under its key, if it has one.
pub(super) async fn layer(State(app): Shared, request: Request, next: Next) -> Response {
    let key = match key(request.headers()) {
        Ok(Some(key)) if !request.method().is_safe() => key,
        Ok(_) => return next.run(request).await,
        Err(error) => return super::spoken(request.uri(), error.into()),
    };
    let uri = request.uri().clone();
    // Few calls have one: the others need not carry the room for it.
    match Box::pin(keyed(app, key, request, next)).await {
        Ok(response) => response,
        Err(error) => super::spoken(&uri, error.into()),
    }
}

async fn keyed(app: Arc<App>, key: String, request: Request, next: Next) -> Result<Response, Error> {
    if !request.uri().path().starts_with("/api/") {
        return Err(Error::IdempotencyKeyRefused);
    }
    let (mut parts, body) = request.into_parts();
    let principal = Principal::from_request_parts(&mut parts, &app).await?;
    let scope = Scope {
        tenant: principal.tenant,
        role: principal.actor.role(),
    };
    let digested = Digested::new(&app.config, &parts, body);
    let by = (app.node, app.clock.mint());
    match app.db.idempotency_claim(scope, &key, by, app.clock.now()).await? {
        Claimed::Running => Err(Error::IdempotencyKeyInUse),
        Claimed::Kept(kept) if digested.digest().await? == kept.request => Ok(replay(kept)),
        Claimed::Kept(_) => Err(Error::IdempotencyKeyReused),
        Claimed::Mine(claim) => {
            let attempt = Arc::new(Attempt {
                claim,
                digested: digested.clone(),
                kept: AtomicBool::new(false),
            });
            parts.extensions.insert(attempt.clone());
            let request = Request::from_parts(parts, digested.body());
            // In a task of its own: a caller that hangs up leaves no claim behind.
            let task = tokio::spawn(async move { finish(&app, &attempt, next.run(request).await).await });
            task.await.map_err(|_| Error::Internal)
        }
    }
}

/// The one key of a request: 1 to 255 visible ASCII characters.
fn key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut keys = headers.get_all(KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let key = key.as_bytes();
    if keys.next().is_some() || !(1..=255).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
        let message = "send one key of 1 to 255 visible ASCII characters, such as a UUID";
        return Err(Error::invalid("idempotency-key", message));
    }
    Ok(Some(String::from_utf8_lossy(key).into_owned()))
}

/// The same answer again.
fn replay(kept: Kept) -> Response {
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = match status.is_success() {
        true => "application/json",
        false => "application/problem+json",
    };
    let mut response = (status, kept.body).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    if status != StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// One run of a call under an idempotency key.
struct Attempt {
    claim: Claim,
    digested: Digested,
    /// Whether the answer is kept with the effect.
    kept: AtomicBool,
}

impl Attempt {
    async fn result(&self, status: StatusCode, body: String) -> Result<Kept, Error> {
        Ok(Kept {
            request: self.digested.digest().await?,
            status: status.as_u16(),
            body,
        })
    }
}

/// Whether an answer would be the same again: not if the host failed, or said to come back later or with
/// another key.
fn is_final(status: StatusCode) -> bool {
    use StatusCode as S;
    let passing = [
        S::UNAUTHORIZED,
        S::FORBIDDEN,
        S::REQUEST_TIMEOUT,
        S::TOO_MANY_REQUESTS,
    ];
    !status.is_server_error() && !passing.contains(&status)
}

/// Keeps an answer that is not kept yet, or lets the key go.
async fn finish(app: &App, attempt: &Attempt, response: Response) -> Response {
    let status = response.status();
    if !is_final(status) {
        release(app, attempt).await;
        return response;
    }
    if attempt.kept.load(Relaxed) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let body = match axum::body::to_bytes(body, ANSWER_BYTES).await {
        Ok(body) => body,
        Err(_) => {
            release(app, attempt).await;
            return Error::Internal.into_response();
        }
    };
    let kept = async {
        let kept = attempt
            .result(status, String::from_utf8_lossy(&body).into_owned())
            .await?;
        Ok::<_, Error>(app.db.idempotency_keep(&attempt.claim, &kept).await?)
    };
    if let Err(error) = kept.await {
        tracing::debug!(%error, "an answer without an effect is not kept");
        release(app, attempt).await;
    }
    Response::from_parts(parts, body.into())
}

async fn release(app: &App, attempt: &Attempt) {
    if let Err(error) = app.db.idempotency_release(&attempt.claim).await {
        tracing::warn!(%error, "an idempotency key stays claimed for ten minutes");
    }
}

/// A changing call: who makes it, and under which idempotency key.
pub(super) struct Act {
    principal: Principal,
    attempt: Option<Arc<Attempt>>,
}

impl std::ops::Deref for Act {
    type Target = Principal;
    fn deref(&self) -> &Principal {
        &self.principal
    }
}

impl FromRequestParts<Arc<App>> for Act {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Error> {
        Ok(Self {
            principal: Principal::from_request_parts(parts, app).await?,
            attempt: parts.extensions.get().cloned(),
        })
    }
}

impl Act {
    /// Commits what the call did with what it answers: a retry gets the same. The answer is JSON, or empty
    /// where the status says so.
    pub async fn commit(
        &self,
        mut tx: impl Effect,
        status: StatusCode,
        answer: &impl Serialize,
    ) -> Result<(), Error> {
        if let Some(attempt) = &self.attempt {
            let body = match status {
                StatusCode::NO_CONTENT => String::new(),
                _ => serde_json::to_string(answer).map_err(|_| Error::Internal)?,
            };
            let kept = attempt.result(status, body).await?;
            tx.keep(&attempt.claim, &kept)
                .await
                .map_err(|error| match error {
                    DbError::NotFound(_) => Error::IdempotencyKeyInUse,
                    other => other.into(),
                })?;
        }
        tx.commit().await?;
        if let Some(attempt) = &self.attempt {
            attempt.kept.store(true, Relaxed);
        }
        Ok(())
    }
}

/// A transaction that a changing call ends with.
pub(super) trait Effect: Send {
    /// Keeps the call's result in it.
    fn keep(&mut self, claim: &Claim, kept: &Kept) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Commits it.
    fn commit(self) -> impl Future<Output = Result<(), DbError>> + Send;
}

impl Effect for db::TenantTx {
    async fn keep(&mut self, claim: &Claim, kept: &Kept) -> Result<(), DbError> {
        self.idempotency_keep(claim, kept).await
    }

    async fn commit(self) -> Result<(), DbError> {
        db::TenantTx::commit(self).await
    }
}

impl Effect for db::AdminTx {
    async fn keep(&mut self, claim: &Claim, kept: &Kept) -> Result<(), DbError> {
        self.idempotency_keep(claim, kept).await
    }

    async fn commit(self) -> Result<(), DbError> {
        db::AdminTx::commit(self).await
    }
}
