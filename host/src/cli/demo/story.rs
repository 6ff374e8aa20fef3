//! What happens in the demo: keys, tenants, uploads, deployments, calls, and the wait for the last receipt.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::Stage;
use super::calls::{Call, Judged, plan};
use super::files::{Sample, samples};
use super::host::Host;
use super::tabular::Report;
use crate::cli::api::{Balance, LedgerCheck, Receipt};
use crate::cli::client::{Client, Reply, typed};
use crate::cli::output::bytes;

/// How long the last window may take to be sealed and posted: many times its length.
const FINAL_WITHIN: Duration = Duration::from_secs(30);
const COMPONENTS: [&str; 4] = ["echo", "tabular", "filetype", "ocr"];
const GRAPHS: [&str; 5] = ["tabular", "magika", "ocr-detect", "ocr-classify", "ocr-recognise"];

/// What the demo plays with.
pub struct Props {
    guests: PathBuf,
    models: PathBuf,
    labels: String,
    characters: String,
    /// What is known of the tabular network.
    pub report: Report,
    /// Files to be named by their bytes.
    pub samples: Vec<Sample>,
}

impl Props {
    /// Looks for the guests and models, and says what makes them where they are missing.
    pub fn find(guests: &Path, models: &Path) -> anyhow::Result<Self> {
        let wasm = COMPONENTS.map(|name| guests.join(format!("{name}.wasm")));
        let onnx = GRAPHS.map(|name| models.join(format!("{name}.onnx")));
        for (path, chore) in wasm
            .iter()
            .map(|path| (path, "guests"))
            .chain(onnx.iter().map(|path| (path, "models")))
        {
            if !path.is_file() {
                bail!("{} is not there: `cargo xtask {chore}` makes it", path.display());
            }
        }
        let text = |name: &str| {
            let path = models.join(name);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        Ok(Self {
            labels: text("magika.labels.json")?,
            characters: text("ocr.characters.txt")?,
            report: Report::read(&models.join("tabular.json"))?,
            samples: samples(guests, models),
            guests: guests.to_owned(),
            models: models.to_owned(),
        })
    }
}

/// A tenant of the demo, with one client per role.
pub struct Tenant {
    /// Its name.
    pub name: &'static str,
    /// Its id.
    pub id: String,
    manage: Client,
    invoke: Client,
    read: Client,
}

/// A call that was made.
pub struct Called {
    /// Which tenant.
    pub tenant: usize,
    /// What was sent.
    pub call: Call,
    /// What came back, and what is wrong with it.
    pub judged: Judged,
    /// What the reply said of its cost; none where it was refused.
    pub reply: Option<Reply>,
    /// The receipt, final or not, as it was last seen.
    pub receipt: Option<Receipt>,
}

/// How the demo went.
pub struct Played {
    /// A key of the first tenant that may manage.
    pub manage_key: String,
    /// The tenants.
    pub tenants: Vec<Tenant>,
    /// All calls.
    pub calls: Vec<Called>,
    /// All receipts of each tenant: calls, publishing and deploying.
    pub receipts: Vec<Vec<Receipt>>,
    /// The ledger against the meters.
    pub check: LedgerCheck,
    /// All accounts.
    pub balances: Vec<Balance>,
}

/// Plays all of it.
pub async fn play(props: &Props, host: &Host, stage: &Stage) -> anyhow::Result<Played> {
    let step = stage.step("keys", "making keys and tenants");
    let nobody = Client::new(&host.url(), None)?;
    let (_, admin) = key(&nobody.with_key(host.bootstrap_key()?), "demo", "admin", None).await?;
    let mut tenants = Vec::new();
    let mut manage_key = String::new();
    for name in ["acacia", "banksia"] {
        let (tenant, secret) = tenant(&admin, name).await?;
        tenants.push(tenant);
        if manage_key.is_empty() {
            manage_key = secret;
        }
    }
    step.done("bootstrap key → admin key; tenants acacia and banksia with keys to manage, invoke and read")?;
    let mut accepted = HashSet::new();
    for tenant in &tenants {
        publish(props, tenant, stage, &mut accepted).await?;
    }
    for tenant in &tenants {
        deploy(props, tenant, stage).await?;
    }
    let step = stage.step("calls", "both tenants call at the same time");
    let called = try_join_all(
        tenants
            .iter()
            .enumerate()
            .map(|(turn, tenant)| call(props, turn, tenant)),
    )
    .await?;
    let mut calls: Vec<Called> = called.into_iter().flatten().collect();
    step.done(format_args!("{} calls by both tenants at once", calls.len()))?;

    let step = stage.step("receipts", "waiting until the last window is sealed and posted");
    accepted.extend(
        calls
            .iter()
            .filter_map(|called| Some(called.reply.as_ref()?.receipt.clone())),
    );
    let receipts = settle(&tenants, &accepted).await?;
    for called in &mut calls {
        let Some(reply) = &called.reply else { continue };
        called.receipt = receipts[called.tenant]
            .iter()
            .find(|receipt| receipt.id == reply.receipt)
            .cloned();
    }
    let all: usize = receipts.iter().map(Vec::len).sum();
    step.done(format_args!("{all} in all: calls, uploads and deployments"))?;
    let check = "/api/v1/ledger/check";
    let check = typed(check, admin.get(check).await?)?;
    let balances = admin.list("/api/v1/ledger/balances", None).await?;
    let balances = balances
        .into_iter()
        .map(|item| typed("/api/v1/ledger/balances", item));
    Ok(Played {
        manage_key,
        tenants,
        calls,
        receipts,
        check,
        balances: balances.collect::<Result<_, _>>()?,
    })
}

/// Makes a key: its secret and a client that uses it.
async fn key(
    admin: &Client,
    name: &str,
    role: &str,
    tenant: Option<&str>,
) -> anyhow::Result<(String, Client)> {
    let body = json!({ "name": name, "role": role, "tenant": tenant });
    let key = admin.post("/api/v1/keys", &body).await?;
    let secret = key["secret"].as_str().context("the new key has no secret")?;
    Ok((secret.to_owned(), admin.with_key(secret)))
}

async fn tenant(admin: &Client, name: &'static str) -> anyhow::Result<(Tenant, String)> {
    let made = admin.post("/api/v1/tenants", &json!({ "name": name })).await?;
    let id = made["id"]
        .as_str()
        .context("the new tenant has no id")?
        .to_owned();
    let (secret, manage) = key(admin, "manage", "tenant:manage", Some(&id)).await?;
    let (_, invoke) = key(admin, "invoke", "tenant:invoke", Some(&id)).await?;
    let (_, read) = key(admin, "read", "tenant:read", Some(&id)).await?;
    Ok((
        Tenant {
            name,
            id,
            manage,
            invoke,
            read,
        },
        secret,
    ))
}

async fn publish(
    props: &Props,
    tenant: &Tenant,
    stage: &Stage,
    accepted: &mut HashSet<String>,
) -> anyhow::Result<()> {
    let step = stage.step("publish", "uploading, checking and compiling");
    let mut said = Vec::new();
    let components = COMPONENTS.map(|name| {
        let file = props.guests.join(format!("{name}.wasm"));
        (
            format!("{name}.wasm"),
            format!("/api/v1/components/{name}/revisions"),
            file,
        )
    });
    let graphs = GRAPHS.map(|name| {
        let file = props.models.join(format!("{name}.onnx"));
        (
            format!("{name}.onnx"),
            format!("/api/v1/graphs/{name}/versions"),
            file,
        )
    });
    for (name, path, file) in components.into_iter().chain(graphs) {
        let publishing = || format!("publishing {name}");
        let (published, _) = tenant
            .manage
            .upload(&path, &file)
            .await
            .with_context(publishing)?;
        let receipt = published["invocation"].as_str().with_context(publishing)?;
        accepted.insert(receipt.to_owned());
        said.push(format!("{name} {}", bytes(std::fs::metadata(&file)?.len())));
    }
    step.done(format_args!("{}: {}", tenant.name, said.join(", ")))
}

async fn deploy(props: &Props, tenant: &Tenant, stage: &Stage) -> anyhow::Result<()> {
    let step = stage.step("deploy", "loading graphs and asking components what they take");
    let deployments = [
        json!({ "name": "echo", "component": { "name": "echo" } }),
        json!({ "name": "tabular", "component": { "name": "tabular" }, "graphs": { "net": { "name": "tabular" } } }),
        json!({ "name": "tabular-raw", "graphs": { "net": { "name": "tabular" } } }),
        json!({ "name": "filetype", "component": { "name": "filetype" }, "graphs": { "magika": { "name": "magika" } },
                "settings": { "labels": props.labels } }),
        json!({ "name": "ocr", "component": { "name": "ocr" },
                "graphs": { "detect": { "name": "ocr-detect" }, "classify": { "name": "ocr-classify" },
                            "recognise": { "name": "ocr-recognise" } },
                "settings": { "characters": props.characters } }),
    ];
    let mut said = Vec::new();
    for deployment in &deployments {
        let name = deployment["name"].as_str().unwrap_or_default();
        tenant
            .manage
            .post("/api/v1/deployments", deployment)
            .await
            .with_context(|| format!("deploying {name}"))?;
        said.push(name);
    }
    step.done(format_args!("{}: {}", tenant.name, said.join(", ")))
}

/// Makes a tenant's calls, one after the other.
async fn call(props: &Props, turn: usize, tenant: &Tenant) -> anyhow::Result<Vec<Called>> {
    let mut called = Vec::new();
    for call in plan(props, turn) {
        let (judged, reply) = match tenant.invoke.infer(call.deployment, call.body.to_string()).await {
            Ok(reply) => (call.expected.judge(&reply.body), Some(reply)),
            Err(error) => (
                Judged {
                    answer: "refused".into(),
                    fault: Some(format!("{error:#}")),
                },
                None,
            ),
        };
        called.push(Called {
            tenant: turn,
            call,
            judged,
            reply,
            receipt: None,
        });
    }
    Ok(called)
}

/// Waits until every accepted invocation has a final receipt, and gives all receipts of each tenant.
/// Those that are not final in time are given as they are, or are missing.
async fn settle(tenants: &[Tenant], accepted: &HashSet<String>) -> anyhow::Result<Vec<Vec<Receipt>>> {
    let deadline = tokio::time::Instant::now() + FINAL_WITHIN;
    loop {
        let all = try_join_all(tenants.iter().map(receipts)).await?;
        let settled = all.iter().flatten().all(Receipt::is_final);
        let seen = all
            .iter()
            .flatten()
            .filter(|receipt| accepted.contains(&receipt.id))
            .count();
        if (settled && seen == accepted.len()) || tokio::time::Instant::now() >= deadline {
            return Ok(all);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn receipts(tenant: &Tenant) -> anyhow::Result<Vec<Receipt>> {
    let items: Vec<Value> = tenant.read.list("/api/v1/receipts", None).await?;
    items
        .into_iter()
        .map(|item| Ok(typed("/api/v1/receipts", item)?))
        .collect()
}
