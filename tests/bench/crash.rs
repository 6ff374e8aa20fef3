//! Kills as many as are asked for, of the host, of Postgres and of both, under load, and what the ledger then has of the
//! calls that were answered. Fails where something is lost, billed twice or not placed.
//!
//! `cargo xtask bench crash --kills 200`; `WATTLE_CRASH_SEED` repeats a run, as far as processes repeat

use anyhow::{Context as _, ensure};
use clap::Parser;
use tests::crash::{Crash, ROUNDS};

#[derive(Parser)]
struct Arguments {
    /// How often something is killed.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { kills, .. } = Arguments::parse();
    ensure!(kills > 0, "--kills: at least one");
    let mut crash = Crash::begin().await?;
    let result = play(&mut crash, kills).await;
    if result.is_err() {
        eprintln!("the hosts' last words:\n{}", crash.log_tail());
    }
    result
}

async fn play(crash: &mut Crash, kills: usize) -> anyhow::Result<()> {
    let mut undrained = 0;
    for (number, round) in ROUNDS.into_iter().cycle().take(kills).enumerate() {
        let played = crash.round(round).await;
        let (calls, left) = played.with_context(|| format!("kill {number}: {round:?}"))?;
        println!("kill {number}: {round:?}: {calls} answered, then {left:?}");
        undrained += left.undrained;
    }
    let books = crash.end().await?;
    println!(
        "crash: kills={kills} answered={} undrained_at_kill={undrained} lost={} doubled={} gap_uj={}",
        books.answered, books.lost, books.doubled, books.gap_uj
    );
    ensure!(
        (books.lost, books.doubled, books.gap_uj) == (0, 0, 0),
        "the books are not whole"
    );
    Ok(())
}
