//! What a well-behaved tenant notices of a hostile one: the time of its calls alone, and while the other runs
//! the worst that it can at the most concurrency that it may have. Phases of both alternate in one run.
//!
//! `cargo xtask bench neighbour`

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::process::{HostProcess, tenant};
use tests::times::percentile_us;
use tests::{Client, guests};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 4;
const PHASE: Duration = Duration::from_secs(3);
/// Until an attack has taken all the places that it gets.
const ONSET: Duration = Duration::from_millis(500);
/// The most that a deployment may run at once, and more than a tenant may by default.
const ATTACKERS: u64 = 128;
/// Connections of the neighbour.
const CALLERS: usize = 2;

/// Fixtures that never end, take memory, write notes, and hold the host's own functions.
const ATTACKS: [&str; 5] = ["loop", "bomb", "logger", "handles", "fill"];

#[derive(Default)]
struct Phase {
    times: Vec<Duration>,
    wrong: usize,
}

impl Phase {
    fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.wrong += other.wrong;
    }

    fn line(&mut self, name: &str) -> f64 {
        let [p50, p99] = [0.5, 0.99].map(|share| percentile_us(&mut self.times, share));
        let (calls, wrong) = (self.times.len(), self.wrong);
        println!("  {name:<10}{p50:>10.0}{p99:>10.0}{calls:>10}{wrong:>8}");
        p99
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    ensure!(host.start("standard", None).await?, "the host did not start");
    let admin = host.admin().await?;
    let (good, bad) = (tenant(&admin, "good").await?, tenant(&admin, "bad").await?);
    good.deploy("tabular", &[("net", "tabular.onnx")], json!({}))
        .await?;
    for attack in ATTACKS {
        // What all of them take together must fit into the machine that measures.
        let limits = json!({
            "concurrency": ATTACKERS,
            "fuel": 1_000_000_000_000_u64,
            "deadline_ms": 10_000,
            "memory_bytes": 8 << 20,
        });
        bad.deploy(attack, &[], json!({ "limits": limits })).await?;
    }
    let known: Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
    let row = known["rows"][0].clone();
    let right = ask(&good, &row).await?.context("the first answer")?;

    let mut alone = Phase::default();
    let mut attacked: Vec<Phase> = ATTACKS.iter().map(|_| Phase::default()).collect();
    for _ in 0..ROUNDS {
        for (attack, under) in ATTACKS.iter().zip(&mut attacked) {
            alone.add(measure(&good, &row, &right).await?);
            let stop = CancellationToken::new();
            let mut attackers = JoinSet::new();
            for _ in 0..ATTACKERS {
                attackers.spawn(assail(bad.clone(), attack, stop.clone()));
            }
            tokio::time::sleep(ONSET).await;
            under.add(measure(&good, &row, &right).await?);
            stop.cancel();
            attackers.join_all().await;
            host.until_idle().await?;
        }
    }
    println!("  µs of {CALLERS} callers beside {ATTACKERS} of another tenant:");
    println!(
        "  {:<10}{:>10}{:>10}{:>10}{:>8}",
        "attack", "p50", "p99", "calls", "wrong"
    );
    let p99_alone = alone.line("none");
    let p99s: Vec<_> = attacked
        .iter_mut()
        .zip(ATTACKS)
        .map(|(phase, name)| phase.line(name))
        .collect();
    let worst = p99s.into_iter().fold(0.0, f64::max);
    let wrong: usize = attacked.iter().map(|phase| phase.wrong).sum::<usize>() + alone.wrong;
    host.terminate().await?;
    println!(
        "neighbour: p99_alone_us={p99_alone:.0} p99_under_attack_us={worst:.0} ratio={:.1} wrong_answers={wrong}",
        worst / p99_alone
    );
    ensure!(wrong == 0, "{wrong} answers of the neighbour were wrong");
    Ok(())
}

/// The answer to one row; none where there is another status.
async fn ask(client: &Client, row: &Value) -> anyhow::Result<Option<Value>> {
    let inputs = json!([{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": row }]);
    let answer = client.infer("tabular", inputs).await?;
    Ok((answer.status == 200).then(|| answer.body["outputs"].clone()))
}

/// The neighbour's calls for a phase.
async fn measure(client: &Client, row: &Value, right: &Value) -> anyhow::Result<Phase> {
    let until = Instant::now() + PHASE;
    let caller = || async {
        let mut phase = Phase::default();
        while Instant::now() < until {
            let started = Instant::now();
            let answer = ask(client, row).await?;
            phase.times.push(started.elapsed());
            phase.wrong += usize::from(answer.as_ref() != Some(right));
        }
        anyhow::Ok(phase)
    };
    let mut all = Phase::default();
    for phase in futures::future::try_join_all((0..CALLERS).map(|_| caller())).await? {
        all.add(phase);
    }
    Ok(all)
}

/// Calls an attack again and again; what is under way when it must stop is hung up.
async fn assail(client: Client, attack: &'static str, stop: CancellationToken) {
    let path = format!("/v2/models/{attack}/infer");
    let body = json!({ "inputs": [] });
    let calls = async {
        loop {
            // However it ends, it is called again.
            let _ = client.post(&path, &body).await;
        }
    };
    stop.run_until_cancelled(calls).await;
}
