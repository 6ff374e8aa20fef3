//! The end of a host: no call slips past the drain, and what began is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::ensure;
use reqwest::Method;
use serde_json::{Value, json};
use tests::process::HostProcess;
use tests::{TestHost, guests};

fn number() -> Value {
    json!([{ "name": "x", "shape": [1], "datatype": "FP32", "data": [1.0] }])
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_any_kind_begins_once_the_host_drains() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    host.app.begin_drain();
    let component = "/api/v1/components/echo/revisions";
    let graph = "/api/v1/graphs/tabular/versions";
    let release = json!({ "component": { "name": "echo" } });
    for answer in [
        tenant.invoke.infer("echo", number()).await?,
        tenant.manage.upload(component, guests::guest("echo")?).await?,
        tenant
            .manage
            .upload(graph, guests::model("tabular.onnx")?)
            .await?,
        tenant
            .manage
            .post("/api/v1/deployments/echo/releases", &release)
            .await?,
    ] {
        assert_eq!(
            (answer.status, answer.code()),
            (503, "draining"),
            "{}",
            answer.body
        );
        assert_eq!(answer.receipt, None);
    }
    let ready = host.ops.get("/readyz").await?;
    assert_eq!((ready.status, &ready.body["draining"]), (503, &json!(true)));
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_hammer_a_draining_host_leave_nothing_open() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let answered = Arc::new(AtomicU64::new(0));
    let hammer = |_| {
        let (client, answered) = (tenant.invoke.clone(), answered.clone());
        tokio::spawn(async move {
            loop {
                let answer = client.infer("echo", number()).await?;
                if answer.code() == "draining" {
                    return anyhow::Ok(());
                }
                answer.expect(200)?;
                answered.fetch_add(1, Relaxed);
            }
        })
    };
    let hammers: Vec<_> = (0..16).map(hammer).collect();
    while answered.load(Relaxed) < 100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    host.app.begin_drain();
    while host.app.live.running() > 0 {
        tokio::task::yield_now().await;
    }
    for hammer in hammers {
        hammer.await??;
        assert_eq!(host.app.live.running(), 0);
    }
    // The audit opens the journal and finds no usage that no window took.
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_at_sigterm_is_answered() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    host.start("standard", None).await?;
    let client = host.manager().await?;
    client.push_component("slow", guests::guest("slow")?).await?;
    client
        .push_graph("tabular", guests::model("tabular.onnx")?)
        .await?;
    let deployment = json!({
        "name": "slow",
        "component": { "name": "slow" },
        "graphs": { "net": { "name": "tabular" } },
        "backend": "rten",
        "limits": { "fuel": 1_000_000_000_000_u64 },
    });
    client
        .post("/api/v1/deployments", &deployment)
        .await?
        .expect(201)?;
    let inputs = json!([{ "name": "input", "shape": [1, 100], "datatype": "FP32", "data": vec![0.5; 100] }]);
    let body = json!({ "inputs": inputs, "parameters": { "runs": 20_000 } });
    let call = client.request(Method::POST, "/v2/models/slow/infer").json(&body);
    let call = tokio::spawn(call.send());
    let ops = host.ops()?;
    while !running(&ops).await? {
        ensure!(!call.is_finished(), "the call ended before it was seen to run");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    host.terminate().await?;
    let answer = call.await??;
    assert_eq!(answer.status(), 200);
    // The host was draining already when it answered.
    assert_eq!(answer.headers()["connection"], "close");
    assert!(answer.headers().contains_key("wattle-receipt"));
    let answer: Value = answer.json().await?;
    assert!(answer["outputs"].is_array(), "{answer}");
    assert_eq!(host.left()?.finished, 0);
    Ok(())
}

async fn running(ops: &tests::Client) -> anyhow::Result<bool> {
    let page = ops.request(Method::GET, "/metrics").send().await?.text().await?;
    Ok(page.lines().any(|line| line == "wattle_invocations_running 1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_while_nobody_reads_the_log() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    host.leave_log_unread();
    host.start("standard", None).await?;
    let client = host.manager().await?;
    client.push_component("logger", guests::guest("logger")?).await?;
    let deployment = json!({ "name": "logger", "component": { "name": "logger" } });
    client
        .post("/api/v1/deployments", &deployment)
        .await?
        .expect(201)?;
    let call = json!({ "inputs": [], "parameters": { "count": 60 } });
    // Ten pipes full of notes.
    for _ in 0..11 {
        client.post("/v2/models/logger/infer", &call).await?.expect(200)?;
    }
    host.terminate().await
}
