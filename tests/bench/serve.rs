//! Speed as a caller sees it: the article's network behind a pipeline of the real host, metered and
//! journalled, beside a bare axum handler that only parses the same JSON; then cold starts.
//!
//! `cargo xtask bench serve`
//!
//! The rates share the machine with `hey` and whatever else runs, so they are told as the ratio of interleaved
//! rounds, and beside them the CPU time per call, which noise moves less.

mod hey;
mod processes;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::process::HostProcess;
use tests::{Client, guests};
use tokio::time::Instant;

use hey::{CONNECTIONS, Load, hey};
use processes::Spent;

const ROUNDS: usize = 5;
const ROUND_S: u64 = 4;
const WARM_UP_S: u64 = 2;
/// First calls measured: of deployments without a graph, and of those with one, which they load.
const COLD: usize = 100;
const COLD_GRAPHS: usize = 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let rows: Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
    let body = json!({ "inputs": [
        { "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": rows["rows"][0] },
    ] });
    cold(&body).await?;
    rates(&body).await
}

/// The bare handler in a process of its own.
struct Bare {
    child: Child,
    url: String,
}

impl Bare {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(guests::binary("bare-handler")?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        let said = child.stdout.take().context("it has a standard output")?;
        BufReader::new(said).read_line(&mut address)?;
        let url = format!("http://{}/", address.trim());
        Ok(Self { child, url })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host as it serves in production, with an admin.
async fn host() -> anyhow::Result<(HostProcess, Client)> {
    let mut host = HostProcess::new()?;
    host.keep_default_windows();
    ensure!(host.start("standard", None).await?, "the host is not ready");
    let bootstrap = host.client(Some(&host.bootstrap_key()?))?;
    let key = json!({ "name": "bench", "role": "admin" });
    let key = bootstrap.post("/api/v1/keys", &key).await?.expect(201)?;
    let admin = bootstrap.with_key(text(&key, "secret")?);
    Ok((host, admin))
}

/// A fresh tenant's manager.
async fn tenant(admin: &Client, name: &str) -> anyhow::Result<Client> {
    let tenant = admin.post("/api/v1/tenants", &json!({ "name": name })).await?;
    let tenant = tenant.expect(201)?;
    let key = json!({ "name": "bench", "role": "tenant:manage", "tenant": tenant["id"] });
    let key = admin.post("/api/v1/keys", &key).await?.expect(201)?;
    Ok(admin.with_key(text(&key, "secret")?))
}

fn text<'a>(body: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    body[key]
        .as_str()
        .with_context(|| format!("no '{key}' in {body}"))
}

/// Deploys a guest under its own name; one with a graph finds it as `net`.
async fn deploy(manager: &Client, guest: &str, graph: Option<&str>) -> anyhow::Result<()> {
    manager.push_component(guest, guests::guest(guest)?).await?;
    let mut release = json!({
        "name": guest,
        "component": { "name": guest },
        "limits": { "concurrency": 64 },
    });
    if let Some(graph) = graph {
        let file = guests::model(&format!("{graph}.onnx"))?;
        manager.push_graph(graph, file).await?;
        release["graphs"] = json!({ "net": { "name": graph } });
    }
    let answer = manager.post("/api/v1/deployments", &release).await?;
    answer.expect(201).map(drop)
}

async fn rates(body: &Value) -> anyhow::Result<()> {
    let (mut host, admin) = host().await?;
    let manager = tenant(&admin, "bench").await?;
    deploy(&manager, "tabular", Some("tabular")).await?;
    let bare = Bare::start()?;
    let file = host.data().join("body.json");
    std::fs::write(&file, hey::call("rows", &[1, 100], &body["inputs"][0]["data"]))?;
    let url = manager.url("/v2/models/tabular/infer");
    hey(&url, manager.key(), &file, WARM_UP_S).await?;
    hey(&bare.url, None, &file, WARM_UP_S).await?;

    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    println!("{ROUNDS} interleaved rounds of {ROUND_S} s each, {CONNECTIONS} connections:");
    for _ in 0..ROUNDS {
        let load = async || hey(&url, manager.key(), &file, ROUND_S).await;
        ours.add(load, || Spent::of_host(host.pid()?, host.postmaster_pid()))
            .await?;
        let load = async || hey(&bare.url, None, &file, ROUND_S).await;
        theirs.add(load, || Spent::of_host(bare.child.id(), None)).await?;
    }
    ours.print("wattle");
    theirs.print("bare");
    host.terminate().await?;
    let (ours_rps, theirs_rps) = (ours.median(|load| load.rps), theirs.median(|load| load.rps));
    println!(
        "serve: wattle_rps={ours_rps:.0} bare_rps={theirs_rps:.0} ratio={:.3} cpu_us_per_call={:.0}",
        ours_rps / theirs_rps,
        ours.us_per_call(|spent| spent.server_us + spent.graphs_us),
    );
    Ok(())
}

/// The rounds of one server, and the CPU time that went into them.
#[derive(Default)]
struct Rounds {
    loads: Vec<Load>,
    spent: Spent,
}

impl Rounds {
    async fn add(
        &mut self,
        load: impl AsyncFnOnce() -> anyhow::Result<Load>,
        spent: impl Fn() -> anyhow::Result<Spent>,
    ) -> anyhow::Result<()> {
        let before = spent()?;
        self.loads.push(load().await?);
        self.spent.add(&spent()?.since(&before));
        Ok(())
    }

    fn median(&self, figure: impl Fn(&Load) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.loads.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    }

    fn us_per_call(&self, figure: impl Fn(&Spent) -> f64) -> f64 {
        let calls: u64 = self.loads.iter().map(|load| load.calls).sum();
        figure(&self.spent) / calls as f64
    }

    fn print(&self, name: &str) {
        println!(
            "  {name:<7}{:>7.0} rps, p50 {:.2} ms, p99 {:.2} ms; CPU µs per call: server {:.0}, graphs {:.0}, \
             Postgres {:.0}, hey {:.0}",
            self.median(|load| load.rps),
            self.median(|load| load.p50_ms),
            self.median(|load| load.p99_ms),
            self.us_per_call(|spent| spent.server_us),
            self.us_per_call(|spent| spent.graphs_us),
            self.us_per_call(|spent| spent.postgres_us),
            self.us_per_call(|spent| spent.load_us),
        );
    }
}

/// First calls after a restart, when everything that was compiled is on disk and nothing in memory. Every
/// deployment has a tenant of its own, since a tenant's deployments of one component share its code.
async fn cold(body: &Value) -> anyhow::Result<()> {
    let (mut host, admin) = host().await?;
    let mut keys = Vec::new();
    print!("preparing {COLD} tenants");
    for index in 0..COLD {
        let manager = tenant(&admin, &format!("cold-{index}")).await?;
        deploy(&manager, "echo", None).await?;
        if index < COLD_GRAPHS {
            deploy(&manager, "tabular", Some("tabular")).await?;
        }
        keys.extend(manager.key().map(ToOwned::to_owned));
        print!(".");
        std::io::stdout().flush()?;
    }
    println!();
    host.terminate().await?;
    ensure!(host.start("standard", None).await?, "the host is not ready");
    let caller = host.client(None)?;
    // The connection is there before the first call.
    caller.get("/v2").await?.expect(200)?;
    let numbers = json!({ "inputs": [
        { "name": "x", "shape": [100], "datatype": "FP32", "data": body["inputs"][0]["data"] },
    ] });
    let mut plain = Vec::new();
    for key in &keys {
        plain.push(first(&caller.with_key(key), "echo", &numbers).await?);
    }
    let mut with_graph = Vec::new();
    for key in &keys[..COLD_GRAPHS] {
        with_graph.push(first(&caller.with_key(key), "tabular", body).await?);
    }
    host.terminate().await?;
    println!("first calls over HTTP after a restart, code on disk; a graph is loaded with it:");
    println!("cold_graph: {}", percentiles(with_graph));
    println!("cold: {}", percentiles(plain));
    Ok(())
}

async fn first(caller: &Client, deployment: &str, body: &Value) -> anyhow::Result<Duration> {
    let path = format!("/v2/models/{deployment}/infer");
    let started = Instant::now();
    caller.post(&path, body).await?.expect(200)?;
    Ok(started.elapsed())
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1].as_secs_f64() * 1e3;
    format!("p50_ms={:.2} p99_ms={:.2} n={}", at(50), at(99), times.len())
}
