//! The example pipelines answer, and what they cost is in the ledger.

use anyhow::ensure;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use tests::{TestHost, guests};

#[tokio::test(flavor = "multi_thread")]
async fn echo_goes_the_whole_way() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let deployed = tenant.deploy("echo", &[], json!({})).await?;
    assert_eq!(deployed["release"], 1);
    let inputs = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    let answer = tenant.invoke.infer("echo", inputs).await?;
    let receipt = answer.receipt.clone().expect("a receipt");
    assert!(answer.energy_uj.is_some(), "a provisional figure");
    let body = answer.expect(200)?;
    assert_eq!(body["outputs"][0]["data"], json!([1.5, -2.0]));

    let receipt = host.final_receipt(&tenant.read, &receipt).await?;
    assert_eq!(receipt["outcome"], "ok");
    assert_eq!(receipt["deployment"], "echo");
    assert!(
        receipt["fuel"].as_u64() > Some(0) && receipt["cpu_ns"].as_u64() > Some(0),
        "{receipt}"
    );
    assert!(receipt["energy_uj"].as_u64() > Some(0), "{receipt}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tabular_answers_as_its_training_does() -> anyhow::Result<()> {
    known_rows(TestHost::start().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_answered_on_onnx_runtime() -> anyhow::Result<()> {
    known_rows(TestHost::start_with_onnxruntime().await?).await
}

async fn known_rows(host: TestHost) -> anyhow::Result<()> {
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("tabular", &[("net", "tabular.onnx")], json!({}))
        .await?;
    let graphs = json!({ "net": { "name": "tabular" } });
    let raw = json!({ "name": "raw", "graphs": graphs, "backend": tenant.backend });
    tenant
        .manage
        .post("/api/v1/deployments", &raw)
        .await?
        .expect(201)?;
    let known: Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
    let rows = known["rows"].as_array().expect("rows");
    let expected = known["expected"].as_array().expect("expected");
    ensure!(!rows.is_empty() && rows.len() == expected.len());
    for (row, want) in rows.iter().zip(expected) {
        let inputs =
            |name: &str| json!([{ "name": name, "shape": [1, 100], "datatype": "FP32", "data": row }]);
        let guest = tenant
            .invoke
            .infer("tabular", inputs("rows"))
            .await?
            .expect(200)?;
        let bare = tenant.invoke.infer("raw", inputs("input")).await?.expect(200)?;
        assert_eq!(
            guest["outputs"][0]["data"], bare["outputs"][0]["data"],
            "with and without a guest"
        );
        let got = guest["outputs"][0]["data"][0].as_f64().expect("a number");
        let want = want.as_f64().expect("a number");
        assert!((got - want).abs() < 1e-5, "{got} instead of {want}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn filetype_names_known_files() -> anyhow::Result<()> {
    known_files(TestHost::start().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_named_on_onnx_runtime() -> anyhow::Result<()> {
    known_files(TestHost::start_with_onnxruntime().await?).await
}

async fn known_files(host: TestHost) -> anyhow::Result<()> {
    let tenant = host.tenant("acacia").await?;
    let labels = String::from_utf8(guests::model("magika.labels.json")?)?;
    let settings = json!({ "settings": { "labels": labels } });
    tenant
        .deploy("filetype", &[("magika", "magika.onnx")], settings)
        .await?;
    let rust = include_bytes!("pipelines.rs").to_vec();
    let elf = std::fs::read(std::env::current_exe()?)?[..200_000].to_vec();
    let ini = b"[server]\nhost = localhost\nport = 8080\n\n[client]\nname = acacia\nretries = 3\n".to_vec();
    let python = b"import os\nimport sys\n\n\ndef main(argv):\n    for name in argv[1:]:\n        print(os.path.basename(name))\n\n\nif __name__ == '__main__':\n    main(sys.argv)\n".to_vec();
    for (label, bytes) in [("rust", rust), ("elf", elf), ("ini", ini), ("python", python)] {
        let inputs = json!([{
            "name": "file", "shape": [1], "datatype": "BYTES",
            "parameters": { "content_type": "base64" }, "data": [BASE64_STANDARD.encode(bytes)],
        }]);
        let answer = tenant.invoke.infer("filetype", inputs).await?;
        assert_eq!(answer.output("label"), label, "{}", answer.body);
        assert!(answer.output("score").as_f64() > Some(0.5), "{}", answer.body);
    }
    host.finish().await
}
