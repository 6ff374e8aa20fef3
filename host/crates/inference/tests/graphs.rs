//! rten behind the traits: answers, refusals, broken files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod onnx;

use std::sync::Arc;

use bytes::Bytes;
use domain::{DType, Digest, TenantId, Tensor, UsageCell};
use inference::{ComputeError, GraphHandle, Inference, LoadError, Options, Target};
use onnx::{FREE, Net, Type, dense, identity};
use tokio_util::sync::CancellationToken;

fn tenant(n: u128) -> TenantId {
    TenantId(uuid::Uuid::from_u128(n))
}

async fn load(model: Vec<u8>) -> Result<Arc<GraphHandle>, LoadError> {
    let inference = Inference::new(Options::default(), onnx::worker());
    let digest = Digest::of(&model);
    inference
        .load(
            tenant(1),
            digest,
            Bytes::from(model),
            Target::Cpu,
            &UsageCell::default(),
        )
        .await
}

async fn compute(graph: &GraphHandle, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, ComputeError> {
    graph
        .compute(inputs, Arc::default(), CancellationToken::new())
        .await
}

fn floats(name: &str, shape: &[u32], data: &[f32]) -> Tensor {
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor::new(name, DType::Fp32, shape.to_vec(), bytes).unwrap()
}

fn longs(name: &str, data: &[i64]) -> Tensor {
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor::new(name, DType::I64, vec![data.len() as u32], bytes).unwrap()
}

fn read(tensor: &Tensor) -> Vec<f32> {
    let (chunks, _) = tensor.data().as_chunks::<4>();
    chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

#[tokio::test]
async fn dense_answers_as_by_hand() {
    let graph = load(dense().bytes()).await.unwrap();
    assert_eq!(graph.info().label(), "rten 0.27.0");
    assert_eq!(graph.signature().inputs[0].shape, [None, Some(2)]);
    assert_eq!(graph.signature().outputs[0].name, "y");
    let cell = Arc::new(UsageCell::default());
    let rows = [[1.0, 2.0], [0.0, 0.0], [-3.0, 0.5]];
    let x = floats("x", &[3, 2], rows.as_flattened());
    let answer = graph
        .compute(vec![x], Arc::clone(&cell), CancellationToken::new())
        .await
        .unwrap();
    assert_eq!((answer[0].name(), answer[0].shape()), ("y", &[3, 1][..]));
    for (row, got) in rows.iter().zip(read(&answer[0])) {
        let z: f32 = 0.5 * row[0] - 1.5 * row[1] + 0.25;
        let want = 1.0 / (1.0 + (-z).exp());
        assert!((got - want).abs() < 1e-6, "{row:?}: {got}, not {want}");
    }
    let usage = cell.snapshot();
    assert_eq!(
        (usage.work.len(), usage.work[0].runs, usage.work[0].rows),
        (1, 1, 3)
    );
    assert_eq!(
        (usage.work[0].device.as_str(), usage.work[0].precision.as_str()),
        ("cpu", "exact")
    );
    assert_eq!(usage.work[0].graph, graph.digest());
    assert!(usage.work[0].cpu_ns > 0);
}

#[tokio::test]
async fn every_carried_type_comes_back_as_it_was() {
    let cases: [(Type, DType, Vec<u8>); 6] = [
        (
            Type::FLOAT,
            DType::Fp32,
            [1.5_f32, f32::NAN, -0.0]
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
        ),
        (
            Type::INT32,
            DType::I32,
            [i32::MIN, 0, i32::MAX]
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
        ),
        (
            Type::INT64,
            DType::I64,
            [-7_i64, 0, 1 << 30]
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
        ),
        (Type::INT8, DType::I8, vec![0x80, 0, 0x7f]),
        (Type::UINT8, DType::U8, vec![0, 1, 255]),
        (Type::BOOL, DType::Bool, vec![0, 1, 1]),
    ];
    for (of, dtype, data) in cases {
        let graph = load(identity(of).bytes()).await.unwrap();
        let x = Tensor::new("x", dtype, vec![3], data).unwrap();
        let answer = compute(&graph, vec![x.clone()]).await.unwrap();
        assert_eq!(answer, [x.renamed("y")]);
    }
}

fn gather() -> Net {
    Net::default()
        .input("which", Type::INT64, &[FREE])
        .weights("table", &[3, 2], &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0])
        .node("Gather", &["table", "which"], "rows")
        .output("rows", Type::FLOAT, &[FREE, 2])
}

#[tokio::test]
async fn gather_takes_wide_integers_and_says_which_do_not_fit() {
    let graph = load(gather().bytes()).await.unwrap();
    let answer = compute(&graph, vec![longs("which", &[2, 0, -1])]).await.unwrap();
    assert_eq!(read(&answer[0]), [20.0, 21.0, 0.0, 1.0, 20.0, 21.0]);
    let error = compute(&graph, vec![longs("which", &[1 << 40])])
        .await
        .unwrap_err();
    assert_eq!(error.code(), "invalid_input");
    assert!(
        error.to_string().contains("'which' holds 1099511627776"),
        "{error}"
    );
    // Out of the table: the backend's own refusal.
    let error = compute(&graph, vec![longs("which", &[3])]).await.unwrap_err();
    assert_eq!(error.code(), "backend_failed", "{error}");
}

#[tokio::test]
async fn inputs_that_do_not_fit_are_named() {
    let graph = load(dense().bytes()).await.unwrap();
    let good = || floats("x", &[1, 2], &[1.0, 2.0]);
    let cases = [
        (vec![], "input 'x' is missing"),
        (vec![good().renamed("X")], "input 'x' is missing"),
        (
            vec![good(), good().renamed("z")],
            "the graph has no input 'z', only 'x'",
        ),
        (vec![good(), good()], "input 'x' is given twice"),
        (
            vec![floats("x", &[2], &[1.0, 2.0])],
            "input 'x' has the shape [?, 2], not [2]",
        ),
        (
            vec![floats("x", &[1, 3], &[1.0; 3])],
            "input 'x' has the shape [?, 2], not [1, 3]",
        ),
        (
            vec![Tensor::new("x", DType::I32, vec![1, 2], vec![0; 8]).unwrap()],
            "input 'x' is FP32, not INT32",
        ),
    ];
    for (inputs, words) in cases {
        let cell = Arc::new(UsageCell::default());
        let error = graph
            .compute(inputs, Arc::clone(&cell), CancellationToken::new())
            .await
            .unwrap_err();
        assert!(matches!(error, ComputeError::Input { .. }), "{error:?}");
        assert_eq!(error.to_string(), words);
        assert!(cell.snapshot().work.is_empty(), "a refused call runs nothing");
    }
}

#[tokio::test]
async fn an_empty_batch_answers_or_fails_alone() {
    let graph = load(dense().bytes()).await.unwrap();
    // Whatever the backend says of no rows, the graph goes on answering.
    let _ = compute(&graph, vec![floats("x", &[0, 2], &[])]).await;
    assert!(
        compute(&graph, vec![floats("x", &[1, 2], &[1.0, 2.0])])
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn broken_files_are_invalid_models() {
    let whole = dense().bytes();
    let mut cases: Vec<Vec<u8>> = vec![vec![], b"GGUF0000".to_vec(), vec![0xff; 300], vec![0; 64]];
    cases.extend((1..whole.len()).map(|length| whole[..length].to_vec()));
    // The letters of every name and weight, flipped one at a time: any answer but a panic will do.
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x55;
        let _ = load(flipped).await;
    }
    for model in cases {
        let length = model.len();
        let error = load(model)
            .await
            .map(|graph| graph.signature().clone())
            .unwrap_err();
        assert!(
            matches!(error, LoadError::InvalidModel { .. }),
            "{length} bytes: {error:?}"
        );
        assert_eq!(error.code(), "invalid_model");
    }
    assert!(load(whole).await.is_ok());
}

#[tokio::test]
async fn what_rten_cannot_do_is_said_with_advice() {
    let mut outside = dense();
    outside.0.initializer[0].data_location = Some(onnx::DataLocation::EXTERNAL);
    let body = Net::default()
        .node("Identity", &["c"], "d")
        .output("d", Type::BOOL, &[]);
    let looping = identity(Type::FLOAT).node_with("Loop", &["x"], "z", vec![onnx::graph("body", body.0)]);
    let odd = Net::default()
        .input("x", Type::FLOAT, &[FREE])
        .node("Wattle", &["x"], "y")
        .output("y", Type::FLOAT, &[FREE]);
    let cases = [
        (odd, "Wattle"),
        (identity(Type::DOUBLE), "input 'x' is of the type DOUBLE"),
        (identity(Type::FLOAT16), "input 'x' is of the type FLOAT16"),
        (identity(Type::STRING), "input 'x' is of the type STRING"),
        (outside, "weights in another file"),
        (looping, "'Loop' may run any number of times"),
    ];
    for (net, words) in cases {
        let error = load(net.bytes()).await.unwrap_err();
        let LoadError::UnsupportedModel { reason, advice } = &error else {
            panic!("{error:?}")
        };
        assert!(reason.contains(words), "{reason}");
        assert!(!advice.is_empty());
    }
}

/// A long way through many operators.
fn chain(operators: usize) -> Net {
    let mut net = Net::default().input("v0", Type::FLOAT, &[FREE]);
    for i in 0..operators {
        net = net.node(["Exp", "Log"][i % 2], &[&format!("v{i}")], &format!("v{}", i + 1));
    }
    net.output(&format!("v{operators}"), Type::FLOAT, &[FREE])
}

#[tokio::test]
async fn a_deep_graph_runs() {
    let graph = load(chain(20_000).bytes()).await.unwrap();
    let answer = compute(&graph, vec![floats("v0", &[2], &[0.5, 1.5])])
        .await
        .unwrap();
    assert!(read(&answer[0]).iter().all(|x| x.is_finite()));
}

/// A protobuf field of bytes.
fn field(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = inner.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(inner);
    out
}

#[tokio::test]
async fn graphs_inside_graphs_have_an_end() {
    let mut graph = vec![];
    for _ in 0..8_000 {
        graph = field(1, &field(5, &field(6, &graph)));
    }
    let model = [vec![1 << 3, 8], field(7, &graph), field(8, &[])].concat();
    let error = load(model).await.unwrap_err();
    assert_eq!(error.to_string(), "not a valid model: its graphs nest too deep");
}

#[tokio::test]
async fn operators_out_of_order_are_refused() {
    let mut net = dense();
    net.0.node.swap(0, 1);
    let error = load(net.bytes()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "not a valid model: 'xw' is used before it is made"
    );
}

#[tokio::test]
async fn a_target_that_is_not_there_is_refused() {
    let inference = Inference::new(Options::default(), onnx::worker());
    let model = dense().bytes();
    for target in [Target::Gpu, Target::Tpu] {
        let blob = Bytes::from(model.clone());
        let loaded = inference
            .load(tenant(1), Digest::of(&model), blob, target, &UsageCell::default())
            .await;
        assert_eq!(loaded.unwrap_err(), LoadError::TargetUnavailable { target });
    }
    assert_eq!(inference.loaded(), 0);
    assert_eq!(inference.caps()[0].targets, [Target::Cpu]);
}

#[tokio::test]
async fn a_model_above_the_limit_is_refused() {
    let model = dense().bytes();
    let limit = model.len() as u64 - 1;
    let options = Options {
        max_model_bytes: limit,
        ..Options::default()
    };
    let inference = Inference::new(options, onnx::worker());
    let digest = Digest::of(&model);
    let loaded = inference
        .load(
            tenant(1),
            digest,
            Bytes::from(model),
            Target::Cpu,
            &UsageCell::default(),
        )
        .await;
    assert_eq!(
        loaded.unwrap_err(),
        LoadError::TooLarge {
            bytes: limit + 1,
            limit
        }
    );
}

#[tokio::test]
async fn cost_follows_the_shapes() {
    let graph = load(dense().bytes()).await.unwrap();
    // 2 for each row's product, then one for the sum and one for the sigmoid.
    assert_eq!(graph.cost_macs(&[vec![1, 2]]), 4);
    assert_eq!(graph.cost_macs(&[vec![5, 2]]), 20);

    let conv = Net::default()
        .input("x", Type::FLOAT, &[FREE, 3, 8, 8])
        .weights("w", &[4, 3, 3, 3], &[0.1; 108])
        .weights("d", &[4, 5], &[0.1; 20])
        .ints("shape", &[0, -1])
        .node_with(
            "Conv",
            &["x", "w"],
            "c",
            [
                ("pads", &[1; 4][..]),
                ("strides", &[2, 2]),
                ("dilations", &[1, 1]),
            ]
            .map(|(name, v)| onnx::ints(name, v))
            .to_vec(),
        )
        .node("GlobalAveragePool", &["c"], "p")
        .node("Reshape", &["p", "shape"], "f")
        .node_with("Gemm", &["f", "d"], "y", vec![onnx::int("transB", 0)])
        .output("y", Type::FLOAT, &[FREE, 5]);
    let graph = load(conv.bytes()).await.unwrap();
    // Conv 4×4×4×27, pool 4×16, reshape 4, Gemm 4×5; each for two rows.
    assert_eq!(graph.cost_macs(&[vec![2, 3, 8, 8]]), 2 * (64 * 27 + 64 + 4 + 20));
    let x = floats("x", &[2, 3, 8, 8], &[1.0; 384]);
    assert_eq!(compute(&graph, vec![x]).await.unwrap()[0].shape(), [2, 5]);
}

#[tokio::test]
async fn cost_follows_shapes_that_the_graph_computes() {
    // What exporters write for x.view(x.size(0), -1, 4).expand(…)[:, ::-2] @ w, reduced over its last axis.
    let net = Net::default()
        .input("x", Type::FLOAT, &[FREE, 24])
        .weights("w", &[4, 5], &[0.5; 20])
        .ints("0", &[0])
        .ints("1", &[1])
        .ints("-1", &[-1])
        .ints("2", &[2])
        .ints("4", &[4])
        .ints("-2", &[-2])
        .ints("least", &[i64::MIN])
        .node("Shape", &["x"], "dims")
        .node("Slice", &["dims", "0", "1"], "rows")
        .node_with("Concat", &["rows", "-1", "4"], "to", vec![onnx::int("axis", 0)])
        .node("Reshape", &["x", "to"], "r")
        .node("Unsqueeze", &["r", "0"], "u")
        .node("Mul", &["2", "1"], "twice")
        .node_with(
            "Concat",
            &["twice", "1", "1", "1"],
            "wide",
            vec![onnx::int("axis", 0)],
        )
        .node("Expand", &["u", "wide"], "e")
        .node("Slice", &["e", "-1", "least", "2", "-2"], "s")
        .node("MatMul", &["s", "w"], "m")
        .node_with("ReduceSum", &["m", "-1"], "y", vec![onnx::int("keepdims", 0)])
        .output("y", Type::FLOAT, &[FREE, FREE, FREE]);
    let graph = load(net.bytes()).await.unwrap();
    let x = floats("x", &[7, 24], &[1.0; 7 * 24]);
    assert_eq!(compute(&graph, vec![x]).await.unwrap()[0].shape(), [2, 7, 3]);
    // Shapes: r 7×6×4, e 2×7×6×4, s 2×7×3×4, m 2×7×3×5.
    let (shapes, moved) = (2 + 1 + 3 + 1 + 4, 168 + 168 + 336 + 168);
    assert_eq!(graph.cost_macs(&[vec![7, 24]]), shapes + moved + 210 * 4 + 210);
}

#[tokio::test]
async fn cost_without_a_shape_is_weights_by_positions() {
    // What NonZero gives depends on the data.
    let net = Net::default()
        .input("x", Type::FLOAT, &[FREE])
        .weights("w", &[1, 7], &[1.0; 7])
        .node("NonZero", &["x"], "n")
        .node_with("Cast", &["n"], "f", vec![onnx::int("to", 1)])
        .node_with("Transpose", &["f"], "t", vec![onnx::ints("perm", &[1, 0])])
        .node("MatMul", &["t", "w"], "y")
        .output("y", Type::FLOAT, &[FREE, 7]);
    let graph = load(net.bytes()).await.unwrap();
    // NonZero reads 10 elements, the product has 7 weights and 10 positions.
    assert_eq!(graph.cost_macs(&[vec![10]]), 10 + 70);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brief_runs_at_once_get_their_own_answers_and_pay_for_themselves() {
    let graph = load(dense().bytes()).await.unwrap();
    let run = |number: u32| {
        let graph = Arc::clone(&graph);
        async move {
            let cell = Arc::new(UsageCell::default());
            let x = floats("x", &[1, 2], &[number as f32, 0.0]);
            let answer = graph.compute(vec![x], Arc::clone(&cell), CancellationToken::new());
            let answer = answer.await.unwrap();
            let want = 1.0 / (1.0 + (-(0.5 * number as f32 + 0.25)).exp());
            assert!((read(&answer[0])[0] - want).abs() < 1e-6, "{number}");
            let work = cell.snapshot().work.remove(0);
            assert_eq!((work.runs, work.rows), (1, 1), "{number}");
            assert!(work.cpu_ns > 0 && work.busy_ns <= work.cpu_ns, "{work:?}");
        }
    };
    // It takes some until runs are known to be brief.
    for number in 0..30 {
        run(number).await;
    }
    let runs: Vec<_> = (0..200).map(|number| tokio::spawn(run(number % 10))).collect();
    for run in runs {
        run.await.unwrap();
    }
}
