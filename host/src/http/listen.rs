//! Connections: how many there may be, how long each may do nothing, and how they end.

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::body;
use super::tls::Tls;
use crate::flow::Error;

/// What a listener grants its callers.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// Connections at once. One more waits in the kernel's backlog until another ends.
    pub max: u32,
    /// How long a connection may take for its TLS handshake, and then for each request's headers.
    pub header_timeout: Duration,
    /// How long nothing of a request's body may come, and how long a caller may leave a reply unread.
    pub stall_timeout: Duration,
    /// How long a request's body may take, and a second more for each 16 KiB of it.
    pub body_timeout: Duration,
}

/// Answers on `listener`, over TLS or in the clear, until `stop`; then lets every request that has begun have
/// its reply.
///
/// Idle connections end by their time-out, so those that wait get their turn.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    allowed: Connections,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(allowed.max as usize));
    let next = async || {
        // It is never closed.
        let place = places.clone().acquire_owned().await.ok()?;
        Some((accept(&listener).await, place))
    };
    while let Some(Some((stream, place))) = stop.run_until_cancelled(next()).await {
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(stream, tls, router, allowed, stop).await {
                tracing::debug!(error, "a connection broke off");
            }
            drop(place);
        });
    }
    drop(listener);
    // Whoever has all places has seen the last connection end.
    let _ = places.acquire_many(allowed.max).await;
}

/// The next connection. Running out of file descriptors passes: it is waited for.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(
    stream: TcpStream,
    tls: Option<Tls>,
    router: Router,
    allowed: Connections,
    stop: CancellationToken,
) -> Result<(), Broken> {
    // A reply is written at once; waiting to fill a packet only delays it.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        let stream = Impatient::new(stream, allowed.stall_timeout);
        return converse(stream, router, allowed, stop).await;
    };
    let greeting = tokio::time::timeout(allowed.header_timeout, greet(stream, &tls, allowed));
    match stop.run_until_cancelled(greeting).await {
        Some(Ok(greeted)) => converse(greeted?, router, allowed, stop).await,
        Some(Err(late)) => Err(late.into()),
        None => Ok(()),
    }
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

/// The TLS handshake. It runs in the connection's own task: who is slow at it delays nobody.
async fn greet(mut stream: TcpStream, tls: &Tls, allowed: Connections) -> io::Result<TlsStream<Impatient>> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    // A handshake begins with byte 22, a request in the clear with its method.
    if first[0].is_ascii_uppercase() {
        // What is left unread when a connection closes may cost the caller the reply.
        let _ = stream.read(&mut [0; 8192]).await?;
        stream.write_all(TLS_REQUIRED).await?;
        stream.shutdown().await?;
        return Err(io::Error::other("plain HTTP on a TLS port"));
    }
    let stream = Impatient::new(stream, allowed.stall_timeout);
    tls.acceptor().accept(stream).await
}

const TLS_REQUIRED: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n\
connection: close\r\n\r\n{\"type\":\"urn:wattle:problem:tls_required\",\"title\":\"Bad Request\",\"status\":400,\
\"code\":\"tls_required\",\"detail\":\"this address speaks TLS: write https://\"}\n";

/// Requests and replies, until one side has enough.
async fn converse<S>(
    stream: S,
    router: Router,
    allowed: Connections,
    stop: CancellationToken,
) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(allowed.header_timeout);
    let router = TowerToHyperService::new(router);
    // Around the router and not in it: there a layer costs each call two allocations or more.
    let answer = service_fn(|request: Request<Incoming>| {
        let (stall, whole) = (allowed.stall_timeout, allowed.body_timeout);
        caught(router.call(request.map(|body| body::patient(body, stall, whole))))
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    tokio::select! {
        ended = connection.as_mut() => ended?,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await?;
        }
    }
    Ok(())
}

/// A reply, also where its handler panics.
async fn caught(reply: impl Future<Output = Result<Response, Infallible>>) -> Result<Response, Infallible> {
    let reply = AssertUnwindSafe(reply).catch_unwind().await;
    reply.unwrap_or_else(|_panic| Ok(Error::Internal.into_response()))
}

/// A stream whose writes fail when the other side takes nothing for too long.
struct Impatient {
    stream: TcpStream,
    patience: Duration,
    /// Set while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
        }
    }

    fn patiently<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let until = Instant::now() + self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.patiently(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.patiently(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
