//! A host in this process, on a database of its own, with a meter that tests script.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use domain::Limits;
use energy::{ActivityProbe, Chosen, Found, ScriptHandle, ScriptedMeter};
use inference::WorkerOptions;
use runtime::{CompilerCommand, Failure, Response};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wattle::app::{App, Ground, Tasks};
use wattle::clock::{Clock, SystemClock};
use wattle::config::ServeArgs;
use wattle::flow::invoke::Encoding;
use wattle::http;

use crate::{Client, audit, cluster, guests};

/// A running host. End every test with [`TestHost::finish`]: it audits what the test did.
pub struct TestHost {
    /// The host's innards, for what HTTP does not show.
    pub app: Arc<App>,
    /// An admin.
    pub admin: Client,
    /// The database as its owner.
    pub owner_url: String,
    /// The operators' address.
    pub ops: Client,
    /// The scripted meter.
    pub meter: ScriptHandle,
    /// The host's wall clock.
    pub clock: Arc<ShiftedClock>,
    backend: &'static str,
    database: String,
    data: tempfile::TempDir,
    tasks: Tasks,
    stop: CancellationToken,
}

/// The machine's clock, set forward by as much as a test says: a month passes at once.
#[derive(Debug, Default)]
pub struct ShiftedClock(AtomicI64);

impl ShiftedClock {
    /// Sets it forward until it shows `at`.
    pub fn set_forward_to(&self, at: OffsetDateTime) {
        let ahead_us = (at - SystemClock.now()).whole_microseconds();
        self.0
            .fetch_max(i64::try_from(ahead_us).unwrap_or(i64::MAX), Relaxed);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> OffsetDateTime {
        SystemClock.now() + time::Duration::microseconds(self.0.load(Relaxed))
    }

    fn mint(&self) -> Uuid {
        SystemClock.mint()
    }
}

/// A tenant with a client for each of its roles.
pub struct Tenant {
    /// The tenant's id.
    pub id: String,
    /// May upload and deploy.
    pub manage: Client,
    /// May call.
    pub invoke: Client,
    /// May look.
    pub read: Client,
    /// The backend that its deployments ask for.
    pub backend: &'static str,
}

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    serve: ServeArgs,
}

/// The flags of a host on `data`, with windows of four slices of 50 ms unless they say otherwise.
pub fn flags(data: &Path, more: &[&str]) -> anyhow::Result<ServeArgs> {
    let data = data.to_string_lossy().into_owned();
    let mut all = vec!["wattle", "--data", &data];
    if !more.contains(&"--slice-ms") {
        all.extend(["--slice-ms", "50", "--window-slices", "4"]);
    }
    all.extend(more);
    Ok(Flags::try_parse_from(all)?.serve)
}

/// A machine with this meter and no other.
pub fn only(meter: ScriptedMeter) -> Found {
    Found {
        meters: vec![Chosen::root(meter)],
        candidates: Vec::new(),
    }
}

impl TestHost {
    /// A host with the defaults.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// A host with more flags.
    pub async fn start_with(more: &[&str]) -> anyhow::Result<Self> {
        Self::start_on(guests::graph_worker()?, more, ShiftedClock::default()).await
    }

    /// A host whose clock shows `at` when it starts, which is still to come.
    pub async fn start_at(at: OffsetDateTime, more: &[&str]) -> anyhow::Result<Self> {
        let clock = ShiftedClock::default();
        clock.set_forward_to(at);
        Self::start_on(guests::graph_worker()?, more, clock).await
    }

    /// A host with ONNX Runtime, which its tenants' deployments ask for.
    pub async fn start_with_onnxruntime() -> anyhow::Result<Self> {
        let mut worker = guests::graph_worker()?;
        worker.onnxruntime = Some(guests::onnxruntime(&worker).await?);
        let host = Self::start_on(worker, &[], ShiftedClock::default()).await?;
        Ok(Self {
            backend: "onnxruntime",
            ..host
        })
    }

    async fn start_on(
        graph_worker: WorkerOptions,
        more: &[&str],
        clock: ShiftedClock,
    ) -> anyhow::Result<Self> {
        let clock = Arc::new(clock);
        let cluster = tokio::task::spawn_blocking(cluster::shared_cluster).await??;
        let database = cluster::fresh_database_name();
        let mut owner = sqlx::PgConnection::connect(&cluster.url(postgres::OWNER_ROLE, "postgres")).await?;
        owner
            .execute(sqlx::AssertSqlSafe(format!("create database {database}")))
            .await?;
        let owner_url = cluster.url(postgres::OWNER_ROLE, &database);
        let run_url = cluster.url(postgres::HOST_ROLE, &database);

        let data = tempfile::tempdir()?;
        let (meter, script) = ScriptedMeter::new(format!("scripted-{database}"));
        let postmaster = cluster.clone();
        let ground = Ground {
            clock: clock.clone(),
            meters: only(meter),
            probe: ActivityProbe::new(move || postmaster.postmaster_pid()),
            db: db::Db::open(&owner_url, &run_url, &db::Options::default()).await?,
            guests: tokio::runtime::Handle::current(),
            compiler: CompilerCommand {
                program: guests::wattle()?,
                args: vec!["compile-child".into()],
            },
            graph_worker,
        };
        let (app, tasks) = App::start(flags(data.path(), more)?, ground).await?;
        let stop = CancellationToken::new();
        let base = listen(http::router(app.clone()), app.config.connections(), &stop).await?;
        let allowed = app.config.admin_connections();
        let ops = Client::new(listen(http::ops_router(app.clone()), allowed, &stop).await?, None);
        tokio::spawn(burn(script.clone(), stop.clone()));

        let bootstrap = std::fs::read_to_string(data.path().join("bootstrap-admin-key"))?;
        let bootstrap = Client::new(base, Some(bootstrap.trim().to_owned()));
        let key = bootstrap
            .post("/api/v1/keys", &json!({ "name": "tests", "role": "admin" }))
            .await?
            .expect(201)?;
        let admin = bootstrap.with_key(secret(&key)?);
        let host = Self {
            app,
            admin,
            owner_url,
            ops,
            meter: script,
            clock,
            backend: "auto",
            database,
            data,
            tasks,
            stop,
        };
        host.until_ready().await?;
        Ok(host)
    }

    async fn until_ready(&self) -> anyhow::Result<()> {
        for _ in 0..600 {
            if self.ops.get("/readyz").await?.status == 200 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("the host is not ready")
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// A fresh key with a role, of a tenant or of none.
    pub async fn key(&self, role: &str, tenant: Option<&str>) -> anyhow::Result<Client> {
        let body = json!({ "name": role, "role": role, "tenant": tenant });
        let key = self.admin.post("/api/v1/keys", &body).await?.expect(201)?;
        Ok(self.admin.with_key(secret(&key)?))
    }

    /// A fresh tenant.
    pub async fn tenant(&self, name: &str) -> anyhow::Result<Tenant> {
        let tenant = self
            .admin
            .post("/api/v1/tenants", &json!({ "name": name }))
            .await?
            .expect(201)?;
        let id = tenant["id"].as_str().context("a tenant has an id")?.to_owned();
        Ok(Tenant {
            manage: self.key("tenant:manage", Some(&id)).await?,
            invoke: self.key("tenant:invoke", Some(&id)).await?,
            read: self.key("tenant:read", Some(&id)).await?,
            backend: self.backend,
            id,
        })
    }

    /// Changes a tenant as an admin does, and gives it as it is then.
    pub async fn change(&self, tenant: &Tenant, change: Value) -> anyhow::Result<Value> {
        let path = format!("/api/v1/tenants/{}", tenant.id);
        self.admin.patch(&path, &change).await?.expect(200)
    }

    /// Waits until a receipt is final.
    pub async fn final_receipt(&self, reader: &Client, id: &str) -> anyhow::Result<Value> {
        for _ in 0..600 {
            let answer = reader.get(&format!("/api/v1/receipts/{id}")).await?;
            if answer.status == 200 && answer.body["state"] == "final" {
                return Ok(answer.body);
            }
            ensure!(
                matches!(answer.status, 200 | 404),
                "{}: {}",
                answer.status,
                answer.body
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("receipt {id} did not become final")
    }

    /// Drains the host and gives the audit's findings; a good test has none.
    pub async fn audit(self) -> anyhow::Result<Vec<String>> {
        self.stop.cancel();
        self.tasks.drain(&self.app).await;
        let mut findings = audit::ledger(&self.app).await?;
        findings.extend(audit::meter(&self.app, self.meter.counter_uj()).await?);
        self.app.db.close().await;
        let journal = self.data.path().join("journal");
        // The last holder of the journal closes its lock.
        drop(self.app);
        findings.extend(audit::journal(&journal).await?);
        let cluster = tokio::task::spawn_blocking(cluster::shared_cluster).await??;
        let mut owner = sqlx::PgConnection::connect(&cluster.url(postgres::OWNER_ROLE, "postgres")).await?;
        owner
            .execute(sqlx::AssertSqlSafe(format!(
                "drop database {} with (force)",
                self.database
            )))
            .await?;
        Ok(findings)
    }

    /// Drains and audits: transfers balance, nothing is left in the journal, what was metered is placed.
    pub async fn finish(self) -> anyhow::Result<()> {
        let findings = self.audit().await?;
        ensure!(findings.is_empty(), "the audit found:\n{}", findings.join("\n"));
        Ok(())
    }
}

impl Tenant {
    /// Uploads the component `guest` and the models of `graphs` (alias, file), and deploys them.
    pub async fn deploy(&self, guest: &str, graphs: &[(&str, &str)], more: Value) -> anyhow::Result<Value> {
        let mut all = json!({ "backend": self.backend });
        if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        self.manage.deploy(guest, graphs, all).await
    }
}

fn secret(key: &Value) -> anyhow::Result<&str> {
    key["secret"].as_str().context("a new key shows its secret")
}

async fn listen(
    router: axum::Router,
    allowed: http::Connections,
    stop: &CancellationToken,
) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    tokio::spawn(http::serve(listener, None, router, allowed, stop.clone()));
    Ok(base)
}

/// A machine that takes 40 W.
async fn burn(meter: ScriptHandle, stop: CancellationToken) {
    while !stop.is_cancelled() {
        meter.add_uj(400_000);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The answer's tensors as they are: a call without any protocol.
pub fn as_it_is()
-> Encoding<impl FnOnce(&str, u32, Response, &Limits) -> Result<Response, Failure> + Send + 'static> {
    Encoding {
        name: "tensors",
        has: |_| true,
        encode: |_: &str, _, response, _: &Limits| Ok(response),
    }
}
