//! `wattle calibrate` finds what a machine's meter shows, says what a model does not know, and a host starts from it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tests::process::HostProcess;
use tokio::time::Instant;

use crate::meters::put;

/// What a machine with this meter takes with nothing to do, and for each CPU that works.
const FLOOR_W: f64 = 20.0;
const CPU_W: f64 = 5.0;

/// A counter that follows the CPU time of this machine, until it is dropped.
struct Meter {
    stop: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
}

impl Meter {
    fn start(path: PathBuf) -> anyhow::Result<Self> {
        let (began, busy_s) = (Instant::now(), busy_s()?);
        put(&path, "0\n")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let running = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                if let Ok(now_s) = self::busy_s() {
                    let joules = FLOOR_W * began.elapsed().as_secs_f64() + CPU_W * (now_s - busy_s);
                    let _ = put(&path, &format!("{:.0}\n", joules * 1e6));
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        Ok(Self {
            stop,
            running: Some(running),
        })
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.running.take().map(JoinHandle::join);
    }
}

/// CPU time of the machine since its boot, in seconds: user, nice, system, irq, softirq and steal.
fn busy_s() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("a line of all CPUs")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|&field| ticks.get(field));
    Ok(busy.sum::<f64>() / rustix::param::clock_ticks_per_second() as f64)
}

/// A root's figures.
fn root<'a>(found: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let roots = found["roots"].as_array().context("roots")?;
    let is_it = |root: &&Value| root["root"] == name;
    roots
        .iter()
        .find(is_it)
        .with_context(|| format!("no {name} in {found}"))
}

/// A figure in watts, and half its band.
fn watts(figure: &Value) -> anyhow::Result<(f64, f64)> {
    let watts = |key: &str| figure[key].as_f64().map(|uw| uw / 1e6).context("a figure");
    Ok((watts("value")?, watts("band")?))
}

fn weight<'a>(root: &'a Value, feature: &str) -> anyhow::Result<&'a Value> {
    let weights = root["weights"].as_array().context("weights")?;
    let found = weights.iter().find(|weight| weight["feature"] == feature);
    found.with_context(|| format!("no {feature} in {root}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_starts_from_what_known_loads_have_shown() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let counter = folder.path().join("counter");
    let _meter = Meter::start(counter.clone())?;
    let mut host = HostProcess::new()?;
    let name = format!("follows-{}", uuid::Uuid::new_v4().simple());
    let file = format!("{name}={}?unit=uj&max_w=900&covers=apart", counter.display());
    let nowhere = folder.path().display().to_string();
    host.add_flags(&["--meter-sys", &nowhere, "--meter-files", &file]);

    let output = host
        .calibrate(&["--load-ms", "300", "--rounds", "2", "--json"])
        .await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    assert!(
        said.contains("round 1 of 2: nothing") && said.contains("rten"),
        "{said}"
    );
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let measured = root(&found, &name)?;
    assert_eq!(measured["is_measured"], true, "{found}");
    // A machine that others keep busy tells less, and the band says so.
    let holds = |(found_w, band_w): (f64, f64), true_w: f64| (found_w - true_w).abs() < 2.0 + 2.0 * band_w;
    assert!(holds(watts(&measured["floor_uw"])?, FLOOR_W), "{found}");
    let guest = watts(weight(measured, "guest")?)?;
    assert!(holds(guest, CPU_W) && guest.1 > 0.0, "{found}");
    if found["others_ppm"].as_u64() < Some(100_000) {
        assert!(guest.1 < 5.0, "a quiet machine tells: {found}");
    }
    for feature in ["model", "traffic", "fuel"] {
        weight(measured, feature)?;
    }
    // The other root is a model: all that it can tell is what a CPU costs, and not surely.
    let modelled = found["roots"].as_array().context("roots")?;
    let modelled = modelled
        .iter()
        .find(|root| root["kind"] == "modelled")
        .context("a model")?;
    assert_eq!(modelled["is_measured"], false);
    assert_eq!(
        modelled["weights"].as_array().map(Vec::len),
        Some(1),
        "{modelled}"
    );
    let (cpu_w, band_w) = watts(weight(modelled, "guest")?)?;
    assert!(band_w > 0.15 * cpu_w, "{modelled}");
    let remarks = found["remarks"].to_string();
    assert!(remarks.contains("nothing was measured"), "{remarks}");

    let kept = host.data().join("learnt");
    assert_eq!(found["kept"], kept.display().to_string());
    assert!(kept.exists());
    ensure!(host.start("standard", None).await?, "{}", host.log_tail());
    let admin = host.admin().await?;
    let weights = admin.get("/api/v1/ledger/weights").await?.expect(200)?;
    let learnt = root(&weights, &name)?;
    assert_eq!(learnt["provenance"], "measured");
    weight(learnt, "guest")?;
    // No load is told from a host's calls: as long as one runs, there is nothing to calibrate.
    let output = host.calibrate(&["--load-ms", "50"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("another host serves from"), "{said}");
    host.terminate().await
}
