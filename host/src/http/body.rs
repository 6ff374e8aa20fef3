//! Bodies: JSON whose errors say what is wrong, and uploads that stream to a file under a cap.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyDataStream, BodyExt as _, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};

use super::json;
use crate::app::App;
use crate::flow::Error;

/// A JSON body, read when the handler asks for it: after it knows that the caller may.
pub struct Json {
    body: Body,
    limit_bytes: u64,
    /// Whether it is not said to be something else.
    is_json: bool,
}

impl FromRequest<Arc<App>> for Json {
    type Rejection = Infallible;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(Self {
            is_json: request.headers().get(CONTENT_TYPE).is_none_or(is_json),
            body: request.into_body(),
            limit_bytes: app.config.body_max_mib << 20,
        })
    }
}

impl Json {
    /// The body as a `T`, each of whose members stands once.
    pub async fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        if !self.is_json {
            return Err(Error::MediaType);
        }
        let bytes = read(self.body, self.limit_bytes).await?;
        if let Some(path) = json::repeated(&bytes) {
            return Err(Error::invalid(path, "it stands twice"));
        }
        let json::Object(value) = parse(&bytes)?;
        Ok(value)
    }
}

/// `application/json`, whatever stands behind it.
fn is_json(kind: &HeaderValue) -> bool {
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// Parses JSON; an error names its field by the path in the body.
pub fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Error> {
    // To follow the path costs as much as to parse: only a mistake pays for it.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(misread)?;
    json.end().map_err(|error| Error::invalid("body", error))?;
    Ok(value)
}

fn misread(error: serde_path_to_error::Error<serde_json::Error>) -> Error {
    let path = error.path().to_string();
    let message = error.inner().to_string();
    // A member that is not there has no path of its own: its name stands in the message alone.
    let missing = message
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split_once('`'));
    let field = match (path.trim_end_matches('?').trim_end_matches('.'), missing) {
        ("", None) => "body",
        ("", Some((name, _))) => name,
        (path, None) => path,
        (path, Some((name, _))) => &format!("{path}.{name}"),
    };
    Error::invalid(field, &message)
}

/// The whole body in memory, under a cap in bytes.
pub async fn read(body: Body, limit_bytes: u64) -> Result<Bytes, Error> {
    let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Error::TooLarge { limit_bytes }),
        Err(error) => Err(broken(&*error)),
    }
}

/// Streams an upload to a temporary file under a cap in bytes, then reads it once it is whole:
/// a slow or broken upload holds no memory.
pub async fn upload(body: Body, limit_bytes: u64) -> Result<Bytes, Error> {
    let mut file = tokio::fs::File::from_std(tempfile::tempfile()?);
    let mut length = 0_u64;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| broken(&error))?;
        length += chunk.len() as u64;
        if length > limit_bytes {
            return Err(Error::TooLarge { limit_bytes });
        }
        file.write_all(&chunk).await?;
    }
    if length == 0 {
        return Err(Error::invalid("body", "it is empty: send the file's bytes"));
    }
    file.flush().await?;
    let mut file = file.into_std().await;
    let bytes = tokio::task::spawn_blocking(move || -> std::io::Result<Bytes> {
        use std::io::{Read as _, Seek as _};
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes.into())
    });
    Ok(bytes.await.map_err(|_| Error::Internal)??)
}

/// What to say of a body that did not come whole.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    match causes.find_map(|cause| cause.downcast_ref::<Stalled>()) {
        Some(&Stalled { stall_ms }) => Error::BodyTimeout { stall_ms },
        None => Error::invalid("body", format!("it broke off: {error}")),
    }
}

/// How much of a body that nobody wants is still read, and for how long.
const LINGER_BYTES: usize = 64 << 20;
const LINGER: Duration = Duration::from_secs(5);

/// A body may take a second more for each of these bytes that came.
const BYTES_PER_S: u64 = 16 << 10;

/// Bounds how long a request's body may take, and lets it linger. A client that is still sending looks at no
/// answer, and would see a broken connection instead of a refusal; so what the handler leaves of a body is
/// read on for a while and dropped.
pub(super) fn patient(body: Incoming, stall: Duration, whole: Duration) -> Body {
    if body.is_end_stream() {
        return Body::empty();
    }
    Body::new(Patient {
        body: Some(body),
        stall,
        latest: Instant::now() + whole,
        waiting: None,
    })
}

/// A body that did not come in its time.
#[derive(Debug, thiserror::Error)]
#[error("it came too slowly")]
struct Stalled {
    stall_ms: u64,
}

struct Patient {
    body: Option<Incoming>,
    /// How long nothing may come.
    stall: Duration,
    /// When the body must be whole, if nothing more comes; what comes moves it on.
    latest: Instant,
    /// Until the earlier of both; set while the handler waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Patient {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.latest += Duration::from_micros(bytes as u64 * 1_000_000 / BYTES_PER_S);
                this.waiting = None;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(last) => {
                this.body = None;
                Poll::Ready(last.map(|last| last.map_err(Into::into)))
            }
            Poll::Pending => {
                let until = this.latest.min(Instant::now() + this.stall);
                let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep_until(until)));
                ready!(waiting.as_mut().poll(cx));
                this.body = None;
                let stall_ms = this.stall.as_millis() as u64;
                Poll::Ready(Some(Err(Stalled { stall_ms }.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.as_ref().map(HttpBody::size_hint);
        rest.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        let (Some(rest), Ok(runtime)) = (self.body.take(), Handle::try_current()) else {
            return;
        };
        if rest.is_end_stream() {
            return;
        }
        let mut rest = BodyDataStream::new(rest);
        runtime.spawn(tokio::time::timeout(LINGER, async move {
            let mut left = LINGER_BYTES;
            while let Some(Ok(chunk)) = rest.next().await
                && chunk.len() <= left
            {
                left -= chunk.len();
            }
        }));
    }
}
