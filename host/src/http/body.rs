//! Bodies: JSON whose errors say what is wrong, and uploads that stream to a file under a cap.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;

use crate::app::App;
use crate::flow::Error;

/// A JSON body, read when the handler asks for it: after it knows that the caller may.
pub struct Json {
    body: Body,
    limit_bytes: u64,
}

impl FromRequest<Arc<App>> for Json {
    type Rejection = Infallible;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(Self {
            body: request.into_body(),
            limit_bytes: app.config.body_max_mib << 20,
        })
    }
}

impl Json {
    /// The body as a `T`.
    pub async fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        parse(&read(self.body, self.limit_bytes).await?)
    }
}

/// Parses JSON; an error names its field by the path in the body.
pub fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let field = match path.trim_end_matches('?').trim_end_matches('.') {
            "" => "body",
            field => field,
        };
        Error::invalid(field, error.inner())
    })?;
    json.end().map_err(|error| Error::invalid("body", error))?;
    Ok(value)
}

/// The whole body in memory, under a cap in bytes.
pub async fn read(body: Body, limit_bytes: u64) -> Result<Bytes, Error> {
    let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Error::TooLarge { limit_bytes }),
        Err(error) => Err(Error::invalid("body", format!("it broke off: {error}"))),
    }
}

/// Streams an upload to a temporary file under a cap in bytes, then reads it once it is whole:
/// a slow or broken upload holds no memory.
pub async fn upload(body: Body, limit_bytes: u64) -> Result<Bytes, Error> {
    let mut file = tokio::fs::File::from_std(tempfile::tempfile()?);
    let mut length = 0_u64;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Error::invalid("body", format!("it broke off: {error}")))?;
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

/// How much of a body that nobody wants is still read, and for how long.
const LINGER_BYTES: usize = 64 << 20;
const LINGER: Duration = Duration::from_secs(5);

/// Lets a request's body linger. A client that is still sending looks at no answer, and would see a broken
/// connection instead of a refusal; so what the handler leaves of a body is read on for a while and dropped.
pub async fn linger(request: Request) -> Request {
    if request.body().is_end_stream() {
        return request;
    }
    request.map(|body| Body::from_stream(Lingering(Some(body.into_data_stream()))))
}

struct Lingering(Option<BodyDataStream>);

impl Stream for Lingering {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let polled = body.poll_next_unpin(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.0 = None;
        }
        polled
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let (Some(mut rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) else {
            return;
        };
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
