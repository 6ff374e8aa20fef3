//! Short runs of small dense networks within the call: their answers beside rten's, what is refused, what is not short.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod onnx;

use std::sync::Arc;

use bytes::Bytes;
use domain::{BackendChoice, DType, Digest, GoldenCheck, Placement, TenantId, Tensor, UsageCell};
use inference::{ComputeError, GraphHandle, Inference, LoadError, Options, Source, Target, metered_polls};
use onnx::{FREE, Net, Type, children, dense, float, int, worker};
use rten_onnx::onnx::AttributeProto;
use tokio_util::sync::CancellationToken;

type Placed = Result<(Arc<GraphHandle>, Placement), LoadError>;

async fn place(net: Net, choice: BackendChoice) -> Placed {
    let blob = Bytes::from(net.bytes());
    let source = Source {
        tenant: TenantId(uuid::Uuid::nil()),
        digest: Digest::of(&blob),
        blob,
        target: Target::Cpu,
    };
    let inference = Inference::new(Options::default(), worker());
    inference
        .place(&source, choice, None, &UsageCell::default())
        .await
}

fn floats(name: &str, shape: &[u32], data: &[f32]) -> Tensor {
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor::new(name, DType::Fp32, shape.to_vec(), bytes).unwrap()
}

/// `n` numbers between −2 and 2 that look like none.
fn noise(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 7919 + 13) % 401) as f32 / 100.0 - 2.0)
        .collect()
}

fn read(tensor: &Tensor) -> Vec<f32> {
    let (chunks, _) = tensor.data().as_chunks::<4>();
    chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

async fn compute(graph: &GraphHandle, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, ComputeError> {
    graph
        .compute(inputs, Arc::default(), CancellationToken::new())
        .await
}

/// From rows of five, `x`, to `y`.
fn net(width: i64) -> Net {
    Net::default()
        .input("x", Type::FLOAT, &[FREE, 5])
        .output("y", Type::FLOAT, &[FREE, width])
        .weights("w", &[5, 3], &noise(15))
        .weights("turned", &[3, 5], &noise(15))
        .weights("b", &[3], &[0.5, -0.25, 1.5])
        .weights("row", &[1, 5], &[1.5, 0.5, -2.0, 3.0, 0.25])
        .weights("one", &[], &[0.75])
        .weights("five", &[5], &[1.0, 2.0, 3.0, -4.0, 0.5])
}

/// An attribute that is there and has no value, as some writers say 0.
fn bare(name: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ..AttributeProto::default()
    }
}

/// A network for each operator and each way to use it.
fn networks() -> Vec<(&'static str, Net)> {
    let two = |op: &str, a: &str, b: &str| net(5).node(op, &[a, b], "y");
    let one = |op: &str| net(5).node(op, &["x"], "y");
    let gemm = |inputs: &[&str], attributes| net(3).node_with("Gemm", inputs, "y", attributes);
    vec![
        ("MatMul", net(3).node("MatMul", &["x", "w"], "y")),
        ("Gemm", gemm(&["x", "w", "b"], vec![])),
        ("Gemm without bias", gemm(&["x", "w"], vec![])),
        ("Gemm, one bias", gemm(&["x", "w", "one"], vec![])),
        (
            "Gemm, whose zeros are left out",
            gemm(&["x", "w", "b"], ["transA", "transB", "beta"].map(bare).to_vec()),
        ),
        (
            "Gemm, turned and scaled",
            gemm(
                &["x", "turned", "b"],
                vec![int("transB", 1), float("alpha", 0.5), float("beta", -2.0)],
            ),
        ),
        ("Add a row", two("Add", "x", "row")),
        ("Add to a row", two("Add", "five", "x")),
        ("Sub one", two("Sub", "x", "one")),
        ("Sub from a row", two("Sub", "row", "x")),
        ("Mul values", two("Mul", "x", "x")),
        ("Div by a row", two("Div", "x", "five")),
        ("Div one", two("Div", "one", "x")),
        ("Relu", one("Relu")),
        ("LeakyRelu", one("LeakyRelu")),
        (
            "LeakyRelu, steep",
            net(5).node_with("LeakyRelu", &["x"], "y", vec![float("alpha", 0.7)]),
        ),
        ("Sigmoid", one("Sigmoid")),
        ("Tanh", one("Tanh")),
        ("Softmax", one("Softmax")),
        (
            "Softmax, axis 1",
            net(5).node_with("Softmax", &["x"], "y", vec![int("axis", 1)]),
        ),
        ("Flatten", one("Flatten").node("Relu", &["y"], "z")),
        (
            "a skip",
            net(5)
                .node("Identity", &["x"], "same")
                .node("Sigmoid", &["same"], "gate")
                .node("Mul", &["x", "gate"], "y"),
        ),
        (
            "two outputs",
            net(3)
                .output("z", Type::FLOAT, &[FREE, 3])
                .node("Gemm", &["x", "w", "b"], "z")
                .node("Softmax", &["z"], "y"),
        ),
        (
            "a constant number of rows",
            Net::default()
                .input("x", Type::FLOAT, &[3, 5])
                .output("y", Type::FLOAT, &[3, 5])
                .node("Tanh", &["x"], "y"),
        ),
    ]
}

#[tokio::test]
async fn networks_answer_as_rten_does() {
    for (name, net) in networks() {
        let (here, placement) = place(net.clone(), BackendChoice::Dense).await.unwrap();
        assert_eq!(
            (placement.backend.as_str(), placement.check),
            ("dense 1", GoldenCheck::Agrees),
            "{name}"
        );
        let (rten, _) = place(net, BackendChoice::Rten).await.unwrap();
        let shapes = |graph: &GraphHandle| graph.signature().clone();
        assert_eq!(shapes(&here), shapes(&rten), "{name}");
        for rows in [3, 1, 7, 200] {
            if here.signature().inputs[0].shape[0].is_some_and(|fixed| fixed != rows) {
                continue;
            }
            let x = floats("x", &[rows, 5], &noise(rows as usize * 5));
            let cell = Arc::new(UsageCell::default());
            assert_eq!(
                here.cost_macs(&[x.shape().to_vec()]),
                rten.cost_macs(&[x.shape().to_vec()]),
                "{name}: fuel is the same everywhere"
            );
            let ours = here.compute(vec![x.clone()], Arc::clone(&cell), CancellationToken::new());
            let ours = ours.await.unwrap();
            assert_eq!(cell.snapshot().work[0].backend, *"dense 1", "{name}: short");
            let theirs = compute(&rten, vec![x]).await.unwrap();
            assert_eq!(ours.len(), theirs.len(), "{name}");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert_eq!(
                    (ours.name(), ours.shape()),
                    (theirs.name(), theirs.shape()),
                    "{name}"
                );
                for (a, b) in read(ours).into_iter().zip(read(theirs)) {
                    assert!(
                        a == b || (a - b).abs() <= 1e-5 * b.abs().max(1.0),
                        "{name}: {a} is not {b}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn auto_takes_it_where_it_can_and_keeps_no_process() {
    let (graph, placement) = place(dense(), BackendChoice::Auto).await.unwrap();
    assert_eq!(placement.backend, "dense 1");
    assert_eq!(placement.check, GoldenCheck::Agrees);
    onnx::until(|| children().is_empty()).await;
    let cell = Arc::new(UsageCell::default());
    let x = floats("x", &[2, 2], &[1.0, 2.0, 0.0, 0.0]);
    let mut call = Box::pin(graph.compute(vec![x], Arc::clone(&cell), CancellationToken::new()));
    let answer = metered_polls(&cell, call.as_mut()).await.unwrap();
    let want = |z: f32| 1.0 / (1.0 + (-z).exp());
    assert_eq!(read(&answer[0]), [want(-2.25), want(0.25)]);
    let used = cell.snapshot();
    assert_eq!((used.work[0].runs, used.work[0].rows), (1, 2));
    assert!(
        used.cpu_ns > 0 && used.model_ns() > 0 && used.work[0].busy_ns > 0,
        "{used:?}"
    );
    assert_eq!(cell.here_ns(), used.total_cpu_ns(), "all of it was here");
    let wrong = compute(&graph, vec![floats("x", &[1, 3], &[0.0; 3])]).await;
    assert_eq!(wrong.unwrap_err().code(), "invalid_input");
    // No rows have no answers, but the run counts.
    let cell = Arc::new(UsageCell::default());
    let none = graph.compute(
        vec![floats("x", &[0, 2], &[])],
        Arc::clone(&cell),
        CancellationToken::new(),
    );
    assert_eq!(none.await.unwrap()[0].shape(), [0, 1]);
    assert_eq!(cell.snapshot().work[0].runs, 1);
}

/// Operators that are refused, with the words that say why.
fn refused_operators() -> Vec<(&'static str, Net)> {
    let two = |op: &str, a: &str, b: &str| net(5).node(op, &[a, b], "y");
    let with = |op: &str, inputs: &[&str], attribute| net(3).node_with(op, inputs, "y", vec![attribute]);
    vec![
        ("operator 'Exp' is none", net(5).node("Exp", &["x"], "y")),
        ("operator 'Max' is none", two("Max", "x", "x")),
        ("operator 'MatMul' is used", two("MatMul", "x", "x")),
        ("operator 'MatMul' is used", two("MatMul", "w", "x")),
        ("operator 'MatMul' is used", two("MatMul", "x", "turned")),
        ("operator 'Add' is used", two("Add", "one", "five")),
        ("operator 'Relu' is used", two("Relu", "x", "x")),
        ("operator 'MatMul' is used", net(3).node("MatMul", &["x"], "y")),
        ("operator 'Add' is used", two("Add", "x", "b")),
        ("operator 'Mul' is used", two("Mul", "x", "nowhere")),
        (
            "operator 'Gemm' is used",
            with("Gemm", &["x", "w"], int("transA", 1)),
        ),
        (
            "operator 'Gemm' is used",
            with("Gemm", &["x", "w"], int("broadcast", 1)),
        ),
        (
            "operator 'Softmax' is used",
            with("Softmax", &["x"], int("axis", 0)),
        ),
        (
            "operator 'Flatten' is used",
            with("Flatten", &["x"], int("axis", 0)),
        ),
        ("is not as long as its shape", {
            let mut net = two("Add", "x", "five");
            net.0
                .initializer
                .iter_mut()
                .for_each(|weight| weight.raw_data = None);
            net
        }),
    ]
}

/// Networks that are refused, of operators that are not.
fn refused_networks() -> Vec<(&'static str, Net)> {
    let from_to = |of: Type, from: &[i64], to: &[i64]| {
        let net = Net::default().input("x", of, from).output("y", of, to);
        net.node("Relu", &["x"], "y")
    };
    let of = |shape: &[i64]| from_to(Type::FLOAT, shape, shape);
    let mut long = Net::default().input("v0", Type::FLOAT, &[FREE, 1]);
    for at in 0..257 {
        long = long.node("Relu", &[&format!("v{at}")], &format!("v{}", at + 1));
    }
    let large = Net::default()
        .input("x", Type::FLOAT, &[FREE, 1024])
        .weights("w", &[1024, 512], &vec![0.0; 1024 * 512])
        .node("MatMul", &["x", "w"], "y")
        .output("y", Type::FLOAT, &[FREE, 512]);
    let two = net(5)
        .input("z", Type::FLOAT, &[FREE, 5])
        .node("Add", &["x", "z"], "y");
    vec![
        ("it has 2 inputs", two),
        ("rows that have a fixed length", of(&[FREE, FREE])),
        ("rows that have a fixed length", of(&[FREE, 2, 2])),
        ("rows that have a fixed length", of(&[5])),
        ("rows that have a fixed length", of(&[FREE, 0])),
        ("is too large", large),
        ("is too large", of(&[FREE, 1 << 17])),
        (
            "more than 256 operators or weights",
            long.output("v257", Type::FLOAT, &[FREE, 1]),
        ),
        ("more than 256 operators or weights", {
            let name = |at: usize| format!("unused{at}");
            (0..251).fold(net(5).node("Relu", &["x"], "y"), |net, at| {
                net.weights(&name(at), &[1], &[0.0])
            })
        }),
        ("is too large", {
            let same = |net: Net, at: usize| {
                let name = format!("y{at}");
                net.output(&name, Type::FLOAT, &[FREE, 1_000])
                    .node("Identity", &["x"], &name)
            };
            (0..40).fold(Net::default().input("x", Type::FLOAT, &[FREE, 1_000]), same)
        }),
        ("is too large", {
            let net = net(5).node("Relu", &["x"], "y");
            net.weights("unused", &[1 << 20], &vec![0.0; 1 << 20])
        }),
        (
            "the name 'b' is not of one value",
            net(5).node("Relu", &["x"], "y").weights("b", &[1], &[0.0]),
        ),
        (
            "the name '' is not of one value",
            net(5).node("Relu", &["x"], "y").weights("", &[1], &[0.0]),
        ),
        (
            "does not follow from its input",
            net(5).node("Identity", &["five"], "y"),
        ),
        (
            "is declared as [?, 4], and has rows of 5",
            from_to(Type::FLOAT, &[FREE, 5], &[FREE, 4]),
        ),
        (
            "is declared as [7, 5], and has rows of 5",
            from_to(Type::FLOAT, &[FREE, 5], &[7, 5]),
        ),
        ("is of the type", from_to(Type::INT32, &[FREE, 5], &[FREE, 5])),
    ]
}

#[tokio::test]
async fn everything_else_is_refused_with_the_reason() {
    for (words, net) in refused_operators().into_iter().chain(refused_networks()) {
        let refused = place(net, BackendChoice::Dense).await;
        let error = refused.expect_err(words);
        assert!(error.to_string().contains(words), "{error} does not say {words}");
        assert!(
            matches!(error.code(), "unsupported_model" | "invalid_model"),
            "{error}"
        );
    }
    let just = Net::default()
        .input("x", Type::FLOAT, &[FREE, 10_000])
        .output("y", Type::FLOAT, &[FREE, 10_000])
        .node("Relu", &["x"], "y");
    place(just, BackendChoice::Dense).await.unwrap();
}

#[tokio::test]
async fn what_it_refuses_auto_runs_elsewhere() {
    let net = net(5).node("Exp", &["x"], "y");
    let (graph, placement) = place(net, BackendChoice::Auto).await.unwrap();
    assert_eq!(
        (placement.backend.as_str(), placement.check),
        ("rten 0.27.0", GoldenCheck::Alone)
    );
    compute(&graph, vec![floats("x", &[1, 5], &noise(5))])
        .await
        .unwrap();
}

/// From rows of one to rows of 512.
fn wide() -> Net {
    Net::default()
        .input("x", Type::FLOAT, &[FREE, 1])
        .weights("w", &[1, 512], &noise(512))
        .node("MatMul", &["x", "w"], "y")
        .output("y", Type::FLOAT, &[FREE, 512])
}

#[tokio::test]
async fn many_rows_go_to_a_process_that_is_started_for_them() {
    let (graph, _) = place(wide(), BackendChoice::Dense).await.unwrap();
    onnx::until(|| children().is_empty()).await;
    let cell = Arc::new(UsageCell::default());
    let weights = noise(512);
    for rows in [60_u32, 61, 2_000] {
        let data = noise(rows as usize);
        let x = floats("x", &[rows, 1], &data);
        let answer = graph.compute(vec![x], Arc::clone(&cell), CancellationToken::new());
        let answer = read(&answer.await.unwrap()[0]);
        assert_eq!(answer.len(), rows as usize * 512);
        assert_eq!(answer.last(), Some(&(data[rows as usize - 1] * weights[511])));
    }
    assert_eq!(children().len(), 1);
    let used = cell.snapshot();
    let ran: Vec<_> = used
        .work
        .iter()
        .map(|work| (work.backend.as_str(), work.runs, work.rows))
        .collect();
    assert_eq!(ran, [("dense 1", 1, 60), ("rten 0.27.0", 2, 2_061)]);
    assert!(used.work.iter().all(|work| work.cpu_ns > 0), "{used:?}");
    drop(graph);
    onnx::until(|| children().is_empty()).await;
}
