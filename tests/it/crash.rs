//! Kill -9 of the host, of Postgres and of both, under load: nothing that was answered is lost, nothing
//! is billed twice, and every joule stays placed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};
use tests::host::Tenant;
use tests::process::{HostProcess, Left};
use tests::{Client, guests};
use tokio::task::JoinSet;

/// Which processes a round kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Host,
    Postgres,
    Both,
}
use Victim::{Both, Host, Postgres};

/// The rounds: whom to kill, the journal's mode, and the named point; without one at a random moment.
const ROUNDS: [(Victim, &str, Option<&str>); 20] = [
    (Host, "standard", Some("after-journal")),
    (Postgres, "standard", None),
    (Both, "standard", None),
    (Both, "strict", Some("after-seal")),
    (Host, "strict", None),
    (Host, "standard", Some("inside-posting")),
    (Postgres, "strict", None),
    (Host, "strict", Some("after-commit")),
    (Both, "standard", None),
    (Both, "strict", Some("after-journal")),
    (Host, "standard", Some("after-seal")),
    (Postgres, "standard", None),
    (Host, "standard", None),
    (Both, "strict", Some("inside-posting")),
    (Both, "strict", None),
    (Host, "strict", None),
    (Both, "standard", Some("after-commit")),
    (Postgres, "strict", None),
    (Host, "standard", None),
    (Both, "strict", None),
];

/// Callers at once: most of `echo`, one of `tabular`.
const CALLERS: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_and_bill_nothing_twice() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    let result = play(&mut host).await;
    if result.is_err() {
        eprintln!("the hosts' last words:\n{}", host.log_tail());
    }
    result
}

async fn play(host: &mut HostProcess) -> anyhow::Result<()> {
    let mut random = Random::seeded()?;
    host.start("standard", None).await?;
    let setting = Setting::make(host).await?;
    host.terminate().await?;

    let mut left = Vec::new();
    for (number, (victim, journal, point)) in ROUNDS.into_iter().enumerate() {
        let was = setting.answered();
        let round = Round {
            victim,
            journal,
            point,
        };
        let found = round.play(host, &setting, &mut random).await;
        let found = found.with_context(|| format!("round {number}: {round:?}"))?;
        let calls = setting.answered() - was;
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

    // A drain seals and posts all; a last start has nothing to recover and answers questions.
    host.start("standard", None).await?;
    host.terminate().await?;
    let rest = host.left()?;
    ensure!(
        (rest.undrained, rest.finished) == (0, 0),
        "left after a drain: {rest:?}"
    );
    host.start("standard", None).await?;
    setting.check(host).await?;
    host.terminate().await
}

#[derive(Clone, Copy, Debug)]
struct Round {
    victim: Victim,
    journal: &'static str,
    point: Option<&'static str>,
}

impl Round {
    /// Starts a host, loads it, kills; leaves no host running. Gives what the journal then held.
    async fn play(
        self,
        host: &mut HostProcess,
        setting: &Setting,
        random: &mut Random,
    ) -> anyhow::Result<Left> {
        let fault = self.point.map(|point| {
            // Calls are more frequent than windows, of which recovery posts up to five by itself.
            let passes = if point == "after-journal" {
                random.between(5, 60)
            } else {
                random.between(7, 11)
            };
            format!("{point}:{passes}")
        });
        if !host.start(self.journal, fault.as_deref()).await? {
            if self.victim == Both {
                host.kill_postgres()?;
            }
            return host.left();
        }
        let load = setting.load(host)?;
        match fault {
            Some(_) => host.until_killed().await?,
            None => tokio::time::sleep(Duration::from_millis(random.between(150, 1_200))).await,
        }
        if self.victim == Postgres {
            let left = outlive_postgres(host, setting).await;
            host.kill()?;
            drop(load);
            return left;
        }
        if self.point.is_none() {
            host.kill()?;
        }
        if self.victim == Both {
            host.kill_postgres()?;
        }
        drop(load);
        host.left()
    }
}

/// Kills Postgres alone: the host goes on answering, and brings Postgres back.
async fn outlive_postgres(host: &mut HostProcess, setting: &Setting) -> anyhow::Result<Left> {
    let killed = host.postmaster_pid().context("Postgres runs")?;
    host.kill_postgres()?;
    let was = setting.answered();
    // Longer than a window, so that one is sealed with nobody to take it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let left = host.left()?;
    let again = tokio::time::timeout(Duration::from_secs(60), async {
        while host.postmaster_pid().is_none_or(|pid| pid == killed) || setting.answered() == was {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    again.await.context("Postgres or the answers did not come back")?;
    ensure!(host.is_alive()?, "the host died of Postgres");
    Ok(left)
}

/// What stays the same through all rounds: keys, a tenant, inputs, and the receipts that were answered.
struct Setting {
    admin: String,
    invoke: String,
    read: String,
    row: Value,
    receipts: Arc<Mutex<BTreeSet<String>>>,
}

impl Setting {
    async fn make(host: &HostProcess) -> anyhow::Result<Self> {
        let bootstrap = host.client(Some(&host.bootstrap_key()?))?;
        let admin = key(&bootstrap, "admin", None).await?;
        let named = admin
            .post("/api/v1/tenants", &json!({ "name": "acacia" }))
            .await?;
        let id = named.expect(201)?["id"].as_str().context("an id")?.to_owned();
        let tenant = Tenant {
            manage: key(&admin, "tenant:manage", Some(&id)).await?,
            invoke: key(&admin, "tenant:invoke", Some(&id)).await?,
            read: key(&admin, "tenant:read", Some(&id)).await?,
            backend: "auto",
            id,
        };
        tenant.deploy("echo", &[], json!({})).await?;
        tenant
            .deploy("tabular", &[("net", "tabular.onnx")], json!({}))
            .await?;
        let known: Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
        let secret = |client: &Client| client.key().unwrap_or_default().to_owned();
        Ok(Self {
            admin: secret(&admin),
            invoke: secret(&tenant.invoke),
            read: secret(&tenant.read),
            row: known["rows"][0].clone(),
            receipts: Arc::default(),
        })
    }

    /// Callers that go on until they are dropped.
    fn load(&self, host: &HostProcess) -> anyhow::Result<JoinSet<()>> {
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let client = host.client(Some(&self.invoke))?;
            let receipts = self.receipts.clone();
            let (deployment, inputs) = if number == 0 {
                let rows =
                    json!([{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": self.row }]);
                ("tabular", rows)
            } else {
                let x = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
                ("echo", x)
            };
            callers.spawn(async move {
                loop {
                    let answer = client.infer(deployment, inputs.clone()).await;
                    if let Ok(answer) = answer
                        && answer.status == 200
                        && let Some(receipt) = answer.receipt
                    {
                        receipts
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(receipt);
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        Ok(callers)
    }

    fn answered(&self) -> usize {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The books after all rounds.
    async fn check(&self, host: &HostProcess) -> anyhow::Result<()> {
        let answered = self
            .receipts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        ensure!(answered.len() > ROUNDS.len(), "hardly a call was answered");
        let check = host
            .client(Some(&self.admin))?
            .get("/api/v1/ledger/check")
            .await?;
        let check = check.expect(200)?;
        println!("{} calls answered; {check}", answered.len());
        for zero in ["gap_uj", "breaks", "mismatches", "chain_breaks"] {
            ensure!(check[zero] == 0, "{zero}: {check}");
        }
        ensure!(check["energy_uj"].as_u64() > Some(0), "{check}");
        for tenant in check["tenants"].as_array().context("tenants")? {
            ensure!(tenant["receipts_uj"] == tenant["dynamic_uj"], "{tenant}");
            ensure!(tenant["fuel_receipts"] == tenant["fuel_transfers"], "{tenant}");
        }

        let ledger = receipts_in(host).await?;
        for (id, receipt) in &ledger {
            ensure!(receipt.is_whole(), "receipt {id} is not whole: {receipt:?}");
        }
        for id in &answered {
            let receipt = ledger
                .get(id)
                .with_context(|| format!("answered call {id} has no receipt"))?;
            ensure!(
                receipt.outcome.as_deref() == Some("ok"),
                "receipt {id}: {receipt:?}"
            );
        }
        let reader = host.client(Some(&self.read))?;
        for id in answered.iter().step_by(answered.len() / 20) {
            let shown = reader.get(&format!("/api/v1/receipts/{id}")).await?.expect(200)?;
            // Its energy may be null: no reading covers what ran between the last slice and the kill.
            ensure!(shown["state"] == "final", "{shown}");
            ensure!(shown["fuel"].as_u64() > Some(0), "{shown}");
        }
        Ok(())
    }
}

async fn key(maker: &Client, role: &str, tenant: Option<&str>) -> anyhow::Result<Client> {
    let body = json!({ "name": role, "role": role, "tenant": tenant });
    let key = maker.post("/api/v1/keys", &body).await?.expect(201)?;
    Ok(maker.with_key(key["secret"].as_str().context("a new key shows its secret")?))
}

/// The lines of one call, counted.
#[derive(Debug)]
struct Lines {
    lines: i64,
    ordinals: i64,
    last_ordinal: i32,
    ends: i64,
    outcome: Option<String>,
}

impl Lines {
    /// Numbered from 0 without a hole, none twice, one end.
    fn is_whole(&self) -> bool {
        self.ends == 1 && self.ordinals == self.lines && i64::from(self.last_ordinal) + 1 == self.lines
    }
}

/// Every call in the ledger, from the raw rows.
async fn receipts_in(host: &HostProcess) -> anyhow::Result<BTreeMap<String, Lines>> {
    let mut owner = sqlx::PgConnection::connect(&host.owner_url()?).await?;
    let rows = sqlx::query(
        "select invocation::text, count(*), count(distinct ordinal), max(ordinal),
                count(*) filter (where last), max(outcome)
         from receipt_line group by invocation",
    )
    .fetch_all(&mut owner)
    .await?;
    let lines = |row: &sqlx::postgres::PgRow| -> anyhow::Result<(String, Lines)> {
        let lines = Lines {
            lines: row.try_get(1)?,
            ordinals: row.try_get(2)?,
            last_ordinal: row.try_get(3)?,
            ends: row.try_get(4)?,
            outcome: row.try_get(5)?,
        };
        Ok((row.try_get(0)?, lines))
    };
    rows.iter().map(lines).collect()
}

/// Numbers from a printed seed; `WATTLE_CRASH_SEED` repeats a run, as far as processes repeat.
struct Random(u64);

impl Random {
    fn seeded() -> anyhow::Result<Self> {
        let seed = match std::env::var("WATTLE_CRASH_SEED") {
            Ok(seed) => seed.parse().context("WATTLE_CRASH_SEED")?,
            Err(_) => uuid::Uuid::new_v4().as_u64_pair().0,
        };
        println!("WATTLE_CRASH_SEED={seed}");
        Ok(Self(seed))
    }

    /// A number from `low` up to, not including, `high`, by SplitMix64.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (mixed ^ (mixed >> 31)) % (high - low)
    }
}
