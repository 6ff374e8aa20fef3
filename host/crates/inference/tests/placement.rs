//! Which of two backends serves a graph, on backends that answer and take as long as they are told.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod onnx;

use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use domain::{BackendChoice, DType, Digest, GoldenCheck, Placement, Signature, TenantId, Tensor};
use domain::{TensorSpec, UsageCell};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use inference::{
    Backend, BackendInfo, Caps, ComputeError, Graph, Inference, LoadError, Options, Run, Runner, Source,
    Target,
};

/// A backend that gives back its inputs, with something added to the first element.
#[derive(Clone, Copy)]
struct Told {
    name: &'static str,
    cpu_ns: u64,
    adds: f32,
    loads: bool,
    answers: bool,
    is_random: bool,
}

const FAST: u64 = 1_000_000;
const SLOW: u64 = 2_000_000;

fn told(name: &'static str, cpu_ns: u64) -> Told {
    Told {
        name,
        cpu_ns,
        adds: 0.0,
        loads: true,
        answers: true,
        is_random: false,
    }
}

impl Backend for Told {
    fn probe(&self) -> Caps {
        let info = BackendInfo {
            name: self.name,
            version: "1".into(),
            device: "cpu".into(),
            precision: "exact",
        };
        Caps {
            info,
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
        let refused = LoadError::UnsupportedModel {
            reason: format!("{} was told not to", self.name),
            advice: String::new(),
        };
        let spec = TensorSpec::new("x", DType::Fp32, [None, None]);
        let signature = Signature {
            inputs: vec![spec.clone()],
            outputs: vec![spec],
            parameters: Vec::new(),
        };
        let graph = ToldGraph(*self, signature);
        let loaded = self.loads.then(|| Box::new(graph) as Box<dyn Graph>);
        ready(loaded.ok_or(refused)).boxed()
    }
}

struct ToldGraph(Told, Signature);

impl Graph for ToldGraph {
    fn signature(&self) -> &Signature {
        &self.1
    }

    fn cost(&self, _: &[Vec<u32>]) -> u64 {
        0
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn is_random(&self) -> bool {
        self.0.is_random
    }

    fn runner<'a>(&'a self, _: &'a UsageCell) -> BoxFuture<'a, Result<Box<dyn Runner>, LoadError>> {
        ready(Ok(Box::new(self.0) as Box<dyn Runner>)).boxed()
    }
}

impl Runner for Told {
    fn run<'a>(&'a mut self, runs: &'a mut [Run]) -> BoxFuture<'a, ()> {
        for run in runs {
            run.meter.add_ns(self.cpu_ns);
            run.answer = Some(self.answer(&run.inputs));
        }
        ready(()).boxed()
    }
}

impl Told {
    fn answer(self, inputs: &[Tensor]) -> Result<Vec<Tensor>, ComputeError> {
        let failed = ComputeError::Backend {
            reason: "told to".into(),
        };
        let mut data = inputs[0].data().to_vec();
        let first = f32::from_le_bytes(data[..4].try_into().unwrap()) + self.adds;
        data[..4].copy_from_slice(&first.to_le_bytes());
        let answer = Tensor::new("x", DType::Fp32, inputs[0].shape().to_vec(), data).unwrap();
        self.answers.then(|| vec![answer]).ok_or(failed)
    }
}

struct Placed(Result<(&'static str, GoldenCheck), LoadError>, UsageCell);

async fn place(backends: &[Told], choice: BackendChoice, known: Option<&Placement>) -> Placed {
    let backends = backends
        .iter()
        .map(|told| Arc::new(*told) as Arc<dyn Backend>)
        .collect();
    let inference = Inference::with_backends(Options::default(), backends);
    let blob = Bytes::from(onnx::dense().bytes());
    let source = Source {
        tenant: TenantId(uuid::Uuid::nil()),
        digest: Digest::of(&blob),
        blob,
        target: Target::Cpu,
    };
    let cell = UsageCell::default();
    let placed = inference.place(&source, choice, known, &cell).await;
    let placed = placed.map(|(graph, placement)| {
        assert_eq!(placement.backend, graph.info().label());
        (graph.info().name, placement.check)
    });
    Placed(placed, cell)
}

async fn auto(rten: Told, other: Told) -> (&'static str, GoldenCheck) {
    place(&[rten, other], BackendChoice::Auto, None).await.0.unwrap()
}

#[tokio::test]
async fn auto_takes_the_faster_of_those_that_agree() {
    let (rten, other) = (told("rten", SLOW), told("onnxruntime", FAST));
    assert_eq!(auto(rten, other).await, ("onnxruntime", GoldenCheck::Agrees));
    let (rten, other) = (told("rten", FAST), told("onnxruntime", SLOW));
    assert_eq!(auto(rten, other).await, ("rten", GoldenCheck::Agrees));
    // A difference within the tolerance is none.
    let near = Told {
        adds: 1e-4,
        ..told("onnxruntime", FAST)
    };
    let rten = told("rten", SLOW);
    assert_eq!(auto(rten, near).await, ("onnxruntime", GoldenCheck::Agrees));
}

#[tokio::test]
async fn auto_keeps_the_reference_where_the_other_differs_or_fails() {
    let rten = told("rten", SLOW);
    let wrong = Told {
        adds: 0.1,
        ..told("onnxruntime", FAST)
    };
    assert_eq!(auto(rten, wrong).await, ("rten", GoldenCheck::Differs));
    let mute = Told {
        answers: false,
        ..told("onnxruntime", FAST)
    };
    assert_eq!(auto(rten, mute).await, ("rten", GoldenCheck::Differs));
}

#[tokio::test]
async fn what_cannot_be_compared_is_said() {
    let (rten, other) = (told("rten", SLOW), told("onnxruntime", FAST));
    let unable = |told| Told { loads: false, ..told };
    assert_eq!(auto(rten, unable(other)).await, ("rten", GoldenCheck::Alone));
    assert_eq!(
        auto(unable(rten), other).await,
        ("onnxruntime", GoldenCheck::Alone)
    );
    let neither = place(&[unable(rten), unable(other)], BackendChoice::Auto, None).await;
    assert_eq!(neither.0.unwrap_err().code(), "unsupported_model");
    // The reference has an answer to nothing.
    let mute = Told {
        answers: false,
        ..rten
    };
    assert_eq!(auto(mute, other).await, ("rten", GoldenCheck::Untried));
    // Random numbers are no two times the same: the shape is all that counts.
    let dice = |told| Told {
        is_random: true,
        ..told
    };
    let lucky = Told { adds: 0.5, ..other };
    assert_eq!(
        auto(dice(rten), dice(lucky)).await,
        ("onnxruntime", GoldenCheck::Random)
    );
}

#[tokio::test]
async fn a_named_backend_serves_or_is_refused_but_never_replaced() {
    let (rten, other) = (told("rten", FAST), told("onnxruntime", SLOW));
    let onnxruntime = BackendChoice::OnnxRuntime;
    let both = place(&[rten, other], onnxruntime, None).await.0;
    assert_eq!(both.unwrap(), ("onnxruntime", GoldenCheck::Agrees));
    let missing = place(&[rten], onnxruntime, None).await.0.unwrap_err();
    assert_eq!(missing.code(), "backend_unavailable");
    assert!(missing.to_string().contains("wattle doctor"), "{missing}");
    let wrong = Told { adds: 0.1, ..other };
    let differs = place(&[rten, wrong], onnxruntime, None).await.0.unwrap_err();
    assert_eq!(differs.code(), "backend_disagrees");
    assert!(differs.to_string().contains("output 'x'"), "{differs}");
    let named = place(&[rten, wrong], BackendChoice::Rten, None).await;
    assert_eq!(named.0.unwrap(), ("rten", GoldenCheck::Reference));
    assert!(named.1.snapshot().work.is_empty(), "the reference is not tried");
    let unable = Told { loads: false, ..rten };
    let alone = place(&[unable, other], onnxruntime, None).await.0;
    assert_eq!(alone.unwrap(), ("onnxruntime", GoldenCheck::Alone));
    let refused = place(&[unable, other], BackendChoice::Rten, None).await.0;
    assert_eq!(refused.unwrap_err().code(), "unsupported_model");
}

#[tokio::test]
async fn the_check_is_paid_for_and_not_repeated_for_the_same_backend() {
    let backends = [told("rten", SLOW), told("onnxruntime", FAST)];
    let fresh = place(&backends, BackendChoice::Auto, None).await;
    let work = fresh.1.snapshot().work;
    let ran: Vec<_> = work
        .iter()
        .map(|work| (work.backend.as_str(), work.cpu_ns / work.runs))
        .collect();
    assert_eq!(ran, [("rten 1", SLOW), ("onnxruntime 1", FAST)]);

    let known = |backend: &str| Placement {
        backend: backend.into(),
        check: GoldenCheck::Agrees,
    };
    for (backend, choice) in [
        ("rten 1", BackendChoice::Auto),
        ("onnxruntime 1", BackendChoice::OnnxRuntime),
    ] {
        let again = place(&backends, choice, Some(&known(backend))).await;
        assert_eq!(again.0.unwrap().0, backend.trim_end_matches(" 1"));
        assert!(again.1.snapshot().work.is_empty(), "nothing was run");
    }
    // Another version is another backend, and one that is gone is looked for no longer.
    let newer = place(&backends, BackendChoice::Auto, Some(&known("onnxruntime 2"))).await;
    assert!(!newer.1.snapshot().work.is_empty());
    let gone = place(&backends[..1], BackendChoice::Auto, Some(&known("onnxruntime 1"))).await;
    assert_eq!(gone.0.unwrap(), ("rten", GoldenCheck::Alone));
}
