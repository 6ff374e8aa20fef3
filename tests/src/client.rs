//! A thin HTTP client for tests: JSON in, status and JSON out.

use anyhow::{Context as _, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::guests;

/// A caller with a key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, null if it is no JSON.
    pub body: Value,
    /// The headers `wattle-receipt` and `wattle-energy-uj`.
    pub receipt: Option<String>,
    /// The provisional energy of the reply.
    pub energy_uj: Option<u64>,
    /// The header `wattle-fuel`.
    pub fuel: Option<u64>,
    /// The header `server-timing`.
    pub timing: Option<String>,
    /// The header `retry-after`, in seconds.
    pub retry_after_s: Option<u64>,
    /// Whether it is the answer to an earlier request under the same idempotency key.
    pub replayed: bool,
    /// The content type.
    pub content_type: String,
}

impl Answer {
    /// The stable code of a problem, else the empty string.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// The body, if the status is as expected.
    pub fn expect(self, status: u16) -> anyhow::Result<Value> {
        ensure!(
            self.status == status,
            "status {} instead of {status}: {}",
            self.status,
            self.body
        );
        Ok(self.body)
    }

    /// The first element of an output.
    pub fn output(&self, name: &str) -> &Value {
        let outputs = self.body["outputs"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        outputs
            .iter()
            .find(|output| output["name"] == name)
            .map_or(&Value::Null, |output| &output["data"][0])
    }
}

/// Checks that an answer is a whole problem with this status and code, and gives its detail.
pub fn problem(answer: &Answer, status: u16, code: &str) -> anyhow::Result<String> {
    let body = &answer.body;
    ensure!(
        (answer.status, answer.code()) == (status, code),
        "{} instead of {status} {code}: {body}",
        answer.status
    );
    ensure!(
        answer.content_type == "application/problem+json",
        "{}",
        answer.content_type
    );
    ensure!(body["status"] == status && body["title"].is_string(), "{body}");
    ensure!(body["type"] == format!("urn:wattle:problem:{code}"), "{body}");
    Ok(body["detail"].as_str().context("a detail")?.to_owned())
}

impl Client {
    /// A caller of `base`, such as `http://127.0.0.1:8700`.
    ///
    /// # Panics
    ///
    /// Never: no certificate is read that could be wrong.
    #[allow(clippy::expect_used, reason = "nothing of this machine goes into the client")]
    pub fn new(base: impl Into<String>, key: Option<String>) -> Self {
        // One process builds many clients; the first installs it for all.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().tls_certs_only([]);
        Self {
            http: http.build().expect("a client without certificates"),
            base: base.into(),
            key,
        }
    }

    /// The same host with another key.
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        Self {
            key: Some(key.into()),
            ..self.clone()
        }
    }

    /// The same host with no key.
    pub fn anonymous(&self) -> Self {
        Self {
            key: None,
            ..self.clone()
        }
    }

    /// The key's secret.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The whole address of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A request to `path`, with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, self.url(path));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await.context("no answer")?;
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let (receipt, energy) = (header("wattle-receipt"), header("wattle-energy-uj"));
        let (fuel, timing) = (header("wattle-fuel"), header("server-timing"));
        let (retry_after, replayed) = (header("retry-after"), header("idempotency-replayed"));
        let content_type = header("content-type").unwrap_or_default();
        let status = response.status().as_u16();
        let bytes = response.bytes().await.context("the answer broke off")?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
        Ok(Answer {
            status,
            body,
            receipt,
            energy_uj: number(energy),
            fuel: number(fuel),
            timing,
            retry_after_s: number(retry_after),
            replayed: replayed.as_deref() == Some("true"),
            content_type,
        })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    /// All items of a list, `limit` a page, and the number of pages.
    pub async fn pages(&self, path: &str, limit: usize) -> anyhow::Result<(Vec<Value>, usize)> {
        let and = if path.contains('?') { '&' } else { '?' };
        let (mut all, mut pages, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let page = self.get(&format!("{path}{and}limit={limit}{cursor}")).await?;
            let page = page.expect(200)?;
            let items = page["items"].as_array().context("items")?;
            ensure!(items.len() <= limit, "{} items on a page of {limit}", items.len());
            all.extend(items.iter().cloned());
            pages += 1;
            match &page["next"] {
                Value::Null => return Ok((all, pages)),
                next => cursor = format!("&cursor={}", next.as_str().context("a cursor is opaque text")?),
            }
        }
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// PATCH of JSON.
    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// POST of bytes.
    pub async fn upload(&self, path: &str, bytes: Vec<u8>) -> anyhow::Result<Answer> {
        self.send(self.request(Method::POST, path).body(bytes)).await
    }

    /// Uploads a component and gives its revision.
    pub async fn push_component(&self, name: &str, bytes: Vec<u8>) -> anyhow::Result<String> {
        let path = format!("/api/v1/components/{name}/revisions");
        self.push(&path, bytes, "revision").await
    }

    /// Uploads a graph and gives its version.
    pub async fn push_graph(&self, name: &str, bytes: Vec<u8>) -> anyhow::Result<String> {
        let path = format!("/api/v1/graphs/{name}/versions");
        self.push(&path, bytes, "version").await
    }

    /// Uploads the component `guest` and the models of `graphs` (alias, file), and deploys them.
    pub async fn deploy(&self, guest: &str, graphs: &[(&str, &str)], more: Value) -> anyhow::Result<Value> {
        self.push_component(guest, guests::guest(guest)?).await?;
        let mut body = json!({ "name": guest, "component": { "name": guest }, "graphs": {} });
        for (alias, file) in graphs {
            let name = file.trim_end_matches(".onnx");
            self.push_graph(name, guests::model(file)?).await?;
            body["graphs"][alias] = json!({ "name": name });
        }
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        self.post("/api/v1/deployments", &body).await?.expect(201)
    }

    async fn push(&self, path: &str, bytes: Vec<u8>, digest: &str) -> anyhow::Result<String> {
        let Answer { status, body, .. } = self.upload(path, bytes).await?;
        ensure!(matches!(status, 200 | 201), "{status}: {body}");
        Ok(body[digest].as_str().unwrap_or_default().to_owned())
    }

    /// Calls a deployment with JSON tensors.
    pub async fn infer(&self, deployment: &str, inputs: Value) -> anyhow::Result<Answer> {
        self.post(
            &format!("/v2/models/{deployment}/infer"),
            &json!({ "inputs": inputs }),
        )
        .await
    }
}
