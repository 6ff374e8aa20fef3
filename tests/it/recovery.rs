//! The journal and the ledger of a node that starts again: they meet, or the host refuses to start and says
//! why. The table of cases stands in `flow::recover`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use db::{Actor, Cut, ReceiptFilter};
use domain::{DType, KeyId, Name, Outcome, Role, TenantId, Tensor};
use energy::{ActivityProbe, ScriptHandle, ScriptedMeter};
use runtime::CompilerCommand;
use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use tests::{audit, cluster, guests, host};
use tokio::runtime::Runtime;
use uuid::Uuid;
use wattle::app::{App, Ground, StartError, Tasks};
use wattle::clock::SystemClock;
use wattle::flow::recover::RecoverError;
use wattle::flow::{deploy, invoke, publish};

/// A node whose host is started and killed in this process, on data and a database that stay.
struct Node {
    data: tempfile::TempDir,
    database: String,
    cluster: postgres::Cluster,
    meter: ScriptHandle,
}

struct Running {
    threads: Runtime,
    app: Arc<App>,
    tasks: Tasks,
}

const TENANT: TenantId = TenantId(Uuid::from_u128(0xacac));
const MANAGER: Actor = Actor::Key {
    id: KeyId(Uuid::from_u128(0x3e)),
    role: Role::TenantManage,
};

impl Node {
    fn new() -> anyhow::Result<Self> {
        let node = Self {
            data: tempfile::tempdir()?,
            database: cluster::fresh_database_name(),
            cluster: cluster::shared_cluster()?,
            meter: ScriptedMeter::new("scripted-recovery").1,
        };
        node.owner(&format!("create database {}", node.database))?;
        Ok(node)
    }

    fn owner(&self, statement: &str) -> anyhow::Result<()> {
        let url = self.cluster.url(postgres::OWNER_ROLE, "postgres");
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        Runtime::new()?.block_on(async {
            let mut owner = sqlx::PgConnection::connect(&url).await?;
            owner.execute(statement).await?;
            Ok(owner.close().await?)
        })
    }

    fn start(&self) -> Result<Running, StartError> {
        let threads = Runtime::new().unwrap();
        let postmaster = self.cluster.clone();
        let url = |role| self.cluster.url(role, &self.database);
        let started = threads.block_on(async {
            let ground = Ground {
                clock: Arc::new(SystemClock),
                meters: host::only(self.meter.meter()),
                probe: ActivityProbe::new(move || postmaster.postmaster_pid()),
                db: db::Db::open(
                    &url(postgres::OWNER_ROLE),
                    &url(postgres::HOST_ROLE),
                    &db::Options::default(),
                )
                .await?,
                guests: threads.handle().clone(),
                compiler: CompilerCommand {
                    program: guests::wattle().unwrap(),
                    args: vec!["compile-child".into()],
                },
                graph_worker: guests::graph_worker().unwrap(),
            };
            App::start(host::flags(self.data.path(), &[]).unwrap(), ground).await
        });
        match started {
            Ok((app, tasks)) => Ok(Running { threads, app, tasks }),
            Err(error) => {
                threads.shutdown_timeout(Duration::from_secs(10));
                Err(error)
            }
        }
    }

    fn journal(&self) -> std::path::PathBuf {
        self.data.path().join("journal")
    }

    /// What the journal holds while no host runs.
    fn left(&self) -> anyhow::Result<journal::Recovered> {
        let copy = tempfile::tempdir()?;
        copy_dir(&self.journal(), copy.path())?;
        let options = wattle::app::journal_options(&host::flags(self.data.path(), &[])?);
        Ok(journal::Journal::open(copy.path(), options)?.1)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.owner(&format!("drop database if exists {} with (force)", self.database));
    }
}

fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn echo() -> Name {
    "echo".parse().unwrap()
}

impl Running {
    /// The tenant and its deployment.
    fn furnish(&self) -> anyhow::Result<()> {
        let app = &self.app;
        self.threads.block_on(async {
            let mut tx = app.db.admin_tx().await?;
            tx.tenant_insert(TENANT, &"acacia".parse()?).await?;
            tx.commit().await?;
            let component = guests::guest("echo")?.into();
            let published = publish::component(app, MANAGER, TENANT, echo(), component).await?;
            published.tx.commit().await?;
            let spec = serde_json::from_value(json!({ "component": { "name": "echo" } }))?;
            let made = deploy::release(app, MANAGER, TENANT, &echo(), spec, true).await?;
            made.tx.commit().await?;
            made.loaded.adopt(app, TENANT, made.row);
            anyhow::Ok(())
        })
    }

    /// One call, and energy for it.
    fn call(&self, meter: &ScriptHandle) -> anyhow::Result<()> {
        meter.add_uj(1_000_000);
        let data = [1.5_f32, -2.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>();
        let request = runtime::Request {
            id: String::new(),
            inputs: vec![Tensor::new("x", DType::Fp32, vec![2], data)?],
            outputs: vec![],
            parameters: vec![],
        };
        let name = echo();
        let answer = self.threads.block_on(invoke::invoke(
            &self.app,
            TENANT,
            &name,
            None,
            std::future::ready(Ok(request.into())),
            host::as_it_is(),
        ))?;
        ensure!(answer.recorded.finished.outcome == Outcome::Ok);
        Ok(())
    }

    /// Waits until the ledger has `more` windows than now.
    fn windows(&self, more: u64) -> anyhow::Result<()> {
        self.threads.block_on(async {
            let count = async || anyhow::Ok(self.app.db.billing_tx().await?.totals().await?.windows);
            let wanted = count().await? + more;
            for _ in 0..1_000 {
                if count().await? >= wanted {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            anyhow::bail!("windows are not posted")
        })
    }

    /// Ends the host at once: no window is sealed, nothing more is posted.
    fn kill(self) {
        let Self { threads, app, tasks } = self;
        drop((app, tasks));
        threads.shutdown_timeout(Duration::from_secs(10));
    }

    /// Ends it in order, and checks the books.
    fn finish(self, node: &Node) -> anyhow::Result<u64> {
        let Self { threads, app, tasks } = self;
        let (findings, calls) = threads.block_on(async {
            tasks.drain(&app).await;
            let findings = audit::ledger(&app).await?;
            let receipts = app
                .db
                .tenant_tx(TENANT)
                .await?
                .receipts_list(&ReceiptFilter::default(), &Cut::first(500))
                .await?
                .items;
            ensure!(receipts.iter().all(|receipt| receipt.complete), "{receipts:#?}");
            let calls = receipts
                .iter()
                .filter(|receipt| receipt.outcome == Some(Outcome::Ok));
            let calls = calls.count() as u64;
            app.db.close().await;
            anyhow::Ok((findings, calls))
        })?;
        drop(app);
        threads.shutdown_timeout(Duration::from_secs(10));
        ensure!(findings.is_empty(), "the audit found:\n{}", findings.join("\n"));
        let rest = node.left()?;
        ensure!(
            rest.undrained.is_empty(),
            "{} postings are left",
            rest.undrained.len()
        );
        Ok(calls)
    }
}

/// Publish and deploy are calls too.
const FURNISHED: u64 = 2;

#[test]
fn a_second_host_on_one_directory_does_not_start() -> anyhow::Result<()> {
    let node = Node::new()?;
    let host = node.start()?;
    host.furnish()?;
    let error = node.start().err().context("it started")?;
    assert!(
        matches!(&error, StartError::Journal(error) if error.code() == "journal_locked"),
        "{error}"
    );
    assert!(error.to_string().contains("in use by another process"), "{error}");
    // The first one does not notice.
    host.call(&node.meter)?;
    assert_eq!(host.finish(&node)?, FURNISHED + 1);
    Ok(())
}

fn refusal(node: &Node) -> anyhow::Result<RecoverError> {
    match node.start() {
        Ok(running) => {
            running.kill();
            anyhow::bail!("it started")
        }
        Err(StartError::Recover(error)) => Ok(error),
        Err(other) => Err(other.into()),
    }
}

#[test]
fn a_boot_between_two_runs_is_two_postings_and_no_gap() -> anyhow::Result<()> {
    let node = Node::new()?;
    let host = node.start()?;
    host.furnish()?;
    host.windows(1)?;
    // Until a kill leaves slices that no window covers.
    let mut host = Some(host);
    for _ in 0..20 {
        let running = host.take().context("a host runs")?;
        for _ in 0..3 {
            running.call(&node.meter)?;
        }
        std::thread::sleep(Duration::from_millis(120));
        running.kill();
        let rest = node.left()?.unsealed.context("an epoch")?;
        if !rest.slices.is_empty() {
            break;
        }
        host = Some(node.start()?);
    }
    ensure!(host.is_none(), "no kill left a slice unsealed");
    let calls = node.left()?.unsealed.context("an epoch")?;
    let epoch = calls.epoch;

    node.meter.reboot(Uuid::from_u128(0xb007_0002));
    node.meter.add_uj(5_000);
    let host = node.start()?;
    host.call(&node.meter)?;
    // Two of recovery and one of the new epoch.
    host.windows(3)?;
    let (gaps, rest) = host.threads.block_on(async {
        let mut tx = host.app.db.billing_tx().await?;
        let gaps = tx.ledger_gap().await?;
        let windows = tx.windows(&Cut::first(500)).await?.items;
        let of_epoch = windows.iter().filter(|window| window.key.epoch == epoch);
        anyhow::Ok((
            gaps,
            of_epoch.filter(|window| window.key.seq >= calls.next_seq).count(),
        ))
    })?;
    assert_eq!(rest, 2, "the slices, then the rest");
    assert_eq!(gaps.len(), 2, "{gaps:#?}");
    assert!(
        gaps.iter()
            .all(|gap| gap.gap_uj == 0 && gap.breaks == 0 && gap.transfers_uj > 0),
        "{gaps:#?}"
    );
    let calls = host.finish(&node)?;
    assert!(calls >= FURNISHED + 4, "{calls} receipts");
    Ok(())
}

#[test]
fn a_meter_that_begins_anew_under_the_host_ends_a_window() -> anyhow::Result<()> {
    let node = Node::new()?;
    let host = node.start()?;
    host.furnish()?;
    for boot in 1..6_u64 {
        host.call(&node.meter)?;
        node.meter.reboot(Uuid::from_u128(u128::from(boot)));
        host.windows(2)?;
    }
    let gaps = host
        .threads
        .block_on(async { host.app.db.billing_tx().await?.ledger_gap().await })?;
    assert_eq!(gaps.len(), 6, "{gaps:#?}");
    assert_eq!(host.app.ledger_fault(), None);
    assert_eq!(host.finish(&node)?, FURNISHED + 5);
    Ok(())
}

#[test]
fn a_lost_journal_goes_on_from_the_ledger() -> anyhow::Result<()> {
    let node = Node::new()?;
    let host = node.start()?;
    host.furnish()?;
    host.call(&node.meter)?;
    host.finish(&node)?;
    std::fs::remove_dir_all(node.journal())?;
    let host = node.start()?;
    host.call(&node.meter)?;
    // The audit checks that the chain goes on.
    assert_eq!(host.finish(&node)?, FURNISHED + 2);
    Ok(())
}

#[test]
fn an_older_journal_is_refused_and_kept() -> anyhow::Result<()> {
    let node = Node::new()?;
    let host = node.start()?;
    host.furnish()?;
    host.windows(1)?;
    host.kill();
    let older = tempfile::tempdir()?;
    copy_dir(&node.journal(), older.path())?;
    let host = node.start()?;
    host.call(&node.meter)?;
    host.finish(&node)?;

    let newer = tempfile::tempdir()?;
    copy_dir(&node.journal(), newer.path())?;
    std::fs::remove_dir_all(node.journal())?;
    copy_dir(older.path(), &node.journal())?;
    let before = node.left()?;
    let error = refusal(&node)?;
    assert!(matches!(error, RecoverError::Behind(_)), "{error}");
    assert!(error.to_string().contains("older than the ledger"), "{error}");
    assert_eq!(node.left()?, before, "a refused journal is as it was");

    // With the newer one the host starts, and the books are whole.
    std::fs::remove_dir_all(node.journal())?;
    copy_dir(newer.path(), &node.journal())?;
    assert_eq!(node.start()?.finish(&node)?, FURNISHED + 1);
    Ok(())
}

#[test]
fn an_older_ledger_is_drained_to_again() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    let host = node.start()?;
    host.furnish()?;
    host.windows(1)?;
    host.kill();
    let older = cluster::fresh_database_name();
    node.owner(&format!("create database {older} template {}", node.database))?;
    let host = node.start()?;
    host.call(&node.meter)?;
    host.finish(&node)?;
    assert!(node.left()?.undrained.is_empty());

    node.owner(&format!("drop database {} with (force)", node.database))?;
    node.database = older;
    let host = node.start()?;
    host.call(&node.meter)?;
    assert_eq!(host.finish(&node)?, FURNISHED + 2);
    Ok(())
}

#[test]
fn another_ledger_is_refused() -> anyhow::Result<()> {
    let mut node = Node::new()?;
    let host = node.start()?;
    host.furnish()?;
    host.call(&node.meter)?;
    host.finish(&node)?;
    // A host under the same name, and so the same node, begins another chain.
    let template = cluster::fresh_database_name();
    node.owner(&format!("create database {template} template {}", node.database))?;
    let own = std::mem::replace(&mut node.database, template);
    let url = node.cluster.url(postgres::OWNER_ROLE, &node.database);
    Runtime::new()?.block_on(async {
        let mut owner = sqlx::PgConnection::connect(&url).await?;
        owner.execute("set session_replication_role = replica").await?;
        owner
            .execute("update posting set hash = sha256(hash), epoch = gen_random_uuid()")
            .await?;
        anyhow::Ok(owner.close().await?)
    })?;
    let error = refusal(&node)?;
    assert!(matches!(error, RecoverError::Apart { .. }), "{error}");
    node.owner(&format!("drop database {} with (force)", node.database))?;
    node.database = own;
    node.start()?.finish(&node)?;
    Ok(())
}
