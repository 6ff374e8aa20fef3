//! The CPU time that receipts carry against what the kernel says of the graphs' processes. Alone in its
//! binary: other children would count too.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod onnx;

use std::sync::Arc;

use bytes::Bytes;
use domain::{DType, Digest, TenantId, Tensor, UsageCell};
use inference::{Inference, Options, Target};
use onnx::{Net, Type};
use tokio_util::sync::CancellationToken;

/// How far the sum of the receipts may be from the kernel's figure.
const TOLERANCE_PERCENT: u64 = 5;

/// What the kernel's figures are rounded down to, user and system time each.
fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second()
}

/// User and system time of the living children of this process, fields 14 and 15 of proc(5)'s stat.
fn children_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children = tasks.flat_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")));
    let children = children.collect::<Vec<_>>().join(" ");
    let ticks = children.split_ascii_whitespace().map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_ascii_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    });
    ticks.sum::<u64>() * tick_ns()
}

fn assert_close(what: &str, receipt_ns: u64, process_ns: u64) {
    let off = receipt_ns.abs_diff(process_ns);
    assert!(
        off <= process_ns * TOLERANCE_PERCENT / 100 + 2 * tick_ns(),
        "{what}: {receipt_ns} ns in the receipt, {process_ns} ns used by its process"
    );
}

const N: usize = 512;

fn square(scale: f32) -> Vec<f32> {
    (0..N * N).map(|i| scale * ((i % 7) as f32 - 3.0)).collect()
}

/// `y = x·w·w·w`, or with a constant in place of `x`: then rten folds it all while loading.
fn products(constant: bool) -> Bytes {
    let n = N as i64;
    let net = Net::default().weights("w", &[n, n], &square(0.01));
    let mut net = if constant {
        net.weights("x", &[n, n], &square(1.0))
    } else {
        net.input("x", Type::FLOAT, &[n, n])
    };
    let mut last = "x".to_owned();
    let steps = if constant { 300 } else { 3 };
    for i in 0..steps {
        let next = format!("v{i}");
        net = net.node("MatMul", &[&last, "w"], &next);
        last = next;
    }
    net.output(&last, Type::FLOAT, &[n, n]).bytes().into()
}

#[tokio::test]
async fn receipts_and_the_process_agree() {
    let inference = Inference::new(Options::default(), onnx::worker());
    let tenant = TenantId(uuid::Uuid::nil());
    let load = async |model: Bytes, digest: Digest, cell: &UsageCell| {
        inference
            .load(tenant, digest, model, Target::Cpu, cell)
            .await
            .unwrap()
    };

    let cell = Arc::new(UsageCell::default());
    let graph = load(products(false), Digest::ZERO, &cell).await;
    let data: Vec<u8> = square(1.0).iter().flat_map(|x| x.to_le_bytes()).collect();
    let x = Tensor::new("x", DType::Fp32, vec![N as u32; 2], data).unwrap();
    let loading = cell.snapshot();
    let before = children_ns();
    let mut spent = 0;
    while spent < 1_000_000_000 {
        graph
            .compute(vec![x.clone()], Arc::clone(&cell), CancellationToken::new())
            .await
            .unwrap();
        spent = children_ns() - before;
    }
    let run = cell.snapshot().since(&loading);
    assert_close("running", run.model_ns(), spent);
    assert_eq!(run.cpu_ns, 0);

    // Constants are folded while loading: that counts too.
    drop(graph);
    let cell = UsageCell::default();
    let model = products(true);
    let digest = Digest::of(&model);
    let _graph = load(model, digest, &cell).await;
    let spent = children_ns();
    assert!(
        spent > 100_000_000,
        "the model folds too fast to tell: {spent} ns"
    );
    assert_close("loading", cell.snapshot().cpu_ns, spent);
}
