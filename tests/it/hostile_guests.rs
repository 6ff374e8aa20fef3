//! Hostile components: each ends under a code of its own, is paid for, and moves no neighbour.

mod greedy;
mod lying;
mod nn;
mod text;
mod trapping;
mod uploads;
mod wasi;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use domain::Outcome;
use serde_json::{Value, json};
use tests::client::Answer;
use tests::host::Tenant;
use tests::process::HostProcess;
use tests::{Client, TestHost, guests};
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;

/// A component that means harm, and how far it gets.
struct Attack {
    name: &'static str,
    upload: Vec<u8>,
    limits: Value,
    /// What the call says to the guest.
    parameters: Value,
    end: End,
    /// What its receipt says beside that.
    receipt: fn(&Value) -> bool,
}

/// Where an attack ends, and under which code.
#[derive(Clone, Copy)]
enum End {
    /// The upload is refused.
    Publish(&'static str),
    /// It is stored, and no release can be made of it.
    Deploy(&'static str),
    /// It is called, and fails.
    Call(&'static str),
    /// It is called, and answers: what it tried came to nothing.
    Answers,
}
use End::{Answers, Call, Deploy, Publish};

impl Attack {
    fn new(name: &'static str, upload: Vec<u8>, end: End) -> Self {
        Self {
            name,
            upload,
            limits: json!({}),
            parameters: json!({}),
            end,
            receipt: |_| true,
        }
    }

    /// One that needs limits of its own.
    fn within(name: &'static str, upload: Vec<u8>, limits: Value, end: End) -> Self {
        Self {
            limits,
            ..Self::new(name, upload, end)
        }
    }

    /// Goes as far as it gets, and gives the receipt of its last step and what that should say.
    async fn run(&self, tenant: &Tenant) -> anyhow::Result<(String, &'static str, &'static str)> {
        let name = self.name;
        let path = format!("/api/v1/components/{name}/revisions");
        let answer = tenant.manage.upload(&path, self.upload.clone()).await?;
        if let Publish(code) = self.end {
            let outcome = Outcome::GuestFailure.as_str();
            return Ok((refused(&answer, code)?, "publish", outcome));
        }
        ensure!(matches!(answer.status, 200 | 201), "uploading: {}", answer.body);
        let body = json!({
            "name": name,
            "component": { "name": name },
            "graphs": { "net": { "name": "tabular" } },
            "limits": self.limits,
        });
        let answer = tenant.manage.post("/api/v1/deployments", &body).await?;
        if let Deploy(code) = self.end {
            return Ok((refused(&answer, code)?, "deploy", outcome(code)));
        }
        ensure!(answer.status == 201, "deploying: {}", answer.body);
        let answer = call(&tenant.invoke, name, &self.parameters).await?;
        let Call(code) = self.end else {
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
            let receipt = answer.receipt.context("a receipt")?;
            return Ok((receipt, "infer", Outcome::Ok.as_str()));
        };
        ensure!(
            answer.body["error"].is_string() && answer.fuel.is_some() && answer.timing.is_some(),
            "{answer:?}"
        );
        Ok((refused(&answer, code)?, "infer", outcome(code)))
    }
}

/// What is recorded of a refusal: a code that is no outcome is the guest's own.
fn outcome(code: &str) -> &'static str {
    code.parse::<Outcome>().unwrap_or(Outcome::GuestFailure).as_str()
}

/// The receipt of an answer that refuses with `code`.
fn refused(answer: &Answer, code: &str) -> anyhow::Result<String> {
    let status = match code {
        "deadline_exceeded" => 504,
        _ => 422,
    };
    ensure!(
        (answer.status, answer.code()) == (status, code),
        "{} instead of {status} {code}: {:.500}",
        answer.status,
        answer.body.to_string()
    );
    answer.receipt.clone().context("what was refused has a receipt")
}

/// A guest of the fixtures.
fn fixture(name: &str) -> Vec<u8> {
    guests::guest(name).unwrap()
}

async fn call(client: &Client, deployment: &str, parameters: &Value) -> anyhow::Result<Answer> {
    let body = json!({ "inputs": [], "parameters": parameters });
    client
        .post(&format!("/v2/models/{deployment}/infer"), &body)
        .await
}

/// A well-behaved tenant, and what it is answered when nobody disturbs it.
struct Neighbour {
    tenant: Tenant,
    rows: Vec<Value>,
    alone: Vec<(Value, String)>,
}

impl Neighbour {
    async fn new(host: &TestHost) -> anyhow::Result<Self> {
        let tenant = host.tenant("good").await?;
        tenant
            .deploy("tabular", &[("net", "tabular.onnx")], json!({}))
            .await?;
        let known: Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
        let rows = known["rows"].as_array().context("rows")?[..2].to_vec();
        let mut neighbour = Self {
            tenant,
            rows,
            alone: Vec::new(),
        };
        neighbour.alone = neighbour.answers().await?;
        Ok(neighbour)
    }

    /// The outputs for each row, with the fuel of each.
    async fn answers(&self) -> anyhow::Result<Vec<(Value, String)>> {
        let mut all = Vec::new();
        for row in &self.rows {
            let inputs = json!([{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": row }]);
            let answer = self.tenant.invoke.infer("tabular", inputs).await?;
            let fuel = answer.fuel.context("fuel")?.to_string();
            all.push((answer.expect(200)?["outputs"].clone(), fuel));
        }
        Ok(all)
    }

    /// Fails if it is answered otherwise than alone.
    async fn is_unmoved(&self) -> anyhow::Result<()> {
        let now = self.answers().await?;
        ensure!(
            now == self.alone,
            "the neighbour got {now:?}, not {:?}",
            self.alone
        );
        Ok(())
    }
}

/// Plays attacks one after another beside a neighbour; what went otherwise than its table says is told of all
/// of them together.
async fn play(attacks: Vec<Attack>) -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let neighbour = Neighbour::new(&host).await?;
    let bad = host.tenant("bad").await?;
    bad.manage
        .push_graph("tabular", guests::model("tabular.onnx")?)
        .await?;
    let (mut wrong, mut ended) = (Vec::new(), Vec::new());
    for attack in &attacks {
        match attack.run(&bad).await {
            Ok(end) => ended.push((attack, end)),
            Err(error) => wrong.push(format!("{}: {error:#}", attack.name)),
        }
        if let Err(error) = neighbour.is_unmoved().await {
            wrong.push(format!("beside {}: {error:#}", attack.name));
        }
    }
    for (attack, (id, kind, outcome)) in ended {
        let receipt = host.final_receipt(&bad.read, &id).await?;
        let said = (&receipt["kind"], &receipt["outcome"]);
        let used = receipt["cpu_ns"].as_u64() > Some(0) && receipt["energy_uj"].is_u64();
        // What is refused before a call may not have come to its first instruction.
        let ran = kind != "infer" || receipt["fuel"].as_u64() > Some(0);
        if said != (&json!(kind), &json!(outcome)) || !used || !ran || !(attack.receipt)(&receipt) {
            wrong.push(format!("{}: {kind}, {outcome}: {receipt}", attack.name));
        }
    }
    assert!(!attacks.is_empty() && wrong.is_empty(), "{}", wrong.join("\n"));
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_refused() -> anyhow::Result<()> {
    play(uploads::refused()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_only_strange() -> anyhow::Result<()> {
    play(uploads::strange()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_take_too_much() -> anyhow::Result<()> {
    play(greedy::attacks()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_trap() -> anyhow::Result<()> {
    play(trapping::attacks()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_break_the_contract() -> anyhow::Result<()> {
    play(lying::attacks()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_misuse_graphs() -> anyhow::Result<()> {
    play(nn::attacks()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_probe_their_surroundings() -> anyhow::Result<()> {
    play(wasi::attacks()).await
}

/// Sets off one memory bomb after another, and gives how many.
async fn bombs(client: Client, stop: CancellationToken) -> anyhow::Result<u64> {
    let mut count = 0;
    while !stop.is_cancelled() {
        let answer = call(&client, "bomb", &json!({})).await?;
        ensure!(answer.code() == "memory_exceeded", "{}", answer.body);
        count += 1;
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_neighbours_change_no_answer() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let neighbour = Neighbour::new(&host).await?;
    let bad = host.tenant("bad").await?;
    let endless = json!({ "fuel": 1_000_000_000_000_u64, "deadline_ms": 600_000 });
    bad.deploy("loop", &[], json!({ "limits": endless })).await?;
    bad.deploy("bomb", &[], json!({ "limits": { "memory_bytes": 64 * MIB } }))
        .await?;
    let stop = CancellationToken::new();
    let loops: Vec<_> = (0..4)
        .map(|_| {
            let client = bad.invoke.clone();
            tokio::spawn(async move { call(&client, "loop", &json!({})).await })
        })
        .collect();
    let bombs: Vec<_> = (0..4)
        .map(|_| tokio::spawn(bombs(bad.invoke.clone(), stop.clone())))
        .collect();
    while host.app.live.running() < 6 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    neighbour.is_unmoved().await?;

    stop.cancel();
    assert!(loops.iter().all(|endless| !endless.is_finished()));
    loops.iter().for_each(tokio::task::JoinHandle::abort);
    for bombs in bombs {
        assert!(bombs.await?? > 0);
    }
    while host.app.live.running() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = call(&neighbour.tenant.invoke, "loop", &json!({})).await?;
    assert_eq!(
        answer.status, 404,
        "a neighbour's deployment is not there: {}",
        answer.body
    );
    host.finish().await
}

/// A note that would be a line of its own, were it written as it is.
#[tokio::test]
async fn a_note_forges_no_line_of_the_log() -> anyhow::Result<()> {
    let forged = r#"note\n{\"level\":\"ERROR\",\"fields\":{\"message\":\"forged\"}}\n\1b[2J"#;
    let length = 64;
    let items = format!(
        r#"(import "wattle:pipeline/log@0.1.0" "write" (func $log (param i32 i32 i32)))
        (data (i32.const 4096) "{forged}")"#
    );
    let write = format!("(call $log (i32.const 2) (i32.const 4096) (i32.const {length})) (i32.const 0)");
    let mut host = HostProcess::new()?;
    host.start("standard", None).await?;
    let client = host.manager().await?;
    let revision = client
        .push_component("forger", text::Guest::new(items, write).module())
        .await?;
    let body = json!({ "name": "forger", "component": { "name": "forger", "revision": revision } });
    client.post("/api/v1/deployments", &body).await?.expect(201)?;
    call(&client, "forger", &json!({})).await?.expect(200)?;
    // The log is written to its end when the host ends.
    host.terminate().await?;
    let log = host.log_tail();
    assert!(log.contains("forged") && !log.contains('\u{1b}'), "{log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).context("no line of the host's")?;
        assert_ne!(line["fields"]["message"], "forged");
        assert!(line["timestamp"].is_string(), "{line}");
    }
    Ok(())
}
