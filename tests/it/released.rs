//! What was released stays: the contract's text, and a component that was built against it.

use std::fs;

use anyhow::Context as _;
use domain::Digest;
use serde_json::json;
use tests::{TestHost, guests};

/// The contract and what it takes from wasi-nn, as 0.1.0 was released: the digest of [`text`].
const RELEASED: &str = "sha256:ec483022f1402f75f4975c7fca7ac36ab9c337c785bdb64f8fcf708bf9f5cff6";

/// The words of the contract without comments and layout. Not its resolved form: that would change with the
/// tool that prints it.
fn text() -> anyhow::Result<String> {
    let folder = guests::workspace().join("sdk/wit");
    let mut words = Vec::new();
    for file in ["pipeline.wit", "deps/wasi-nn/wasi-nn.wit"] {
        let text = fs::read_to_string(folder.join(file)).context(file)?;
        for line in text.lines() {
            let code = line.split("//").next().unwrap_or_default();
            words.extend(code.split_whitespace().map(str::to_owned));
        }
    }
    Ok(words.join(" "))
}

#[test]
fn a_released_contract_never_changes() -> anyhow::Result<()> {
    let digest = Digest::of(text()?.as_bytes()).to_string();
    assert_eq!(
        digest, RELEASED,
        "wattle:pipeline@0.1.0 is released and tenants' components are compiled against it: \
         put it back, and add new interfaces and worlds beside it"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_each_released_version_still_answers() -> anyhow::Result<()> {
    let released = guests::workspace().join("tests/fixtures/released");
    let known: serde_json::Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
    let (row, want) = (&known["rows"][0], known["expected"][0].as_f64());
    let want = want.context("an expected answer")?;
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .manage
        .push_graph("tabular", guests::model("tabular.onnx")?)
        .await?;
    for (index, version) in ["0.1.0"].iter().enumerate() {
        let component = fs::read(released.join(version).join("contract.wasm"))?;
        let name = format!("released-{index}");
        tenant.manage.push_component(&name, component).await?;
        let body = json!({
            "name": name, "component": { "name": name }, "graphs": { "net": { "name": "tabular" } },
            "settings": { "unit": "J" },
        });
        tenant
            .manage
            .post("/api/v1/deployments", &body)
            .await?
            .expect(201)?;
        let path = format!("/v2/models/{name}");
        let model = tenant.read.get(&path).await?.expect(200)?;
        assert_eq!(
            model["inputs"][0]["parameters"],
            json!({ "unit": "J" }),
            "{version}"
        );
        assert_eq!(model["inputs"][1]["optional"], true, "{version}");

        let path = format!("{path}/infer");
        let rows = json!({ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": row,
            "parameters": { "p": 1 } });
        let body = json!({ "inputs": [rows], "outputs": [{ "name": "answer" }, { "name": "seen" }] });
        let answer = tenant.invoke.post(&path, &body).await?;
        let got = answer.output("answer").as_f64().context("a number")?;
        assert!((got - want).abs() < 1e-5, "{version}: {got} instead of {want}");
        assert_eq!(answer.output("seen"), "rows.p=1", "{version}");
        let failing = json!({ "inputs": [rows], "parameters": { "fail": "why not" } });
        let answer = tenant.invoke.post(&path, &failing).await?;
        assert_eq!(
            (answer.status, answer.code(), &answer.body["parameters"]),
            (422, "as-asked", &json!({ "why": "why not" })),
            "{version}"
        );
    }
    host.finish().await
}
