//! Kill -9 of the host, of Postgres and of both, under load: a setting, rounds of kills, and the books after them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};
use tokio::task::JoinSet;

use crate::host::Tenant;
use crate::process::{HostProcess, Left};
use crate::{Client, guests};

/// Which processes a round kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The host, which leaves Postgres running.
    Host,
    /// Postgres, which the host outlives and brings back.
    Postgres,
    /// The one, then the other.
    Both,
}
use Victim::{Both, Host, Postgres};

/// The rounds: whom to kill, the journal's mode, and the named point; without one at a random moment.
pub const ROUNDS: [Round; 20] = [
    Round::new(Host, "standard", Some("after-journal")),
    Round::new(Postgres, "standard", None),
    Round::new(Both, "standard", None),
    Round::new(Both, "strict", Some("after-seal")),
    Round::new(Host, "strict", None),
    Round::new(Host, "standard", Some("inside-posting")),
    Round::new(Postgres, "strict", None),
    Round::new(Host, "strict", Some("after-commit")),
    Round::new(Both, "standard", None),
    Round::new(Both, "strict", Some("after-journal")),
    Round::new(Host, "standard", Some("after-seal")),
    Round::new(Postgres, "standard", None),
    Round::new(Host, "standard", None),
    Round::new(Both, "strict", Some("inside-posting")),
    Round::new(Both, "strict", None),
    Round::new(Host, "strict", None),
    Round::new(Both, "standard", Some("after-commit")),
    Round::new(Postgres, "strict", None),
    Round::new(Host, "standard", None),
    Round::new(Both, "strict", None),
];

/// Callers at once: most of `echo`, one of `tabular`.
const CALLERS: u32 = 4;

/// One kill.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Whom.
    pub victim: Victim,
    /// The journal's mode.
    pub journal: &'static str,
    /// Where the host kills itself; at a random moment without one.
    pub point: Option<&'static str>,
}

/// A host that is killed again and again.
pub struct Crash {
    host: HostProcess,
    setting: Setting,
    random: Random,
}

/// What the ledger has of all that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Books {
    /// Calls that were answered.
    pub answered: usize,
    /// Those of them without a whole receipt.
    pub lost: usize,
    /// Calls that were billed more than once.
    pub doubled: usize,
    /// By how much energy the transfers differ from the meters, in microjoules.
    pub gap_uj: i64,
}

impl Crash {
    /// Starts a host once, with a tenant and its deployments, and ends it.
    pub async fn begin() -> anyhow::Result<Self> {
        let mut host = HostProcess::new()?;
        host.start("standard", None).await?;
        let setting = Setting::make(&host).await?;
        host.terminate().await?;
        let random = Random::seeded()?;
        Ok(Self {
            host,
            setting,
            random,
        })
    }

    /// Starts a host, loads it, kills; leaves no host running. Gives how many calls were answered, and what the journal
    /// then held.
    pub async fn round(&mut self, round: Round) -> anyhow::Result<(usize, Left)> {
        let was = self.setting.answered();
        let left = round
            .play(&mut self.host, &self.setting, &mut self.random)
            .await?;
        Ok((self.setting.answered() - was, left))
    }

    /// Drains the host, starts it a last time with nothing to recover, and looks at the books.
    pub async fn end(&mut self) -> anyhow::Result<Books> {
        let host = &mut self.host;
        host.start("standard", None).await?;
        host.terminate().await?;
        let rest = host.left()?;
        ensure!(
            (rest.undrained, rest.finished) == (0, 0),
            "left after a drain: {rest:?}"
        );
        host.start("standard", None).await?;
        let books = self.setting.books(host).await?;
        host.terminate().await?;
        Ok(books)
    }

    /// The last lines that the hosts logged.
    pub fn log_tail(&self) -> String {
        self.host.log_tail()
    }
}

impl Round {
    const fn new(victim: Victim, journal: &'static str, point: Option<&'static str>) -> Self {
        Self {
            victim,
            journal,
            point,
        }
    }

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

    /// The books after all rounds. What no kill can excuse is an error.
    async fn books(&self, host: &HostProcess) -> anyhow::Result<Books> {
        let answered = self
            .receipts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let check = host
            .client(Some(&self.admin))?
            .get("/api/v1/ledger/check")
            .await?;
        let check = check.expect(200)?;
        println!("{} calls answered; {check}", answered.len());
        for zero in ["breaks", "mismatches", "chain_breaks"] {
            ensure!(check[zero] == 0, "{zero}: {check}");
        }
        ensure!(check["energy_uj"].as_u64() > Some(0), "{check}");
        for tenant in check["tenants"].as_array().context("tenants")? {
            ensure!(tenant["receipts_uj"] == tenant["dynamic_uj"], "{tenant}");
            ensure!(tenant["fuel_receipts"] == tenant["fuel_transfers"], "{tenant}");
        }

        let ledger = receipts_in(host).await?;
        let mut books = Books {
            answered: answered.len(),
            lost: 0,
            doubled: 0,
            gap_uj: check["gap_uj"].as_i64().context("a gap")?,
        };
        for (id, receipt) in &ledger {
            if receipt.is_doubled() {
                println!("receipt {id} is billed twice: {receipt:?}");
                books.doubled += 1;
            }
            ensure!(
                receipt.is_doubled() || receipt.is_whole(),
                "receipt {id} is not whole: {receipt:?}"
            );
        }
        let is_kept = |receipt: &Lines| receipt.is_whole() && receipt.outcome.as_deref() == Some("ok");
        for id in &answered {
            let receipt = ledger.get(id);
            if !receipt.is_some_and(|receipt| is_kept(receipt) || receipt.is_doubled()) {
                println!("answered call {id} is lost: {receipt:?}");
                books.lost += 1;
            }
        }
        self.shown(host, &answered).await?;
        Ok(books)
    }

    /// Asks for some of the receipts as their tenant.
    async fn shown(&self, host: &HostProcess, answered: &BTreeSet<String>) -> anyhow::Result<()> {
        let reader = host.client(Some(&self.read))?;
        for id in answered.iter().step_by((answered.len() / 20).max(1)) {
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
    /// A line or an end that is there twice.
    fn is_doubled(&self) -> bool {
        self.ends > 1 || self.ordinals < self.lines
    }

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
