//! Writes small ONNX files, and what else the tests of backends share.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]

use std::cell::RefCell;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::{DType, Tensor};
use inference::worker::Workers;
use inference::{Inference, OnnxRuntimeLibrary, Options, WorkerOptions};

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

pub use rten_onnx::onnx::{DataLocation, DataType as Type};

/// The program that runs graphs: the example beside the tests.
pub fn worker() -> WorkerOptions {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().join("../examples/graph-worker");
    WorkerOptions::new(program, vec![])
}

/// The library that `cargo xtask runtimes` brings.
pub fn library() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let library = root.join(".tools/runtimes/libonnxruntime.so");
    assert!(
        library.exists(),
        "{} is missing: run cargo xtask runtimes",
        library.display()
    );
    library
}

/// A program that runs graphs on ONNX Runtime as well.
pub async fn worker_with_onnxruntime() -> WorkerOptions {
    let worker = worker();
    let library = OnnxRuntimeLibrary::probe(&library(), &worker).await.unwrap();
    WorkerOptions {
        onnxruntime: Some(library),
        ..worker
    }
}

/// ONNX Runtime alone, in processes of this kind.
pub async fn onnxruntime(worker: WorkerOptions) -> Inference {
    let onnxruntime = worker_with_onnxruntime().await.onnxruntime;
    let worker = WorkerOptions {
        onnxruntime,
        ..worker
    };
    let backend = Workers::onnxruntime(Arc::new(worker)).unwrap();
    Inference::with_backends(Options::default(), vec![Arc::new(backend)])
}

/// A free axis.
pub const FREE: i64 = -1;

#[derive(Clone, Default)]
pub struct Net(pub GraphProto);

impl Net {
    pub fn input(mut self, name: &str, of: DataType, shape: &[i64]) -> Self {
        self.0.input.push(value(name, of, shape));
        self
    }

    pub fn output(mut self, name: &str, of: DataType, shape: &[i64]) -> Self {
        self.0.output.push(value(name, of, shape));
        self
    }

    pub fn weights(mut self, name: &str, shape: &[i64], data: &[f32]) -> Self {
        let raw = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.0.initializer.push(tensor(name, DataType::FLOAT, shape, raw));
        self
    }

    pub fn ints(mut self, name: &str, data: &[i64]) -> Self {
        let raw = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.0
            .initializer
            .push(tensor(name, DataType::INT64, &[data.len() as i64], raw));
        self
    }

    pub fn node(self, op: &str, inputs: &[&str], output: &str) -> Self {
        self.node_with(op, inputs, output, vec![])
    }

    pub fn node_with(
        mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> Self {
        self.0.node.push(NodeProto {
            op_type: Some(op.into()),
            name: Some(format!("{op}-{output}")),
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: vec![output.into()],
            attribute,
            ..NodeProto::default()
        });
        self
    }

    /// The file.
    pub fn bytes(self) -> Vec<u8> {
        let opset = OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        };
        let model = ModelProto {
            ir_version: Some(8),
            graph: Some(self.0),
            opset_import: vec![opset],
            ..ModelProto::default()
        };
        model.write_buf().unwrap()
    }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(i),
        r#type: Some(AttributeType::INT),
        ..Default::default()
    }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        f: Some(f),
        r#type: Some(AttributeType::FLOAT),
        ..Default::default()
    }
}

pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    let kind = Some(AttributeType::INTS);
    AttributeProto {
        name: Some(name.into()),
        ints: ints.to_vec(),
        r#type: kind,
        ..Default::default()
    }
}

pub fn graph(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        g: Some(g),
        r#type: Some(AttributeType::GRAPH),
        ..Default::default()
    }
}

fn tensor(name: &str, of: DataType, shape: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: shape.to_vec(),
        data_type: Some(of),
        raw_data: Some(RefCell::new(raw)),
        ..TensorProto::default()
    }
}

fn value(name: &str, of: DataType, shape: &[i64]) -> ValueInfoProto {
    let dim = |(axis, &size): (usize, &i64)| Dimension {
        dim_value: (size != FREE).then_some(size),
        dim_param: (size == FREE).then(|| format!("d{axis}")),
    };
    let shape = TensorShapeProto {
        dim: shape.iter().enumerate().map(dim).collect(),
    };
    let tensor = TypeProtoTensor {
        elem_type: Some(of),
        shape: Some(shape),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
            sequence: None,
        }),
    }
}

/// `y = sigmoid(x·w + b)` from two features to one, over any number of rows.
pub fn dense() -> Net {
    Net::default()
        .input("x", DataType::FLOAT, &[FREE, 2])
        .weights("w", &[2, 1], &[0.5, -1.5])
        .weights("b", &[1], &[0.25])
        .node("MatMul", &["x", "w"], "xw")
        .node("Add", &["xw", "b"], "z")
        .node("Sigmoid", &["z"], "y")
        .output("y", DataType::FLOAT, &[FREE, 1])
}

/// Gives back its input.
pub fn identity(of: DataType) -> Net {
    Net::default()
        .input("x", of, &[FREE])
        .node("Identity", &["x"], "y")
        .output("y", of, &[FREE])
}

/// `y = x^3001`: nothing where `x` is small, a minute's work where it is 1024 wide.
pub fn power() -> Net {
    let mut net = Net::default().input("x", DataType::FLOAT, &[FREE, FREE]);
    let mut last = "x".to_owned();
    for i in 0..3_000 {
        let next = format!("v{i}");
        net = net.node("MatMul", &[&last, "x"], &next);
        last = next;
    }
    net.output(&last, DataType::FLOAT, &[FREE, FREE])
}

pub fn square(width: u32) -> Vec<Tensor> {
    let data = 0_f32.to_le_bytes().repeat((width * width) as usize);
    vec![Tensor::new("x", DType::Fp32, vec![width; 2], data).unwrap()]
}

/// Waits for what must come.
pub async fn until(mut there: impl FnMut() -> bool) {
    let wait = async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}

/// The processes that this one has started and not lost.
pub fn children() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children = tasks.flat_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")));
    let children = children.collect::<Vec<_>>().join(" ");
    children
        .split_ascii_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}
