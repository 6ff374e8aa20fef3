//! `wasi:nn` as guests see it: graphs of the release alone, and an error code for every mistake.

#![allow(clippy::unwrap_used, reason = "test helpers too may fail loudly")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Host, guest, invocation, request};
use domain::{DType, Digest, Limits, Outcome, Signature, TenantId, Tensor, TensorSpec, UsageCell};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use inference::{
    Backend, BackendInfo, Caps, ComputeError, Graph, GraphHandle, Inference, LoadError, Runner, Target,
};
use runtime::{Failure, Invocation};
use std::future::ready;

/// All of `wasi:nn`, as core functions.
const NN: &str = r#"
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[constructor]tensor"
        (func $tensor (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.dimensions" (func $dimensions (param i32 i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.ty" (func $ty (param i32) (result i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.data" (func $data (param i32 i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[resource-drop]tensor" (func $drop-tensor (param i32)))
    (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "load" (func $load (param i32 i32 i32 i32 i32)))
    (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "load-by-name" (func $load-by-name (param i32 i32 i32)))
    (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "[method]graph.init-execution-context"
        (func $init (param i32 i32)))
    (import "wasi:nn/inference@0.2.0-rc-2024-10-28" "[method]graph-execution-context.compute"
        (func $compute (param i32 i32 i32 i32)))
    (import "wasi:nn/errors@0.2.0-rc-2024-10-28" "[method]error.code" (func $code (param i32) (result i32)))
    (import "wasi:nn/errors@0.2.0-rc-2024-10-28" "[method]error.data" (func $error-data (param i32 i32)))
    (import "wasi:nn/errors@0.2.0-rc-2024-10-28" "[resource-drop]error" (func $drop-error (param i32)))
    (data (i32.const 4096) "g")
    (data (i32.const 4100) "x")
    (func $check (param $ok i32) (if (i32.eqz (local.get $ok)) (then unreachable)))
    ;; The handle in the result at 8192, which must be a success.
    (func $handle (result i32)
        (call $check (i32.eqz (i32.load8_u (i32.const 8192))))
        (i32.load (i32.const 8196)))
    ;; The result at 8192 must be an error with this code and some text.
    (func $refused (param $code i32)
        (call $check (i32.load8_u (i32.const 8192)))
        (call $check (i32.eq (call $code (i32.load (i32.const 8196))) (local.get $code)))
        (call $error-data (i32.load (i32.const 8196)) (i32.const 8300))
        (call $check (i32.load (i32.const 8304)))
        (call $drop-error (i32.load (i32.const 8196))))
    (func $context (result i32)
        (call $load-by-name (i32.const 4096) (i32.const 1) (i32.const 8192))
        (call $init (call $handle) (i32.const 8192))
        (call $handle))
    ;; A tensor of `type` with one axis of `length` and `bytes` of data.
    (func $make (param $type i32) (param $length i32) (param $bytes i32) (result i32)
        (i32.store (i32.const 4200) (local.get $length))
        (call $tensor (i32.const 4200) (i32.const 1) (local.get $type) (i32.const 16384) (local.get $bytes)))
    ;; Runs the graph "g" on one input "x"; the result is at 8192.
    (func $run (param $tensor i32)
        (i32.store (i32.const 4300) (i32.const 4100)) (i32.store (i32.const 4304) (i32.const 1))
        (i32.store (i32.const 4308) (local.get $tensor))
        (call $compute (call $context) (i32.const 4300) (i32.const 1) (i32.const 8192)))
"#;

/// A backend whose graph gives back its one input, after whatever its blob tells it to do first.
struct Echo {
    signature: Signature,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    fails: bool,
    odd_output: bool,
    /// Runs wait for this.
    gate: Option<AtomicBool>,
    started: AtomicBool,
}

fn info() -> BackendInfo {
    BackendInfo {
        name: "echo",
        version: "1".into(),
        device: "cpu".into(),
        precision: "exact",
    }
}

impl Backend for Echo {
    fn probe(&self) -> Caps {
        Caps {
            info: info(),
            targets: vec![Target::Cpu],
            interruptible: false,
            narrow: false,
        }
    }

    fn load<'a>(
        &'a self,
        _: Bytes,
        _: Target,
        _: &'a UsageCell,
    ) -> BoxFuture<'a, Result<Box<dyn Graph>, LoadError>> {
        let graph: Box<dyn Graph> = Box::new(Self {
            signature: self.signature.clone(),
            script: Arc::clone(&self.script),
        });
        ready(Ok(graph)).boxed()
    }
}

impl Graph for Echo {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn cost(&self, shapes: &[Vec<u32>]) -> u64 {
        1_000_000 * u64::from(shapes[0][0])
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn runner<'a>(&'a self, _: &'a UsageCell) -> BoxFuture<'a, Result<Box<dyn Runner>, LoadError>> {
        let runner: Box<dyn Runner> = Box::new(Run(Arc::clone(&self.script)));
        ready(Ok(runner)).boxed()
    }
}

struct Run(Arc<Script>);

impl Runner for Run {
    fn run<'a>(&'a mut self, runs: &'a mut [inference::Run]) -> BoxFuture<'a, ()> {
        let answer = async {
            for run in runs {
                run.answer = Some(self.answer(&run.inputs).await);
            }
        };
        answer.boxed()
    }
}

impl Run {
    async fn answer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, ComputeError> {
        self.0.started.store(true, Ordering::SeqCst);
        while self
            .0
            .gate
            .as_ref()
            .is_some_and(|open| !open.load(Ordering::SeqCst))
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if self.0.fails {
            return Err(ComputeError::Backend {
                reason: "out of order".into(),
            });
        }
        if self.0.odd_output {
            let bytes = inputs[0].data().clone();
            return Ok(vec![
                Tensor::new("y", DType::I8, vec![bytes.len() as u32], bytes).unwrap(),
            ]);
        }
        Ok(vec![inputs[0].clone().renamed("y")])
    }
}

async fn graph(script: &Arc<Script>) -> Arc<GraphHandle> {
    let spec = |name: &str, dtype| TensorSpec::new(name, dtype, [None]);
    let output = if script.odd_output { DType::I8 } else { DType::I32 };
    let signature = Signature {
        inputs: vec![spec("x", DType::I32)],
        outputs: vec![spec("y", output)],
        parameters: Vec::new(),
    };
    let echo = Echo {
        signature,
        script: Arc::clone(script),
    };
    let inference = Inference::with_backends(inference::Options::default(), vec![Arc::new(echo)]);
    let tenant = TenantId(uuid::Uuid::from_u128(1));
    // The least that passes for ONNX: a version, a graph, an operator set.
    let blob = Bytes::from_static(b"\x08\x08\x3a\x00\x42\x00");
    inference
        .load(
            tenant,
            Digest::of(&blob),
            blob,
            Target::Cpu,
            &UsageCell::default(),
        )
        .await
        .unwrap()
}

async fn with_graph(script: Script) -> Invocation {
    let graph = graph(&Arc::new(script)).await;
    Invocation {
        graphs: Arc::new([("g".to_owned(), graph)].into()),
        ..invocation()
    }
}

async fn run(body: &str, invocation: Invocation) -> Result<(), Failure> {
    let body = format!("{body} i32.const 0");
    Host::new()
        .publish(&guest(NN, &body))
        .await
        .infer(request(), invocation)
        .await
        .map(drop)
}

#[tokio::test]
async fn a_graph_runs_and_its_work_is_recorded() {
    let invocation = with_graph(Script::default()).await;
    let body = "
        (i32.store (i32.const 16384) (i32.const 7)) (i32.store (i32.const 16388) (i32.const 9))
        (call $run (call $make (i32.const 5) (i32.const 2) (i32.const 8)))
        ;; One output, named by one byte; the handle lies behind the name.
        (call $check (i32.eq (i32.load (i32.const 8200)) (i32.const 1)))
        (local.set $i (i32.load (i32.add (call $handle) (i32.const 8))))
        (call $check (i32.eq (call $ty (local.get $i)) (i32.const 5)))
        (call $dimensions (local.get $i) (i32.const 8192))
        (call $check (i32.eq (i32.load (i32.const 8196)) (i32.const 1)))
        (call $check (i32.eq (i32.load (i32.load (i32.const 8192))) (i32.const 2)))
        (call $data (local.get $i) (i32.const 8192))
        (call $check (i32.eq (i32.load (i32.const 8196)) (i32.const 8)))
        (call $check (i32.eq (i32.load offset=4 (i32.load (i32.const 8192))) (i32.const 9)))
        (call $drop-tensor (local.get $i))";
    run(body, invocation.clone()).await.unwrap();
    let usage = invocation.cell.snapshot();
    assert_eq!((usage.bytes_in, usage.bytes_out), (8, 8));
    assert_eq!(usage.work.len(), 1);
    assert_eq!(
        (usage.work[0].runs, usage.work[0].backend.as_str()),
        (1, "echo 1")
    );
    assert!(
        usage.fuel > 2_000,
        "2 rows of 1,000,000 multiply-accumulates: {}",
        usage.fuel
    );
}

#[tokio::test]
async fn model_work_costs_fuel_by_its_shape() {
    let fuel = async |length: u32| {
        let invocation = with_graph(Script::default()).await;
        let bytes = 4 * length;
        let body = format!("(call $run (call $make (i32.const 5) (i32.const {length}) (i32.const {bytes})))");
        run(&body, invocation.clone()).await.unwrap();
        invocation.cell.snapshot().fuel
    };
    // Each row: 1,000,000 multiply-accumulates, and 4 bytes at 8 a unit.
    assert_eq!(fuel(21).await - fuel(1).await, 20 * 1_000 + 20 * 4 / 8);
    let poor = Invocation {
        limits: Limits {
            fuel: 20_000,
            ..Limits::default()
        },
        ..with_graph(Script::default()).await
    };
    let body = "(call $run (call $make (i32.const 5) (i32.const 100) (i32.const 400)))";
    let failure = run(body, poor.clone()).await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::FuelExhausted);
    assert_eq!(poor.cell.snapshot().work, [], "it is charged before it runs");
}

#[tokio::test]
async fn every_mistake_has_its_code() {
    let cases = [
        ("no such graph", "(call $load-by-name (i32.const 4100) (i32.const 1) (i32.const 8192))", 6),
        ("a graph of one's own", "(call $load (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 8192))", 7),
        ("too little data", "(call $run (call $make (i32.const 5) (i32.const 2) (i32.const 7)))", 0),
        ("another type", "(call $run (call $make (i32.const 1) (i32.const 2) (i32.const 8)))", 0),
        ("no input", "(call $compute (call $context) (i32.const 0) (i32.const 0) (i32.const 8192))", 0),
        (
            "too many elements",
            "(i32.store (i32.const 4200) (i32.const -1)) (i32.store (i32.const 4204) (i32.const -1))
             (i32.store (i32.const 4208) (i32.const -1))
             (call $run (call $tensor (i32.const 4200) (i32.const 3) (i32.const 6) (i32.const 0) (i32.const 0)))",
            0,
        ),
    ];
    for (what, body, code) in cases {
        let body = format!("{body} (call $refused (i32.const {code}))");
        let ended = run(&body, with_graph(Script::default()).await).await;
        assert_eq!(ended, Ok(()), "{what}");
    }
    let odd =
        "(call $run (call $make (i32.const 5) (i32.const 1) (i32.const 4))) (call $refused (i32.const 4))";
    assert_eq!(
        run(
            odd,
            with_graph(Script {
                odd_output: true,
                ..Script::default()
            })
            .await
        )
        .await,
        Ok(())
    );
}

#[tokio::test]
async fn a_broken_graph_is_the_graphs_fault() {
    let broken = async || {
        with_graph(Script {
            fails: true,
            ..Script::default()
        })
        .await
    };
    let compute = "(call $run (call $make (i32.const 5) (i32.const 1) (i32.const 4)))";
    let handled = format!("{compute} (call $refused (i32.const 3))");
    assert_eq!(
        run(&handled, broken().await).await,
        Ok(()),
        "a guest may carry on"
    );
    let failure = run(&format!("{compute} unreachable"), broken().await)
        .await
        .unwrap_err();
    assert_eq!(failure.outcome, Outcome::ModelFailed);
    assert!(failure.message.contains("out of order"), "{failure}");
}

#[tokio::test]
async fn tensors_and_handles_are_limited() {
    let keep = "(loop $l (drop (call $make (i32.const 4) (i32.const 100) (i32.const 100))) (br $l))";
    let drop = "(loop $l
        (call $drop-tensor (call $make (i32.const 4) (i32.const 100) (i32.const 100)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 1000))))";
    let few_bytes = Limits {
        tensor_bytes: 1_000,
        ..Limits::default()
    };
    let few_handles = Limits {
        handles: 50,
        ..Limits::default()
    };
    for (limits, outcome) in [
        (few_bytes, Outcome::TensorsExceeded),
        (few_handles, Outcome::HandlesExceeded),
    ] {
        let invocation = || Invocation {
            limits: limits.clone(),
            ..invocation()
        };
        assert_eq!(run(keep, invocation()).await.unwrap_err().outcome, outcome);
        assert_eq!(
            run(drop, invocation()).await,
            Ok(()),
            "what is dropped is free again"
        );
    }
    // The limit is on what is held at once, a run's inputs included.
    let invocation = with_graph(Script::default()).await;
    let invocation = Invocation {
        limits: Limits {
            tensor_bytes: 500,
            ..Limits::default()
        },
        ..invocation
    };
    let run_often = "(loop $l
        (call $run (call $make (i32.const 5) (i32.const 25) (i32.const 100)))
        (call $drop-tensor (i32.load (i32.add (call $handle) (i32.const 8))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 20))))";
    assert_eq!(run(run_often, invocation).await, Ok(()));
}

#[tokio::test]
async fn handles_of_others_and_dropped_ones_trap() {
    for body in [
        "(drop (call $ty (i32.const 77)))",
        "(call $drop-tensor (i32.const 1))",
    ] {
        assert_eq!(
            run(body, invocation()).await.unwrap_err().outcome,
            Outcome::Trapped,
            "{body}"
        );
    }
    let confused = "(call $load-by-name (i32.const 4096) (i32.const 1) (i32.const 8192))
        (drop (call $ty (call $handle)))";
    let ended = run(confused, with_graph(Script::default()).await).await;
    assert_eq!(
        ended.unwrap_err().outcome,
        Outcome::Trapped,
        "a graph is no tensor"
    );
}

/// On one thread: if waiting for a graph held it, the test would never end.
#[tokio::test(flavor = "current_thread")]
async fn a_stopped_call_waits_for_the_run_that_it_caused() {
    let script = Arc::new(Script {
        gate: Some(AtomicBool::new(false)),
        ..Script::default()
    });
    let graph = graph(&script).await;
    let invocation = Invocation {
        graphs: Arc::new([("g".to_owned(), graph)].into()),
        ..invocation()
    };
    let pipeline = Host::new()
        .publish(&guest(
            NN,
            "(call $run (call $make (i32.const 5) (i32.const 1) (i32.const 4))) i32.const 0",
        ))
        .await;
    let running = tokio::spawn({
        let invocation = invocation.clone();
        async move { pipeline.infer(request(), invocation).await }
    });
    while !script.started.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    invocation.cancel.cancel();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!running.is_finished(), "its work is not in the cell yet");
    script.gate.as_ref().unwrap().store(true, Ordering::SeqCst);
    assert_eq!(running.await.unwrap().unwrap_err().outcome, Outcome::Cancelled);
    assert_eq!(invocation.cell.snapshot().work[0].runs, 1);
}
