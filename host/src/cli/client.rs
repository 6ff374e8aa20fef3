//! A thin client of the host's HTTP API: JSON in and out, problems turned into errors with a next step.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::TryStreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use reqwest::{Certificate, Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::io::ReaderStream;

use super::Common;
use super::error::{ClientError, unreachable, usage};
use super::output;

/// The reply to a call, with what its headers say of its cost.
#[derive(Debug)]
pub struct Reply {
    /// The V2 response.
    pub body: Value,
    /// The receipt's id.
    pub receipt: String,
    /// Provisional energy in microjoules.
    pub energy_uj: Option<u64>,
    /// Fuel.
    pub fuel: Option<u64>,
    /// Spans of the call in milliseconds, by name.
    pub timing_ms: Vec<(String, f64)>,
}

/// Longer than any network takes that a call is made over.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longer than a host lets anything take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3_600);

/// Who is asked, and as whom.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<String>,
}

impl Client {
    /// A client of the host that the command line names.
    pub fn open(common: &Common) -> anyhow::Result<Self> {
        let key = common.key.as_ref().map(|key| key.reveal().to_owned());
        Self::build(&common.url, key, common.ca_file.as_deref())
    }

    /// A client of the host at `url`; a key is sent where there is one.
    pub fn new(url: &str, key: Option<String>) -> anyhow::Result<Self> {
        Self::build(url, key, None)
    }

    fn build(url: &str, key: Option<String>, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let base: Url = url
            .parse()
            .map_err(|cause| usage(format!("--url {url}: {cause}")))?;
        // Only the first in a process is taken: it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .read_timeout(ANSWER_WITHIN);
        let builder = match (base.scheme(), ca_file) {
            // No certificate is needed, and reading those of the machine takes longer than a call.
            ("http", _) => builder.tls_certs_only([]),
            ("https", Some(file)) => builder.tls_certs_only(certificates(file)?),
            ("https", None) => builder,
            _ => return Err(usage(format!("--url {url}: write http:// or https://"))),
        };
        // A proxy for the outside world cannot reach this machine's loopback.
        let local = matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let builder = if local { builder.no_proxy() } else { builder };
        Ok(Self {
            http: builder.build()?,
            base,
            key,
        })
    }

    /// The same host with another key.
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        Self {
            key: Some(key.into()),
            ..self.clone()
        }
    }

    /// The host's address.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// What is at `path`.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let reply = self.send(self.request(Method::GET, path, &[])?).await?;
        read(path, reply).await
    }

    /// What is at `path`, or `None` if there is no such thing.
    pub async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.downcast_ref().is_some_and(ClientError::is_not_found) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `path` answers that all is well.
    pub async fn is_up(&self, path: &str) -> bool {
        match self.request(Method::GET, path, &[]) {
            Ok(request) => self.send(request).await.is_ok(),
            Err(_) => false,
        }
    }

    /// The items at `path`: the first `limit` over as many pages as it takes, or all.
    pub async fn list(&self, path: &str, limit: Option<usize>) -> anyhow::Result<Vec<Value>> {
        self.filtered(path, &[], limit).await
    }

    /// The items at `path` that the filters which have a value leave in.
    pub async fn filtered(
        &self,
        path: &str,
        filters: &[(&str, Option<String>)],
        limit: Option<usize>,
    ) -> anyhow::Result<Vec<Value>> {
        let (mut items, mut cursor) = (Vec::new(), None);
        loop {
            let (page, next) = self.page(path, filters, cursor.as_deref()).await?;
            items.extend(page);
            cursor = next;
            if cursor.is_none() || limit.is_some_and(|limit| items.len() >= limit) {
                items.truncate(limit.unwrap_or(usize::MAX));
                return Ok(items);
            }
        }
    }

    /// What `path` answers to a query of those that have a value.
    pub async fn ask(&self, path: &str, query: &[(&str, Option<String>)]) -> anyhow::Result<Value> {
        let given = query
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let given: Vec<_> = given.collect();
        read(path, self.send(self.request(Method::GET, path, &given)?).await?).await
    }

    /// The bytes that `path` answers to a query of those that have a value.
    pub async fn fetch(&self, path: &str, query: &[(&str, Option<String>)]) -> anyhow::Result<Bytes> {
        let given = query
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let given: Vec<_> = given.collect();
        let reply = self.send(self.request(Method::GET, path, &given)?).await?;
        let bytes = reply.bytes().await;
        Ok(bytes.map_err(|error| unreachable(self.url(), &error))?)
    }

    /// A page of the items at `path`, and the cursor of the next if there is one.
    pub async fn page(
        &self,
        path: &str,
        filters: &[(&str, Option<String>)],
        cursor: Option<&str>,
    ) -> anyhow::Result<(Vec<Value>, Option<String>)> {
        let filters = filters
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let query: Vec<_> = filters.chain(cursor.map(|cursor| ("cursor", cursor))).collect();
        let page = read(path, self.send(self.request(Method::GET, path, &query)?).await?).await?;
        let page: Page = typed(path, page)?;
        let next = match page.next {
            Value::Null => None,
            Value::String(cursor) => Some(cursor),
            number => Some(number.to_string()),
        };
        Ok((page.items, next))
    }

    /// Sends `body` to `path`.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.write(Method::POST, path, body).await
    }

    /// Changes what is at `path`.
    pub async fn patch(&self, path: &str, change: &Value) -> anyhow::Result<Value> {
        self.write(Method::PATCH, path, change).await
    }

    async fn write(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let reply = self.send(self.request(method, path, &[])?.json(body)).await?;
        read(path, reply).await
    }

    /// Removes what is at `path`.
    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.send(self.request(Method::DELETE, path, &[])?).await?;
        Ok(())
    }

    /// Streams `file` to `path` with a progress bar, and says whether it was new to the host.
    pub async fn upload(&self, path: &str, file: &Path) -> anyhow::Result<(Value, bool)> {
        let open = async {
            let opened = tokio::fs::File::open(file).await?;
            let bytes = opened.metadata().await?.len();
            Ok::<_, std::io::Error>((opened, bytes))
        };
        let (opened, bytes) = open
            .await
            .map_err(|cause| usage(format!("{}: {cause}", file.display())))?;
        let bar = output::upload_bar(bytes, file);
        let shown = bar.clone();
        let stream = ReaderStream::with_capacity(opened, 64 << 10).inspect_ok(move |chunk| {
            shown.inc(chunk.len() as u64);
            if shown.position() >= bytes {
                shown.set_message("sent; the host checks it");
            }
        });
        let request = self
            .request(Method::POST, path, &[])?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, bytes)
            .body(reqwest::Body::wrap_stream(stream));
        let reply = self.send(request).await;
        bar.finish_and_clear();
        let reply = reply?;
        let created = reply.status() == StatusCode::CREATED;
        Ok((read(path, reply).await?, created))
    }

    /// Calls a deployment with a V2 request body.
    pub async fn infer(&self, deployment: &str, body: impl Into<Bytes>) -> anyhow::Result<Reply> {
        let path = format!("/v2/models/{deployment}/infer");
        let (headers, body) = self.call(&path, body.into()).await?;
        let receipt = header(&headers, "wattle-receipt").context("the reply carries no wattle-receipt")?;
        Ok(Reply {
            body: parse(&path, &body)?,
            receipt: receipt.to_owned(),
            energy_uj: header(&headers, "wattle-energy-uj").and_then(|text| text.parse().ok()),
            fuel: header(&headers, "wattle-fuel").and_then(|text| text.parse().ok()),
            timing_ms: server_timing(header(&headers, "server-timing").unwrap_or_default()),
        })
    }

    /// Sends JSON to `path` and gives the reply as it is.
    pub async fn call(&self, path: &str, body: Bytes) -> Result<(HeaderMap, Bytes), ClientError> {
        let request = self
            .request(Method::POST, path, &[])?
            .header(CONTENT_TYPE, "application/json");
        let reply = self.send(request.body(body)).await?;
        let headers = reply.headers().clone();
        let body = reply.bytes().await;
        Ok((headers, body.map_err(|error| unreachable(self.url(), &error))?))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<reqwest::RequestBuilder, ClientError> {
        let address = format!("{}{path}", self.url());
        let mut url: Url = address.parse().map_err(|cause| ClientError::Unexpected {
            path: address,
            cause: format!("{cause}"),
        })?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        Ok(match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        })
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let reply = request
            .send()
            .await
            .map_err(|error| unreachable(self.url(), &error))?;
        if reply.status().is_success() {
            Ok(reply)
        } else {
            Err(refusal(reply).await)
        }
    }
}

/// The certificates in `file`.
fn certificates(file: &Path) -> anyhow::Result<Vec<Certificate>> {
    let wrong = |cause: String| usage(format!("--ca-file {}: {cause}", file.display()));
    let content = std::fs::read(file).map_err(|cause| wrong(cause.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&content).map_err(|cause| wrong(cause.to_string()))?;
    match certificates.is_empty() {
        true => Err(wrong("there is no certificate (PEM) in it".to_owned())),
        false => Ok(certificates),
    }
}

/// `value` as a `T`.
pub fn typed<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, ClientError> {
    serde_json::from_value(value).map_err(|cause| ClientError::Unexpected {
        path: path.to_owned(),
        cause: cause.to_string(),
    })
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    #[serde(default)]
    next: Value,
}

/// A problem (RFC 9457), or the V2 protocol's own error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: Option<String>,
    title: Option<String>,
    /// The operators' listener calls it a reason.
    #[serde(alias = "reason")]
    detail: Option<String>,
    error: Option<String>,
}

async fn refusal(reply: reqwest::Response) -> ClientError {
    let status = reply.status();
    let receipt = header(reply.headers(), "wattle-receipt").map(str::to_owned);
    let body = reply.bytes().await.unwrap_or_default();
    let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
    let reason = || status.canonical_reason().unwrap_or("refused").to_owned();
    ClientError::Refused {
        status,
        code: problem.code.unwrap_or_else(|| "unknown".to_owned()),
        detail: problem
            .detail
            .or(problem.error)
            .or(problem.title)
            .unwrap_or_else(reason),
        receipt,
    }
}

async fn read(path: &str, reply: reqwest::Response) -> anyhow::Result<Value> {
    let body = reply.bytes().await.context("the host's answer broke off")?;
    Ok(parse(path, &body)?)
}

fn parse(path: &str, body: &[u8]) -> Result<Value, ClientError> {
    serde_json::from_slice(body).map_err(|cause| ClientError::Unexpected {
        path: path.to_owned(),
        cause: cause.to_string(),
    })
}

/// A header's text, if it is there.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `guest;dur=1.5, model;dur=2` as pairs of name and milliseconds.
fn server_timing(text: &str) -> Vec<(String, f64)> {
    let span = |entry: &str| {
        let (name, parameters) = entry.trim().split_once(';')?;
        let ms = parameters
            .split(';')
            .find_map(|parameter| parameter.trim().strip_prefix("dur="))?;
        Some((name.to_owned(), ms.parse().ok()?))
    };
    text.split(',').filter_map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_is_read_and_nonsense_skipped() {
        let spans = server_timing("guest;dur=1.5, model;desc=\"x\";dur=2, total, other;dur=x");
        assert_eq!(spans, [("guest".to_owned(), 1.5), ("model".to_owned(), 2.0)]);
    }

    #[test]
    fn urls_are_of_http_with_or_without_tls() {
        for (url, base) in [
            ("http://127.0.0.1:8700/", "http://127.0.0.1:8700"),
            ("https://host", "https://host"),
        ] {
            assert_eq!(Client::new(url, None).unwrap().url(), base);
        }
        for bad in ["127.0.0.1:8700", "", "ftp://host"] {
            assert!(Client::new(bad, None).is_err(), "{bad:?}");
        }
    }
}
