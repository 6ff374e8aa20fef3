//! The command line as people and scripts see it: exit codes, JSON, next steps, completions, bench.

use std::process::Output;

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::{TestHost, guests};
use wattle::http::Tls;

use crate::tls::{LONG, Pair, hello};

/// `wattle` with nothing of this machine's environment.
async fn wattle(args: &[&str]) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(guests::wattle()?);
    Ok(command.args(args).env_clear().output().await?)
}

/// How `wattle` ends, and what it says of it.
async fn ends(args: &[&str]) -> anyhow::Result<(i32, String)> {
    let output = wattle(args).await?;
    let code = output.status.code().context("no exit code")?;
    Ok((code, String::from_utf8(output.stderr)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_of_the_help() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("loop", &[], json!({ "limits": { "fuel": 1_000_000 } }))
        .await?;
    let (url, none) = (host.admin.url(""), String::new());
    let key = |client: &tests::Client| client.key().map(str::to_owned).unwrap_or_default();
    let (admin, manage, read) = (key(&host.admin), key(&tenant.manage), key(&tenant.read));
    for (key, args, code, next) in [
        (&admin, "tenant list", 0, ""),
        (&manage, "component list --json", 0, ""),
        (&manage, "deploy gone --graph net=gone", 1, "`list` subcommands"),
        (&admin, "tenant create acacia", 1, "choose another name"),
        (&manage, "component push x none.wasm", 2, "none.wasm"),
        (&manage, "deploy nothing", 2, "--component"),
        (&manage, "tenant", 2, "Usage"),
        (&none, "tenant list", 3, "--key or WATTLE_KEY"),
        (&"wrong".to_owned(), "tenant list", 3, "--key or WATTLE_KEY"),
        (&read, "tenant list", 3, "whose role allows this"),
        (&manage, "invoke loop", 4, "--limit"),
    ] {
        let mut line = vec!["--url", &url];
        if !key.is_empty() {
            line.extend(["--key", key]);
        }
        line.extend(args.split(' '));
        let (found, said) = ends(&line).await?;
        assert_eq!(found, code, "{args}: {said}");
        assert!(said.contains(next), "{args}: {next:?} is not in {said}");
        assert!(
            code == 2 || code == 0 || said.contains("\n  next: "),
            "{args}: {said}"
        );
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_no_answer_learns_the_next_step() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let (tls, _reloader) = Tls::open(pair.cert(), pair.key())?;
    let (over_tls, _stop) = hello(Some(tls), 8, LONG).await?;
    let (plain, _plain_stop) = hello(None, 8, LONG).await?;
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let ca = pair.cert().display().to_string();
    let other = Pair::named(&["example.org"])?;
    let (elsewhere, _reloader) = Tls::open(other.cert(), other.key())?;
    let (elsewhere, _elsewhere_stop) = hello(Some(elsewhere), 8, LONG).await?;
    let other_ca = other.cert().display().to_string();
    for (url, more, code, next) in [
        (
            format!("http://{free}"),
            None,
            1,
            "start a host with `wattle serve`",
        ),
        (
            "http://nowhere.invalid".to_owned(),
            None,
            1,
            "whether the name in --url",
        ),
        (format!("http://{plain}"), None, 1, "names a host's API"),
        (format!("http://{over_tls}"), None, 1, "write https:// in --url"),
        (format!("https://{plain}"), Some(&ca), 1, "write http:// in --url"),
        (format!("https://{over_tls}"), Some(&other_ca), 1, "--ca-file"),
        (
            format!("https://{elsewhere}"),
            Some(&other_ca),
            1,
            "a name in --url that the host's certificate has",
        ),
        (format!("https://{over_tls}"), Some(&ca), 1, "names a host's API"),
        ("ftp://127.0.0.1".to_owned(), None, 2, "write http:// or https://"),
        ("nonsense".to_owned(), None, 2, "--url nonsense"),
        (
            format!("https://{over_tls}"),
            Some(&"none.pem".to_owned()),
            2,
            "none.pem",
        ),
    ] {
        let mut line = vec!["tenant", "list", "--url", &url];
        line.extend(more.iter().flat_map(|file| ["--ca-file", file]));
        let (found, said) = ends(&line).await?;
        assert_eq!(found, code, "{url}: {said}");
        assert!(said.contains(next), "{url}: {next:?} is not in {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_a_table_and_json() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("echo", &[], json!({ "settings": { "token": "not-for-screens" } }))
        .await?;
    let called = tenant.invoke.infer("echo", echo()).await?;
    host.final_receipt(&tenant.read, &called.receipt.context("a receipt")?)
        .await?;
    let url = host.admin.url("");
    let (admin, manage) = (
        host.admin.key().context("a key")?,
        tenant.manage.key().context("a key")?,
    );
    for (key, list, word) in [
        (admin, "tenant list", "acacia"),
        (admin, "key list", "tenant:manage"),
        (admin, "ledger balance", "uj"),
        (admin, "ledger windows --limit 3", "window"),
        (manage, "component list", "echo"),
        (manage, "component ls echo", "sha256:"),
        (manage, "deployment list", "echo"),
        (manage, "receipt list", "infer"),
    ] {
        let line: Vec<_> = ["--url", &url, "--key", key]
            .into_iter()
            .chain(list.split(' '))
            .collect();
        let table = String::from_utf8(wattle(&line).await?.stdout)?;
        assert!(
            table.contains("──") && table.contains(word),
            "{list}: {word} is not in\n{table}"
        );
        let output = wattle(&[&line[..], &["--json"]].concat()).await?;
        let items: Value = serde_json::from_slice(&output.stdout)?;
        assert!(
            items["items"].as_array().is_some_and(|items| !items.is_empty()),
            "{list}: {items}"
        );
    }

    let one = async |line: &str| {
        let line: Vec<_> = ["--url", &url, "--key", manage]
            .into_iter()
            .chain(line.split(' '))
            .collect();
        anyhow::Ok(String::from_utf8(wattle(&line).await?.stdout)?)
    };
    let shown = one("deployment show echo").await?;
    for word in ["release 1", "component", "fuel=", "x FP32 [?]", "token"] {
        assert!(shown.contains(word), "{word} is not in\n{shown}");
    }
    assert!(!shown.contains("not-for-screens"), "{shown}");
    let empty = one("graph list").await?;
    assert_eq!(empty, "(none)\n");
    assert!(one("deployment rm echo").await?.contains("no more calls"));
    assert_eq!(tenant.invoke.infer("echo", echo()).await?.status, 404);
    let line = [
        "--url",
        &url,
        "--key",
        admin,
        "tenant",
        "quota",
        &tenant.id,
        "--storage-mib",
        "3",
        "--json",
    ];
    let quota: Value = serde_json::from_slice(&wattle(&line).await?.stdout)?;
    assert!(quota.to_string().contains(&(3 << 20).to_string()), "{quota}");
    host.finish().await
}

fn echo() -> Value {
    json!([{ "name": "x", "shape": [1], "datatype": "FP32", "data": [1.0] }])
}

#[tokio::test]
async fn every_shell_gets_completions_of_every_subcommand() -> anyhow::Result<()> {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = wattle(&["completions", shell]).await?;
        let script = String::from_utf8(output.stdout)?;
        for word in ["serve", "receipt", "bench", "config", "ca-file"] {
            assert!(output.status.success() && script.contains(word), "{shell} {word}");
        }
    }
    assert_eq!(ends(&["completions", "tcl"]).await?.0, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bench_counts_each_answer_and_its_joules() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    tenant
        .deploy("loop", &[], json!({ "limits": { "fuel": 1_000_000 } }))
        .await?;
    let (url, key) = (
        host.admin.url(""),
        tenant.manage.key().context("a key")?.to_owned(),
    );
    let whole = format!("{url}/v2/models/echo/infer");
    let bench = async |more: &[&str]| {
        wattle(&[&["bench", "--url", &url, "--key", &key, "-c", "4"], more].concat()).await
    };

    let output = bench(&["echo", "-n", "50", "--final", "--json", "--input", "x=[1,2,3]"]).await?;
    let said = String::from_utf8(output.stderr)?;
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(
        (&report["answers"], &report["errors"]),
        (&json!(50), &json!({})),
        "{report}"
    );
    assert_eq!(report["energy"]["provisional_answers"], 50, "{report}");
    assert_eq!(report["energy"]["final_answers"], 50, "{report}");
    let us = |name: &str| report["latency_us"][name].as_u64().unwrap();
    assert!(
        us("p50") > 0 && us("p50") <= us("p99") && us("p99.9") <= us("max"),
        "{report}"
    );
    assert!(report["rps"].as_f64().unwrap() > 0.0, "{report}");
    // The receipts that it summed are the tenant's: 50, one before them, and one for each connection.
    let receipts = tenant.read.get("/api/v1/receipts?limit=500").await?.expect(200)?;
    let calls = receipts["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["kind"] == "infer");
    assert_eq!(calls.count(), 50 + 1 + 4);

    let output = bench(&[&whole, "-d", "200ms", "--input", "x=[1,2,3]"]).await?;
    let table = String::from_utf8(output.stdout)?;
    for word in [
        "answers",
        "p99.9",
        "errors",
        "none",
        "(provisional)",
        "of one core",
    ] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    // What fails at once fails as a call would.
    let output = bench(&["loop", "-n", "5"]).await?;
    assert_eq!(output.status.code(), Some(4));
    host.finish().await
}
