//! The journal's disk is full or cannot be written: nothing that was answered is lost, and the host says what is wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::Client;
use tests::disk::SmallDisk;
use tests::process::{HostProcess, tenant};

fn echo() -> Value {
    json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }])
}

/// A host that has not started, with a small disk for its journal.
fn on_small_disk() -> anyhow::Result<Option<(HostProcess, SmallDisk)>> {
    let host = HostProcess::new()?;
    let journal = host.data().join("journal");
    std::fs::create_dir(&journal)?;
    Ok(SmallDisk::mount(&journal, 2 << 20)?.map(|disk| (host, disk)))
}

/// Calls until an answer is no receipt, and gives it with the receipts before it.
async fn call(manage: &Client, until: u16) -> anyhow::Result<(BTreeSet<String>, tests::client::Answer)> {
    let mut receipts = BTreeSet::new();
    for _ in 0..3_000 {
        let answer = manage.infer("echo", echo()).await?;
        if answer.status == 200 {
            receipts.insert(answer.receipt.clone().context("a receipt")?);
        }
        if answer.status == until {
            return Ok((receipts, answer));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    anyhow::bail!("no call was answered with {until}")
}

/// That the books are whole, and have each of `receipts`.
async fn has(admin: &Client, manage: &Client, receipts: &BTreeSet<String>) -> anyhow::Result<()> {
    let check = admin.get("/api/v1/ledger/check").await?.expect(200)?;
    for zero in ["gap_uj", "breaks", "mismatches", "chain_breaks"] {
        ensure!(check[zero] == 0, "{zero}: {check}");
    }
    for id in receipts {
        let receipt = manage.get(&format!("/api/v1/receipts/{id}")).await?.expect(200)?;
        ensure!(
            receipt["state"] == "final" && receipt["outcome"] == "ok",
            "{receipt}"
        );
    }
    Ok(())
}

async fn fill_and_empty(host: &mut HostProcess, disk: &SmallDisk) -> anyhow::Result<()> {
    host.start("standard", None).await?;
    let admin = host.admin().await?;
    let manage = tenant(&admin, "acacia").await?;
    manage.deploy("echo", &[], json!({})).await?;
    let (mut receipts, _) = call(&manage, 200).await?;

    let filler = disk.fill()?;
    let (before, refused) = call(&manage, 503).await?;
    receipts.extend(before);
    assert_eq!(refused.code(), "journal_disk_full", "{}", refused.body);
    // It stays so, and the operator's page says it.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let again = manage.infer("echo", echo()).await?;
    assert_eq!((again.status, again.code()), (503, "journal_disk_full"));
    ensure!(again.retry_after_s == Some(5), "{again:?}");
    let ready = host.ops()?.get("/readyz").await?;
    assert_eq!((ready.status, ready.code()), (503, "journal_disk_full"));
    ensure!(host.is_alive()?, "the host died of a full disk");
    ensure!(
        host.whole_log().contains("as its disk is full"),
        "nothing is logged"
    );

    // With room it goes on by itself.
    std::fs::remove_file(filler)?;
    let (after, answered) = call(&manage, 200).await?;
    receipts.extend(after.into_iter().chain(answered.receipt));
    assert_eq!(host.ops()?.get("/readyz").await?.status, 200);
    let secrets = [&admin, &manage].map(|client| client.key().map(str::to_owned));
    host.terminate().await?;
    host.start("standard", None).await?;
    let [admin, manage] = secrets;
    let (admin, manage) = (host.client(admin.as_deref())?, host.client(manage.as_deref())?);
    has(&admin, &manage, &receipts).await?;
    host.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_calls_until_there_is_room() -> anyhow::Result<()> {
    let Some((mut host, disk)) = on_small_disk()? else {
        return Ok(());
    };
    let result = fill_and_empty(&mut host, &disk).await;
    if result.is_err() {
        eprintln!("the host's last words:\n{}", host.log_tail());
    }
    drop(host);
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_keeps_the_host_from_starting_and_is_named() -> anyhow::Result<()> {
    let Some((mut host, disk)) = on_small_disk()? else {
        return Ok(());
    };
    host.start("standard", None).await?;
    let admin = host.admin().await?;
    let manage = tenant(&admin, "acacia").await?;
    manage.deploy("echo", &[], json!({})).await?;
    let (receipts, last) = call(&manage, 200).await?;
    let secrets = [&admin, &manage].map(|client| client.key().map(str::to_owned));
    host.kill()?;

    disk.remount("ro")?;
    let refused = host.start("standard", None).await.err().context("it started")?;
    ensure!(refused.to_string().contains("before it was ready"), "{refused:#}");
    let log = host.log_tail();
    ensure!(
        log.contains("the journal cannot open") && log.contains("Read-only file system"),
        "{log}"
    );
    disk.remount("rw")?;
    host.start("standard", None).await?;
    let [admin, manage] = secrets;
    let (admin, manage) = (host.client(admin.as_deref())?, host.client(manage.as_deref())?);
    let all: BTreeSet<_> = receipts.into_iter().chain(last.receipt).collect();
    has(&admin, &manage, &all).await?;
    host.terminate().await?;
    drop(host);
    Ok(())
}
