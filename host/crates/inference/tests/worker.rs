//! The processes of graphs: stopped in the middle of a run, lost, started again, never left behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod onnx;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::{DType, Digest, TenantId, Tensor, UsageCell};
use inference::{ComputeError, GraphHandle, Inference, Options, Target};
use onnx::{Net, children, dense, power, square, until, worker};
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

async fn load(inference: &Inference, tenant: u128, net: Net, cell: &UsageCell) -> Arc<GraphHandle> {
    let file = net.bytes();
    let tenant = TenantId(uuid::Uuid::from_u128(tenant));
    inference
        .load(tenant, Digest::of(&file), Bytes::from(file), Target::Cpu, cell)
        .await
        .unwrap()
}

fn inference() -> Inference {
    Inference::new(Options::default(), worker())
}

/// A call in a task of its own, once its CPU time is seen in its cell.
async fn busy_call(graph: &Arc<GraphHandle>, cancel: &CancellationToken) -> (Call, Arc<UsageCell>) {
    let cell = Arc::new(UsageCell::default());
    let (graph, task_cell, cancel) = (Arc::clone(graph), Arc::clone(&cell), cancel.clone());
    let call = tokio::spawn(async move { graph.compute(square(1024), task_cell, cancel).await });
    until(|| cell.snapshot().model_ns() > 0).await;
    assert!(!call.is_finished(), "its usage is seen while it runs");
    (call, cell)
}

type Call = tokio::task::JoinHandle<Result<Vec<Tensor>, ComputeError>>;

/// Whether all threads of a process that nobody has waited for have ended.
fn is_dead(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.contains(") Z") && std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() == 1
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_ends_soon_and_is_paid_for() {
    let inference = inference();
    assert!(inference.caps()[0].interruptible);
    let graph = load(&inference, 1, power(), &UsageCell::default()).await;
    let cancel = CancellationToken::new();
    let (call, cell) = busy_call(&graph, &cancel).await;
    let live = cell.snapshot();
    assert_eq!((live.work[0].runs, live.work[0].rows), (1, 1024));
    let before = children();
    cancel.cancel();
    // The run itself would take a minute.
    let ended = tokio::time::timeout(Duration::from_secs(10), call).await.unwrap();
    assert_eq!(ended.unwrap(), Err(ComputeError::Cancelled));
    let usage = cell.snapshot();
    assert_eq!((usage.work.len(), usage.work[0].runs), (1, 1));
    assert!(usage.model_ns() > live.model_ns(), "the grace is paid for too");
    assert!(children().iter().all(|child| !before.contains(child)));

    // The next call has the graph loaded again and pays for that.
    let cell = Arc::new(UsageCell::default());
    let again = graph.compute(square(1), Arc::clone(&cell), CancellationToken::new());
    assert_eq!(again.await.unwrap()[0].shape(), [1, 1]);
    let usage = cell.snapshot();
    assert_eq!(usage.work[0].runs, 1);
    assert!(usage.cpu_ns > 0, "loading is CPU time of the call");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_ends_its_run() {
    let graph = load(&inference(), 1, power(), &UsageCell::default()).await;
    let (call, _) = busy_call(&graph, &CancellationToken::new()).await;
    let before = children();
    call.abort();
    until(|| children().iter().all(|child| !before.contains(child))).await;
    let answer = graph.compute(square(1), Arc::default(), CancellationToken::new());
    assert!(answer.await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_costs_one_call_at_most() {
    let inference = inference();
    let other = load(&inference, 2, dense(), &UsageCell::default()).await;
    let others = children();
    let graph = load(&inference, 1, power(), &UsageCell::default()).await;
    let pid = *children().iter().find(|child| !others.contains(child)).unwrap();
    // While it is idle nobody notices.
    kill(pid);
    until(|| is_dead(pid)).await;
    let answer = graph.compute(square(1), Arc::default(), CancellationToken::new());
    assert!(answer.await.is_ok());

    let (call, cell) = busy_call(&graph, &CancellationToken::new()).await;
    let pid = *children().iter().find(|child| !others.contains(child)).unwrap();
    kill(pid);
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.code(), "backend_failed", "{error}");
    assert_eq!(cell.snapshot().work[0].runs, 1);
    let answer = graph.compute(square(1), Arc::default(), CancellationToken::new());
    assert!(answer.await.is_ok());

    let x = Tensor::new("x", DType::Fp32, vec![1, 2], vec![0; 8]).unwrap();
    let answer = other.compute(vec![x], Arc::default(), CancellationToken::new());
    assert!(answer.await.is_ok());
    assert!(
        others.iter().all(|child| children().contains(child)),
        "the neighbour's process stayed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_load_at_once_and_all_end_with_their_handles() {
    let inference = inference();
    let loads = (0..24).map(|i: i64| {
        let inference = inference.clone();
        tokio::spawn(async move {
            // A file of its own for each.
            let net = dense().ints("own", &[i]);
            let graph = load(&inference, (i % 3) as u128, net, &UsageCell::default()).await;
            let x = Tensor::new("x", DType::Fp32, vec![1, 2], vec![0; 8]).unwrap();
            let answer = graph.compute(vec![x], Arc::default(), CancellationToken::new());
            assert_eq!(answer.await.unwrap()[0].shape(), [1, 1]);
            graph
        })
    });
    let mut graphs = Vec::new();
    for load in loads.collect::<Vec<_>>() {
        graphs.push(load.await.unwrap());
    }
    assert_eq!((inference.loaded(), children().len()), (24, 24));
    assert!(graphs.iter().all(|graph| graph.resident_bytes() > 1 << 20));
    drop(graphs);
    until(|| children().is_empty()).await;
}

/// The host of the next test: says which process runs its graph, which has a minute's work, and waits.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the test below"]
async fn host_that_gets_killed() {
    let graph = load(&inference(), 1, power(), &UsageCell::default()).await;
    let (call, _) = busy_call(&graph, &CancellationToken::new()).await;
    println!("busy: {}", children()[0]);
    let _ = call.await;
}

#[test]
fn a_process_ends_with_its_host_in_the_middle_of_a_run() {
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host_that_gets_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(host.stdout.take().unwrap()).lines();
    let busy = said
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("busy: ")?.1.to_owned()));
    let process = format!("/proc/{}", busy.unwrap());
    assert!(Path::new(&process).exists());
    host.kill().unwrap();
    host.wait().unwrap();
    for _ in 0..3_000 {
        // Whoever takes orphans in may be slow to wait for them.
        let stat = std::fs::read_to_string(format!("{process}/stat"));
        if stat.map_or(true, |stat| stat.contains(") Z")) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{process} is still there");
}
