//! rten beside ONNX Runtime: CPU time and latency of lone calls, each through a process of its own.
//!
//! Beside the example `graph-worker`: `backends LIBRARY MODEL.onnx… `. Free axes are 1 first and 64 then.

#![allow(clippy::unwrap_used, reason = "a program for developers")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::{BackendChoice, Digest, TenantId, Tensor, UsageCell};
use inference::{GraphHandle, Inference, OnnxRuntimeLibrary, Options, Source, Target, WorkerOptions};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The calls of each backend, in turns.
const CALLS: usize = 60;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let program = std::env::current_exe().unwrap().with_file_name("graph-worker");
    let mut worker = WorkerOptions::new(program, vec![]);
    let library = OnnxRuntimeLibrary::probe(Path::new(&args.next().unwrap()), &worker).await;
    worker.onnxruntime = Some(library.unwrap());
    let inference = Inference::new(Options::default(), worker);
    for file in args {
        let blob = Bytes::from(std::fs::read(&file).unwrap());
        let source = Source {
            tenant: TenantId(uuid::Uuid::nil()),
            digest: Digest::of(&blob),
            blob,
            target: Target::Cpu,
        };
        let cell = UsageCell::default();
        let auto = inference
            .place(&source, BackendChoice::Auto, None, &cell)
            .await
            .unwrap();
        let mut graphs = Vec::new();
        for choice in [BackendChoice::Rten, BackendChoice::OnnxRuntime] {
            graphs.push(inference.place(&source, choice, None, &cell).await.unwrap().0);
        }
        let mut figures = [const { (Vec::new(), u64::MAX) }; 2];
        for _ in 0..CALLS {
            for (graph, (times, least_ns)) in graphs.iter().zip(&mut figures) {
                let (time, cpu_ns) = call(graph).await;
                times.push(time);
                *least_ns = cpu_ns.min(*least_ns);
            }
        }
        for (graph, (mut times, least_ns)) in graphs.iter().zip(figures) {
            times.sort_unstable();
            println!(
                "{file} {} median_us={:.0} least_cpu_us={:.0} resident_mib={:.0} auto={} check={}",
                graph.info().label(),
                times[CALLS / 2].as_secs_f64() * 1e6,
                least_ns as f64 / 1e3,
                graph.resident_bytes() as f64 / f64::from(1 << 20),
                auto.1.backend == graph.info().label(),
                auto.1.check.as_str(),
            );
        }
    }
}

async fn call(graph: &GraphHandle) -> (Duration, u64) {
    let inputs = graph.signature().inputs.iter().map(|spec| {
        let free = |axis: usize| if axis == 0 { 1 } else { 64 };
        let axes = spec.shape.iter().enumerate();
        let shape: Vec<u32> = axes.map(|(axis, dim)| dim.unwrap_or(free(axis))).collect();
        let bytes = shape.iter().product::<u32>() as usize * spec.dtype.size().unwrap();
        Tensor::new(&spec.name, spec.dtype, shape, vec![0; bytes]).unwrap()
    });
    let (inputs, cell) = (inputs.collect(), Arc::new(UsageCell::default()));
    let began = Instant::now();
    let answer = graph.compute(inputs, Arc::clone(&cell), CancellationToken::new());
    answer.await.unwrap();
    (began.elapsed(), cell.snapshot().model_ns())
}
