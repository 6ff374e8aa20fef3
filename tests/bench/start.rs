//! How fast guests start from compiled code, in Rust, Python and JavaScript: what compiling takes once, what loading
//! the code takes once a host, and what every call takes, which gets a fresh instance: by the clock, and in CPU time,
//! which depends less on what else the machine does.
//!
//! `cargo xtask bench start`

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::{Digest, InvocationId, Limits, Parameter, TenantId, UsageCell};
use runtime::{
    CompileLimits, CompilerCommand, Graphs, Invocation, Options, Pipeline, Request, Runtime, UploadCaps,
};
use tests::guests;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const LOADS: usize = 20;
const CALLS: usize = 500;

/// Guests, and what they are asked to do: as little as there is.
const GUESTS: [(&str, &str, Option<&str>); 3] = [
    ("Rust", "echo", None),
    ("Python", "pyprobe", Some("note")),
    ("JavaScript", "jsprobe", Some("note")),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!("              compile            load, ms          call, ms          call, CPU ms");
    println!("              CPU s   code MB     p50     p99       p50     p99       p50     p99");
    for (language, guest, how) in GUESTS {
        let folder = tempfile::tempdir()?;
        let component = Bytes::from(guests::guest(guest)?);
        let digest = Digest::of(&component);
        let cell = Arc::new(UsageCell::default());
        let compiler = runtime_on(folder.path())?;
        let inspected = compiler
            .inspect(component, UploadCaps::default(), Arc::clone(&cell))
            .await?;
        compiler
            .compile(digest, inspected.component.into(), &cell)
            .await?;
        drop(compiler);

        let mut loads = Vec::new();
        let mut loaded = None;
        for _ in 0..LOADS {
            let runtime = runtime_on(folder.path())?;
            let started = Instant::now();
            let pipeline = runtime.load(digest).await?;
            loads.push(started.elapsed());
            loaded = Some(pipeline);
        }
        let Some(pipeline) = loaded else { continue };
        let (mut calls, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..CALLS {
            let cell = Arc::new(UsageCell::default());
            let started = Instant::now();
            call(&pipeline, how, Arc::clone(&cell)).await?;
            calls.push(started.elapsed());
            cpu.push(Duration::from_nanos(cell.snapshot().cpu_ns));
        }
        println!(
            "{language:<12}{:>7.1}{:>10.1}{}{}{}",
            cell.snapshot().cpu_ns as f64 / 1e9,
            pipeline.code_bytes() as f64 / 1e6,
            percentiles(loads),
            percentiles(calls),
            percentiles(cpu),
        );
    }
    Ok(())
}

fn runtime_on(folder: &Path) -> anyhow::Result<Runtime> {
    Ok(Runtime::new(Options {
        compiled_dir: folder.to_owned(),
        mac_key: [1; 32],
        max_concurrency: 4,
        threads: 2,
        compiler: CompilerCommand {
            program: guests::wattle()?,
            args: vec!["compile-child".into()],
        },
        compile_limits: CompileLimits::default(),
    })?)
}

async fn call(pipeline: &Pipeline, how: Option<&str>, cell: Arc<UsageCell>) -> anyhow::Result<()> {
    let parameters = how.map(|how| Parameter {
        key: "how".into(),
        value: format!("{how:?}"),
    });
    let request = Request {
        id: "bench".into(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        parameters: parameters.into_iter().collect(),
    };
    let invocation = Invocation {
        invocation: InvocationId(uuid::Uuid::nil()),
        tenant: TenantId(uuid::Uuid::nil()),
        limits: Limits::default(),
        cell,
        cancel: CancellationToken::new(),
        deadline: Instant::now() + Duration::from_secs(30),
        graphs: Graphs::default(),
        settings: Arc::default(),
    };
    pipeline.infer(request, invocation).await?;
    Ok(())
}

/// The median and the 99th percentile in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| times[(share * (times.len() - 1) as f64).round() as usize].as_secs_f64() * 1e3;
    format!("  {:>8.2}{:>8.2}", at(0.5), at(0.99))
}
