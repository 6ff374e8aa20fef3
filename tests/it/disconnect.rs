//! Callers that hang up: what they used is paid for, and nobody waits for them.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::client::Answer;
use tests::host::Tenant;
use tests::{Client, TestHost};
use tokio::task::JoinHandle;

/// A call of the guest that runs its graph `runs` times.
async fn call(client: Client, runs: u64) -> anyhow::Result<Answer> {
    let inputs = json!([{ "name": "input", "shape": [1, 100], "datatype": "FP32", "data": vec![0.5; 100] }]);
    let body = json!({ "inputs": inputs, "parameters": { "runs": runs } });
    client.post("/v2/models/slow/infer", &body).await
}

/// A call that will not end by itself, on a connection of its own.
fn endless(tenant: &Tenant) -> JoinHandle<anyhow::Result<Answer>> {
    tokio::spawn(call(tenant.invoke.clone(), u64::MAX))
}

async fn deploy(tenant: &Tenant, more: Value) -> anyhow::Result<()> {
    let mut limits = json!({ "fuel": 1_000_000_000_000_u64, "deadline_ms": 600_000 });
    if let (Some(limits), Some(more)) = (limits.as_object_mut(), more.as_object()) {
        limits.extend(more.clone());
    }
    let more = json!({ "backend": "rten", "limits": limits });
    tenant.deploy("slow", &[("net", "tabular.onnx")], more).await?;
    Ok(())
}

/// The tenant's calls as the ledger has them.
async fn calls(tenant: &Tenant) -> anyhow::Result<Vec<Value>> {
    let page = tenant.read.get("/api/v1/receipts").await?.expect(200)?;
    let items = page["items"].as_array().context("items")?;
    Ok(items
        .iter()
        .filter(|item| item["kind"] == "infer")
        .cloned()
        .collect())
}

async fn until_running(host: &TestHost, calls: usize) {
    while host.app.live.running() != calls {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_waiting(host: &TestHost, calls: u64) {
    while host.app.admission.waiting() != calls {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_in_the_middle_of_compute_has_its_use_in_the_ledger() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    deploy(&tenant, json!({})).await?;
    let caller = endless(&tenant);
    // The ledger sees what a running call has used so far.
    let before = loop {
        let calls = calls(&tenant).await?;
        if let [call] = &calls[..]
            && call["model_ns"].as_u64() > Some(0)
        {
            break call.clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(before["state"], "provisional", "{before}");
    assert_eq!(before["outcome"], Value::Null, "{before}");
    assert!(!caller.is_finished());

    caller.abort();
    let id = before["id"].as_str().context("an id")?;
    let receipt = host.final_receipt(&tenant.read, id).await?;
    assert_eq!(receipt["outcome"], "cancelled", "{receipt}");
    assert!(
        receipt["model_ns"].as_u64() >= before["model_ns"].as_u64(),
        "{receipt}"
    );
    assert!(receipt["fuel"].as_u64() >= before["fuel"].as_u64(), "{receipt}");
    assert!(receipt["work"][0]["runs"].as_u64() > Some(0), "{receipt}");
    assert!(receipt["energy_uj"].as_u64() > Some(0), "{receipt}");
    assert_eq!(host.app.live.running(), 0);
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_in_the_queue_leaves_nothing() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    deploy(&tenant, json!({ "concurrency": 1, "queue": 1 })).await?;
    let running = endless(&tenant);
    until_running(&host, 1).await;

    let waiting = endless(&tenant);
    until_waiting(&host, 1).await;
    let refused = call(tenant.invoke.clone(), 1).await?;
    assert_eq!(
        (refused.status, refused.code()),
        (429, "queue_full"),
        "{}",
        refused.body
    );
    waiting.abort();
    until_waiting(&host, 0).await;

    // Its place in the queue is free for another, who gets the place of the one that ran.
    let next = tokio::spawn(call(tenant.invoke.clone(), 1));
    until_waiting(&host, 1).await;
    running.abort();
    let answer = next.await??;
    let receipt = answer.receipt.clone().context("a receipt")?;
    answer.expect(200)?;
    host.final_receipt(&tenant.read, &receipt).await?;
    let calls = calls(&tenant).await?;
    let outcomes: Vec<_> = calls
        .iter()
        .map(|call| call["outcome"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(outcomes, ["ok", "cancelled"], "newest first: {calls:?}");
    host.finish().await
}
