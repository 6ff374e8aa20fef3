//! A tenant whose graphs ask for all memory, beside one who notices nothing.

use serde_json::{Value, json};
use tests::host::Tenant;
use tests::{TestHost, guests};

/// A protobuf field of bytes, shorter than 128.
fn field(number: u8, inner: impl AsRef<[u8]>) -> Vec<u8> {
    let inner = inner.as_ref();
    assert!(inner.len() < 128);
    [&[number << 3 | 2, inner.len() as u8], inner].concat()
}

fn varint(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

/// A graph's input or output with one axis: `size` elements, or any number.
fn edge(name: &str, element: u8, size: Option<u8>) -> Vec<u8> {
    let dim = match size {
        Some(size) => varint(1, size),
        None => field(2, "d"),
    };
    let tensor = [varint(1, element), field(2, field(1, dim))].concat();
    [field(1, name), field(2, field(1, tensor))].concat()
}

/// `y = ConstantOfShape(n)`, where `n` is an input, or the constant 2^40.
fn filled(folded: bool) -> Vec<u8> {
    let node = [field(1, "n"), field(2, "y"), field(4, "ConstantOfShape")].concat();
    let size = (1_i64 << 40).to_le_bytes();
    let weight = [varint(1, 1), varint(2, 7), field(8, "n"), field(9, size)].concat();
    let given = match folded {
        true => field(5, weight),
        false => field(11, edge("n", 7, Some(1))),
    };
    let graph = [field(1, node), given, field(12, edge("y", 1, None))].concat();
    let operators = [field(1, ""), varint(2, 17)].concat();
    [varint(1, 8), field(7, graph), field(8, operators)].concat()
}

async fn answer(tenant: &Tenant, rows: &Value) -> anyhow::Result<Value> {
    let inputs = json!([{ "name": "input", "shape": [1, 100], "datatype": "FP32", "data": rows["rows"][0] }]);
    let answer = tenant.invoke.infer("raw", inputs).await?.expect(200)?;
    Ok(answer["outputs"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_asks_for_all_memory_harms_its_owner_alone() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let good = host.tenant("good").await?;
    good.manage
        .push_graph("tabular", guests::model("tabular.onnx")?)
        .await?;
    let raw = json!({ "name": "raw", "graphs": { "net": { "name": "tabular" } } });
    good.manage.post("/api/v1/deployments", &raw).await?.expect(201)?;
    let rows: Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
    let want = answer(&good, &rows).await?;

    let bad = host.tenant("bad").await?;
    let folded = bad
        .manage
        .upload("/api/v1/graphs/folded/versions", filled(true))
        .await?;
    assert_eq!((folded.status, folded.code()), (422, "model_memory_exceeded"));
    assert_eq!(answer(&good, &rows).await?, want);

    bad.manage.push_graph("bomb", filled(false)).await?;
    let bomb = json!({ "name": "bomb", "graphs": { "net": { "name": "bomb" } } });
    bad.manage.post("/api/v1/deployments", &bomb).await?.expect(201)?;
    let call = |elements: i64| {
        let inputs = json!([{ "name": "n", "shape": [1], "datatype": "INT64", "data": [elements] }]);
        bad.invoke.infer("bomb", inputs)
    };
    for _ in 0..3 {
        let ended = call(1 << 30).await?;
        assert_eq!(
            (ended.status, ended.code()),
            (422, "model_memory_exceeded"),
            "{}",
            ended.body
        );
        let id = ended.receipt.expect("a call that was accepted has a receipt");
        let receipt = host.final_receipt(&bad.read, &id).await?;
        assert_eq!(receipt["outcome"], "model_failed");
        assert_eq!(receipt["work"][0]["runs"], 1, "{receipt}");
        assert_eq!(answer(&good, &rows).await?, want);
    }
    // The attacker's own graph is there again, too.
    call(3).await?.expect(200)?;
    host.finish().await
}
