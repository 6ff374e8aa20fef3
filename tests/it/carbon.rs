//! Carbon and water: what calls were worth by what was known when, and to each its own.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tests::client::problem;
use tests::host::Tenant;
use tests::{Client, TestHost};
use time::format_description::well_known::Rfc3339;

/// What the embedded data has for Germany, in mg/kWh.
const DE: u64 = 380_950;

/// A host in Germany with a PUE of 1.2, of which all is known.
const SITED: [&str; 6] = [
    "--carbon-zone=DE",
    "--carbon-pue=1.2",
    "--carbon-wue-l-per-kwh=1.8",
    "--carbon-ewif-l-per-kwh=3.1",
    "--carbon-cfe-percent=25",
    "--carbon-embodied-kg=828-1200-1936",
];

/// A tenant whose calls are in the ledger.
async fn called(host: &TestHost, name: &str) -> anyhow::Result<Tenant> {
    let tenant = host.tenant(name).await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let inputs = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    for _ in 0..3 {
        let answer = tenant.invoke.infer("echo", inputs.clone()).await?;
        host.final_receipt(&tenant.read, &answer.receipt.context("a receipt")?)
            .await?;
    }
    for receipt in host_receipts(&tenant).await? {
        host.final_receipt(&tenant.read, receipt["id"].as_str().context("an id")?)
            .await?;
    }
    Ok(tenant)
}

async fn host_receipts(tenant: &Tenant) -> anyhow::Result<Vec<Value>> {
    Ok(tenant.read.pages("/api/v1/receipts", 50).await?.0)
}

/// Waits until the host has asked for the factors of its zone.
async fn learnt(host: &TestHost) -> anyhow::Result<()> {
    for _ in 0..600 {
        let factors = host.admin.get("/api/v1/ledger/factors").await?.expect(200)?;
        if factors["items"].as_array().is_some_and(|items| !items.is_empty()) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    anyhow::bail!("no factor is known")
}

async fn carbon(client: &Client, query: &str) -> anyhow::Result<Value> {
    client.get(&format!("/api/v1/carbon{query}")).await?.expect(200)
}

/// The one sum of an answer.
async fn sum(client: &Client, query: &str) -> anyhow::Result<(Value, String)> {
    let mut answer = carbon(client, query).await?;
    let items = answer["items"].as_array_mut().context("items")?;
    ensure!(items.len() == 1, "one sum: {items:?}");
    let item = items.remove(0);
    Ok((item, answer["as_of"].as_str().context("as_of")?.to_owned()))
}

/// The rest of the century in Germany, at so many mg/kWh.
fn year(signal: &str, method: &str, mg_per_kwh: u64) -> Value {
    json!({
        "zone": "DE", "signal": signal, "method": method, "from": "2026-01-01T00:00:00Z",
        "to": "2099-01-01T00:00:00Z", "mg_per_kwh": mg_per_kwh, "source": "test", "version": "1", "is_estimated": false,
    })
}

/// Energy times PUE times intensity, rounded to the nearest: µJ · ppm · mg/kWh in a µg.
fn expected_ug(item: &Value, pue_ppm: u128, mg_per_kwh: u64, share_ppm: u128) -> u64 {
    let energy = u128::from(item["energy_uj"].as_u64().unwrap_or_default());
    let (product, per) = (
        energy * pue_ppm * u128::from(mg_per_kwh) * share_ppm,
        3_600_000_000_000_u128 * 1_000 * 1_000_000,
    );
    u64::try_from((product + per / 2) / per).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_worth_what_is_known_of_their_grid() -> anyhow::Result<()> {
    let host = TestHost::start_with(&SITED).await?;
    learnt(&host).await?;
    let tenant = called(&host, "acacia").await?;
    let billing = host.key("billing", None).await?;
    let (first, as_of) = sum(&tenant.read, "").await?;
    let energy_uj = first["energy_uj"].as_u64().context("energy")?;
    ensure!(energy_uj > 0, "{first}");

    // The year's average, carried on: an estimate, and said so.
    let location = &first["location"];
    assert_eq!(
        location["carbon_ug"],
        json!(expected_ug(&first, 1_200_000, DE, 1_000_000))
    );
    assert_eq!(location["covered_uj"], json!(energy_uj));
    assert_eq!(location["estimated_uj"], json!(energy_uj));
    assert_eq!(location["is_estimated"], json!(true));
    assert_eq!(
        location["factors"],
        json!([{ "source": "ember-owid-yearly", "version": "2023" }])
    );
    // Nobody has said anything of these: null and not 0.
    for figure in ["market", "marginal"] {
        assert_eq!(first[figure]["carbon_ug"], Value::Null, "{figure}");
        assert_eq!(first[figure]["covered_uj"], json!(0), "{figure}");
    }
    let water = &first["water"];
    assert_eq!(
        (&water["covered_uj"], &water["is_estimated"]),
        (&json!(energy_uj), &json!(false))
    );
    ensure!(water["water_ul"].as_u64().is_some(), "{water}");
    let embodied = &first["embodied"];
    assert_eq!(embodied["covered_cpu_ns"], first["cpu_ns"]);
    let bounds = ["min_ug", "mid_ug", "max_ug"].map(|bound| embodied[bound].as_u64());
    ensure!(bounds.is_sorted() && bounds[0].is_some(), "{embodied}");

    // What billing brings is a new valuation; what was valued before stays.
    let path = "/api/v1/ledger/factors";
    for (factor, status) in [
        (year("average", "location", 100_000), 201),
        (year("average", "location", 100_000), 200),
        (year("average", "market", 600_000), 201),
        (year("marginal", "location", 900_000), 201),
    ] {
        let known = billing.post(path, &factor).await?.expect(status)?;
        assert_eq!(known["mg_per_kwh"], factor["mg_per_kwh"]);
    }
    let (second, _) = sum(&tenant.read, "").await?;
    assert_eq!(
        second["location"]["carbon_ug"],
        json!(expected_ug(&second, 1_200_000, 100_000, 1_000_000))
    );
    assert_eq!(second["location"]["is_estimated"], json!(false));
    assert_eq!(
        second["market"]["carbon_ug"],
        json!(expected_ug(&second, 1_200_000, 600_000, 750_000))
    );
    assert_eq!(
        second["marginal"]["carbon_ug"],
        json!(expected_ug(&second, 1_200_000, 900_000, 1_000_000))
    );
    let (again, said) = sum(&tenant.read, &format!("?as_of={as_of}")).await?;
    assert_eq!((again, said), (first, as_of));

    let audit = host.admin.get("/api/v1/audit").await?.expect(200)?;
    let acts = audit["items"].as_array().context("acts")?.iter();
    assert_eq!(acts.filter(|act| act["action"] == "factor.add").count(), 3);
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_zone_nothing_is_made_up() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = called(&host, "acacia").await?;
    let (item, _) = sum(&tenant.read, "").await?;
    ensure!(item["energy_uj"].as_u64() > Some(0), "{item}");
    for figure in [
        "/location/carbon_ug",
        "/market/carbon_ug",
        "/marginal/carbon_ug",
        "/water/water_ul",
        "/embodied",
    ] {
        assert_eq!(item.pointer(figure), Some(&Value::Null), "{figure}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sees_its_own_and_billing_everyones() -> anyhow::Result<()> {
    let host = TestHost::start_with(&SITED).await?;
    learnt(&host).await?;
    let (one, two) = (called(&host, "acacia").await?, called(&host, "banksia").await?);
    let billing = host.key("billing", None).await?;
    let all = carbon(&billing, "?group_by=tenant,deployment,day").await?;
    let all = all["items"].as_array().context("items")?;
    let mut energy = 0;
    for tenant in [&one, &two] {
        let own = carbon(&tenant.read, "?group_by=tenant,deployment,day").await?;
        let own = own["items"].as_array().context("items")?.clone();
        ensure!(own.iter().all(|item| item["tenant"] == *tenant.id), "{own:?}");
        let deployed = own.iter().find(|item| item["deployment"] == "echo");
        ensure!(
            deployed.is_some_and(|item| item["location"]["carbon_ug"].is_u64()),
            "{own:?}"
        );
        for item in &own {
            ensure!(all.contains(item), "{item} is not among {all:?}");
            energy += item["energy_uj"].as_u64().unwrap_or_default();
        }
    }
    assert_eq!(sum(&billing, "").await?.0["energy_uj"], json!(energy));
    let refused = one.read.get(&format!("/api/v1/carbon?tenant={}", two.id)).await?;
    problem(&refused, 422, "invalid_field")?;
    let filtered = sum(&billing, &format!("?tenant={}", two.id)).await?.0;
    assert_eq!(filtered, sum(&two.read, "").await?.0);
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_valued_stays_readable() -> anyhow::Result<()> {
    let host = TestHost::start_with(&SITED).await?;
    learnt(&host).await?;
    let tenant = called(&host, "acacia").await?;
    let other = host.tenant("banksia").await?;
    // Today has not ended, and is valued all the same.
    let day = wattle::flow::worth::day(host.app.clock.now());
    let rows = wattle::flow::carbon::value_day(&host.app, day).await?;
    ensure!(rows >= 2, "{rows}");
    let path = "/api/v1/ledger/valuations";
    let (before, _) = tenant.read.pages(path, 1).await?;
    assert_eq!(before.len(), rows);
    ensure!(
        before
            .iter()
            .all(|row| row["tenant"] == *tenant.id && row["location"]["is_estimated"] == true)
    );
    let as_of = before[0]["as_of"].as_str().context("as_of")?.to_owned();

    let factor = year("average", "location", 1);
    host.admin
        .post("/api/v1/ledger/factors", &factor)
        .await?
        .expect(201)?;
    wattle::flow::carbon::value_day(&host.app, day).await?;
    let (after, _) = tenant.read.pages(path, 50).await?;
    ensure!(
        after.iter().all(|row| row["location"]["is_estimated"] == false),
        "{after:?}"
    );
    let (then, _) = tenant.read.pages(&format!("{path}?as_of={as_of}"), 50).await?;
    assert_eq!(then, before);
    let (everyones, _) = host.admin.pages(path, 1).await?;
    assert_eq!(everyones, after);
    assert_eq!(other.read.pages(path, 50).await?.0, Vec::<Value>::new());
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_named() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let later = (host.app.clock.now() + time::Duration::MINUTE).format(&Rfc3339)?;
    let queries = [
        ("/api/v1/carbon?from=2027-01-31T13:30:00Z", "from"),
        ("/api/v1/carbon?to=2027-01-31T13:00:00.000001Z", "to"),
        (
            "/api/v1/carbon?from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z",
            "to",
        ),
        ("/api/v1/carbon?from=0001-01-01T00:00:00Z", "from"),
        ("/api/v1/carbon?as_of=0001-01-01T00:00:00Z", "as_of"),
        (&format!("/api/v1/carbon?as_of={later}"), "as_of"),
        ("/api/v1/carbon?group_by=kind", "group_by"),
        ("/api/v1/carbon?group_by=day,hour", "group_by"),
        ("/api/v1/ledger/factors?zone=D%20E", "zone"),
        ("/api/v1/ledger/factors?signal=mean", "signal"),
        ("/api/v1/ledger/factors?at=9999-12-31T23:59:59Z", "at"),
        ("/api/v1/ledger/valuations?as_of=soon", "as_of"),
        ("/api/v1/ledger/valuations?limit=0", "limit"),
    ];
    for (query, field) in queries {
        let answer = host.admin.get(query).await?;
        problem(&answer, 422, "invalid_field").with_context(|| query.to_owned())?;
        assert_eq!(answer.body["field"], field, "{query}");
    }
    type Change = fn(&mut Value);
    let bodies: [(&str, Change); 13] = [
        ("zone", |body| body["zone"] = json!("D E")),
        ("signal", |body| body["signal"] = json!("mean")),
        ("signal", |body| body["signal"] = json!({ "average": null })),
        ("method", |body| body["method"] = json!("place")),
        ("method", |body| {
            body["signal"] = json!("marginal");
            body["method"] = json!("market");
        }),
        ("from", |body| body["from"] = json!("1989-12-31T00:00:00Z")),
        ("to", |body| body["to"] = body["from"].clone()),
        ("to", |body| body["to"] = json!("2101-01-01T00:00:00Z")),
        ("mg_per_kwh", |body| body["mg_per_kwh"] = json!(10_000_001)),
        ("mg_per_kwh", |body| body["mg_per_kwh"] = json!(-1)),
        ("source", |body| body["source"] = json!("")),
        ("version", |body| body["version"] = json!("a\u{0}b")),
        ("known_at", |body| {
            body["known_at"] = json!("2020-01-01T00:00:00Z")
        }),
    ];
    for (field, change) in bodies {
        let mut body = year("average", "location", 10_000_000);
        change(&mut body);
        let answer = host.admin.post("/api/v1/ledger/factors", &body).await?;
        problem(&answer, 422, "invalid_field").with_context(|| body.to_string())?;
        assert_eq!(answer.body["field"], field, "{body}");
    }
    let most = year("average", "location", 10_000_000);
    host.admin
        .post("/api/v1/ledger/factors", &most)
        .await?
        .expect(201)?;
    host.finish().await
}

/// A month of days whose sums no column holds keeps no other day from its valuation.
#[tokio::test(flavor = "multi_thread")]
async fn days_that_cannot_be_valued_are_left_out() -> anyhow::Result<()> {
    let host = TestHost::start_with(&SITED).await?;
    learnt(&host).await?;
    let tenant = called(&host, "acacia").await?;
    let today = wattle::flow::worth::day(host.app.clock.now());
    let good = today - time::Duration::days(5);
    let bad: BTreeSet<_> = (10..41).map(|ago| today - time::Duration::days(ago)).collect();
    let most = i64::MAX;
    let mut hours = vec![(good, 1_000)];
    for day in &bad {
        hours.extend([(*day, most), (*day + time::Duration::HOUR, most)]);
    }
    let mut owner = sqlx::PgConnection::connect(&host.owner_url).await?;
    for (hour, energy_uj) in hours {
        sqlx::query(
            "insert into usage_hour (hour, node, tenant, deployment, kind, outcome, calls, lines, lines_unmetered,
                 fuel, cpu_ns, model_ns, bytes_in, bytes_out, energy_uj)
             values ($1, $2, $3, 'echo', 'infer', 'ok', 1, 1, 0, 1, 1, 0, 0, 0, $4)",
        )
        .bind(hour)
        .bind(host.app.node.0)
        .bind(tenant.id.parse::<uuid::Uuid>()?)
        .bind(energy_uj)
        .execute(&mut owner)
        .await?;
    }
    let valued = async || -> anyhow::Result<Vec<Value>> {
        let (rows, _) = host.admin.pages("/api/v1/ledger/valuations", 50).await?;
        Ok(rows.into_iter().map(|row| row["day"].clone()).collect())
    };
    let mut failed = BTreeSet::new();
    // As many as one pass takes, and the earliest first.
    wattle::flow::carbon::restate(&host.app, &mut failed).await?;
    assert_eq!(failed, bad);
    assert_eq!(
        valued().await?,
        Vec::<Value>::new(),
        "the good one waits behind them"
    );
    wattle::flow::carbon::restate(&host.app, &mut failed).await?;
    assert_eq!(failed, bad);
    assert_eq!(valued().await?, [json!(good.format(&Rfc3339)?)]);
    // Of these days there are no receipts.
    let findings = host.audit().await?;
    ensure!(
        findings.len() == 1 && findings[0].contains("hours of usage"),
        "{findings:?}"
    );
    Ok(())
}

/// What an operator's own file says is known soon after the start, and a wrong file keeps nothing else away.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_ones_own_is_learnt() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("factors.csv");
    let header = "zone,signal,method,from,to,g_per_kwh,source,version,is_estimated";
    let row = "DE,average,market,2026-01-01T00:00:00Z,2030-01-01T00:00:00Z,500.5,own,1,false";
    for (rows, expected) in [(row, 3), ("wrong", 2)] {
        std::fs::write(&file, format!("{header}\n{rows}\n"))?;
        let csv = format!("--carbon-csv={}", file.display());
        let host = TestHost::start_with(&["--carbon-zone=DE", "--carbon-provider=csv", &csv]).await?;
        learnt(&host).await?;
        let mut factors = Vec::new();
        // As long as `learnt` waits, where the third is to come; where the file is wrong, a while that shows it does not.
        let tries = if expected == 3 { 1_200 } else { 100 };
        for _ in 0..tries {
            factors = host.admin.pages("/api/v1/ledger/factors", 1).await?.0;
            if factors.len() == 3 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(factors.len(), expected, "{factors:?}");
        host.finish().await?;
    }
    Ok(())
}
