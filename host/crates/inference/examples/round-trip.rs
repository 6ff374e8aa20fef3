//! What a graph in a process of its own costs: the median of lone calls, beside the same in this process, and
//! the memory that it keeps.
//!
//! Beside the example `graph-worker`: `round-trip MODEL.onnx [ROWS]`

#![allow(clippy::unwrap_used, reason = "a program for developers")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::{Digest, TenantId, Tensor, UsageCell};
use inference::backends::rten::Rten;
use inference::{Inference, Options, Target, WorkerOptions};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const CALLS: usize = 2_000;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let model = Bytes::from(std::fs::read(args.next().unwrap()).unwrap());
    let rows = args.next().map_or(1, |rows| rows.parse().unwrap());
    let worker = std::env::current_exe().unwrap().with_file_name("graph-worker");
    let inference = Inference::new(Options::default(), WorkerOptions::new(worker, vec![]));
    let here = Rten::load(model.to_vec()).unwrap();
    let (tenant, digest) = (TenantId(uuid::Uuid::nil()), Digest::of(&model));
    let began = Instant::now();
    let cell = Arc::new(UsageCell::default());
    let loaded = inference.load(tenant, digest, model, Target::Cpu, &cell);
    let graph = loaded.await.unwrap();
    let load_ms = began.elapsed().as_secs_f64() * 1e3;
    let inputs = graph.signature().inputs.iter().map(|spec| {
        let shape: Vec<u32> = spec.shape.iter().map(|dim| dim.unwrap_or(rows)).collect();
        let bytes = shape.iter().product::<u32>() as usize * spec.dtype.size().unwrap();
        Tensor::new(&spec.name, spec.dtype, shape, vec![0; bytes]).unwrap()
    });
    let inputs: Vec<_> = inputs.collect();
    let (mut times, mut here_times) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let began = Instant::now();
        let answer = graph.compute(inputs.clone(), Arc::clone(&cell), CancellationToken::new());
        answer.await.unwrap();
        times.push(began.elapsed());
        let began = Instant::now();
        here.run(&inputs).unwrap();
        here_times.push(began.elapsed());
    }
    times.sort_unstable();
    here_times.sort_unstable();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "load_ms={load_ms:.1} median_us={:.1} here_us={:.1} p99_us={:.1} model_cpu_us={:.1} resident_mib={:.1}",
        us(times[CALLS / 2]),
        us(here_times[CALLS / 2]),
        us(times[CALLS * 99 / 100]),
        cell.snapshot().model_ns() as f64 / 1e3 / CALLS as f64,
        graph.resident_bytes() as f64 / f64::from(1 << 20),
    );
}
