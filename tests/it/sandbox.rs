//! The sandbox: each limit has a code of its own, what crossed it is paid for, and no neighbour notices.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::client::Answer;
use tests::host::Tenant;
use tests::{Client, TestHost, guests};
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;

/// A call that does not answer, and what its receipt says.
struct Case {
    guest: &'static str,
    limits: Value,
    parameters: Value,
    status: u16,
    code: &'static str,
    outcome: &'static str,
    receipt: fn(&Value) -> bool,
}

impl Case {
    /// A limit that is crossed: its outcome is its code.
    fn limit(guest: &'static str, limits: Value, outcome: &'static str) -> Self {
        let receipt: fn(&Value) -> bool = |_| true;
        Self {
            guest,
            limits,
            parameters: json!({}),
            status: 422,
            code: outcome,
            outcome,
            receipt,
        }
    }

    /// A guest that is asked to end badly.
    fn asked(guest: &'static str, parameters: Value, code: &'static str, outcome: &'static str) -> Self {
        Self {
            parameters,
            code,
            ..Self::limit(guest, json!({}), outcome)
        }
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            receipt: |receipt| receipt["fuel"] == 50_000_000,
            ..Case::limit("loop", json!({ "fuel": 50_000_000 }), "fuel_exhausted")
        },
        Case {
            status: 504,
            receipt: |receipt| receipt["cpu_ns"].as_u64() > Some(1_000_000),
            ..Case::limit(
                "loop",
                json!({ "fuel": 1_000_000_000_000_u64, "deadline_ms": 1_000 }),
                "deadline_exceeded",
            )
        },
        Case {
            receipt: |receipt| matches!(receipt["peak_memory_bytes"].as_u64(), Some(peak) if peak > 60 * MIB && peak <= 64 * MIB),
            ..Case::limit("bomb", json!({ "memory_bytes": 64 * MIB }), "memory_exceeded")
        },
        Case {
            receipt: |receipt| receipt["peak_memory_bytes"].as_u64() < Some(16 * MIB),
            limits: json!({ "memory_bytes": 16 * MIB }),
            ..Case::asked("hog", json!({ "bytes": 32 * MIB }), "refused", "guest_failure")
        },
        Case::limit("handles", json!({ "handles": 100 }), "handles_exceeded"),
        Case::limit("tensors", json!({ "tensor_bytes": 8 * MIB }), "tensors_exceeded"),
        Case {
            parameters: json!({ "bytes": MIB }),
            receipt: |receipt| receipt["bytes_out"] == 0,
            ..Case::limit("output", json!({ "output_bytes": MIB }), "output_exceeded")
        },
        Case::limit("logger", json!({ "log_bytes": 10_000 }), "log_exceeded"),
        Case::asked("trap", json!({ "how": "abort" }), "trapped", "trapped"),
        Case::asked("trap", json!({ "how": "panic" }), "trapped", "trapped"),
        Case::asked("trap", json!({ "how": "overflow" }), "trapped", "trapped"),
        Case::asked("fail", json!({}), "no-such-luck", "guest_failure"),
        Case::asked(
            "invalid",
            json!({ "how": "length" }),
            "invalid_output",
            "invalid_output",
        ),
        Case::asked(
            "invalid",
            json!({ "how": "name" }),
            "invalid_output",
            "invalid_output",
        ),
        Case::asked(
            "invalid",
            json!({ "how": "type" }),
            "invalid_output",
            "invalid_output",
        ),
    ]
}

async fn call(client: &Client, deployment: &str, parameters: &Value) -> anyhow::Result<Answer> {
    let body = json!({ "inputs": [], "parameters": parameters });
    client
        .post(&format!("/v2/models/{deployment}/infer"), &body)
        .await
}

/// Deploys a guest under a name of its own.
async fn deploy(tenant: &Tenant, guest: &str, name: &str, limits: &Value) -> anyhow::Result<Value> {
    tenant
        .deploy(guest, &[], json!({ "name": name, "limits": limits }))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_end_has_its_own_code_and_is_paid_for() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let mut receipts = Vec::new();
    for (index, case) in cases().into_iter().enumerate() {
        let name = format!("{}-{index}", case.guest);
        deploy(&tenant, case.guest, &name, &case.limits).await?;
        let answer = call(&tenant.invoke, &name, &case.parameters).await?;
        assert_eq!(
            (answer.status, answer.code()),
            (case.status, case.code),
            "{name}: {}",
            answer.body
        );
        assert!(answer.body["error"].is_string(), "{name}: {}", answer.body);
        assert!(
            answer.energy_uj.is_some() && answer.timing.is_some() && answer.fuel > Some(0),
            "{name}: {answer:?}"
        );
        receipts.push((name, case, answer.receipt.context("a receipt")?));
    }
    for (name, case, id) in receipts {
        let receipt = host.final_receipt(&tenant.read, &id).await?;
        assert_eq!(receipt["outcome"], case.outcome, "{receipt}");
        assert_eq!(receipt["deployment"], json!(name));
        assert!(
            receipt["fuel"].as_u64() > Some(0) && receipt["cpu_ns"].as_u64() > Some(0),
            "{receipt}"
        );
        assert!(receipt["energy_uj"].is_u64(), "{receipt}");
        assert!((case.receipt)(&receipt), "{name}: {receipt}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_kept_does_no_harm() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let kept = [
        (
            "hog",
            json!({ "memory_bytes": 64 * MIB }),
            json!({ "bytes": 32 * MIB }),
            32 * MIB,
        ),
        ("handles", json!({ "handles": 100 }), json!({ "count": 50 }), 50),
        (
            "tensors",
            json!({ "tensor_bytes": 8 * MIB }),
            json!({ "count": 7 }),
            7,
        ),
        ("logger", json!({ "log_bytes": 10_000 }), json!({ "count": 9 }), 9),
        ("wasi", json!({}), json!({}), 0),
    ];
    for (guest, limits, parameters, count) in kept {
        deploy(&tenant, guest, guest, &limits).await?;
        let answer = call(&tenant.invoke, guest, &parameters).await?;
        assert_eq!(answer.output("count"), &json!(count), "{guest}: {}", answer.body);
    }
    // A table is asked for as soon as the guest begins, so the deployment is refused.
    let body = json!({ "name": "table", "component": { "name": "hog" }, "limits": { "table_elements": 1 } });
    let answer = tenant.manage.post("/api/v1/deployments", &body).await?;
    assert_eq!(
        (answer.status, answer.code()),
        (422, "table_exceeded"),
        "{}",
        answer.body
    );
    assert_eq!(answer.body["receipt"], json!(answer.receipt));
    let refused = answer.receipt.context("a refused deployment has a receipt")?;
    let receipt = host.final_receipt(&tenant.read, &refused).await?;
    assert_eq!(
        (&receipt["kind"], &receipt["outcome"]),
        (&json!("deploy"), &json!("table_exceeded"))
    );
    let body = json!({ "name": "again", "component": { "name": "hog" } });
    let answer = tenant.manage.post("/api/v1/deployments", &body).await?;
    let named = answer.receipt.clone();
    let deployed = answer.expect(201)?;
    assert_eq!(json!(named), deployed["invocation"]);
    let receipt = host
        .final_receipt(&tenant.read, &named.context("a receipt")?)
        .await?;
    assert_eq!(
        (&receipt["kind"], &receipt["outcome"]),
        (&json!("deploy"), &json!("ok"))
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wasi_nn_takes_every_type_and_names_every_mistake() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("nn-types", &[("net", "tabular.onnx")], json!({}))
        .await?;
    let wrong = "ErrorCode::InvalidArgument";
    let types =
        ["Fp16", "Fp32", "Fp64", "Bf16", "U8", "I32", "I64"].map(|name| format!("TensorType::{name}"));
    let cases = [
        ("types", json!(types)),
        ("length", json!([wrong])),
        ("name", json!(["ErrorCode::NotFound"])),
        ("load", json!(vec!["ErrorCode::Security"; 9])),
        ("inputs", json!([wrong, wrong, wrong, wrong, wrong, wrong, "ok"])),
    ];
    for (case, seen) in cases {
        let answer = call(&tenant.invoke, "nn-types", &json!({ "case": case }))
            .await?
            .expect(200)?;
        assert_eq!(answer["outputs"][0]["data"], seen, "{case}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_checked_and_the_same_bytes_are_the_same_revision() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let echo = guests::guest("echo")?;
    let precompiled = wasmtime::Engine::default().precompile_module(b"\0asm\x01\0\0\0");
    let refused = [
        ("forbidden_import", "evil:host/shell", guests::guest("badimport")?),
        (
            "invalid_component",
            "WebAssembly",
            b"#!/bin/sh\necho no\n".to_vec(),
        ),
        ("invalid_component", "", echo[..echo.len() / 2].to_vec()),
        (
            "component_precompiled",
            "native code",
            precompiled.map_err(|error| anyhow::anyhow!("{error}"))?,
        ),
        (
            "missing_export",
            "wattle:pipeline/handler",
            b"\0asm\x01\0\0\0".to_vec(),
        ),
        (
            "not_a_component",
            "",
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x07\x01\x01a\x01b\0\0".to_vec(),
        ),
        (
            "missing_export",
            "wattle:pipeline/handler",
            b"\0asm\x0d\0\x01\0".to_vec(),
        ),
        ("invalid_field", "empty", Vec::new()),
    ];
    for (code, said, bytes) in refused {
        let answer = tenant
            .manage
            .upload("/api/v1/components/bad/revisions", bytes)
            .await?;
        assert_eq!((answer.status, answer.code()), (422, code), "{}", answer.body);
        assert_eq!(answer.content_type, "application/problem+json");
        // An empty body is refused at the door; what was looked at is paid for.
        assert_eq!(
            answer.receipt.is_some(),
            !said.contains("empty"),
            "{code}: {}",
            answer.body
        );
        assert_eq!(answer.body["receipt"], json!(answer.receipt));
        assert!(
            answer.body["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(said)),
            "{}",
            answer.body
        );
    }
    assert_eq!(
        tenant.read.get("/api/v1/components").await?.expect(200)?["items"],
        json!([])
    );
    let answer = tenant
        .manage
        .upload("/api/v1/graphs/bad/versions", b"no graph".to_vec())
        .await?;
    assert_eq!(
        (answer.status, answer.code()),
        (422, "invalid_model"),
        "{}",
        answer.body
    );
    let refused = answer.receipt.context("a refused upload has a receipt")?;
    let receipt = host.final_receipt(&tenant.read, &refused).await?;
    assert_eq!(
        (&receipt["kind"], &receipt["outcome"]),
        (&json!("publish"), &json!("guest_failure"))
    );

    let first = tenant
        .manage
        .upload("/api/v1/components/echo/revisions", echo.clone())
        .await?;
    let named = first.receipt.clone();
    let first = first.expect(201)?;
    assert_eq!(json!(named), first["invocation"]);
    let again = tenant
        .manage
        .upload("/api/v1/components/echo/revisions", echo)
        .await?
        .expect(200)?;
    assert_eq!(first["revision"], again["revision"]);
    let revisions = tenant
        .read
        .get("/api/v1/components/echo/revisions")
        .await?
        .expect(200)?;
    assert_eq!(
        revisions["items"].as_array().map(Vec::len),
        Some(1),
        "{revisions}"
    );
    let publish = first["invocation"]
        .as_str()
        .context("uploading is an invocation")?;
    let receipt = host.final_receipt(&tenant.read, publish).await?;
    assert_eq!(
        (&receipt["kind"], &receipt["outcome"]),
        (&json!("publish"), &json!("ok"))
    );
    assert!(
        receipt["cpu_ns"].as_u64() > Some(0),
        "compiling is paid for: {receipt}"
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_module_that_embeds_its_wit_becomes_a_component() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let core = guests::guest("echo.core")?;
    let revision = tenant.manage.push_component("echo", core.clone()).await?;
    assert_eq!(tenant.manage.push_component("echo", core).await?, revision);
    let body = json!({ "name": "echo", "component": { "name": "echo", "revision": revision } });
    tenant
        .manage
        .post("/api/v1/deployments", &body)
        .await?
        .expect(201)?;
    let inputs = json!([{ "name": "x", "shape": [1], "datatype": "FP32", "data": [2.5] }]);
    assert_eq!(
        tenant.invoke.infer("echo", inputs).await?.output("x"),
        &json!(2.5)
    );
    host.finish().await
}

/// The answers of a well-behaved tenant to some rows, with the fuel of each.
async fn answers(tenant: &Tenant, rows: &[Value]) -> anyhow::Result<Vec<(Value, String)>> {
    let mut all = Vec::new();
    for row in rows {
        let inputs = json!([{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": row }]);
        let request = tenant
            .invoke
            .request(reqwest::Method::POST, "/v2/models/tabular/infer");
        let response = request
            .json(&json!({ "inputs": inputs }))
            .send()
            .await?
            .error_for_status()?;
        let fuel = response
            .headers()
            .get("wattle-fuel")
            .context("fuel")?
            .to_str()?
            .to_owned();
        let body: Value = response.json().await?;
        all.push((body["outputs"].clone(), fuel));
    }
    Ok(all)
}

/// Sets off one memory bomb after another, and gives how many.
async fn bombs(client: Client, stop: CancellationToken) -> anyhow::Result<u64> {
    let mut count = 0;
    while !stop.is_cancelled() {
        let answer = call(&client, "bomb", &json!({})).await?;
        ensure!(answer.code() == "memory_exceeded", "{}", answer.body);
        count += 1;
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_neighbours_change_no_answer() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (good, bad) = (host.tenant("good").await?, host.tenant("bad").await?);
    good.deploy("tabular", &[("net", "tabular.onnx")], json!({}))
        .await?;
    let endless = json!({ "fuel": 1_000_000_000_000_u64, "deadline_ms": 600_000 });
    deploy(&bad, "loop", "loop", &endless).await?;
    deploy(&bad, "bomb", "bomb", &json!({ "memory_bytes": 64 * MIB })).await?;
    let known: Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
    let rows = known["rows"].as_array().context("rows")?;
    let rows = &rows[..rows.len().min(5)];

    let alone = answers(&good, rows).await?;
    let stop = CancellationToken::new();
    let loops: Vec<_> = (0..4)
        .map(|_| {
            let client = bad.invoke.clone();
            tokio::spawn(async move { call(&client, "loop", &json!({})).await })
        })
        .collect();
    let bombs: Vec<_> = (0..4)
        .map(|_| tokio::spawn(bombs(bad.invoke.clone(), stop.clone())))
        .collect();
    while host.app.live.running() < 6 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let beside = answers(&good, rows).await?;
    assert!(!rows.is_empty());
    assert_eq!(alone, beside);

    stop.cancel();
    assert!(loops.iter().all(|endless| !endless.is_finished()));
    loops.iter().for_each(tokio::task::JoinHandle::abort);
    for bombs in bombs {
        assert!(bombs.await?? > 0);
    }
    while host.app.live.running() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = call(&good.invoke, "loop", &json!({})).await?;
    assert_eq!(
        answer.status, 404,
        "a neighbour's deployment is not there: {}",
        answer.body
    );
    host.finish().await
}
