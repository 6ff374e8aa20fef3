//! What metering costs: a host that meters beside one that counts fuel and nothing else, by CPU time per call of a
//! thin guest in interleaved rounds; what a host takes that nobody calls; and what fuel itself costs.
//!
//! `cargo xtask bench metering`

mod hey;
mod processes;

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tests::process::{HostProcess, tenant};
use tests::{Client, guests};
use wasmtime::component::{Component, Linker as ComponentLinker, Val};
use wasmtime::{Config, Engine, Linker, Module, Store};

use hey::hey;
use processes::Spent;

const ROUNDS: usize = 8;
const ROUND_S: u64 = 3;
const WARM_UP_S: u64 = 2;
const IDLE: Duration = Duration::from_secs(20);
/// Interleaved pairs of runs with and without fuel.
const FUEL_PAIRS: usize = 400;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cost = |guest| fuel(guest).map_err(|error| anyhow::anyhow!("{error:#}"));
    let (thin, heavy) = (cost(thin)?, cost(heavy)?);
    println!("fuel: a thin call {thin:+.1} %, a product of matrices {heavy:+.1} % of CPU time");
    let mut metered = Side::start(&[]).await?;
    let idle = metered.idle().await?;
    println!("a host that nobody calls: {idle:.2} % of a core, Postgres included");
    let mut bare = Side::start(&["--unmetered"]).await?;
    let mut ratios = Vec::new();
    for side in [&mut metered, &mut bare] {
        side.load(WARM_UP_S).await?;
    }
    println!("{ROUNDS} interleaved rounds of {ROUND_S} s each, CPU µs per call, Postgres included:");
    for _ in 0..ROUNDS {
        let (on, off) = (metered.load(ROUND_S).await?, bare.load(ROUND_S).await?);
        println!("  metered {}, fuel alone {}", on.1, off.1);
        ratios.push(on.0 / off.0);
    }
    let seconds = |side: &Side| (side.total.server_us / 1e6, side.total.postgres_us / 1e6);
    println!(
        "CPU seconds of hosts and Postgres, warm-up included: {:?} and {:?}",
        seconds(&metered),
        seconds(&bare)
    );
    metered.host.terminate().await?;
    bare.host.terminate().await?;
    ratios.sort_by(f64::total_cmp);
    let ratio = f64::midpoint(ratios[ROUNDS / 2 - 1], ratios[ROUNDS / 2]);
    println!(
        "metering: cpu_ratio={ratio:.3} idle_cpu_pct={idle:.2} fuel_thin_pct={thin:.1} fuel_heavy_pct={heavy:.1}"
    );
    Ok(())
}

/// A host with the echo deployed.
struct Side {
    host: HostProcess,
    manager: Client,
    total: Spent,
}

impl Side {
    async fn start(flags: &[&str]) -> anyhow::Result<Self> {
        let mut host = HostProcess::new()?;
        host.keep_default_windows();
        host.add_flags(flags);
        ensure!(host.start("standard", None).await?, "the host is not ready");
        let manager = tenant(&host.admin().await?, "bench").await?;
        manager.push_component("echo", guests::guest("echo")?).await?;
        let release =
            json!({ "name": "echo", "component": { "name": "echo" }, "limits": { "concurrency": 64 } });
        manager.post("/api/v1/deployments", &release).await?.expect(201)?;
        let total = Spent::default();
        Ok(Self { host, manager, total })
    }

    fn spent(&self) -> anyhow::Result<Spent> {
        Spent::of_host(self.host.pid()?, self.host.postmaster_pid())
    }

    /// CPU time per call, in microseconds, and the load in words.
    async fn load(&mut self, seconds: u64) -> anyhow::Result<(f64, String)> {
        let body = self.host.data().join("body.json");
        let numbers: Vec<f32> = (0..100_u8).map(|n| f32::from(n) / 7.0).collect();
        std::fs::write(&body, hey::call("x", &[100], &json!(numbers)))?;
        let url = self.manager.url("/v2/models/echo/infer");
        let before = self.spent()?;
        let load = hey(&url, self.manager.key(), &body, seconds).await?;
        let spent = self.spent()?.since(&before);
        self.total.add(&spent);
        let us = (spent.server_us + spent.graphs_us + spent.postgres_us) / load.calls as f64;
        let words = format!(
            "{us:.1} ({:.0} rps, p50 {:.2} ms, p99 {:.2} ms)",
            load.rps, load.p50_ms, load.p99_ms
        );
        Ok((us, words))
    }

    /// Percent of a core with nothing to do.
    async fn idle(&self) -> anyhow::Result<f64> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = self.spent()?;
        tokio::time::sleep(IDLE).await;
        let spent = self.spent()?.since(&before);
        Ok((spent.server_us + spent.postgres_us) / IDLE.as_micros() as f64 * 100.0)
    }
}

/// A guest that is ready to be run again and again.
type Run = Box<dyn FnMut() -> wasmtime::Result<()>>;

/// By how many percent fuel makes a guest slower: the median of pairs of runs, by this thread's CPU clock.
fn fuel(guest: fn(&Engine) -> wasmtime::Result<Run>) -> wasmtime::Result<f64> {
    let engine = |fuel| {
        let mut config = Config::new();
        config.consume_fuel(fuel).epoch_interruption(true);
        Engine::new(&config)
    };
    let (mut with, mut without) = (guest(&engine(true)?)?, guest(&engine(false)?)?);
    let mut ratios = Vec::new();
    for _ in 0..FUEL_PAIRS {
        let (with_ns, without_ns) = (timed(&mut *with)?, timed(&mut *without)?);
        ratios.push(with_ns / without_ns);
    }
    ratios.sort_by(f64::total_cmp);
    Ok((ratios[FUEL_PAIRS / 2] - 1.0) * 100.0)
}

fn timed(run: &mut dyn FnMut() -> wasmtime::Result<()>) -> wasmtime::Result<f64> {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let before = now();
    run()?;
    Ok(now() - before)
}

fn store(engine: &Engine) -> wasmtime::Result<Store<()>> {
    let mut store = Store::new(engine, ());
    // Refused where the engine counts none.
    let _ = store.set_fuel(u64::MAX / 2);
    store.set_epoch_deadline(u64::MAX / 2);
    Ok(store)
}

/// A fresh instance of the echo and a call of it, some times.
fn thin(engine: &Engine) -> wasmtime::Result<Run> {
    let echo = guests::guest("echo").map_err(|error| wasmtime::Error::msg(error.to_string()))?;
    let component = Component::new(engine, echo)?;
    let mut linker = ComponentLinker::<()>::new(engine);
    linker.define_unknown_imports_as_traps(&component)?;
    let (pre, engine) = (linker.instantiate_pre(&component)?, engine.clone());
    let record = |fields: Vec<(&str, Val)>| {
        Val::Record(
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    };
    let tensor = record(vec![
        ("name", Val::String("x".into())),
        ("dtype", Val::Enum("fp32".into())),
        ("shape", Val::List(vec![Val::U32(100)])),
        ("data", Val::List(vec![Val::U8(1); 400])),
        ("parameters", Val::List(Vec::new())),
    ]);
    let request = record(vec![
        ("id", Val::String("bench".into())),
        ("inputs", Val::List(vec![tensor])),
        ("outputs", Val::List(Vec::new())),
        ("parameters", Val::List(Vec::new())),
    ]);
    Ok(Box::new(move || {
        for _ in 0..20 {
            let mut store = store(&engine)?;
            let instance = pre.instantiate(&mut store)?;
            let handler = instance.get_export_index(&mut store, None, "wattle:pipeline/handler@0.1.0");
            let infer = instance.get_export_index(&mut store, handler.as_ref(), "infer");
            let infer = infer.and_then(|infer| instance.get_func(&mut store, infer));
            let mut answer = [Val::Bool(false)];
            let infer = infer.ok_or_else(|| wasmtime::Error::msg("the echo has no infer"))?;
            infer.call(&mut store, std::slice::from_ref(&request), &mut answer)?;
            if !matches!(&answer[0], Val::Result(Ok(_))) {
                return Err(wasmtime::Error::msg(format!("no answer: {answer:?}")));
            }
        }
        Ok(())
    }))
}

/// A product of two matrices of 96 × 96 numbers.
const MATRICES: &str = r#"(module (memory 2)
  (func (export "product") (local $i i32) (local $j i32) (local $k i32) (local $sum f32)
    (loop $rows
      (local.set $j (i32.const 0))
      (loop $columns
        (local.set $k (i32.const 0)) (local.set $sum (f32.const 0))
        (loop $terms
          (local.set $sum (f32.add (local.get $sum) (f32.mul
            (f32.load (i32.mul (i32.const 4) (i32.add (i32.mul (local.get $i) (i32.const 96)) (local.get $k))))
            (f32.load offset=36864 (i32.mul (i32.const 4) (i32.add (i32.mul (local.get $k) (i32.const 96)) (local.get $j)))))))
          (br_if $terms (i32.lt_u (local.tee $k (i32.add (local.get $k) (i32.const 1))) (i32.const 96))))
        (f32.store offset=73728 (i32.mul (i32.const 4) (i32.add (i32.mul (local.get $i) (i32.const 96)) (local.get $j))) (local.get $sum))
        (br_if $columns (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 96))))
      (br_if $rows (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 96))))))"#;

fn heavy(engine: &Engine) -> wasmtime::Result<Run> {
    let module = Module::new(engine, wat::parse_str(MATRICES)?)?;
    let mut store = store(engine)?;
    let instance = Linker::new(engine).instantiate(&mut store, &module)?;
    let product = instance.get_typed_func::<(), ()>(&mut store, "product")?;
    Ok(Box::new(move || product.call(&mut store, ())))
}
