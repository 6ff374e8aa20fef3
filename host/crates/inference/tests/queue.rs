//! The queue, the tasks and the registry, on a backend that does as it is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use domain::{DType, Digest, Signature, TenantId, Tensor, TensorSpec, UsageCell};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use inference::{
    Backend, BackendInfo, Caps, ComputeError, Direct, Graph, GraphHandle, Inference, LoadError, Options, Run,
    Runner, Target,
};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

/// A backend whose runs wait to be let go, one by one.
#[derive(Default)]
struct Scripted {
    loads: AtomicUsize,
    failing_loads: AtomicUsize,
    /// Runs at once beyond one.
    more_at_once: AtomicUsize,
    /// Whether a run on 7 or 13 is short; that on 13 panics.
    has_short_runs: AtomicBool,
    /// Says `run` when a run begins, `together` before several, and `end` when a runner is dropped.
    events: Mutex<Option<UnboundedSender<&'static str>>>,
    gate: Arc<Mutex<Option<UnboundedReceiver<Act>>>>,
}

enum Act {
    Answer,
    Panic,
    /// Fails, and leaves the runs after it undone.
    Vanish,
}

struct ScriptedGraph {
    signature: Signature,
    more_at_once: usize,
    has_short_runs: bool,
    events: Option<UnboundedSender<&'static str>>,
    gate: Arc<Mutex<Option<UnboundedReceiver<Act>>>>,
}

struct ScriptedRunner {
    more_at_once: usize,
    events: Option<UnboundedSender<&'static str>>,
    gate: Option<UnboundedReceiver<Act>>,
}

impl Backend for Scripted {
    fn probe(&self) -> Caps {
        let info = BackendInfo {
            name: "scripted",
            version: "1".into(),
            device: "gpu:0".into(),
            precision: "fast",
        };
        Caps {
            info,
            targets: vec![Target::Gpu],
            interruptible: false,
            narrow: false,
        }
    }

    fn load<'a>(
        &'a self,
        _: Bytes,
        _: Target,
        cell: &'a UsageCell,
    ) -> BoxFuture<'a, Result<Box<dyn Graph>, LoadError>> {
        cell.add_cpu_ns(1_000_000_000);
        ready(self.graph()).boxed()
    }
}

impl Scripted {
    fn graph(&self) -> Result<Box<dyn Graph>, LoadError> {
        self.loads.fetch_add(1, SeqCst);
        if self
            .failing_loads
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            let reason = "told to".into();
            return Err(LoadError::Backend { reason });
        }
        let spec = TensorSpec::new("x", DType::U8, [None]);
        let signature = Signature {
            inputs: vec![spec.clone()],
            outputs: vec![spec],
            parameters: Vec::new(),
        };
        let events = self.events.lock().unwrap().clone();
        Ok(Box::new(ScriptedGraph {
            signature,
            more_at_once: self.more_at_once.load(SeqCst),
            has_short_runs: self.has_short_runs.load(SeqCst),
            events,
            gate: Arc::clone(&self.gate),
        }))
    }
}

impl Graph for ScriptedGraph {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn cost(&self, _: &[Vec<u32>]) -> u64 {
        0
    }

    fn resident_bytes(&self) -> u64 {
        7
    }

    fn direct(&self) -> Option<&dyn Direct> {
        self.has_short_runs.then_some(self)
    }

    fn runner<'a>(&'a self, _: &'a UsageCell) -> BoxFuture<'a, Result<Box<dyn Runner>, LoadError>> {
        let runner: Box<dyn Runner> = Box::new(ScriptedRunner {
            more_at_once: self.more_at_once,
            events: self.events.clone(),
            gate: self.gate.lock().unwrap().take(),
        });
        ready(Ok(runner)).boxed()
    }
}

impl Direct for ScriptedGraph {
    fn is_short(&self, inputs: &[Tensor]) -> bool {
        matches!(inputs[0].data()[..], [7 | 13])
    }

    fn answer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, ComputeError> {
        assert_ne!(inputs[0].data()[..], [13], "told to");
        Ok(inputs.to_vec())
    }

    fn runner_info(&self) -> BackendInfo {
        BackendInfo {
            name: "runner",
            version: "2".into(),
            device: "gpu:0".into(),
            precision: "fast",
        }
    }
}

impl Runner for ScriptedRunner {
    fn run<'a>(&'a mut self, runs: &'a mut [Run]) -> BoxFuture<'a, ()> {
        let answer = async {
            if runs.len() > 1 {
                self.say("together");
            }
            for run in runs {
                run.meter.add_ns(1_000_000_000);
                let (answer, goes_on) = self.answer(&run.inputs).await;
                run.answer = Some(answer);
                if !goes_on {
                    return;
                }
            }
        };
        answer.boxed()
    }

    fn most_at_once(&self) -> usize {
        1 + self.more_at_once
    }
}

impl ScriptedRunner {
    fn say(&self, event: &'static str) {
        if let Some(events) = &self.events {
            events.send(event).unwrap();
        }
    }

    /// The answer, and whether the next run can be done.
    async fn answer(&mut self, inputs: &[Tensor]) -> (Result<Vec<Tensor>, ComputeError>, bool) {
        self.say("run");
        let act = match &mut self.gate {
            Some(gate) => gate.recv().await.unwrap(),
            None => Act::Answer,
        };
        match act {
            Act::Panic => panic!("told to"),
            Act::Answer => (Ok(inputs.to_vec()), true),
            Act::Vanish => (Err(vanished()), false),
        }
    }
}

impl Drop for ScriptedRunner {
    fn drop(&mut self) {
        if let Some(events) = &self.events {
            let _ = events.send("end");
        }
    }
}

const LINGER: Duration = Duration::from_millis(100);

struct Stage {
    backend: Arc<Scripted>,
    inference: Inference,
    events: UnboundedReceiver<&'static str>,
    go: UnboundedSender<Act>,
}

impl Stage {
    fn new(queue_capacity: usize) -> Self {
        let (say, events) = mpsc::unbounded_channel();
        let (go, gate) = mpsc::unbounded_channel();
        let backend = Arc::new(Scripted {
            events: Mutex::new(Some(say)),
            gate: Arc::new(Mutex::new(Some(gate))),
            ..Scripted::default()
        });
        let options = Options {
            queue_capacity,
            linger: LINGER,
            ..Options::default()
        };
        let inference = Inference::with_backends(options, vec![Arc::clone(&backend) as Arc<dyn Backend>]);
        Self {
            backend,
            inference,
            events,
            go,
        }
    }

    async fn load(&self, tenant: u128, cell: &UsageCell) -> Result<Arc<GraphHandle>, LoadError> {
        let blob = model();
        self.inference
            .load(tenant_of(tenant), Digest::of(&blob), blob, Target::Gpu, cell)
            .await
    }

    /// Waits for the next event; a hung task fails the test instead of stopping it.
    async fn event(&mut self) -> &'static str {
        let event = tokio::time::timeout(Duration::from_secs(60), self.events.recv());
        event.await.unwrap().unwrap()
    }
}

fn vanished() -> ComputeError {
    ComputeError::Backend {
        reason: "told to vanish".into(),
    }
}

fn tenant_of(n: u128) -> TenantId {
    TenantId(uuid::Uuid::from_u128(n))
}

/// The least that the scan lets pass: a version, an empty graph, an empty operator set.
fn model() -> Bytes {
    Bytes::from_static(&[1 << 3, 8, 7 << 3 | 2, 0, 8 << 3 | 2, 0])
}

fn x(value: u8) -> Vec<Tensor> {
    vec![Tensor::new("x", DType::U8, vec![1], vec![value]).unwrap()]
}

type Answer = tokio::task::JoinHandle<Result<Vec<Tensor>, ComputeError>>;

/// A call in a task of its own, its usage and its token.
fn call(graph: &Arc<GraphHandle>, value: u8) -> (Answer, Arc<UsageCell>, CancellationToken) {
    let (cell, cancel) = (Arc::new(UsageCell::default()), CancellationToken::new());
    let (graph, task_cell, task_cancel) = (Arc::clone(graph), Arc::clone(&cell), cancel.clone());
    let answer = tokio::spawn(async move { graph.compute(x(value), task_cell, task_cancel).await });
    (answer, cell, cancel)
}

fn runs(cell: &UsageCell) -> u64 {
    cell.snapshot().work.iter().map(|work| work.runs).sum()
}

#[tokio::test]
async fn short_runs_need_no_runner_and_others_have_one_for_a_while() {
    let mut stage = Stage::new(1);
    stage.backend.has_short_runs.store(true, SeqCst);
    let graph = stage.load(1, &UsageCell::default()).await.unwrap();
    let (short, cell, _) = call(&graph, 7);
    assert_eq!(short.await.unwrap(), Ok(x(7)));
    assert!(stage.events.try_recv().is_err(), "no runner is asked for it");
    let work = cell.snapshot().work;
    assert_eq!(
        (work.len(), work[0].backend.as_str(), work[0].runs),
        (1, "scripted 1", 1)
    );
    // A panic is the call's failure, and a run.
    let (broken, cell, _) = call(&graph, 13);
    assert_eq!(broken.await.unwrap().unwrap_err().code(), "backend_failed");
    assert_eq!(runs(&cell), 1);

    // A run that is not short starts the runner, beside which short ones still do not wait.
    let (long, cell, _) = call(&graph, 1);
    assert_eq!(stage.event().await, "run");
    assert_eq!(call(&graph, 7).0.await.unwrap(), Ok(x(7)));
    stage.go.send(Act::Answer).unwrap();
    assert_eq!(long.await.unwrap(), Ok(x(1)));
    assert_eq!(cell.snapshot().work[0].backend, *"runner 2");
    // Nobody needs it any more; whoever does later gets another.
    let since = tokio::time::Instant::now();
    assert_eq!(stage.event().await, "end");
    assert!(since.elapsed() >= LINGER / 2, "it was kept for the next");
    assert_eq!(call(&graph, 1).0.await.unwrap(), Ok(x(1)));
    assert_eq!(stage.event().await, "run");
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_cancelled_place_is_free_again() {
    let mut stage = Stage::new(2);
    let graph = stage.load(1, &UsageCell::default()).await.unwrap();
    let (running, running_cell, _) = call(&graph, 1);
    tokio::task::yield_now().await;
    assert_eq!(stage.event().await, "run");
    // On this runtime of one thread, a spawned call takes its place when the test yields.
    let (second, second_cell, cancel) = call(&graph, 2);
    let (third, _, _) = call(&graph, 3);
    tokio::task::yield_now().await;
    let full = graph
        .compute(x(4), Arc::default(), CancellationToken::new())
        .await;
    assert_eq!(full, Err(ComputeError::QueueFull { waiting: 2 }));

    // It leaves at once, while the first still runs, and has used nothing.
    cancel.cancel();
    assert_eq!(second.await.unwrap(), Err(ComputeError::Cancelled));
    assert_eq!(runs(&second_cell), 0);
    let (fourth, _, _) = call(&graph, 4);
    tokio::task::yield_now().await;

    for _ in 0..3 {
        stage.go.send(Act::Answer).unwrap();
    }
    assert_eq!(running.await.unwrap().unwrap(), x(1));
    assert_eq!(third.await.unwrap().unwrap(), x(3));
    assert_eq!(fourth.await.unwrap().unwrap(), x(4));
    assert_eq!(runs(&running_cell), 1);
    // The cancelled call was never run.
    assert_eq!((stage.event().await, stage.event().await), ("run", "run"));
    assert!(stage.events.try_recv().is_err());
}

#[tokio::test]
async fn a_dropped_call_frees_its_place() {
    let mut stage = Stage::new(1);
    let graph = stage.load(1, &UsageCell::default()).await.unwrap();
    let (running, _, _) = call(&graph, 1);
    tokio::task::yield_now().await;
    assert_eq!(stage.event().await, "run");
    let (waiting, cell, _) = call(&graph, 2);
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    let (next, _, _) = call(&graph, 3);
    tokio::task::yield_now().await;
    stage.go.send(Act::Answer).unwrap();
    stage.go.send(Act::Answer).unwrap();
    assert_eq!(running.await.unwrap().unwrap(), x(1));
    assert_eq!(next.await.unwrap().unwrap(), x(3));
    assert_eq!(runs(&cell), 0);
}

#[tokio::test]
async fn a_call_cancelled_while_it_runs_returns_with_its_usage_complete() {
    let mut stage = Stage::new(1);
    let graph = stage.load(1, &UsageCell::default()).await.unwrap();
    let (mut answer, cell, cancel) = call(&graph, 1);
    tokio::task::yield_now().await;
    assert_eq!(stage.event().await, "run");
    cancel.cancel();
    let early = ended(&mut answer).await;
    assert!(early.is_none(), "it returned before its run had ended: {early:?}");
    stage.go.send(Act::Answer).unwrap();
    assert_eq!(answer.await.unwrap(), Err(ComputeError::Cancelled));
    let usage = cell.snapshot();
    assert_eq!((usage.work[0].runs, usage.work[0].rows), (1, 1));
    assert!(
        usage.work[0].cpu_ns >= 1_000_000_000,
        "other threads' time counts"
    );
    assert_eq!(
        (usage.work[0].backend.as_str(), usage.work[0].device.as_str()),
        ("scripted 1", "gpu:0")
    );
    // A token that fired before is refused before it queues.
    assert_eq!(
        graph.compute(x(1), Arc::clone(&cell), cancel).await,
        Err(ComputeError::Cancelled)
    );
    assert_eq!(runs(&cell), 1);
}

/// Lets everything that can go on do so, then looks whether `answer` is there.
async fn ended(answer: &mut Answer) -> Option<Result<Vec<Tensor>, ComputeError>> {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    if answer.is_finished() {
        Some(answer.await.unwrap())
    } else {
        None
    }
}

#[tokio::test]
async fn what_waits_goes_together_and_each_has_its_own_end() {
    let mut stage = Stage::new(8);
    stage.backend.more_at_once.store(2, SeqCst);
    let graph = stage.load(1, &UsageCell::default()).await.unwrap();
    let (first, _, _) = call(&graph, 1);
    assert_eq!(stage.event().await, "run");
    let mut waiting: Vec<_> = (2..8).map(|value| call(&graph, value)).collect();
    tokio::task::yield_now().await;
    // One that nobody wants any more goes nowhere.
    let (left, left_cell, cancel) = waiting.remove(1);
    cancel.cancel();
    assert_eq!(left.await.unwrap(), Err(ComputeError::Cancelled));
    // The second run takes the two after it along, which are done again; the fourth panics, which the fifth survives.
    for act in [Act::Answer, Act::Vanish, Act::Answer, Act::Panic] {
        stage.go.send(act).unwrap();
    }
    for _ in 0..3 {
        stage.go.send(Act::Answer).unwrap();
    }
    assert_eq!(first.await.unwrap(), Ok(x(1)));
    let panicked = ComputeError::Backend {
        reason: "it panicked: told to".into(),
    };
    let expected = [Err(vanished()), Ok(x(4)), Err(panicked), Ok(x(6)), Ok(x(7))];
    for ((answer, cell, _), expected) in waiting.into_iter().zip(expected) {
        assert_eq!(answer.await.unwrap(), expected);
        assert_eq!(runs(&cell), 1);
    }
    assert_eq!(runs(&left_cell), 0);
    let mut events = Vec::new();
    while let Ok(event) = stage.events.try_recv() {
        events.push(event);
    }
    let expected = [
        "together", "run", "together", "run", "run", "together", "run", "run",
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn a_panic_ends_one_call_alone() {
    let stage = Stage::new(8);
    let graph = stage.load(1, &UsageCell::default()).await.unwrap();
    stage.go.send(Act::Panic).unwrap();
    stage.go.send(Act::Answer).unwrap();
    let cell = Arc::new(UsageCell::default());
    let error = graph
        .compute(x(1), Arc::clone(&cell), CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(
        error,
        ComputeError::Backend {
            reason: "it panicked: told to".into()
        }
    );
    assert_eq!(runs(&cell), 1, "what it used before it panicked is recorded");
    assert_eq!(
        graph.compute(x(2), cell, CancellationToken::new()).await.unwrap(),
        x(2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loads_of_the_same_graph_are_one() {
    let stage = Stage::new(1).backend;
    let inference =
        Inference::with_backends(Options::default(), vec![Arc::clone(&stage) as Arc<dyn Backend>]);
    let blob = model();
    let loads = (0..16).map(|i| {
        let (inference, blob) = (inference.clone(), blob.clone());
        tokio::spawn(async move {
            let cell = UsageCell::default();
            let digest = Digest::of(&blob);
            let graph = inference
                .load(tenant_of(i % 2), digest, blob, Target::Gpu, &cell)
                .await
                .unwrap();
            (i % 2, graph, cell.snapshot().cpu_ns)
        })
    });
    let mut loaded = Vec::new();
    for load in loads.collect::<Vec<_>>() {
        loaded.push(load.await.unwrap());
    }
    assert_eq!(
        stage.loads.load(SeqCst),
        2,
        "once for each tenant, never shared between them"
    );
    assert_eq!(inference.loaded(), 2);
    for (tenant, graph, _) in &loaded {
        assert!(
            loaded
                .iter()
                .all(|(other, held, _)| Arc::ptr_eq(graph, held) == (tenant == other))
        );
    }
    // Whoever loaded carries the time of it, the others none.
    assert_eq!(
        loaded
            .iter()
            .filter(|(_, _, cpu_ns)| *cpu_ns >= 1_000_000_000)
            .count(),
        2
    );
    assert_eq!(loaded.iter().filter(|(_, _, cpu_ns)| *cpu_ns == 0).count(), 14);
}

#[tokio::test]
async fn a_failed_load_is_an_error_once_and_costs() {
    let stage = Stage::new(1);
    stage.backend.failing_loads.store(1, SeqCst);
    let cell = UsageCell::default();
    let error = stage.load(1, &cell).await.unwrap_err();
    assert_eq!(
        error,
        LoadError::Backend {
            reason: "told to".into()
        }
    );
    assert!(cell.snapshot().cpu_ns > 0, "a failure costs too");
    assert!(stage.load(1, &cell).await.is_ok(), "a failure is not kept");
    assert_eq!(stage.backend.loads.load(SeqCst), 2);
}

#[tokio::test]
async fn the_runner_ends_with_the_last_handle() {
    let mut stage = Stage::new(1);
    let graph = stage.load(1, &UsageCell::default()).await.unwrap();
    let again = stage.load(1, &UsageCell::default()).await.unwrap();
    assert!(Arc::ptr_eq(&graph, &again));
    assert_eq!(stage.inference.loaded(), 1);
    drop(again);
    stage.go.send(Act::Answer).unwrap();
    assert_eq!(
        graph
            .compute(x(1), Arc::default(), CancellationToken::new())
            .await
            .unwrap(),
        x(1)
    );
    assert_eq!(stage.event().await, "run");
    drop(graph);
    assert_eq!(stage.event().await, "end");
    assert_eq!(stage.inference.loaded(), 0);
}
