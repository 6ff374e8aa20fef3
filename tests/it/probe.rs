//! What guests in Python and in JavaScript have in common: a probe in each language, and how it ends.

use anyhow::{Context as _, ensure};
use domain::{DType, Outcome, Parameter, Tensor};
use serde_json::{Value, json};
use tests::TestHost;
use tests::client::Answer;
use tests::host::{Tenant, as_it_is};
use wattle::flow::invoke::invoke;

/// A way in which a probe ends: how, the status, the code, the recorded outcome.
pub type End = (&'static str, u16, &'static str, &'static str);

/// A tenant with the probe `guest`, which gets little fuel and memory, so that it soon has no more.
pub async fn deployed(host: &TestHost, guest: &str) -> anyhow::Result<Tenant> {
    let tenant = host.tenant("acacia").await?;
    let limits = json!({ "fuel": 3_000_000_000_u64, "memory_bytes": 96 << 20, "deadline_ms": 120_000 });
    let release = tenant
        .deploy(
            guest,
            &[],
            json!({ "limits": limits, "settings": { "probe": "set" } }),
        )
        .await?;
    ensure!(
        release["signature"]["parameters"] == json!([{ "key": "probe", "value": "\"set\"" }]),
        "a setting is there when a release is described: {release}"
    );
    Ok(tenant)
}

/// Asks a probe to do `how`.
pub async fn ask(tenant: &Tenant, guest: &str, how: &str) -> anyhow::Result<Answer> {
    let body = json!({ "inputs": [], "outputs": [{ "name": "said" }], "parameters": { "how": how } });
    tenant
        .invoke
        .post(&format!("/v2/models/{guest}/infer"), &body)
        .await
}

/// What a probe says of `how`.
pub async fn said(tenant: &Tenant, guest: &str, how: &str) -> anyhow::Result<Vec<String>> {
    let body = ask(tenant, guest, how).await?.expect(200)?;
    serde_json::from_value(body["outputs"][0]["data"].clone()).with_context(|| format!("{how}: {body}"))
}

/// Checks that a probe ends as it should, each end with a receipt, and that it answers after each.
pub async fn ends(host: &TestHost, tenant: &Tenant, guest: &str, ends: &[End]) -> anyhow::Result<()> {
    let mut receipts = Vec::new();
    for &(how, status, code, outcome) in ends {
        let answer = ask(tenant, guest, how).await?;
        ensure!(
            (answer.status, answer.code()) == (status, code),
            "{guest} {how}: {} {}",
            answer.status,
            answer.body
        );
        ensure!(
            said(tenant, guest, "note").await? == ["noted"],
            "{guest} after {how}"
        );
        receipts.push((how, outcome, answer.receipt.context("a receipt")?));
    }
    for (how, outcome, receipt) in receipts {
        let receipt = host.final_receipt(&tenant.read, &receipt).await?;
        ensure!(receipt["outcome"] == outcome, "{guest} {how}: {receipt}");
        for used in ["fuel", "cpu_ns", "peak_memory_bytes"] {
            ensure!(receipt[used].as_u64() > Some(0), "{guest} {how}: {receipt}");
        }
    }
    Ok(())
}

/// Sends elements of every type by way of the language's own numbers and back.
pub async fn every_type(host: &TestHost, tenant: &Tenant, guest: &str) -> anyhow::Result<()> {
    let halves = [0x0000_u16, 0x8000, 0x0001, 0x3c00, 0x7bff, 0xfc00].map(u16::to_le_bytes);
    let brains = [0x0000_u16, 0x8000, 0x0001, 0x3f80, 0x7f7f, 0xff80].map(u16::to_le_bytes);
    let words = |words: &[u64]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let cases = [
        (DType::Bool, [2, 3], vec![0, 1, 1, 0, 0, 1]),
        (DType::U8, [1, 2], vec![0, 255]),
        (DType::I8, [1, 2], vec![128, 127]),
        (DType::U16, [2, 1], vec![0, 0, 255, 255]),
        (DType::I16, [2, 1], vec![0, 128, 255, 127]),
        (DType::U32, [1, 1], vec![255; 4]),
        (DType::I32, [1, 1], vec![0, 0, 0, 128]),
        (DType::U64, [1, 2], words(&[0, u64::MAX])),
        (DType::I64, [1, 2], words(&[1 << 63, i64::MAX as u64])),
        (DType::Fp16, [2, 3], halves.concat()),
        (DType::Bf16, [3, 2], brains.concat()),
        (DType::Fp32, [1, 1], f32::MIN_POSITIVE.to_le_bytes().to_vec()),
        (DType::Fp64, [0, 2], Vec::new()),
        (DType::Bytes, [2, 1], b"\x00\0\0\0\x03\0\0\0\xff\0\n".to_vec()),
    ];
    let unit = Parameter {
        key: "unit".into(),
        value: json!(["°C", null]).to_string(),
    };
    let inputs = cases.map(|(dtype, shape, data)| {
        let name = format!("{dtype:?}").to_lowercase();
        Ok(Tensor::new(name, dtype, shape.to_vec(), data)?.with_parameters(vec![unit.clone()]))
    });
    let inputs = inputs.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let how = Parameter {
        key: "how".into(),
        value: "\"mirror\"".into(),
    };
    let request = runtime::Request {
        id: String::new(),
        inputs: inputs.clone(),
        outputs: Vec::new(),
        parameters: vec![how.clone()],
    };
    let (id, name) = (tenant.id.parse()?, guest.parse()?);
    let answer = invoke(
        &host.app,
        id,
        &name,
        None,
        std::future::ready(Ok(request.into())),
        as_it_is(),
    )
    .await?;
    ensure!(answer.recorded.finished.outcome == Outcome::Ok);
    let got = answer.reply;
    ensure!(got.parameters == [how], "{:?}", got.parameters);
    for (want, got) in inputs.iter().zip(&got.outputs) {
        ensure!(want.parameters().len() == got.parameters().len());
        let value = |tensor: &Tensor| serde_json::from_str::<Value>(&tensor.parameters()[0].value);
        ensure!(value(want)? == value(got)?, "{got:?}");
        let bare = |tensor: &Tensor| tensor.clone().with_parameters(Vec::new());
        ensure!(bare(want) == bare(got), "{want:?} became {got:?}");
    }
    ensure!(got.outputs.len() == inputs.len());
    Ok(())
}
