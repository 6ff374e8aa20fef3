//! Anchors in a bucket: put there once, listed by pages, missed when the ledger lacks one; and a bucket that refuses.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::process::HostProcess;
use tests::s3::{S3, SECRET, TOKEN};
use tests::{Client, guests};
use tokio::net::TcpListener;

const AT: &str = "s3://ledgers/wattle/one";

fn key(number: u64) -> String {
    format!("wattle/one/checkpoint-{number:012}.json")
}

/// `wattle` with these variables and no others.
async fn wattle(args: &[&str], environment: &[(&'static str, String)]) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(guests::wattle()?);
    command.args(args).env_clear();
    Ok(command.envs(environment.iter().cloned()).output().await?)
}

/// `wattle ledger verify` with the anchors at `AT`.
async fn verify(admin: &Client, environment: &[(&'static str, String)]) -> anyhow::Result<Output> {
    let (url, key) = (admin.url(""), admin.key().context("a key")?);
    let line = [
        "ledger",
        "verify",
        "--url",
        &url,
        "--key",
        key,
        "--anchors",
        AT,
        "--json",
    ];
    wattle(&line, environment).await
}

/// What it says of a bucket that answers, and its exit code.
async fn verified(admin: &Client, store: &S3) -> anyhow::Result<(Option<i32>, Value)> {
    let output = verify(admin, &store.environment()).await?;
    let said = serde_json::from_slice(&output.stdout);
    let said = said.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), said))
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    for _ in 0..1_500 {
        if done().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{what}")
}

async fn until_there_are(store: &S3, count: usize) -> anyhow::Result<()> {
    until("no more checkpoints are anchored", async || {
        Ok(store.keys().len() >= count)
    })
    .await
}

async fn until_fault_is(host: &HostProcess, fault: u64) -> anyhow::Result<()> {
    let name = "wattle_checkpoint_fault";
    until(&format!("{name} does not become {fault}"), async || {
        Ok(host.metric(name).await? == fault)
    })
    .await
}

/// A host that anchors in `store`, and its admin.
async fn anchoring(store: &S3) -> anyhow::Result<(HostProcess, Client)> {
    let mut host = HostProcess::new()?;
    host.add_flags(&["--checkpoint-s", "1", "--anchors", AT]);
    host.add_environment(store.environment());
    ensure!(host.start("standard", None).await?);
    let admin = host.admin().await?;
    Ok((host, admin))
}

/// Neither the secret nor the token is in `text`.
fn keeps_secrets(text: &str) -> anyhow::Result<()> {
    for secret in [SECRET, TOKEN] {
        ensure!(!text.contains(secret), "a secret is in:\n{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_checkpoint_is_put_into_a_bucket_once() -> anyhow::Result<()> {
    let store = S3::start().await?;
    let (mut host, admin) = anchoring(&store).await?;
    // More than two pages of the stand-in.
    until_there_are(&store, 5).await?;
    let (code, said) = verified(&admin, &store).await?;
    assert_eq!((code, &said["verified"]), (Some(0), &json!(true)), "{said}");
    ensure!(said["anchors"].as_u64() >= Some(5), "{said}");

    // Looking for the newest does not take longer the more there are.
    let whole_lists = store.whole_lists();
    until_there_are(&store, store.keys().len() + 2).await?;
    assert_eq!(store.whole_lists(), whole_lists);

    // Another start goes on, and changes nothing of what is there.
    host.terminate().await?;
    let before = store.keys();
    let contents: Vec<_> = before.iter().map(|key| store.get(key)).collect();
    ensure!(host.start("standard", None).await?);
    until_there_are(&store, before.len() + 2).await?;
    let after = store.keys();
    let expected: Vec<_> = (1..=after.len() as u64).map(key).collect();
    assert_eq!(after, expected);
    let now: Vec<_> = before.iter().map(|key| store.get(key)).collect();
    assert_eq!(now, contents);
    let admin = host.client(admin.key())?;
    assert_eq!(verified(&admin, &store).await?.0, Some(0));
    keeps_secrets(&host.whole_log())?;
    host.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_only_the_bucket_has_is_found_out() -> anyhow::Result<()> {
    let store = S3::start().await?;
    let (mut host, admin) = anchoring(&store).await?;
    until_there_are(&store, 3).await?;
    // As if the ledger had been rolled back by many: the last of them is left in the bucket.
    let content = store.get(&key(3)).context("an anchor")?;
    let mut lost: Value = serde_json::from_slice(&content)?;
    let number = 1_000;
    lost["checkpoint"]["number"] = json!(number);
    store.put(key(number), lost.to_string());
    until_fault_is(&host, 1).await?;
    let said = format!("it has no checkpoint {number} as {AT}/checkpoint-000000001000.json says");
    until("the log does not say it", async || {
        Ok(host.whole_log().contains(&said))
    })
    .await?;
    let made = host.metric("wattle_checkpoint_number").await?;
    let (code, said) = verified(&admin, &store).await?;
    assert_eq!(
        (code, &said["fault"]["row"]),
        (Some(1), &json!("checkpoint 1000")),
        "{said}"
    );
    let what = said["fault"]["what"].as_str().context("what")?;
    ensure!(what.contains("rolled back") && what.contains(AT), "{said}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        host.metric("wattle_checkpoint_number").await?,
        made,
        "nothing is signed"
    );

    store.remove(&key(number));
    until_fault_is(&host, 0).await?;
    until_there_are(&store, usize::try_from(made)? + 1).await?;
    assert_eq!(verified(&admin, &store).await?.0, Some(0));
    host.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_refuses_is_told_without_secrets_and_asked_again() -> anyhow::Result<()> {
    let store = S3::start().await?;
    let (mut host, admin) = anchoring(&store).await?;
    until_there_are(&store, 1).await?;
    store.refuse(true);
    until_fault_is(&host, 1).await?;
    let said = format!("the anchors at {AT}: ");
    until("the log does not say it", async || {
        let log = host.whole_log();
        Ok(log.contains(&said) && log.contains("403 Forbidden (AccessDenied)"))
    })
    .await?;
    let count = store.keys().len();
    store.refuse(false);
    until_fault_is(&host, 0).await?;
    until_there_are(&store, count + 1).await?;
    keeps_secrets(&host.whole_log())?;

    // Whoever verifies is told as well: with another secret, where nobody is, and where nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let silent_url = format!("http://{}", silent.local_addr()?);
    let with = |name: &'static str, value: &str| {
        let mut environment = store.environment();
        environment.retain(|(given, _)| *given != name);
        environment.push((name, value.to_owned()));
        environment
    };
    for (name, value, expected) in [
        (
            "AWS_SECRET_ACCESS_KEY",
            "hush/another",
            "403 Forbidden (SignatureDoesNotMatch)",
        ),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "Connection refused"),
        ("AWS_ENDPOINT_URL", silent_url.as_str(), "timed out"),
    ] {
        let output = verify(&admin, &with(name, value)).await?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(!output.status.success(), "{said}");
        ensure!(said.contains(AT) && said.contains(expected), "{said}");
        ensure!(!said.contains("hush/"), "{said}");
    }
    host.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_cannot_be_are_refused_before_anything_starts() -> anyhow::Result<()> {
    let none: [(&'static str, String); 0] = [];
    let store = S3::start().await?;
    let but = |name: &str| {
        let mut environment = store.environment();
        environment.retain(|(given, _)| *given != name);
        environment
    };
    for (at, environment, expected) in [
        (
            "gs://ledgers",
            none.to_vec(),
            "'gs://' is not known: write a directory, or s3://BUCKET/PREFIX",
        ),
        ("s3://", none.to_vec(), "write s3://BUCKET/PREFIX with a bucket"),
        (
            "s3://ledgers/a//b",
            none.to_vec(),
            "write s3://BUCKET/PREFIX with a prefix",
        ),
        (
            AT,
            none.to_vec(),
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            AT,
            but("AWS_SECRET_ACCESS_KEY"),
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (AT, but("AWS_ALLOW_HTTP"), "AWS_ALLOW_HTTP=true"),
    ] {
        let check = [&environment[..], &[("WATTLE_ANCHORS", at.to_owned())]].concat();
        let output = wattle(&["config", "check"], &check).await?;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{at}: {said}");
        ensure!(said.contains(expected), "{at}: {said}");
        keeps_secrets(&said)?;
        let output = wattle(&["serve", "--anchors", at], &environment).await?;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{at}: {said}");
        ensure!(said.contains(expected), "{at}: {said}");
    }
    let check = [&store.environment()[..], &[("WATTLE_ANCHORS", AT.to_owned())]].concat();
    let output = wattle(&["config", "check"], &check).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
