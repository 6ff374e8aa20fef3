//! What a call costs beyond its model: the article's network through `flow::invoke`, sandboxed, metered
//! and journalled, against the bare backend call, interleaved in one process; then over HTTP under `hey`.
//!
//! `cargo xtask bench overhead`

mod hey;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use domain::{DType, Name, TenantId, Tensor, UsageCell};
use inference::Target;
use serde_json::{Value, json};
use tests::host::{Tenant, as_it_is};
use tests::{TestHost, guests};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wattle::app::App;
use wattle::flow::invoke::{Parsed, invoke};

use hey::{CONNECTIONS, hey};

const PAIRS: usize = 3_000;
const WARM_UP: usize = 300;
const HTTP_SECONDS: u64 = 10;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("bench").await?;
    let wide = json!({ "limits": { "concurrency": 64 } });
    tenant
        .deploy("tabular", &[("net", "tabular.onnx")], wide.clone())
        .await?;
    let raw = json!({ "name": "raw", "graphs": { "net": { "name": "tabular" } }, "limits": wide["limits"] });
    tenant
        .manage
        .post("/api/v1/deployments", &raw)
        .await?
        .expect(201)?;
    let rows: Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
    let row = rows["rows"][0].clone();

    let in_process = in_process(&host.app, tenant.id.parse()?, &row).await?;
    println!("median of {PAIRS} interleaved calls, in µs:");
    for (name, us) in [
        ("bare backend", in_process.bare),
        ("invoke, no guest", in_process.raw),
        ("invoke, guest", in_process.guest),
    ] {
        println!("  {name:<18}{us:>9.1}");
    }
    let one = http_median_us(&tenant, &row).await?;
    println!("  {:<18}{one:>9.1}   one connection", "HTTP, guest");
    let file = host.data().join("body.json");
    std::fs::write(&file, hey::call("rows", &[1, 100], &row))?;
    let url = tenant.invoke.url("/v2/models/tabular/infer");
    let load = hey(&url, tenant.invoke.key(), &file, HTTP_SECONDS).await?;
    println!(
        "hey, {CONNECTIONS} connections, {HTTP_SECONDS} s: {} calls, p50 {:.2} ms, p99 {:.2} ms",
        load.calls, load.p50_ms, load.p99_ms
    );
    let rps = load.rps;
    let inproc_extra = in_process.guest - in_process.bare;
    let http_extra = one - in_process.bare;
    host.finish().await?;
    println!("overhead: inproc_extra_us={inproc_extra:.1} http_extra_us={http_extra:.1} rps={rps:.0}");
    Ok(())
}

struct InProcess {
    bare: f64,
    raw: f64,
    guest: f64,
}

async fn in_process(app: &Arc<App>, tenant: TenantId, row: &Value) -> anyhow::Result<InProcess> {
    let blob = bytes::Bytes::from(guests::model("tabular.onnx")?);
    let digest = domain::Digest::of(&blob);
    let handle = app
        .inference
        .load(tenant, digest, blob, Target::Cpu, &UsageCell::default())
        .await?;
    let numbers: Vec<f32> = serde_json::from_value(row.clone())?;
    let data: bytes::Bytes = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect::<Vec<u8>>()
        .into();
    let tensor = |name: &str| Tensor::new(name, DType::Fp32, vec![1, 100], data.clone());
    let request = |name: &str| -> anyhow::Result<Parsed> {
        let request = runtime::Request {
            id: String::new(),
            inputs: vec![tensor(name)?],
            outputs: Vec::new(),
            parameters: Vec::new(),
        };
        Ok(request.into())
    };
    let (guest_name, raw_name): (Name, Name) = ("tabular".parse()?, "raw".parse()?);
    let (mut bare, mut raw, mut guest) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..WARM_UP + PAIRS {
        let started = Instant::now();
        handle
            .compute(vec![tensor("input")?], Arc::default(), CancellationToken::new())
            .await?;
        bare.push(started.elapsed());
        let started = Instant::now();
        invoke(
            app,
            tenant,
            &raw_name,
            None,
            ready(Ok(request("input")?)),
            as_it_is(),
        )
        .await?;
        raw.push(started.elapsed());
        let started = Instant::now();
        invoke(
            app,
            tenant,
            &guest_name,
            None,
            ready(Ok(request("rows")?)),
            as_it_is(),
        )
        .await?;
        guest.push(started.elapsed());
    }
    let median = |mut times: Vec<Duration>| median_us(&mut times[WARM_UP..]);
    Ok(InProcess {
        bare: median(bare),
        raw: median(raw),
        guest: median(guest),
    })
}

fn median_us(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn body(row: &Value) -> Value {
    json!({ "inputs": [{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": row }] })
}

async fn http_median_us(tenant: &Tenant, row: &Value) -> anyhow::Result<f64> {
    let body = body(row);
    let mut times = Vec::new();
    for _ in 0..WARM_UP + PAIRS {
        let started = Instant::now();
        tenant
            .invoke
            .post("/v2/models/tabular/infer", &body)
            .await?
            .expect(200)?;
        times.push(started.elapsed());
    }
    Ok(median_us(&mut times[WARM_UP..]))
}
