//! The sandbox: limits that are kept, what wasi-nn lets pass and names, and what becomes of an upload.

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::client::Answer;
use tests::host::Tenant;
use tests::{Client, TestHost, guests};

const MIB: u64 = 1 << 20;

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
