//! A request whose digest is taken while its body is read, so that an upload is neither read twice nor kept
//! anywhere for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, BodyDataStream};
use axum::http::request::Parts;
use bytes::Bytes;
use domain::Digest;
use futures::StreamExt as _;
use futures::stream::poll_fn as stream;
use sha2::{Digest as _, Sha256};

use super::body::broken;
use crate::config::ServeArgs;
use crate::flow::Error;

/// A request: its digest, over method, path, query and body, and its body.
#[derive(Clone)]
pub(super) struct Digested(Arc<Mutex<Reading>>);

struct Reading {
    body: BodyDataStream,
    digest: Sha256,
    left_bytes: u64,
    limit_bytes: u64,
    /// Whether the body did not come whole: then there is no digest.
    broken: bool,
}

impl Digested {
    /// Begins with the head; a body over every cap of the host is not read to its end.
    pub fn new(config: &ServeArgs, parts: &Parts, body: Body) -> Self {
        let caps_mib = [
            config.component_max_mib,
            config.graph_max_mib,
            config.body_max_mib,
        ];
        let limit_bytes = caps_mib.into_iter().max().unwrap_or_default() << 20;
        Self(Arc::new(Mutex::new(Reading {
            body: body.into_data_stream(),
            digest: Sha256::new_with_prefix(format!("{} {}\n", parts.method, parts.uri)),
            left_bytes: limit_bytes,
            limit_bytes,
            broken: false,
        })))
    }

    /// The body for who handles the request. What is left of it is read by [`Digested::digest`].
    pub fn body(&self) -> Body {
        let shared = self.clone();
        Body::from_stream(stream(move |cx| shared.reading().poll_next(cx)))
    }

    /// The digest of the whole request; reads what is left of the body.
    pub async fn digest(&self) -> Result<Digest, Error> {
        let mut rest = stream(|cx| self.reading().poll_next(cx));
        while let Some(chunk) = rest.next().await {
            chunk.map_err(|error| broken(&error))?;
        }
        let reading = self.reading();
        match (reading.broken, reading.limit_bytes) {
            (true, limit_bytes) => Err(Error::TooLarge { limit_bytes }),
            (false, _) => Ok(Digest(reading.digest.clone().finalize().into())),
        }
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
        if self.broken {
            return Poll::Ready(None);
        }
        let next = ready!(self.body.poll_next_unpin(cx));
        match &next {
            Some(Ok(chunk)) => {
                self.digest.update(chunk);
                match self.left_bytes.checked_sub(chunk.len() as u64) {
                    Some(left) => self.left_bytes = left,
                    None => self.broken = true,
                }
            }
            Some(Err(_)) => self.broken = true,
            None => {}
        }
        Poll::Ready(next)
    }
}
