//! Twenty kills: nothing that was answered is lost, nothing is billed twice, and every joule stays placed.

use anyhow::{Context as _, ensure};
use tests::crash::{Books, Crash, ROUNDS};
use tests::process::Left;

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_and_bill_nothing_twice() -> anyhow::Result<()> {
    let mut crash = Crash::begin().await?;
    let result = play(&mut crash).await;
    if result.is_err() {
        eprintln!("the hosts' last words:\n{}", crash.log_tail());
    }
    result
}

async fn play(crash: &mut Crash) -> anyhow::Result<()> {
    let mut left = Vec::new();
    for (number, round) in ROUNDS.into_iter().enumerate() {
        let played = crash.round(round).await;
        let (calls, found) = played.with_context(|| format!("round {number}: {round:?}"))?;
        println!("round {number}: {round:?}: {calls} answered, then {found:?}");
        left.push(found);
    }
    let any = |count: fn(&Left) -> usize| left.iter().any(|left| count(left) > 0);
    ensure!(
        any(|left| left.undrained),
        "no kill left a sealed window undrained"
    );
    ensure!(any(|left| left.slices), "no kill left slices unsealed");
    ensure!(
        any(|left| left.finished),
        "no kill left a finished call unclaimed"
    );
    let books = crash.end().await?;
    ensure!(books.answered > ROUNDS.len(), "hardly a call was answered");
    let expected = Books {
        answered: books.answered,
        lost: 0,
        doubled: 0,
        gap_uj: 0,
    };
    assert_eq!(books, expected);
    Ok(())
}
