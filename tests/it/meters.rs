//! Meters of a machine: a copied `/sys` with RAPL in it, and a meter of the site's own that goes wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::process::HostProcess;
use tests::{Client, guests};

/// The trees that the crate `energy` is tested with.
const ONE_SOCKET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/powercap/one-socket");

/// Who reads sees the whole number, old or new.
pub fn put(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text)?;
    fs::rename(draft, path)
}

/// A machine whose package takes 20 W and whose memory takes 5 W, until it is dropped.
struct Machine {
    sys: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
}

impl Machine {
    fn start() -> anyhow::Result<Self> {
        let sys = tempfile::tempdir()?;
        let powercap = sys.path().join("class/powercap");
        for zone in fs::read_dir(ONE_SOCKET)? {
            let zone = zone?;
            let copy = powercap.join(zone.file_name());
            fs::create_dir_all(&copy)?;
            for file in fs::read_dir(zone.path())? {
                let file = file?;
                fs::write(copy.join(file.file_name()), fs::read(file.path())?)?;
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let counters = [("intel-rapl:0", 400_000), ("intel-rapl:0:2", 100_000)];
        let counters = counters.map(|(zone, step_uj)| (powercap.join(zone).join("energy_uj"), step_uj));
        let running = thread::spawn(move || {
            let mut energy_uj = 1_000_000_u64;
            while !stopped.load(Relaxed) {
                energy_uj += 1;
                for (path, step_uj) in &counters {
                    let _ = put(path, &format!("{}\n", energy_uj * step_uj % 262_143_328_850));
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(Self {
            sys,
            stop,
            running: Some(running),
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.running.take().map(JoinHandle::join);
    }
}

/// A root as the API has it.
fn root<'a>(meters: &'a Value, name: &str) -> Option<&'a Value> {
    meters["roots"]
        .as_array()?
        .iter()
        .find(|root| root["root"] == name)
}

/// Waits until the root's fault is this, and says what else the API tells then.
async fn until(admin: &Client, name: &str, fault: Option<&str>) -> anyhow::Result<Value> {
    for _ in 0..500 {
        let meters = admin.get("/api/v1/ledger/meters").await?.expect(200)?;
        let seen = root(&meters, name).with_context(|| format!("no {name} in {meters}"))?;
        if seen["fault"].as_str() == fault && (fault.is_some() || seen["power_uw"].is_u64()) {
            return Ok(meters);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{name} does not become {fault:?}")
}

/// Calls the echo and gives the receipt that the ledger has of it.
async fn called(manager: &Client) -> anyhow::Result<Value> {
    let input = json!([{ "name": "x", "shape": [1], "datatype": "FP32", "data": [1.0] }]);
    let answer = manager.infer("echo", input).await?;
    let receipt = answer.receipt.context("a receipt")?;
    for _ in 0..500 {
        let answer = manager.get(&format!("/api/v1/receipts/{receipt}")).await?;
        if answer.status == 200 && answer.body["state"] == "final" {
            return Ok(answer.body);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("receipt {receipt} did not become final")
}

type Spoil = Box<dyn Fn() -> anyhow::Result<()>>;

/// What a meter's file may come to, what is said of it then, and the code in the log.
fn ends(path: &Path) -> [(&'static str, &'static str, Spoil); 5] {
    let path = PathBuf::from(path);
    let say = |text: &'static str| {
        let path = path.clone();
        Box::new(move || Ok(put(&path, text)?)) as Spoil
    };
    let (gone, blocked) = (path.clone(), path.clone());
    [
        ("malformed", "meter_malformed", say("forty watts\n")),
        // 10^12 J at once; 10^15 J is no number of microjoules that fits.
        ("jumped", "meter_jumped", say("1000000000000000000\n")),
        ("malformed", "meter_malformed", say("1000000000000000000000\n")),
        (
            "unreadable",
            "meter_io",
            Box::new(move || Ok(fs::remove_file(&gone)?)),
        ),
        // Nobody ever writes into it: who opens it waits.
        (
            "silent",
            "meter_silent",
            Box::new(move || {
                let _ = fs::remove_file(&blocked);
                let made = std::process::Command::new("mkfifo").arg(&blocked).status()?;
                ensure!(made.success(), "no mkfifo");
                Ok(())
            }),
        ),
    ]
}

/// One test, as a machine's roots can be held by one host only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_billed_by_its_counters_and_nobody_by_a_bad_one() -> anyhow::Result<()> {
    let machine = Machine::start()?;
    let folder = tempfile::tempdir()?;
    let plug = folder.path().join("box");
    put(&plug, "5000000\n")?;
    let mut host = HostProcess::new()?;
    let sys = machine.sys.path().display().to_string();
    let wall = folder.path().join("wall");
    put(&wall, "40\n")?;
    let meter = format!(
        "box={}?unit=uj&max_w=500&covers=apart&still_s=3600;wall={}?unit=w&max_w=500&covers=machine",
        plug.display(),
        wall.display()
    );
    host.add_flags(&["--meter-sys", &sys, "--meter-files", &meter]);
    ensure!(host.start("standard", None).await?, "{}", host.log_tail());
    let admin = host.admin().await?;
    let manager = tests::process::tenant(&admin, "acacia").await?;
    manager.push_component("echo", guests::guest("echo")?).await?;
    let release = json!({ "name": "echo", "component": { "name": "echo" } });
    manager.post("/api/v1/deployments", &release).await?.expect(201)?;

    let meters = until(&admin, "package-0", None).await?;
    let package = root(&meters, "package-0").context("the package")?;
    assert_eq!(
        (&package["kind"], &package["provenance"]),
        (&json!("rapl"), &json!("measured"))
    );
    let watts = package["power_uw"].as_u64().context("its power")? as f64 / 1e6;
    assert!(
        (1.0..60.0).contains(&watts),
        "20 W, if the machine keeps time: {watts}"
    );
    assert!(
        root(&meters, "dram-0").is_some() && root(&meters, "core").is_none(),
        "{meters}"
    );
    let verdict = |word: &str| {
        let candidates = meters["candidates"].as_array();
        candidates
            .into_iter()
            .flatten()
            .filter(|candidate| candidate["verdict"] == word)
            .count()
    };
    assert!(verdict("root") == 3 && verdict("left") >= 2, "{meters}");
    assert!(called(&manager).await?["energy_uj"].as_u64().context("energy")? > 0);
    beside_the_wall(&admin, &host).await?;

    for (fault, code, spoil) in ends(&plug) {
        let (before, logged) = (until(&admin, "box", None).await?, said(&host, code));
        spoil()?;
        until(&admin, "box", Some(fault))
            .await
            .with_context(|| host.log_tail())?;
        until(&admin, "package-0", None)
            .await
            .with_context(|| format!("{fault}: the others go on"))?;
        let receipt = called(&manager).await?;
        let energy_uj = receipt["energy_uj"]
            .as_u64()
            .with_context(|| format!("{fault}: {receipt}"))?;
        assert!(
            energy_uj < 60_000_000,
            "{fault}: a call is charged for what never was: {receipt}"
        );
        assert_eq!(
            said(&host, code),
            logged + 1,
            "{fault} is said once\n{}",
            host.log_tail()
        );
        let counter = |meters: &Value| root(meters, "box").and_then(|root| root["counter_uj"].as_u64());
        let stood_uj = counter(&before).context("its counter")?;
        if fault == "silent" {
            // Whoever waits in the pipe comes out of it when somebody opens it to write; nobody may go in again.
            let writer = fs::OpenOptions::new().write(true).open(&plug)?;
            put(&plug, "5000000\n")?;
            drop(writer);
        }
        put(&plug, "5000000\n")?;
        let after = until(&admin, "box", None)
            .await
            .with_context(|| host.log_tail())?;
        assert!(
            counter(&after).is_some_and(|now_uj| now_uj - stood_uj <= 5_000_000),
            "{fault}: {after}"
        );
    }
    let check = admin.get("/api/v1/ledger/check").await?.expect(200)?;
    for figure in ["gap_uj", "breaks", "mismatches", "chain_breaks"] {
        assert_eq!(check[figure], 0, "{figure} in {check}");
    }
    let page = host
        .ops()?
        .request(reqwest::Method::GET, "/metrics")
        .send()
        .await?
        .text()
        .await?;
    for series in [
        "wattle_node_power_watts{root=\"package-0\"} ",
        "wattle_energy_joules_total{kind=\"idle\"} ",
    ] {
        assert!(page.contains(series), "no {series} in\n{page}");
    }
    host.terminate().await
}

/// Package and memory, without the box that is apart, are held against the meter of the whole machine: 25 W of 40 W,
/// or less where the machine that plays them is late.
async fn beside_the_wall(admin: &Client, host: &HostProcess) -> anyhow::Result<()> {
    let mut compared = Value::Null;
    for _ in 0..500 {
        let meters = admin.get("/api/v1/ledger/meters").await?.expect(200)?;
        assert!(
            root(&meters, "wall").is_some_and(|wall| wall["calibrates"] == true),
            "{meters}"
        );
        compared = meters["comparison"].clone();
        if !compared.is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        (&compared["wall"], &compared["exceeds"]),
        (&json!("wall"), &json!(false))
    );
    let ratio = compared["ratio_ppm"].as_u64().context("a ratio")?;
    assert!((100_000..800_000).contains(&ratio), "{compared}");
    let watts = compared["wall_uw"].as_u64().context("watts")?;
    assert!(watts.abs_diff(40_000_000) < 100_000, "{compared}");
    let request = host.ops()?.request(reqwest::Method::GET, "/metrics");
    let page = request.send().await?.text().await?;
    for series in [
        "wattle_meter_roots_to_wall_ratio{wall=\"wall\"} 0.",
        "wattle_meter_roots_exceed_wall{wall=\"wall\"} 0",
    ] {
        assert!(page.contains(series), "no {series} in\n{page}");
    }
    Ok(())
}

/// How often the log has a code.
fn said(host: &HostProcess, code: &str) -> usize {
    host.whole_log()
        .lines()
        .filter(|line| line.contains(code))
        .count()
}
