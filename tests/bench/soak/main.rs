//! A long day in short: tenants of every kind call a host of its own process at 80 % of what it can do, some
//! hang up, and some publish, deploy and delete meanwhile. Nothing may fail that should not, nothing may grow,
//! and in the end the ledger balances.
//!
//! `cargo xtask bench soak [--seconds N]`

mod calls;
mod resources;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use calls::{Calls, Tally};
use clap::Parser;
use resources::Resources;
use tests::Client;
use tests::process::{HostProcess, tenant};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const TENANTS: [&str; 3] = ["acacia", "birch", "cedar"];
/// Callers that look for the capacity: each calls again as soon as it is answered.
const CLOSED_LOOP: usize = 16;
/// The share of the capacity that is asked for.
const LOAD: f64 = 0.8;
/// Calls that may be under way: more means that the host does not keep up.
const MAX_OPEN: usize = 1_024;
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
const CHURN_EVERY: Duration = Duration::from_secs(2);
/// Growth that is noise: of memory in percent, of descriptors and threads in pieces.
const NOISE_PCT: f64 = 10.0;
const NOISE: i64 = 24;
/// How long the ledger may take to have everything.
const SEALED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Args {
    /// How long to call, the search for the capacity and the warm-up included
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// What cargo tells every bench
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let whole = Duration::from_secs(Args::parse().seconds.max(30));
    let mut host = HostProcess::new()?;
    ensure!(host.start("standard", None).await?, "the host did not start");
    let admin = host.admin().await?;
    let mut clients = Vec::new();
    for name in TENANTS {
        clients.push(tenant(&admin, name).await?);
    }
    let calls = Arc::new(Calls::deploy(clients).await?);

    let rate = capacity(&calls, whole / 10).await? * LOAD;
    println!(
        "  {rate:.0} calls a second, {:.0} % of the capacity, for {whole:?}",
        LOAD * 100.0
    );
    let stop = CancellationToken::new();
    let churn = tokio::spawn(churn(calls.clone(), stop.clone()));
    let load = tokio::spawn(open_loop(calls.clone(), rate, Instant::now() + whole));
    let pid = host.pid()?;
    let mut samples = Vec::new();
    while !load.is_finished() {
        tokio::time::sleep(SAMPLE_EVERY).await;
        samples.push(Resources::of(pid)?);
        ensure!(host.is_alive()?, "the host ended:\n{}", host.log_tail());
    }
    let tally = load.await??;
    stop.cancel();
    let churned = churn.await??;
    let gap_uj = settle(&host, &admin).await?;
    host.terminate().await?;

    let growth = resources::growth(&samples)?;
    println!("  {tally}; {churned} revisions published, deployed, called and deleted");
    println!("  {growth}");
    println!(
        "soak: calls={} failed_unexpected={} rss_growth_pct={:.1} gap_uj={gap_uj}",
        tally.calls,
        tally.unexpected.len(),
        growth.rss_pct
    );
    tally.check()?;
    ensure!(gap_uj == 0, "the ledger has a gap");
    ensure!(growth.rss_pct <= NOISE_PCT, "memory grows");
    ensure!(
        growth.descriptors <= NOISE && growth.threads <= NOISE,
        "descriptors or threads grow"
    );
    Ok(())
}

/// Calls a second when nobody waits for anything but answers.
async fn capacity(calls: &Arc<Calls>, span: Duration) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CLOSED_LOOP {
        let calls = calls.clone();
        callers.spawn(async move {
            let mut tally = Tally::default();
            for number in (caller..).step_by(CLOSED_LOOP) {
                if started.elapsed() >= span {
                    break;
                }
                tally.add(calls.call(number).await);
            }
            tally
        });
    }
    let mut all = Tally::default();
    while let Some(tally) = callers.join_next().await {
        all.merge(tally?);
    }
    all.check()?;
    Ok(all.calls as f64 / started.elapsed().as_secs_f64())
}

/// Calls at a fixed rate, whether or not the ones before are answered.
async fn open_loop(calls: Arc<Calls>, rate: f64, until: Instant) -> anyhow::Result<Tally> {
    let started = Instant::now();
    let (mut tally, mut open) = (Tally::default(), JoinSet::new());
    let mut beat = tokio::time::interval(Duration::from_millis(5));
    while Instant::now() < until {
        beat.tick().await;
        let due = (started.elapsed().as_secs_f64() * rate) as usize;
        for number in tally.calls + open.len()..due {
            let calls = calls.clone();
            open.spawn(async move { calls.call(number).await });
        }
        while let Some(ended) = open.try_join_next() {
            tally.add(ended?);
        }
        ensure!(
            open.len() < MAX_OPEN,
            "the host does not keep up: {MAX_OPEN} calls are open"
        );
    }
    while let Some(ended) = open.join_next().await {
        tally.add(ended?);
    }
    Ok(tally)
}

/// Publishes one new revision after another, deploys it, calls it and deletes the deployment; gives how many.
async fn churn(calls: Arc<Calls>, stop: CancellationToken) -> anyhow::Result<u32> {
    let mut count = 0;
    while stop
        .run_until_cancelled(tokio::time::sleep(CHURN_EVERY))
        .await
        .is_some()
    {
        calls.churn(count).await.context("publishing beside the calls")?;
        count += 1;
    }
    Ok(count)
}

/// Waits until the ledger has all that ran, and gives its gap.
async fn settle(host: &HostProcess, admin: &Client) -> anyhow::Result<u64> {
    host.until_idle().await?;
    let windows = |check: &serde_json::Value| check["windows"].as_u64().unwrap_or_default();
    let ledger = async || admin.get("/api/v1/ledger/check").await?.expect(200);
    let before = windows(&ledger().await?);
    let sealed = async {
        loop {
            let check = ledger().await?;
            // The window that was open is sealed, and with it the last call; then one more.
            if windows(&check) >= before + 2 && host.metric("wattle_postings_waiting").await? == 0 {
                return anyhow::Ok(check);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let check = tokio::time::timeout(SEALED_WITHIN, sealed)
        .await
        .context("the ledger lags behind")??;
    ensure!(
        check["breaks"] == 0 && check["mismatches"] == 0 && check["chain_breaks"] == 0,
        "the ledger is wrong: {check}"
    );
    check["gap_uj"].as_u64().context("a gap")
}
