//! The backends on real models: they agree, and what each costs is measured.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod onnx;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domain::{BackendChoice, DType, Digest, GoldenCheck, TenantId, Tensor, UsageCell};
use inference::{GraphHandle, Inference, Options, Source, Target};
use tokio_util::sync::CancellationToken;

const MODELS: [&str; 7] = [
    "tabular",
    "magika",
    "minilm",
    "ocr-detect",
    "ocr-classify",
    "ocr-recognise",
    "silero",
];

fn file(name: &str) -> Vec<u8> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../.tools/models");
    let file = models.join(name);
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}: cargo xtask models", file.display()))
}

const CHOICES: [BackendChoice; 3] = [
    BackendChoice::Rten,
    BackendChoice::OnnxRuntime,
    BackendChoice::Dense,
];

fn source(name: &str) -> Source {
    let blob = Bytes::from(file(&format!("{name}.onnx")));
    Source {
        tenant: TenantId(uuid::Uuid::nil()),
        digest: Digest::of(&blob),
        blob,
        target: Target::Cpu,
    }
}

async fn both() -> Inference {
    Inference::new(Options::default(), onnx::worker_with_onnxruntime().await)
}

async fn compute(graph: &GraphHandle, inputs: Vec<Tensor>) -> Vec<Tensor> {
    let answer = graph.compute(inputs, Arc::default(), CancellationToken::new());
    answer.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_agree_on_every_model_and_auto_takes_one_of_them() {
    let inference = both().await;
    for name in MODELS {
        let (source, cell) = (source(name), UsageCell::default());
        let placed = inference.place(&source, BackendChoice::Auto, None, &cell);
        let (graph, placement) = placed.await.unwrap();
        assert_eq!(placement.check, GoldenCheck::Agrees, "{name}");
        assert_eq!(placement.backend, graph.info().label());
        let work = cell.snapshot().work;
        let ran: Vec<_> = work.iter().map(|work| work.backend.as_str()).collect();
        let all = ["rten 0.27.0", "onnxruntime 1.32.0", "dense 1"];
        let loads = if name == "tabular" { &all } else { &all[..2] };
        assert_eq!(ran, loads, "{name}");
        for choice in CHOICES.into_iter().take(loads.len()) {
            let placed = inference.place(&source, choice, None, &cell).await;
            let (named, _) = placed.unwrap();
            assert_eq!(named.info().name, choice.as_str());
            assert_eq!(named.signature(), graph.signature(), "{name}");
            let shapes: Vec<_> = named.signature().inputs.iter().map(|_| vec![2, 64]).collect();
            assert_eq!(
                named.cost_macs(&shapes),
                graph.cost_macs(&shapes),
                "fuel is the same on all"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_give_the_tabular_networks_known_answers() {
    let known: serde_json::Value = serde_json::from_slice(&file("tabular.json")).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(known["rows"].clone()).unwrap();
    let expected: Vec<f32> = serde_json::from_value(known["expected"].clone()).unwrap();
    let data: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let inference = both().await;
    for choice in CHOICES {
        let (source, cell) = (source("tabular"), UsageCell::default());
        let (graph, _) = inference.place(&source, choice, None, &cell).await.unwrap();
        let input = Tensor::new("input", DType::Fp32, vec![rows.len() as u32, 100], data.clone());
        let answer = compute(&graph, vec![input.unwrap()]).await;
        let (got, _) = answer[0].data().as_chunks::<4>();
        assert_eq!(got.len(), expected.len());
        for (got, want) in got.iter().zip(&expected) {
            let got = f32::from_le_bytes(*got);
            assert!((got - want).abs() < 1e-6, "{choice}: {got} instead of {want}");
        }
    }
}

/// What rten does not know, the other one runs, and alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_cannot_load_the_other_serves() {
    let double = Bytes::from(onnx::identity(onnx::Type::DOUBLE).bytes());
    let source = Source {
        digest: Digest::of(&double),
        blob: double,
        ..source("tabular")
    };
    let cell = UsageCell::default();
    let placed = both().await;
    let (graph, placement) = placed
        .place(&source, BackendChoice::Auto, None, &cell)
        .await
        .unwrap();
    assert_eq!(
        (graph.info().name, placement.check),
        ("onnxruntime", GoldenCheck::Alone)
    );
    let without = Inference::new(Options::default(), onnx::worker());
    let refused = without.place(&source, BackendChoice::Auto, None, &cell).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), "unsupported_model");
    assert!(refused.to_string().contains("ONNX Runtime"), "{refused}");
}
