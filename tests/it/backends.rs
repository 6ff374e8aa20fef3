//! The backend of a deployment: asked for, checked, kept in the release, named in receipts, or refused.

use std::process::Command;

use serde_json::{Value, json};
use tests::host::Tenant;
use tests::{TestHost, guests};

/// Deploys the tabular network as it is.
async fn deploy(tenant: &Tenant, name: &str, backend: &str) -> anyhow::Result<tests::client::Answer> {
    let body = json!({ "name": name, "graphs": { "net": { "name": "tabular" } }, "backend": backend });
    tenant.manage.post("/api/v1/deployments", &body).await
}

async fn call(tenant: &Tenant, name: &str) -> anyhow::Result<tests::client::Answer> {
    let inputs = json!([{ "name": "input", "shape": [1, 100], "datatype": "FP32", "data": vec![0.5; 100] }]);
    tenant.invoke.infer(name, inputs).await
}

/// The backends that a receipt names.
fn ran(receipt: &Value) -> Vec<&str> {
    let work = receipt["work"].as_array().into_iter().flatten();
    work.filter_map(|work| work["backend"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_runs_on_the_backend_that_it_asks_for() -> anyhow::Result<()> {
    let host = TestHost::start_with_onnxruntime().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .manage
        .push_graph("tabular", guests::model("tabular.onnx")?)
        .await?;
    for (backend, label, check) in [
        ("rten", Some("rten 0.27.0"), "reference"),
        ("onnxruntime", Some("onnxruntime 1.32.0"), "agrees"),
        ("dense", Some("dense 1"), "agrees"),
        ("auto", None, "agrees"),
    ] {
        let deployed = deploy(&tenant, backend, backend).await?;
        let made = deployed.receipt.clone().expect("a receipt");
        let deployed = deployed.expect(201)?;
        let placement = &deployed["graphs"]["net"]["placement"];
        assert_eq!(
            (&deployed["backend"], &placement["check"]),
            (&json!(backend), &json!(check))
        );
        let chosen = placement["backend"].as_str().expect("a backend");
        assert!(label.is_none_or(|label| label == chosen), "{chosen}");
        let found = tenant.read.get(&format!("/api/v1/deployments/{backend}")).await?;
        assert_eq!(&found.expect(200)?["graphs"]["net"]["placement"], placement);

        let answer = call(&tenant, backend).await?;
        let called = answer.receipt.clone().expect("a receipt");
        answer.expect(200)?;
        let receipt = host.final_receipt(&tenant.read, &called).await?;
        assert_eq!(ran(&receipt), [chosen], "{receipt}");
        assert_eq!(receipt["work"][0]["device"], "cpu");
        assert_eq!(receipt["work"][0]["precision"], "exact");
        // The golden check is work of the deploy.
        let receipt = host.final_receipt(&tenant.read, &made).await?;
        let all = ["rten 0.27.0", "onnxruntime 1.32.0", "dense 1"];
        let checked: Vec<_> = match backend {
            "rten" => Vec::new(),
            "auto" => all.to_vec(),
            named => all
                .into_iter()
                .filter(|ran| ran.starts_with("rten") || ran.starts_with(named))
                .collect(),
        };
        assert_eq!(ran(&receipt), checked, "{receipt}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_not_there_is_refused() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .manage
        .push_graph("tabular", guests::model("tabular.onnx")?)
        .await?;
    let refused = deploy(&tenant, "net", "onnxruntime").await?;
    assert_eq!((refused.status, refused.code()), (422, "backend_unavailable"));
    let detail = refused.body["detail"].to_string();
    assert!(detail.contains("wattle doctor"), "{detail}");
    assert!(refused.receipt.is_some(), "what was tried is paid for");
    let unknown = deploy(&tenant, "net", "tract").await?;
    assert_eq!(unknown.status, 422, "{}", unknown.body);
    let auto = deploy(&tenant, "net", "auto").await?.expect(201)?;
    let placement = json!({ "backend": "dense 1", "check": "agrees" });
    assert_eq!(auto["graphs"]["net"]["placement"], placement);
    call(&tenant, "net").await?.expect(200)?;
    host.finish().await
}

/// A run of a small network takes microseconds and no waiting: a guest that asks for one after the other is stopped all
/// the same, and pays for them as model work.
#[tokio::test(flavor = "multi_thread")]
async fn endless_runs_within_a_call_end_at_the_deadline() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let limits = json!({ "fuel": 1_000_000_000_000_u64, "deadline_ms": 500 });
    let more = json!({ "backend": "dense", "limits": limits });
    tenant.deploy("slow", &[("net", "tabular.onnx")], more).await?;
    let mut body = json!({
        "inputs": [{ "name": "input", "shape": [1, 100], "datatype": "FP32", "data": vec![0.5; 100] }],
        "parameters": { "runs": 1 },
    });
    let call = async |body: &Value| tenant.invoke.post("/v2/models/slow/infer", body).await;
    // So many that its calls are expected to be brief.
    for _ in 0..120 {
        call(&body).await?.expect(200)?;
    }
    body["parameters"]["runs"] = json!(u64::MAX);
    let stopped = call(&body).await?;
    assert_eq!((stopped.status, stopped.code()), (504, "deadline_exceeded"));
    let receipt = stopped.receipt.expect("a receipt");
    let receipt = host.final_receipt(&tenant.read, &receipt).await?;
    assert_eq!(ran(&receipt), ["dense 1"], "{receipt}");
    let figure = |name: &str| receipt[name].as_u64().unwrap_or_default();
    let (guest_ns, model_ns) = (figure("cpu_ns"), figure("model_ns"));
    assert!(guest_ns > 0 && model_ns > 0, "{receipt}");
    assert!(guest_ns + model_ns < 600_000_000, "none of it twice: {receipt}");
    assert!(receipt["work"][0]["runs"].as_u64() > Some(1_000), "{receipt}");
    host.finish().await
}

#[test]
fn the_doctor_says_whether_onnx_runtime_is_found() -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let doctor = |library: &std::path::Path| -> anyhow::Result<Value> {
        let said = Command::new(guests::wattle()?)
            .args(["doctor", "--json", "--data"])
            .arg(data.path())
            .args([
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
                "--onnxruntime",
            ])
            .arg(library)
            .output()?;
        let said: Value = serde_json::from_slice(&said.stdout)?;
        let findings = said["findings"].as_array().into_iter().flatten();
        let found = findings.into_iter().find(|finding| finding["subject"] == "ONNX");
        Ok(found.cloned().unwrap_or_default())
    };
    let found = doctor(&guests::onnxruntime_path())?;
    assert_eq!(found["mark"], "good", "{found}");
    assert!(
        found["words"].to_string().contains("ONNX Runtime 1.32.0"),
        "{found}"
    );
    let garbage = data.path().join("libonnxruntime.so");
    std::fs::write(&garbage, "no library")?;
    for library in [garbage.as_path(), "/nowhere/libonnxruntime.so".as_ref()] {
        let found = doctor(library)?;
        assert_eq!(found["mark"], "bad", "{found}");
        assert!(
            found["words"].to_string().contains("pip download onnxruntime"),
            "{found}"
        );
    }
    Ok(())
}
