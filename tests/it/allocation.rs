//! Idle energy is allocated, in the chain of the node, and the books balance.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};
use tests::TestHost;
use tests::process::HostProcess;
use time::OffsetDateTime;
use wattle::flow::allocate;

/// What the ledger has in an account, in microjoules.
async fn balance(host: &TestHost, account: &str) -> anyhow::Result<i64> {
    let balances = host.admin.get("/api/v1/ledger/balances").await?.expect(200)?;
    let items = balances["items"].as_array().context("items")?;
    let held = items
        .iter()
        .find(|item| item["account"] == account && item["unit"] == "uj");
    held.map_or(Ok(0), |item| item["amount"].as_i64().context("an amount"))
}

/// Waits until so many allocations are in the ledger and no more, and gives one.
async fn until_allocations(host: &TestHost, count: usize) -> anyhow::Result<Value> {
    for _ in 0..500 {
        let (windows, _) = host.admin.pages("/api/v1/ledger/windows", 200).await?;
        let mut allocations: Vec<_> = windows
            .into_iter()
            .filter(|window| window["kind"] == "allocation")
            .collect();
        anyhow::ensure!(allocations.len() <= count, "{allocations:?}");
        if allocations.len() == count {
            return allocations.pop().context("at least one");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("there are not {count} allocations in the ledger")
}

#[tokio::test]
async fn idle_energy_goes_to_who_keeps_something_ready() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    host.meter.set_floor_uw(10_000_000);
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let input = json!([{ "name": "x", "shape": [1], "datatype": "FP32", "data": [1.0] }]);
    let called = tenant.invoke.infer("echo", input).await?;
    host.final_receipt(&tenant.read, &called.receipt.context("a receipt")?)
        .await?;

    let mut due = None;
    for _ in 0..500 {
        due = allocate::due(&host.app, OffsetDateTime::now_utc() + Duration::from_secs(3_600)).await?;
        let idle = due.iter().flat_map(|due| &due.cited).count();
        if idle >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let due = due.context("windows with idle energy")?;
    let id = tenant.id.parse()?;
    assert!(due.reserved[&id].byte_seconds > 0, "its code is resident");
    let idle_uj: u64 = due.cited.iter().map(|cited| cited.idle_uj).sum();
    let (to, cited) = (
        due.to,
        due.cited.iter().map(|idle| idle.posting).collect::<Vec<_>>(),
    );
    host.app.allocations.send(due).await?;

    let account = format!("tenant:{}", tenant.id);
    let posted = until_allocations(&host, 1).await?;
    assert_eq!(posted["energy_uj"], Value::Null, "it counts nothing itself");
    let platform_uj = balance(&host, "platform").await?;
    assert!(platform_uj > 0, "nobody reserved most of the machine");
    let receipts = host.admin.get("/api/v1/ledger/check").await?.expect(200)?;
    let own = receipts["tenants"].as_array().context("tenants")?;
    let own = own
        .iter()
        .find(|sums| sums["tenant"] == tenant.id.as_str())
        .context("its sums")?;
    let dynamic_uj = own["dynamic_uj"].as_i64().context("dynamic")?;
    let allocated_uj = balance(&host, &account).await? - dynamic_uj;
    assert_eq!(
        allocated_uj + platform_uj,
        i64::try_from(idle_uj)?,
        "all of it and no more"
    );
    // What is allocated is not due again; what is sealed afterwards, in the same hour, is.
    let cited: BTreeSet<_> = cited.into_iter().collect();
    let mut next = None;
    for _ in 0..500 {
        next = allocate::due(&host.app, to + Duration::from_secs(3_600)).await?;
        // A window on a machine that others keep busy may have nothing idle in it.
        if next.as_ref().is_some_and(|next| !next.cited.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let next = next.context("a window that ended after the allocation was made")?;
    assert!(
        next.cited.iter().all(|idle| !cited.contains(&idle.posting)),
        "{next:?}"
    );
    // The same again is not sealed twice, however fast it is asked for.
    let citations = next.cited.len();
    for _ in 0..2 {
        host.app.allocations.send(next.clone()).await?;
    }
    assert!(citations > 0);
    until_allocations(&host, 2).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    until_allocations(&host, 2).await?;
    host.finish().await
}

/// What the ledger has of idle energy and of its allocations.
#[derive(Debug)]
struct Moved {
    allocations: i64,
    /// In all allocations, in microjoules.
    allocated_uj: i64,
    /// In all windows that ended before the last allocation did, in microjoules.
    idle_uj: i64,
}

impl Moved {
    async fn of(host: &HostProcess) -> anyhow::Result<Self> {
        let mut owner = sqlx::PgConnection::connect(&host.owner_url()?).await?;
        let row = sqlx::query(
            "with last as (select count(*) as allocations, max(ended_at) as ended_at
                 from posting where kind = 'allocation')
             select last.allocations,
                 coalesce((select sum(amount) from transfer where kind = 'allocation'), 0)::bigint,
                 coalesce((select sum(amount) from transfer where kind = 'idle' and at <= last.ended_at), 0)::bigint
             from last",
        )
        .fetch_one(&mut owner)
        .await?;
        Ok(Self {
            allocations: row.try_get(0)?,
            allocated_uj: row.try_get(1)?,
            idle_uj: row.try_get(2)?,
        })
    }
}

/// Killed after it has sealed an allocation and before that is in the ledger, the host posts it when it starts again,
/// and what it cites is not allocated once more.
#[tokio::test(flavor = "multi_thread")]
async fn an_allocation_that_a_kill_left_in_the_journal_is_posted_once() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    let result = sealed_and_killed(&mut host).await;
    if result.is_err() {
        eprintln!("the hosts' last words:\n{}", host.log_tail());
    }
    result
}

async fn sealed_and_killed(host: &mut HostProcess) -> anyhow::Result<()> {
    host.start("standard", None).await?;
    let admin = host.admin().await?;
    let manager = tests::process::tenant(&admin, "acacia").await?;
    let key = admin.key().context("a key")?.to_owned();
    manager
        .push_component("echo", tests::guests::guest("echo")?)
        .await?;
    let release = json!({ "name": "echo", "component": { "name": "echo" } });
    manager.post("/api/v1/deployments", &release).await?.expect(201)?;
    host.terminate().await?;

    host.add_flags(&["--allocate-every-ms", "200"]);
    if host.start("standard", Some("after-allocation-seal:2")).await? {
        host.until_killed().await?;
    }
    let left = host.left()?;
    anyhow::ensure!(left.allocations == 1, "one allocation waits: {left:?}");
    let before = Moved::of(host).await?;
    anyhow::ensure!(before.allocations == 1, "the first one was posted: {before:?}");
    assert_eq!(before.allocated_uj, before.idle_uj, "{before:?}");

    host.start("standard", None).await?;
    let mut after = Moved::of(host).await?;
    for _ in 0..500 {
        // Between a window's end and its sealing an allocation may pass it by, and the next one cites it.
        if after.allocations >= 4 && after.allocated_uj == after.idle_uj {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        after = Moved::of(host).await?;
    }
    assert!(
        after.allocations >= 4 && after.allocated_uj == after.idle_uj,
        "all of what stood idle and no more: {after:?}"
    );
    assert!(after.allocated_uj > before.allocated_uj);
    let check = host.client(Some(&key))?.get("/api/v1/ledger/check").await?;
    let check = check.expect(200)?;
    for zero in ["gap_uj", "breaks", "mismatches", "chain_breaks"] {
        assert_eq!(check[zero], 0, "{zero}: {check}");
    }
    host.terminate().await
}
