//! ONNX Runtime behind the traits: its types, its words, its stops, and libraries that are none.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod onnx;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::{DType, Digest, TenantId, Tensor, UsageCell};
use inference::{ComputeError, GraphHandle, LoadError, OnnxRuntimeLibrary, Target};
use onnx::{FREE, Net, Type, children, dense, identity, onnxruntime, power, square, until};
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

async fn load(model: Vec<u8>) -> Result<Arc<GraphHandle>, LoadError> {
    let inference = onnxruntime(onnx::worker()).await;
    let (tenant, digest) = (TenantId(uuid::Uuid::nil()), Digest::of(&model));
    let cell = UsageCell::default();
    inference
        .load(tenant, digest, model.into(), Target::Cpu, &cell)
        .await
}

async fn compute(graph: &GraphHandle, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, ComputeError> {
    graph
        .compute(inputs, Arc::default(), CancellationToken::new())
        .await
}

#[tokio::test]
async fn a_library_is_probed_in_a_process_of_its_own() {
    let worker = onnx::worker();
    let found = OnnxRuntimeLibrary::probe(&onnx::library(), &worker)
        .await
        .unwrap();
    assert_eq!(found.version(), "1.32.0");
    let folder = std::env::temp_dir().join(format!("wattle-libraries-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let garbage = folder.join("garbage.so");
    std::fs::write(&garbage, b"\x7fELF and nothing more".repeat(100)).unwrap();
    let half = folder.join("half.so");
    let whole = std::fs::read(onnx::library()).unwrap();
    std::fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    // A sound library that is another's.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    let libc = paths.find(|path| path.contains("libc.so")).unwrap().into();
    for path in [
        "/nowhere/libonnxruntime.so".into(),
        folder.clone(),
        garbage,
        half,
        libc,
    ] {
        let refused = OnnxRuntimeLibrary::probe(&path, &worker).await.unwrap_err();
        assert!(
            matches!(refused, LoadError::Backend { .. }),
            "{}: {refused:?}",
            path.display()
        );
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn every_type_of_numbers_comes_back_as_it_was() {
    let types = [
        (Type::BOOL, DType::Bool),
        (Type::UINT8, DType::U8),
        (Type::INT8, DType::I8),
        (Type::UINT16, DType::U16),
        (Type::INT16, DType::I16),
        (Type::UINT32, DType::U32),
        (Type::INT32, DType::I32),
        (Type::UINT64, DType::U64),
        (Type::INT64, DType::I64),
        (Type::FLOAT16, DType::Fp16),
        (Type::BFLOAT16, DType::Bf16),
        (Type::FLOAT, DType::Fp32),
        (Type::DOUBLE, DType::Fp64),
    ];
    for (of, dtype) in types {
        let graph = load(identity(of).bytes()).await.unwrap();
        assert_eq!(graph.info().label(), "onnxruntime 1.32.0");
        assert_eq!(graph.signature().inputs[0].dtype, dtype);
        let size = dtype.size().unwrap();
        let data: Vec<u8> = match dtype {
            DType::Bool => vec![0, 1, 1],
            _ => (1..=3 * size as u8).map(|byte| byte.wrapping_mul(37)).collect(),
        };
        let x = Tensor::new("x", dtype, vec![3], data).unwrap();
        assert_eq!(compute(&graph, vec![x.clone()]).await.unwrap(), [x.renamed("y")]);
        let none = Tensor::new("x", dtype, vec![0], vec![]).unwrap();
        assert_eq!(
            compute(&graph, vec![none.clone()]).await.unwrap(),
            [none.renamed("y")]
        );
    }
    let error = load(identity(Type::STRING).bytes()).await.unwrap_err();
    assert_eq!(error.code(), "unsupported_model");
}

#[tokio::test]
async fn a_truth_is_any_byte_but_zero() {
    let net = Net::default()
        .input("c", Type::BOOL, &[FREE])
        .node_with("Cast", &["c"], "y", vec![onnx::int("to", 3)])
        .output("y", Type::INT8, &[FREE]);
    let graph = load(net.bytes()).await.unwrap();
    let c = Tensor::new("c", DType::Bool, vec![4], vec![0, 1, 2, 255]).unwrap();
    assert_eq!(
        compute(&graph, vec![c]).await.unwrap()[0].data()[..],
        [0, 1, 1, 1]
    );
}

#[tokio::test]
async fn its_refusals_have_the_codes_of_the_others() {
    let odd = identity(Type::FLOAT).node("Wattle", &["x"], "z");
    let refused = load(odd.bytes()).await.unwrap_err();
    assert_eq!(refused.code(), "unsupported_model", "{refused}");
    let mut nowhere = dense();
    nowhere.0.node[0].input[0] = "nowhere".into();
    let refused = load(nowhere.bytes()).await.unwrap_err();
    assert_eq!(refused.code(), "invalid_model", "{refused}");
    let gather = Net::default()
        .input("which", Type::INT64, &[FREE])
        .weights("table", &[3, 2], &[0.0; 6])
        .node("Gather", &["table", "which"], "rows")
        .output("rows", Type::FLOAT, &[FREE, 2]);
    let graph = load(gather.bytes()).await.unwrap();
    for which in [3_i64, 1 << 40] {
        let which = Tensor::new("which", DType::I64, vec![1], which.to_le_bytes().to_vec()).unwrap();
        let error = compute(&graph, vec![which]).await.unwrap_err();
        assert_eq!(error.code(), "backend_failed", "{error}");
    }
    let x = Tensor::new("x", DType::Fp32, vec![1, 2], vec![0; 8]).unwrap();
    let error = compute(&graph, vec![x]).await.unwrap_err();
    assert_eq!(error.code(), "invalid_input");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_stops_and_leaves_its_process() {
    let graph = load(power().bytes()).await.unwrap();
    let process = children();
    for width in [512, 1] {
        let (cell, cancel) = (Arc::new(UsageCell::default()), CancellationToken::new());
        let (task_graph, task_cell, token) = (Arc::clone(&graph), Arc::clone(&cell), cancel.clone());
        let call = tokio::spawn(async move { task_graph.compute(square(width), task_cell, token).await });
        if width == 1 {
            assert_eq!(call.await.unwrap().unwrap()[0].shape(), [1, 1]);
            assert_eq!(cell.snapshot().cpu_ns, 0, "nothing was loaded again");
            continue;
        }
        until(|| cell.snapshot().model_ns() > 0).await;
        cancel.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(10), call).await.unwrap();
        assert_eq!(ended.unwrap(), Err(ComputeError::Cancelled));
        assert_eq!(cell.snapshot().work[0].runs, 1);
    }
    assert_eq!(children(), process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_comes_late_meets_no_other_run() {
    let graph = load(dense().bytes()).await.unwrap();
    let x = || vec![Tensor::new("x", DType::Fp32, vec![1, 2], vec![0; 8]).unwrap()];
    for _ in 0..200 {
        let cancel = CancellationToken::new();
        let stopped = graph.compute(x(), Arc::default(), cancel.clone());
        let ((), stopped) = tokio::join!(async { cancel.cancel() }, stopped);
        assert!(
            matches!(stopped, Ok(_) | Err(ComputeError::Cancelled)),
            "{stopped:?}"
        );
        assert!(compute(&graph, x()).await.is_ok());
    }
}

#[tokio::test]
async fn bytes_of_its_own_format_are_read_as_onnx() {
    // An unknown field puts the mark of the other format where the library would look for it.
    let file = [b"\x7a\x06..ORTM".to_vec(), dense().bytes()].concat();
    let graph = load(file).await.unwrap();
    assert_eq!(graph.signature().inputs[0].name, "x");
    let blob = Bytes::from_static(b"\x20\0\0\0ORTM\0\0\0\0");
    assert_eq!(load(blob.to_vec()).await.unwrap_err().code(), "invalid_model");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_costs_one_call_at_most() {
    let graph = load(power().bytes()).await.unwrap();
    let (pids, task_graph, cell) = (children(), Arc::clone(&graph), Arc::new(UsageCell::default()));
    let task_cell = Arc::clone(&cell);
    let call = tokio::spawn(async move {
        let token = CancellationToken::new();
        task_graph.compute(square(1024), task_cell, token).await
    });
    until(|| cell.snapshot().model_ns() > 0).await;
    for pid in pids {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    assert_eq!(call.await.unwrap().unwrap_err().code(), "backend_failed");
    assert!(compute(&graph, square(1)).await.is_ok());
}
