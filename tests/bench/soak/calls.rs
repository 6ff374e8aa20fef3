//! What the tenants do, and what they should be answered.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use tests::times::percentile_us;
use tests::{Client, guests};
use tokio::time::Instant;

/// Unexpected answers that are kept to be shown.
const SHOWN: usize = 5;

/// One kind of call, and what comes of it.
struct Kind {
    deployment: &'static str,
    /// How many of a hundred calls.
    share: usize,
    body: Value,
    status: u16,
    code: &'static str,
    /// When the caller hangs up.
    patience: Option<Duration>,
}

/// The tenants and their calls.
pub struct Calls {
    tenants: Vec<Client>,
    kinds: Vec<Kind>,
    /// Which kind each of a hundred calls is, well mixed.
    order: Vec<usize>,
}

/// How a call ended.
pub struct Ended {
    time: Duration,
    unexpected: Option<String>,
    hung_up: bool,
}

/// What all calls came to.
#[derive(Default)]
pub struct Tally {
    /// Calls, those that hung up included.
    pub calls: usize,
    /// What was answered otherwise than it should be.
    pub unexpected: Vec<String>,
    hung_up: usize,
    times: Vec<Duration>,
}

impl Kind {
    fn good(deployment: &'static str, share: usize, body: Value) -> Self {
        Self {
            deployment,
            share,
            body,
            status: 200,
            code: "",
            patience: None,
        }
    }

    fn bad(deployment: &'static str, status: u16, code: &'static str) -> Self {
        Self {
            status,
            code,
            ..Self::good(deployment, 3, json!({ "inputs": [] }))
        }
    }
}

impl Calls {
    /// Deploys everything for every tenant.
    pub async fn deploy(tenants: Vec<Client>) -> anyhow::Result<Self> {
        for tenant in &tenants {
            let labels = String::from_utf8(guests::model("magika.labels.json")?)?;
            let settings = json!({ "settings": { "labels": labels } });
            let short = json!({ "limits": { "deadline_ms": 100, "fuel": 1_000_000_000_000_u64 } });
            tenant.deploy("echo", &[], json!({})).await?;
            tenant
                .deploy("tabular", &[("net", "tabular.onnx")], json!({}))
                .await?;
            tenant
                .deploy("filetype", &[("magika", "magika.onnx")], settings)
                .await?;
            tenant.deploy("loop", &[], short).await?;
            tenant
                .deploy("bomb", &[], json!({ "limits": { "memory_bytes": 16 << 20 } }))
                .await?;
            for guest in ["fail", "trap", "invalid", "logger"] {
                tenant.deploy(guest, &[], json!({})).await?;
            }
        }
        let kinds = kinds()?;
        let order = mixed(&kinds);
        Ok(Self {
            tenants,
            kinds,
            order,
        })
    }

    /// Makes call `number`.
    pub async fn call(&self, number: usize) -> Ended {
        let kind = &self.kinds[self.order[number % self.order.len()]];
        let client = &self.tenants[number % self.tenants.len()];
        let path = format!("/v2/models/{}/infer", kind.deployment);
        let started = Instant::now();
        let answer = client.post(&path, &kind.body);
        let answer = match kind.patience {
            None => answer.await,
            Some(patience) => match tokio::time::timeout(patience, answer).await {
                Ok(answer) => answer,
                Err(_hung_up) => {
                    return Ended {
                        time: started.elapsed(),
                        unexpected: None,
                        hung_up: true,
                    };
                }
            },
        };
        let unexpected = match answer {
            Ok(answer) if (answer.status, answer.code()) == (kind.status, kind.code) => None,
            Ok(answer) => Some(format!("{}: {} {}", kind.deployment, answer.status, answer.body)),
            Err(error) => Some(format!("{}: {error:#}", kind.deployment)),
        };
        Ended {
            time: started.elapsed(),
            unexpected,
            hung_up: false,
        }
    }

    /// Publishes revision `number`, deploys it, calls it and deletes the deployment.
    pub async fn churn(&self, number: u32) -> anyhow::Result<()> {
        let client = &self.tenants[number as usize % self.tenants.len()];
        let mut component = guests::guest("echo")?;
        // A custom section, so that the bytes are new.
        component.extend([0, 6, 1, b'n']);
        component.extend(number.to_le_bytes());
        let revision = client.push_component("churn", component).await?;
        let name = format!("churn-{number}");
        let body = json!({ "name": name, "component": { "name": "churn", "revision": revision } });
        client.post("/api/v1/deployments", &body).await?.expect(201)?;
        client.infer(&name, echo()).await?.expect(200)?;
        let deleted = client.delete(&format!("/api/v1/deployments/{name}")).await?;
        anyhow::ensure!(deleted.status < 300, "{}: {}", deleted.status, deleted.body);
        Ok(())
    }
}

/// Each kind as often as its share, evenly spread: next is whichever is furthest behind.
fn mixed(kinds: &[Kind]) -> Vec<usize> {
    let mut given = vec![0_usize; kinds.len()];
    let total: usize = kinds.iter().map(|kind| kind.share).sum();
    let next = |position: usize| {
        let behind = |&kind: &usize| {
            let due = (kinds[kind].share * position).cast_signed();
            due - (given[kind] * total).cast_signed()
        };
        let kind = (0..kinds.len()).max_by_key(behind).unwrap_or_default();
        given[kind] += 1;
        kind
    };
    (1..=total).map(next).collect()
}

fn echo() -> Value {
    json!([{ "name": "x", "shape": [4], "datatype": "FP32", "data": [0.5, 1.5, 2.5, 3.5] }])
}

fn kinds() -> anyhow::Result<Vec<Kind>> {
    let known: Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
    let rows = json!([{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": known["rows"][0] }]);
    let misshapen = json!([{ "name": "rows", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4] }]);
    let text = include_str!("main.rs");
    let file = json!([{ "name": "file", "shape": [1], "datatype": "BYTES", "data": [text] }]);
    let inputs = |inputs: Value| json!({ "inputs": inputs });
    Ok(vec![
        Kind::good("tabular", 36, inputs(rows.clone())),
        Kind::good("echo", 30, inputs(echo())),
        Kind::good("filetype", 4, inputs(file)),
        Kind::bad("fail", 422, "no-such-luck"),
        Kind::bad("trap", 422, "trapped"),
        Kind::bad("invalid", 422, "invalid_output"),
        Kind::bad("logger", 422, "log_exceeded"),
        Kind::bad("bomb", 422, "memory_exceeded"),
        Kind::bad("nobody", 404, "deployment_not_found"),
        Kind {
            share: 1,
            ..Kind::bad("loop", 504, "deadline_exceeded")
        },
        Kind {
            body: inputs(misshapen),
            ..Kind::bad("tabular", 422, "invalid_field")
        },
        Kind {
            share: 6,
            patience: Some(Duration::from_millis(2)),
            ..Kind::good("tabular", 6, inputs(rows))
        },
        Kind {
            share: 2,
            patience: Some(Duration::from_millis(20)),
            ..Kind::bad("loop", 504, "deadline_exceeded")
        },
    ])
}

impl Tally {
    /// Counts a call.
    pub fn add(&mut self, ended: Ended) {
        self.calls += 1;
        self.hung_up += usize::from(ended.hung_up);
        self.times.push(ended.time);
        self.unexpected.extend(ended.unexpected);
    }

    /// Counts what another counted.
    pub fn merge(&mut self, other: Self) {
        self.calls += other.calls;
        self.hung_up += other.hung_up;
        self.times.extend(other.times);
        self.unexpected.extend(other.unexpected);
    }

    /// Fails if anything was unexpected, and shows some of it.
    pub fn check(&self) -> anyhow::Result<()> {
        let shown = &self.unexpected[..self.unexpected.len().min(SHOWN)];
        anyhow::ensure!(shown.is_empty(), "unexpected:\n{}", shown.join("\n"));
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut times = self.times.clone();
        let [p50, p99] = [0.5, 0.99].map(|share| percentile_us(&mut times, share) / 1e3);
        write!(
            f,
            "{} calls, {} of them hung up, p50 {p50:.1} ms, p99 {p99:.1} ms",
            self.calls, self.hung_up
        )
    }
}
