//! A backup of a host that serves, restored into a fresh data directory, and drained again from a journal that is newer.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::process::{self, HostProcess};
use tests::{Client, guests};

/// `wattle` with nothing of this machine's environment.
async fn wattle(args: &[&str], data: &Path) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(guests::wattle()?);
    command.args(args).arg("--data").arg(data);
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(command.env_clear().env("PATH", path).output().await?)
}

async fn done(args: &[&str], data: &Path) -> anyhow::Result<()> {
    let output = wattle(args, data).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// Calls and waits until the receipt is final.
async fn called(caller: &Client) -> anyhow::Result<String> {
    let inputs = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    let answer = caller.infer("echo", inputs).await?;
    ensure!(answer.status == 200, "{}", answer.body);
    let id = answer.receipt.context("a receipt")?;
    for _ in 0..600 {
        if state(caller, &id).await? == "final" {
            return Ok(id);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("receipt {id} is not final")
}

async fn state(caller: &Client, id: &str) -> anyhow::Result<Value> {
    let receipt = caller.get(&format!("/api/v1/receipts/{id}")).await?;
    Ok(receipt.body["state"].clone())
}

/// The ledger of a restored host fits, from receipt lines up to the meter's counters.
async fn sound(admin: &Client) -> anyhow::Result<()> {
    let check = admin.get("/api/v1/ledger/check").await?.expect(200)?;
    let counts = [
        "gap_uj",
        "breaks",
        "mismatches",
        "usage_mismatches",
        "chain_breaks",
    ];
    let counts = counts.map(|name| check[name].as_u64());
    ensure!(counts == [Some(0); 5] && check["refused"].is_null(), "{check}");
    for part in ["postings?limit=500", "checkpoints?limit=500", "rest"] {
        let verified = admin.get(&format!("/api/v1/ledger/verify/{part}")).await?;
        let verified = verified.expect(200)?;
        ensure!(verified["fault"].is_null(), "{part}: {verified}");
    }
    Ok(())
}

fn mode(path: &Path) -> anyhow::Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_host_again_and_takes_up_a_newer_journal() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    let mut heirs = [host.heir()?, host.heir()?];
    let played = play(&mut host, &mut heirs).await;
    if played.is_err() {
        eprintln!("the host's last words:\n{}", host.log_tail());
        for heir in &heirs {
            eprintln!("an heir's last words:\n{}", heir.log_tail());
        }
    }
    played
}

async fn play(host: &mut HostProcess, heirs: &mut [HostProcess; 2]) -> anyhow::Result<()> {
    host.add_flags(&["--checkpoint-s", "1"]);
    host.start("standard", None).await?;
    let admin = host.admin().await?;
    let caller = process::tenant(&admin, "acacia").await?;
    caller.deploy("echo", &[], json!({})).await?;
    let early = called(&caller).await?;

    // While the host serves.
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("backup");
    let into = dir.display().to_string();
    let busy = tokio::spawn({
        let caller = caller.clone();
        async move {
            for _ in 0..8 {
                called(&caller).await?;
            }
            anyhow::Ok(())
        }
    });
    done(&["backup", &into], host.data()).await?;
    busy.await??;
    assert_eq!((mode(&dir)?, mode(&dir.join("database.dump"))?), (0o700, 0o600));
    let seed = "keys/ledger-signing";
    assert_eq!((mode(&dir.join("keys"))?, mode(&dir.join(seed))?), (0o700, 0o600));
    let again = wattle(&["backup", &into], host.data()).await?;
    let said = String::from_utf8(again.stderr)?;
    ensure!(
        !again.status.success() && said.contains("backup_not_empty"),
        "{said}"
    );
    let refused = wattle(&["restore", &into], host.data()).await?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(
        !refused.status.success() && said.contains("backup_not_empty"),
        "{said}"
    );

    // What comes later is in no backup, and then the host is lost.
    let late = called(&caller).await?;
    let (admin, caller) = (
        admin.key().context("a key")?.to_owned(),
        caller.key().context("a key")?.to_owned(),
    );
    host.kill()?;
    host.kill_postgres()?;

    let [alone, drained] = heirs;
    done(&["restore", &into], alone.data()).await?;
    assert_eq!(mode(&alone.data().join(seed))?, 0o600);
    assert_eq!(
        std::fs::read(alone.data().join(seed))?,
        std::fs::read(dir.join(seed))?
    );
    alone.start("standard", None).await?;
    let reader = alone.client(Some(&caller))?;
    assert_eq!(state(&reader, &early).await?, "final");
    assert_eq!(state(&reader, &late).await?, Value::Null);
    called(&reader).await?;
    sound(&alone.client(Some(&admin))?).await?;
    alone.terminate().await?;

    // The lost host's journal was kept: it has what the ledger lacks.
    done(&["restore", &into], drained.data()).await?;
    let journal = drained.data().join("journal");
    std::fs::remove_dir_all(&journal)?;
    std::fs::create_dir(&journal)?;
    for entry in std::fs::read_dir(host.data().join("journal"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), journal.join(entry.file_name()))?;
    }
    drained.start("standard", None).await?;
    let reader = drained.client(Some(&caller))?;
    for _ in 0..600 {
        if state(&reader, &late).await? == "final" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state(&reader, &late).await?, "final");
    assert_eq!(state(&reader, &early).await?, "final");
    let log = drained.whole_log();
    ensure!(log.contains("drained postings go to it again"), "{log}");
    called(&reader).await?;
    sound(&drained.client(Some(&admin))?).await?;
    drained.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_serve_is_backed_up_too() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    host.start("standard", None).await?;
    let admin = host.admin().await?;
    let key = admin.key().context("a key")?.to_owned();
    host.terminate().await?;
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("backup");
    let into = dir.display().to_string();
    done(&["backup", &into], host.data()).await?;
    ensure!(host.postmaster_pid().is_none(), "its Postgres is stopped again");

    let mut heir = host.heir()?;
    std::fs::write(dir.join("keys/ledger-signing"), [7; 32])?;
    let altered = wattle(&["restore", &into], heir.data()).await?;
    let said = String::from_utf8(altered.stderr)?;
    ensure!(
        !altered.status.success() && said.contains("backup_damaged"),
        "{said}"
    );
    heir = host.heir()?;
    std::fs::copy(
        host.data().join("keys/ledger-signing"),
        dir.join("keys/ledger-signing"),
    )?;
    done(&["restore", &into], heir.data()).await?;
    heir.start("standard", None).await?;
    sound(&heir.client(Some(&key))?).await?;
    heir.terminate().await
}
