//! How fast the ledger takes what the host meters: windows of calls are sealed, hash-linked and posted with all
//! their receipt lines into the embedded Postgres, beside the same server's `pgbench`; then the lag from seal to
//! posted at a steady rate, the bytes on disk, and how long a reader waits in the ledger that this has filled.
//!
//! `cargo xtask bench ledger`, `--seconds N` for longer filling
//!
//! Everything is what the host uses: the sealer of `domain`, the transaction of `db`, synchronous commit on. One
//! task seals while another posts, as in the host; nothing is parallel that the host does one by one.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use db::{Cut, Db, Span, UsageFilter, UsageGroups};
use domain::checkpoint::{MOST_POSTINGS, Record};
use domain::energy::{Activity, Provenance, Reading, Root};
use domain::posting::{Call, CallKind, Claim, Posting, Slice};
use domain::signature::Signer;
use domain::window::{OpenReceipts, Sealer};
use domain::{Digest, Epoch, InvocationId, Name, NodeId, Outcome, SigningKey, TenantId, Usage, Work, merkle};
use postgres::Cluster;
use sqlx::{Connection as _, PgConnection};
use tests::cluster::PrivateCluster;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

const TENANTS: u64 = 200;
/// Deployments of each.
const DEPLOYMENTS: u64 = 3;
const SLICES: u64 = 10;
/// Calls of a window while the ledger is filled: 10 s at 500 calls a second.
const WINDOW_CALLS: u64 = 5_000;
const WINDOW_S: u64 = 10;
/// Sealed windows that wait for the poster.
const AHEAD: usize = 2;
/// The steady rate, in calls a second, and how many windows of 1 s are sent at it.
const STEADY: u64 = 5_000;
const STEADY_WINDOWS: u64 = 20;
const READS: usize = 50;
/// The days over which the filling is spread, so that there is a month to ask for.
const DAYS: u64 = 30;

#[derive(Parser)]
struct Arguments {
    /// How long the ledger is filled, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { seconds, .. } = Arguments::parse();
    let cluster = tokio::task::spawn_blocking(PrivateCluster::start).await??;
    let server = cluster.cluster();
    let owner = server.url(postgres::OWNER_ROLE, postgres::DATABASE);
    let run = server.url(postgres::HOST_ROLE, postgres::DATABASE);
    let db = Db::open(&owner, &run, &db::Options::default()).await?;
    let node = furnish(&db).await?;
    let mut maker = Maker::new(node)?;
    let mut last = maker.window(1, 10, 0);
    post(&db, &last).await?;

    println!("{TENANTS} tenants, {WINDOW_CALLS} calls in a window, {seconds} s:");
    let before = size(&owner).await?;
    let filled = fill(&db, maker, Duration::from_secs(seconds)).await?;
    let Filled {
        mut maker,
        windows,
        took,
    } = filled;
    let calls = windows * WINDOW_CALLS;
    let rate = calls as f64 / took.as_secs_f64();
    println!("  {calls} calls in {windows} windows: {rate:.0} calls a second sealed, linked and posted");
    let bytes = (size(&owner).await? - before) as f64;
    let (per_call, per_window) = (bytes / calls as f64, bytes / windows as f64);
    let year = per_call * 1_000.0 * 365.0 * 86_400.0 / 1e12;
    println!(
        "  on disk {per_call:.0} bytes a call ({per_window:.0} a window); a year at 1,000 calls a second: \
         {year:.1} TB before anything is archived"
    );

    let mut lags = Vec::new();
    for _ in 0..STEADY_WINDOWS {
        let second = Instant::now() + Duration::from_secs(1);
        let began = Instant::now();
        last = maker.window(STEADY, 1, 0);
        post(&db, &last).await?;
        lags.push(began.elapsed());
        tokio::time::sleep_until(second).await;
    }
    println!(
        "  seal to posted at {STEADY} calls a second in windows of 1 s: {}",
        percentiles(lags)
    );

    reads(&db, &last, maker.at).await?;
    proofs(&db, &last, maker.at).await?;
    let tps = pgbench(server)?;
    db.close().await;
    println!(
        "ledger: invocations_per_s={rate:.0} pgbench_tps={tps:.0} ratio={:.1}",
        rate / tps
    );
    Ok(())
}

/// The tenants and the node.
async fn furnish(db: &Db) -> anyhow::Result<NodeId> {
    let mut tx = db.admin_tx().await?;
    for index in 0..TENANTS {
        let name = format!("tenant-{index}").parse()?;
        tx.tenant_insert(tenant(index), &name).await?;
    }
    let node = tx.node_ensure(NodeId(Uuid::new_v4()), "bench").await?;
    tx.commit().await?;
    Ok(node)
}

fn tenant(index: u64) -> TenantId {
    TenantId(Uuid::from_u128(0xbe_0000 + u128::from(index)))
}

struct Filled {
    maker: Maker,
    windows: u64,
    took: Duration,
}

/// Seals in one thread and posts in another, until the time is over and all is posted.
async fn fill(db: &Db, mut maker: Maker, time: Duration) -> anyhow::Result<Filled> {
    let (sealed, mut waiting) = mpsc::channel::<Posting>(AHEAD);
    let began = Instant::now();
    let sealing = tokio::task::spawn_blocking(move || {
        // Spread over the days, if some five are posted a second.
        let apart = DAYS * 86_400 / (time.as_secs().max(1) * 5);
        while began.elapsed() < time {
            let window = maker.window(WINDOW_CALLS, WINDOW_S, apart.saturating_sub(WINDOW_S));
            if sealed.blocking_send(window).is_err() {
                break;
            }
        }
        maker
    });
    let mut windows = 0;
    while let Some(posting) = waiting.recv().await {
        post(db, &posting).await?;
        windows += 1;
    }
    let took = began.elapsed();
    Ok(Filled {
        maker: sealing.await?,
        windows,
        took,
    })
}

/// As the host does it.
async fn post(db: &Db, posting: &Posting) -> anyhow::Result<()> {
    let mut tx = db.writer_tx().await?;
    tx.make_partitions(posting.to + Duration::from_secs(86_400))
        .await?;
    tx.posting_insert(posting).await?;
    Ok(tx.commit().await?)
}

/// Makes windows of calls and seals them.
struct Maker {
    sealer: Sealer,
    deployments: Vec<Name>,
    at: OffsetDateTime,
    reading: Reading,
    activity: Activity,
    made: u64,
    index: u64,
}

impl Maker {
    #[allow(clippy::disallowed_methods, reason = "a bench has no clock but the machine's")]
    fn new(node: NodeId) -> anyhow::Result<Self> {
        let deployments = (0..DEPLOYMENTS).map(|index| format!("deployment-{index}").parse());
        let reading = Reading {
            root: Root {
                name: "package-0".into(),
                kind: "rapl".into(),
                provenance: Provenance::Measured,
                uncertainty_ppm: 30_000,
                model_version: 1,
            },
            boot_id: Uuid::new_v4(),
            at_ns: 0,
            counter_uj: 0,
            floor_uw: 20_000_000,
            state: Vec::new(),
        };
        // Partitions are made from this month on: the filling goes ahead of the clock.
        let at = OffsetDateTime::now_utc();
        let baseline = vec![reading.clone()];
        let epoch = Epoch(Uuid::new_v4());
        Ok(Self {
            sealer: Sealer::new(
                node,
                epoch,
                0,
                Digest::ZERO,
                at,
                baseline,
                OpenReceipts::default(),
            ),
            deployments: deployments.collect::<Result<_, _>>()?,
            at,
            reading,
            activity: Activity::default(),
            made: 0,
            index: 0,
        })
    }

    /// Seals a window of so many seconds without a call and then `calls` within `seconds`.
    fn window(&mut self, calls: u64, seconds: u64, quiet_seconds: u64) -> Posting {
        let mut slices = Vec::new();
        if quiet_seconds > 0 {
            slices.push(self.slice(0, Duration::from_secs(quiet_seconds)));
        }
        let span = Duration::from_secs(seconds) / u32::try_from(SLICES).unwrap_or(1);
        for slice in 0..SLICES {
            let from = calls * slice / SLICES;
            slices.push(self.slice(calls * (slice + 1) / SLICES - from, span));
        }
        self.sealer.seal(&slices)
    }

    fn slice(&mut self, calls: u64, span: Duration) -> Slice {
        let span_ns = u64::try_from(span.as_nanos()).unwrap_or_default();
        let claims = (0..calls).map(|_| self.claim()).collect();
        self.at += span;
        self.reading.at_ns += span_ns;
        self.reading.counter_uj += span_ns / 1_000 * 45;
        self.activity.machine_ns += span_ns;
        self.activity.host_ns += span_ns * 9 / 10;
        self.index += 1;
        Slice {
            index: self.index,
            at: self.at,
            readings: vec![self.reading.clone()],
            activity: self.activity,
            claims,
            faults: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// A call of some tenant, a few popular ones more often, that ran one graph.
    fn claim(&mut self) -> Claim {
        self.made += 1;
        let spread = self.made.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let owner = (spread % TENANTS).min((spread / TENANTS) % TENANTS);
        let deployment = &self.deployments[usize::try_from(spread % DEPLOYMENTS).unwrap_or_default()];
        let millis = u64::try_from(self.at.unix_timestamp()).unwrap_or_default() * 1_000;
        let [_, _, _, _, _, _, number @ ..] = u128::from(self.made).to_be_bytes();
        let invocation = uuid::Builder::from_unix_timestamp_millis(millis, &number);
        Claim {
            call: Call {
                invocation: InvocationId(invocation.into_uuid()),
                kind: CallKind::Infer,
                tenant: tenant(owner),
                deployment: Some(deployment.clone()),
                release: Some(1),
                started_at: self.at,
            },
            usage: Usage {
                fuel: 40_000 + spread % 1_000,
                cpu_ns: 90_000 + spread % 50_000,
                bytes_in: 400,
                bytes_out: 4,
                peak_memory_bytes: 1 << 20,
                work: vec![Work {
                    graph: Digest::of(deployment.as_str().as_bytes()),
                    backend: "rten 0.27.0".into(),
                    device: "cpu".into(),
                    precision: "exact".into(),
                    runs: 1,
                    rows: 1,
                    cpu_ns: 30_000,
                    busy_ns: 0,
                    tokens: 0,
                }],
            },
            outcome: Some(Outcome::Ok),
        }
    }
}

/// Bytes of the ledger's tables with their indexes.
async fn size(owner: &str) -> anyhow::Result<i64> {
    let mut owner = PgConnection::connect(owner).await?;
    let size = sqlx::query_scalar(
        "select sum(pg_total_relation_size(c.oid))::bigint from pg_class c
         join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'public' and c.relkind = 'r'",
    );
    Ok(size.fetch_one(&mut owner).await?)
}

/// What a tenant's reader waits for: its daily usage of a month, and one receipt.
async fn reads(db: &Db, last: &Posting, now: OffsetDateTime) -> anyhow::Result<()> {
    let groups = UsageGroups {
        span: Some(Span::Day),
        tenant: false,
        deployment: false,
        kind: false,
    };
    let filter = UsageFilter {
        from: Some(now - Duration::from_secs(DAYS * 86_400)),
        to: Some(now),
        ..UsageFilter::default()
    };
    let (mut months, mut receipts) = (Vec::new(), Vec::new());
    for line in last.lines.iter().take(READS) {
        let began = Instant::now();
        let mut tx = db.tenant_tx(line.call.tenant).await?;
        let days = tx.usage_list(groups, &filter, &Cut::first(100)).await?;
        tx.commit().await?;
        months.push(began.elapsed());
        ensure!(!days.items.is_empty(), "a popular tenant has no usage");

        let began = Instant::now();
        let mut tx = db.tenant_tx(line.call.tenant).await?;
        let receipt = tx.receipt_get(line.call.invocation).await?;
        tx.commit().await?;
        receipts.push(began.elapsed());
        ensure!(receipt.len() == 1, "{} lines of a receipt", receipt.len());
    }
    println!("  a month's daily usage of a tenant: {}", percentiles(months));
    println!("  a receipt: {}", percentiles(receipts));
    Ok(())
}

/// What a receipt's proof takes: its line, the lines of its window as leaves, and the postings under its checkpoint: all
/// that were posted here are under one.
async fn proofs(db: &Db, last: &Posting, now: OffsetDateTime) -> anyhow::Result<()> {
    let key = SigningKey::from_seed(&[7; 32]).context("a key")?;
    let mut tx = db.admin_tx().await?;
    tx.signer_insert(
        last.node,
        &Signer {
            key: key.public(),
            since: now,
            succession: None,
        },
    )
    .await?;
    tx.commit().await?;
    let mut covered = 0;
    loop {
        let mut tx = db.writer_tx().await?;
        let last = tx.checkpoint_last().await?;
        let number = last.as_ref().map(|last| last.signed.checkpoint.number);
        let postings = tx.postings_uncovered(number, MOST_POSTINGS).await?;
        if postings.is_empty() {
            break;
        }
        covered = postings.len();
        tx.checkpoint_insert(&Record::make(last.as_ref(), &postings, now, &key))
            .await?;
        tx.commit().await?;
    }

    let mut times = Vec::new();
    for line in last.lines.iter().take(READS) {
        let began = Instant::now();
        let (tenant, invocation) = (line.call.tenant, line.call.invocation);
        let rows = db.tenant_tx(tenant).await?.receipt_get(invocation).await?;
        let row = rows.first().context("a line")?;
        let mut tx = db.billing_tx().await?;
        let (posting, number) = tx.posting_checked(row.posting).await?.context("a posting")?;
        let record = tx.checkpoint_get(number.context("no checkpoint")?).await?;
        let record = record.context("a checkpoint")?;
        let leaves = tx.posting_leaves(&posting).await?;
        let at = leaves.iter().position(|(call, _)| *call == invocation);
        let leaves: Vec<_> = leaves.into_iter().map(|(_, leaf)| leaf).collect();
        let to_posting = at.and_then(|at| merkle::steps(&leaves, at));
        let at = record.leaves.iter().position(|leaf| *leaf == posting.leaf());
        let to_checkpoint = at.and_then(|at| merkle::steps(&record.leaves, at));
        ensure!(
            to_posting.is_some() && to_checkpoint.is_some(),
            "a line has no proof"
        );
        times.push(began.elapsed());
    }
    println!(
        "  a receipt's proof, of {} lines in its window and {} postings under its checkpoint: {}",
        last.lines.len(),
        covered,
        percentiles(times)
    );
    Ok(())
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms of {}", at(50), at(99), times.len())
}

/// Transactions a second of `pgbench`'s own mix, on the same server.
fn pgbench(server: &Cluster) -> anyhow::Result<f64> {
    let programs = postgres::discover()?;
    let url = server.url(postgres::OWNER_ROLE, "bench");
    let run = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
        let output = Command::new(programs.program(program)).args(arguments).output();
        let output = output.with_context(|| format!("{program} of the same Postgres"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{program}: {complaint}");
        Ok(said)
    };
    let maintenance = server.url(postgres::OWNER_ROLE, "postgres");
    run("psql", &["-qc", "create database bench", &maintenance])?;
    run("pgbench", &["-iq", "-s", "10", &url])?;
    let said = run("pgbench", &["-c", "8", "-j", "2", "-T", "15", &url])?;
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.and_then(|line| line.split_whitespace().next());
    Ok(tps.context("pgbench tells its rate")?.parse()?)
}
