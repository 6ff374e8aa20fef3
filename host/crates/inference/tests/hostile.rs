//! Model files that mean harm, each with its outcome; after each the same host still answers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "helpers of tests, and a long table of cases"
)]

mod onnx;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::{DType, Digest, TenantId, Tensor, UsageCell};
use inference::{GraphHandle, Inference, LoadError, Options, WorkerOptions};
use onnx::{FREE, Net, Type, dense, identity};
use tokio_util::sync::CancellationToken;

struct Case {
    name: &'static str,
    file: Vec<u8>,
    /// What it is called with, if it loads.
    inputs: Vec<Tensor>,
    /// Where it ends: `load:` or `run:` and a code, or `answers`.
    ends: &'static str,
    /// The same on ONNX Runtime.
    ends_there: &'static str,
}

impl Case {
    fn there(self, ends_there: &'static str) -> Self {
        Self { ends_there, ..self }
    }
}

fn case(name: &'static str, net: Net, inputs: Vec<Tensor>, ends: &'static str) -> Case {
    let file = net.bytes();
    Case {
        name,
        file,
        inputs,
        ends,
        ends_there: ends,
    }
}

fn longs(name: &str, data: &[i64]) -> Tensor {
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor::new(name, DType::I64, vec![data.len() as u32], bytes).unwrap()
}

fn floats(name: &str, shape: &[u32], value: f32) -> Tensor {
    let elements = shape.iter().product::<u32>() as usize;
    let bytes = value.to_le_bytes().repeat(elements);
    Tensor::new(name, DType::Fp32, shape.to_vec(), bytes).unwrap()
}

/// `y` is made by one operator of `n`, given at run time, and of constants.
fn blow_up(op: &str, net: Net, inputs: &[&str], rank: usize) -> Net {
    net.input("n", Type::INT64, &[FREE])
        .node(op, inputs, "y")
        .output("y", Type::FLOAT, &vec![FREE; rank])
}

fn x(rows: i64) -> Net {
    Net::default().weights("x", &[rows], &vec![1.0; rows as usize])
}

/// Files that are refused before a library sees them.
fn malformed() -> Vec<Case> {
    let mut outside = dense();
    outside.0.initializer[0].data_location = Some(onnx::DataLocation::EXTERNAL);
    let mut foreign = dense();
    foreign.0.node[0].domain = Some("com.attacker".into());
    let unknown = Net::default()
        .input("x", Type::FLOAT, &[FREE])
        .node("Detonate", &["x"], "y")
        .output("y", Type::FLOAT, &[FREE]);
    let mut wide = identity(Type::FLOAT);
    wide.0.input = Net::default().input("x", Type::FLOAT, &[1 << 40]).0.input;
    let own = identity(Type::FLOAT).node("Add", &["x", "z"], "z");
    let circle = identity(Type::FLOAT)
        .node("Add", &["x", "b"], "a")
        .node("Add", &["x", "a"], "b");
    let twice = identity(Type::FLOAT).node("Exp", &["x"], "y");
    let nowhere = identity(Type::FLOAT)
        .node("Add", &["x", "nothing"], "z")
        .output("z", Type::FLOAT, &[FREE]);
    let mut short = dense();
    short.0.initializer[0].dims = vec![1_000, 1];
    let mut negative = dense();
    negative.0.initializer[0].dims = vec![-2, -1];
    let mut empty = dense();
    empty.0.initializer[0].dims = vec![0, 1 << 62, 8];
    let mut product = dense();
    product.0.initializer[0].dims = vec![1 << 32, 1 << 32];
    let body = Net::default()
        .node("Identity", &["c"], "d")
        .output("d", Type::BOOL, &[]);
    let endless = identity(Type::FLOAT).node_with("Loop", &["x"], "z", vec![onnx::graph("body", body.0)]);
    let no_output = Net::default().input("x", Type::FLOAT, &[FREE]);
    vec![
        case("weights elsewhere", outside, vec![], "load:unsupported_model"),
        case("a foreign domain", foreign, vec![], "load:unsupported_model"),
        case("an unknown operator", unknown, vec![], "load:unsupported_model"),
        case("an axis of 2^40", wide, vec![], "load:invalid_model"),
        case("a node that reads itself", own, vec![], "load:invalid_model"),
        case("a circle", circle, vec![], "load:invalid_model"),
        case(
            "a name made twice",
            twice,
            vec![floats("x", &[1], 1.0)],
            "load:invalid_model",
        ),
        case(
            "a name made nowhere",
            nowhere,
            vec![floats("x", &[1], 1.0)],
            "load:unsupported_model",
        )
        .there("load:invalid_model"),
        case(
            "weights shorter than their shape",
            short,
            vec![],
            "load:invalid_model",
        ),
        case("negative weights' axes", negative, vec![], "load:invalid_model"),
        case(
            "an empty shape that overflows",
            empty,
            vec![],
            "load:invalid_model",
        ),
        case("a shape that overflows", product, vec![], "load:invalid_model"),
        case("an endless loop", endless, vec![], "load:unsupported_model"),
        case("no output", no_output, vec![], "load:invalid_model"),
    ]
}

/// Files that hide operators or weights where the scan's readers would not see them.
fn hidden() -> Vec<Case> {
    let body = || onnx::graph("body", identity(Type::FLOAT).0);
    let search = |op: &str, domain: &str| {
        let mut net = dense().node_with(op, &["x"], "z", vec![body()]);
        net.0.node[3].domain = Some(domain.into());
        net
    };
    let outside = field(13, b"");
    let sparse = [field(1, &outside), field(2, &outside)].concat();
    let more = |graph: &[u8]| [vec![1 << 3, 8], field(7, graph), field(8, &[])].concat();
    let node = |attribute: &[u8]| field(1, &[field(4, b"Constant"), field(5, attribute)].concat());
    let cases: [(&'static str, Vec<u8>); 7] = [
        ("a sequence mapped", search("SequenceMap", "").bytes()),
        (
            "a search over a graph",
            search("BeamSearch", "com.microsoft").bytes(),
        ),
        (
            "a function",
            [dense().bytes(), field(25, &field(7, &node(b"")))].concat(),
        ),
        ("sparse weights", more(&field(15, &sparse))),
        ("a sparse constant", more(&node(&field(22, &sparse)))),
        ("graphs in a list", more(&node(&field(11, b"")))),
        (
            "weights elsewhere, in a constant",
            more(&node(&field(5, &outside))),
        ),
    ];
    let case = |(name, file)| Case {
        name,
        file,
        inputs: vec![],
        ends: "load:unsupported_model",
        ends_there: "load:unsupported_model",
    };
    cases.into_iter().map(case).collect()
}

/// A protobuf field of bytes.
fn field(number: u8, inner: &[u8]) -> Vec<u8> {
    let tag = u16::from(number) << 3 | 2;
    let mut out = match tag {
        0..0x80 => vec![tag as u8],
        tag => vec![tag as u8 | 0x80, (tag >> 7) as u8],
    };
    let mut length = inner.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(inner);
    out
}

/// Files that are no protobuf, or one that becomes much larger when it is parsed.
fn bytes() -> Vec<Case> {
    let model = |graph: &[u8]| [vec![1 << 3, 8], field(7, graph), field(8, &[])].concat();
    let mut nested = vec![];
    for _ in 0..2_000 {
        nested = field(1, &field(5, &field(6, &nested)));
    }
    let whole = dense().bytes();
    let axes = field(1, &[]).repeat(1 << 20);
    let value = field(2, &field(1, &field(2, &axes)));
    let crowd = (0..300).fold(dense(), |net, number| {
        net.input(&format!("more{number}"), Type::FLOAT, &[1])
    });
    let cases: [(&'static str, Vec<u8>, &'static str); 8] = [
        (
            "half a file",
            whole[..whole.len() / 2].to_vec(),
            "load:invalid_model",
        ),
        ("noise", vec![0xa7; 4_096], "load:invalid_model"),
        (
            "another format",
            b"GGUF\x03\0\0\0".repeat(40),
            "load:invalid_model",
        ),
        ("graphs in graphs", model(&nested), "load:invalid_model"),
        (
            "a million empty nodes",
            model(&field(1, &[]).repeat(1 << 20)),
            "load:unsupported_model",
        ),
        (
            "a million axes",
            model(&field(11, &value)),
            "load:unsupported_model",
        ),
        ("three hundred inputs", crowd.bytes(), "load:unsupported_model"),
        (
            "packed integers",
            model(&field(5, &field(7, &vec![0; 17 << 20]))),
            "load:unsupported_model",
        ),
    ];
    let case = |(name, file, ends)| Case {
        name,
        file,
        inputs: vec![],
        ends,
        ends_there: ends,
    };
    cases.into_iter().map(case).collect()
}

/// Sound files that ask for too much when they are loaded, or when they run.
fn greedy() -> Vec<Case> {
    let folded = |size: i64| {
        Net::default()
            .ints("n", &[size])
            .node("ConstantOfShape", &["n"], "y")
            .output("y", Type::FLOAT, &[FREE])
    };
    let filled = || blow_up("ConstantOfShape", Net::default(), &["n"], 1);
    let outer = Net::default()
        .input("a", Type::FLOAT, &[FREE, 1])
        .input("b", Type::FLOAT, &[1, FREE])
        .node("Add", &["a", "b"], "y")
        .output("y", Type::FLOAT, &[FREE, FREE]);
    let matmul = Net::default()
        .input("n", Type::INT64, &[FREE])
        .ints("column", &[-1, 1])
        .ints("row", &[1, -1])
        .node("ConstantOfShape", &["n"], "flat")
        .node("Reshape", &["flat", "column"], "a")
        .node("Reshape", &["flat", "row"], "b")
        .node("MatMul", &["a", "b"], "y")
        .output("y", Type::FLOAT, &[FREE, FREE]);
    let range = Net::default()
        .input("n", Type::INT64, &[])
        .node("Range", &["zero", "n", "one"], "y")
        .output("y", Type::INT64, &[FREE]);
    let mut range = range.ints("zero", &[0]).ints("one", &[1]);
    for weight in &mut range.0.initializer {
        weight.dims.clear();
    }
    let scalar = Tensor::new("n", DType::I64, vec![], 2_000_000_000_i64.to_le_bytes().to_vec()).unwrap();
    let one_hot = Net::default()
        .input("n", Type::INT64, &[FREE])
        .ints("which", &[0])
        .weights("values", &[2], &[0.0, 1.0])
        .node("OneHot", &["which", "n", "values"], "y")
        .output("y", Type::FLOAT, &[FREE, FREE]);
    let resize = x(1_000)
        .input("n", Type::INT64, &[FREE])
        .node("Resize", &["x", "", "", "n"], "y")
        .output("y", Type::FLOAT, &[FREE]);
    let mut lie = dense();
    lie.0.output = Net::default().output("y", Type::FLOAT, &[FREE, 7]).0.output;
    let (a, b) = (floats("a", &[100_000, 1], 1.0), floats("b", &[1, 100_000], 1.0));
    vec![
        case(
            "a terabyte folded",
            folded(1 << 40),
            vec![],
            "load:model_memory_exceeded",
        )
        .there("run:model_memory_exceeded"),
        case(
            "more than all memory folded",
            folded(i64::MAX),
            vec![],
            "load:model_memory_exceeded",
        )
        .there("run:model_memory_exceeded"),
        case(
            "ConstantOfShape",
            filled(),
            vec![longs("n", &[1 << 30])],
            "run:model_memory_exceeded",
        ),
        case(
            "ConstantOfShape of a negative size",
            filled(),
            vec![longs("n", &[-1])],
            "run:backend_failed",
        ),
        case(
            "Expand",
            blow_up("Expand", x(1), &["x", "n"], 1),
            vec![longs("n", &[1 << 30])],
            "run:model_memory_exceeded",
        ),
        case(
            "Tile",
            blow_up("Tile", x(1_000), &["x", "n"], 1),
            vec![longs("n", &[1 << 24])],
            "run:model_memory_exceeded",
        )
        .there("run:backend_failed"),
        case(
            "Pad",
            blow_up("Pad", x(1), &["x", "n"], 1),
            vec![longs("n", &[1 << 30, 1 << 30])],
            "run:model_memory_exceeded",
        ),
        case("Range", range, vec![scalar], "run:model_memory_exceeded"),
        case(
            "Resize",
            resize,
            vec![longs("n", &[1 << 30])],
            "run:model_memory_exceeded",
        )
        .there("load:invalid_model"),
        case(
            "OneHot",
            one_hot,
            vec![longs("n", &[1 << 30])],
            "run:model_memory_exceeded",
        ),
        case("a broadcast", outer, vec![a, b], "run:model_memory_exceeded"),
        case(
            "a product of 36 TB",
            matmul,
            vec![longs("n", &[3_000_000])],
            "run:model_memory_exceeded",
        ),
        case(
            "an output of 1 GiB",
            filled(),
            vec![longs("n", &[1 << 28])],
            "run:model_memory_exceeded",
        ),
        case(
            "an output of 300 MiB",
            filled(),
            vec![longs("n", &[75 << 20])],
            "run:model_output_exceeded",
        ),
        case(
            "an output of another shape",
            lie,
            vec![floats("x", &[1, 2], 1.0)],
            "run:backend_failed",
        ),
        case(
            "a chain of 60,000 operators",
            chain(60_000),
            vec![floats("v0", &[1], 0.5)],
            "answers",
        )
        .there("answers|load:load_too_expensive"),
        case(
            "constants that fold for minutes",
            burning(),
            vec![],
            "load:load_too_expensive",
        )
        .there("load:model_memory_exceeded|load:load_too_expensive"),
    ]
}

/// A long way through many operators.
fn chain(operators: usize) -> Net {
    let mut net = Net::default().input("v0", Type::FLOAT, &[FREE]);
    for i in 0..operators {
        net = net.node(["Exp", "Log"][i % 2], &[&format!("v{i}")], &format!("v{}", i + 1));
    }
    net.output(&format!("v{operators}"), Type::FLOAT, &[FREE])
}

/// A product of constants, over and over.
fn burning() -> Net {
    let n = 256;
    let mut net = Net::default().weights("w", &[n, n], &vec![0.001; (n * n) as usize]);
    let mut last = "w".to_owned();
    for i in 0..50_000 {
        let next = format!("v{i}");
        net = net.node("MatMul", &[&last, "w"], &next);
        last = next;
    }
    net.output(&last, Type::FLOAT, &[n, n])
}

struct Stage {
    inference: Inference,
}

/// Processes that may take little.
fn worker() -> WorkerOptions {
    WorkerOptions {
        memory_bytes: 768 << 20,
        load_cpu: Duration::from_secs(3),
        ..onnx::worker()
    }
}

impl Stage {
    async fn load(&self, file: &[u8], cell: &UsageCell) -> Result<Arc<GraphHandle>, LoadError> {
        let (tenant, digest) = (TenantId(uuid::Uuid::from_u128(1)), Digest::of(file));
        let blob = Bytes::copy_from_slice(file);
        self.inference
            .load(tenant, digest, blob, inference::Target::Cpu, cell)
            .await
    }

    async fn play(&self, case: &Case) -> String {
        let cell = Arc::new(UsageCell::default());
        let graph = match self.load(&case.file, &cell).await {
            Ok(graph) => graph,
            Err(error) => return format!("load:{}  ({error})", error.code()),
        };
        let cancel = CancellationToken::new();
        match graph
            .compute(case.inputs.clone(), Arc::clone(&cell), cancel)
            .await
        {
            Ok(_) => "answers".into(),
            Err(error) => {
                let usage = cell.snapshot();
                assert_eq!(usage.work.len(), 1, "{}: {error}", case.name);
                assert_eq!(usage.work[0].runs, 1, "{}", case.name);
                format!("run:{}  ({error})", error.code())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_file_has_its_end_and_harms_nobody() {
    let inference = Inference::new(Options::default(), worker());
    play_all(Stage { inference }, |case| case.ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_on_onnx_runtime() {
    let inference = onnx::onnxruntime(worker()).await;
    play_all(Stage { inference }, |case| case.ends_there).await;
}

async fn play_all(stage: Stage, ends: impl Fn(&Case) -> &'static str) {
    let good = stage.load(&dense().bytes(), &UsageCell::default()).await.unwrap();
    let want = answer(&good).await;
    let mut wrong = Vec::new();
    for case in malformed()
        .into_iter()
        .chain(hidden())
        .chain(bytes())
        .chain(greedy())
    {
        let ended = stage.play(&case).await;
        // There may be more than one bound that it meets first, by how fast the machine is.
        let met = ended.split(' ').next().unwrap_or_default();
        if !ends(&case).split('|').any(|end| end == met) {
            wrong.push(format!("{}: {ended}, not {}", case.name, ends(&case)));
        }
        assert_eq!(answer(&good).await, want, "after {}", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(good);
    assert_eq!(stage.inference.loaded(), 0);
}

async fn answer(graph: &GraphHandle) -> Vec<Tensor> {
    let x = floats("x", &[3, 2], 0.5);
    graph
        .compute(vec![x], Arc::default(), CancellationToken::new())
        .await
        .unwrap()
}
