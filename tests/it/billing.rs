//! Prices, months that close, corrections and statements, on a host whose clock is set forward.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use domain::billing::Month;
use domain::billing::money::{Rate, Value as Money};
use domain::posting::{Call, CallKind, Finished};
use domain::window::{Crash, OpenReceipts, Sealer};
use domain::{Digest, InvocationId, NodeId, Outcome, Usage, Work};
use reqwest::Method;
use serde_json::{Value, json};
use tests::client::{Answer, problem};
use tests::host::Tenant;
use tests::{Client, TestHost};
use time::OffsetDateTime;
use wattle::clock::{Clock as _, SystemClock};
use wattle::flow::close::{self, PeriodError};
use wattle::flow::{Error, allocate};

/// The month in which a test's calls are made: the next, so that the clock is only set forward.
fn month() -> anyhow::Result<Month> {
    let now = Month::of(SystemClock.now()).context("now")?;
    now.next().context("a month")
}

/// A host on the tenth of that month.
async fn started(month: Month) -> anyhow::Result<TestHost> {
    let host = TestHost::start_at(month.begin() + time::Duration::days(9), &["--carbon-zone=DE"]).await?;
    host.meter.set_floor_uw(10_000_000);
    for _ in 0..600 {
        let factors = host.admin.get("/api/v1/ledger/factors").await?.expect(200)?;
        if factors["items"].as_array().is_some_and(|items| !items.is_empty()) {
            return Ok(host);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no factor is known")
}

/// Everything that a call costs.
async fn priced(host: &TestHost, from: OffsetDateTime, tenant: Option<&str>) -> anyhow::Result<Value> {
    let plan = json!({
        "tenant": tenant, "from": rfc3339(from)?, "currency": "EUR", "per_kwh": "871.31", "per_gigafuel": "9.7",
        "per_gb_second": "3.33", "per_megatoken": "0.5", "per_call": "0.0125", "per_month": "10",
    });
    host.admin.post("/api/v1/plans", &plan).await?.expect(201)
}

fn rfc3339(at: OffsetDateTime) -> anyhow::Result<String> {
    Ok(at.format(&time::format_description::well_known::Rfc3339)?)
}

/// Three calls of each of two deployments, in the ledger.
async fn called(host: &TestHost, name: &str) -> anyhow::Result<Tenant> {
    let tenant = host.tenant(name).await?;
    tenant.deploy("echo", &[], json!({})).await?;
    tenant
        .deploy(
            "tabular",
            &[("net", "tabular.onnx")],
            json!({ "backend": "rten" }),
        )
        .await?;
    let echo = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    let tabular = json!([{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": vec![0.5; 100] }]);
    for _ in 0..3 {
        for (deployment, inputs) in [("echo", &echo), ("tabular", &tabular)] {
            let answer = tenant.invoke.infer(deployment, inputs.clone()).await?;
            let receipt = answer.receipt.clone().context("a receipt")?;
            answer.expect(200)?;
            // Before the clock is set forward, so that all of it is in one month.
            host.final_receipt(&tenant.read, &receipt).await?;
        }
    }
    Ok(tenant)
}

async fn receipts(tenant: &Tenant) -> anyhow::Result<Vec<Value>> {
    Ok(tenant.read.pages("/api/v1/receipts", 50).await?.0)
}

/// Lets the month pass, until the ledger has all of it and its idle energy is allocated, of which tenants that keep
/// anything ready are owed an eighth each: what these few modules take of a large machine may round to nothing.
async fn pass(host: &TestHost, month: Month) -> anyhow::Result<()> {
    host.clock
        .set_forward_to(month.end() + time::Duration::minutes(1));
    for _ in 0..500 {
        let nodes = host.admin.get("/api/v1/nodes").await?.expect(200)?;
        let own = nodes["items"].as_array().context("nodes")?.iter();
        let own = own
            .clone()
            .find(|node| node["id"] == json!(host.app.node))
            .context("a node")?;
        let drained_to = own["drained_to"].as_str().unwrap_or_default().to_owned();
        // As text, instants of one form are in their order.
        if drained_to.as_str() >= rfc3339(month.end())?.trim_end_matches('Z') {
            match allocate::due(&host.app, month.end()).await? {
                Some(mut due) => {
                    for reserved in due.reserved.values_mut() {
                        reserved.byte_seconds = due.capacity.byte_seconds / 8;
                    }
                    host.app.allocations.send(due).await?;
                }
                None if !host.app.metrics.are_postings_waiting() => return Ok(()),
                None => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{month} is not drained")
}

async fn closing(by: &Client, month: Month) -> anyhow::Result<Answer> {
    by.post(&format!("/api/v1/ledger/periods/{month}/close"), &json!({}))
        .await
}

/// Closes a month: a window may be posted between its allocation and the look at it.
async fn closed(host: &TestHost, by: &Client, month: Month) -> anyhow::Result<Value> {
    for _ in 0..50 {
        pass(host, month).await?;
        let answer = closing(by, month).await?;
        if answer.code() != "period_not_drained" {
            return answer.expect(201);
        }
    }
    anyhow::bail!("{month} cannot be closed")
}

/// The bytes of a statement, and their etag.
async fn bytes(reader: &Client, month: Month, query: &str) -> anyhow::Result<(String, String)> {
    let path = format!("/api/v1/ledger/statements/{month}{query}");
    let response = reader
        .request(Method::GET, &path)
        .send()
        .await?
        .error_for_status()?;
    let etag = response
        .headers()
        .get("etag")
        .context("an etag")?
        .to_str()?
        .to_owned();
    Ok((response.text().await?, etag))
}

fn lines<'a>(statement: &'a Value, item: &str, deployment: &Value) -> Vec<&'a Value> {
    let lines = statement["lines"].as_array().into_iter().flatten();
    lines
        .filter(|line| line["item"] == item && line["deployment"] == *deployment)
        .collect()
}

fn quantity(lines: &[&Value]) -> anyhow::Result<i128> {
    let quantities = lines
        .iter()
        .map(|line| line["quantity"].as_str().unwrap_or_default().parse::<i128>());
    Ok(quantities.collect::<Result<Vec<_>, _>>()?.iter().sum())
}

/// Sums of the statement against receipts, and money against rate × quantity.
async fn check(tenant: &Tenant, statement: &Value) -> anyhow::Result<()> {
    let receipts = receipts(tenant).await?;
    for deployment in [json!("echo"), json!("tabular"), Value::Null] {
        let own = receipts
            .iter()
            .filter(|receipt| receipt["deployment"] == deployment);
        let sum = |field: &str| {
            own.clone()
                .filter_map(|receipt| receipt[field].as_i64())
                .sum::<i64>()
        };
        let of = |item: &str| quantity(&lines(statement, item, &deployment));
        assert_eq!(of("fuel")?, i128::from(sum("fuel")), "{deployment}");
        let energy = of("energy")?;
        match deployment.is_null() {
            // And what was allocated of what stood idle.
            true => ensure!(energy > i128::from(sum("energy_uj")), "{energy}"),
            false => assert_eq!(energy, i128::from(sum("energy_uj")), "{deployment}"),
        }
        let calls = own.clone().filter(|receipt| receipt["kind"] == "infer").count();
        assert_eq!(of("call")?, calls as i128, "{deployment}");
    }
    let mut exact = Money::default();
    let mut sum = 0;
    for line in statement["lines"].as_array().context("lines")? {
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        let item: domain::billing::Item = serde_json::from_value(line["item"].clone())?;
        if line["currency"] == "EUR" {
            let (rate, of): (Rate, Month) = (text("rate").parse()?, text("month").parse()?);
            let value = Money::of(rate, text("quantity").parse()?, item.per(of))?;
            exact = exact.plus(value)?;
            let units = line["minor_units"].as_i64().context("units")?;
            ensure!((value.rounded("EUR".parse()?)? - units).abs() <= 1, "{line}");
            sum += units;
        }
    }
    let total = &statement["totals"][0];
    assert_eq!(
        (&total["currency"], &total["minor_units"]),
        (&json!("EUR"), &json!(sum))
    );
    assert_eq!(exact.rounded("EUR".parse()?)?, sum);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_is_closed_for_good_and_what_comes_later_is_the_next_ones() -> anyhow::Result<()> {
    let month = month()?;
    let host = started(month).await?;
    priced(&host, month.begin(), None).await?;
    let tenant = called(&host, "acacia").await?;
    let billing = host.key("billing", None).await?;
    let next = month.next().context("a month")?;
    problem(&closing(&billing, month).await?, 409, "period_open")?;
    problem(&closing(&billing, next).await?, 409, "period_open")?;
    // A node that has not drained holds the month up until it is lost.
    let mut tx = host.app.db.admin_tx().await?;
    let stray = tx.node_ensure(NodeId(SystemClock.mint()), "stray").await?;
    tx.commit().await?;
    pass(&host, month).await?;
    let detail = problem(&closing(&billing, month).await?, 409, "period_not_drained")?;
    ensure!(detail.contains("stray"), "{detail}");
    let lost = json!({ "reason": "it was never there" });
    let path = format!("/api/v1/nodes/{stray}/lost");
    host.admin.post(&path, &lost).await?.expect(201)?;
    let after = closed(&host, &billing, month).await?;
    ensure!(after["statements"] == 1, "{after}");
    problem(&closing(&billing, month).await?, 409, "period_closed")?;
    problem(&closing(&billing, next).await?, 409, "period_open")?;

    let (first, etag) = bytes(&tenant.read, month, "").await?;
    let statement: Value = serde_json::from_str(&first)?;
    check(&tenant, &statement).await?;
    let flat = lines(&statement, "flat", &Value::Null);
    assert_eq!((flat.len(), &flat[0]["amount"]), (1, &json!("10.00")));
    ensure!(
        !lines(&statement, "carbon", &json!("echo")).is_empty(),
        "{statement}"
    );
    assert_eq!(statement["graphs"][0]["runs"], 3, "{statement}");
    // No plan can begin in it any more.
    let early = json!({ "from": rfc3339(month.begin())?, "currency": "EUR" });
    problem(
        &host.admin.post("/api/v1/plans", &early).await?,
        409,
        "period_closed",
    )?;

    let energy_uj = quantity(&lines(&statement, "energy", &json!("echo")))?;
    let corrected = correct(&host, &tenant).await?;
    let again = bytes(&billing, month, &format!("?tenant={}", tenant.id)).await?;
    assert_eq!(again, (first.clone(), etag), "the same bytes");
    exports(&host, &tenant, month, &first).await?;

    // The node that was lost comes back with a call of the closed month, and holds up the next one.
    late(&host, stray, &tenant, month).await?;
    pass(&host, next).await?;
    let detail = problem(&closing(&billing, next).await?, 409, "period_not_drained")?;
    ensure!(detail.contains("stray"), "{detail}");
    host.admin.post(&path, &lost).await?.expect(201)?;
    // A host that dies between the cut and the statements leaves them to be drawn up.
    cut(&host, next).await?;
    let periods = billing.get("/api/v1/ledger/periods").await?.expect(200)?;
    assert_eq!(
        (&periods["items"][0]["month"], &periods["items"][0]["closed_at"]),
        (&json!(next), &Value::Null)
    );
    problem(
        &tenant
            .read
            .get(&format!("/api/v1/ledger/statements/{next}"))
            .await?,
        404,
        "statement_not_found",
    )?;
    closing(&host.admin, next).await?.expect(201)?;
    let (second, _) = bytes(&tenant.read, next, "").await?;
    let second: Value = serde_json::from_str(&second)?;
    for (item, quantity) in [("fuel", "123"), ("call", "1"), ("token", "40")] {
        let came = lines(&second, item, &json!("late"));
        let came: Vec<_> = came
            .iter()
            .map(|line| (&line["class"], &line["month"], &line["quantity"]))
            .collect();
        assert_eq!(
            came,
            [(&json!("correction"), &json!(month), &json!(quantity))],
            "{second}"
        );
    }
    let repaired = lines(&second, "energy", &json!("echo"));
    let repaired: Vec<_> = repaired
        .iter()
        .filter(|line| line["class"] == "correction")
        .collect();
    assert_eq!(repaired.len(), 1, "{second}");
    assert_eq!(repaired[0]["quantity"], json!(corrected.to_string()));
    ensure!(
        i128::from(corrected) < 0 && energy_uj > 0,
        "{corrected} of {energy_uj}"
    );
    assert_eq!(
        bytes(&tenant.read, month, "").await?.0,
        first,
        "the same bytes still"
    );
    let trail = host
        .admin
        .get("/api/v1/audit?action=period.close")
        .await?
        .expect(200)?;
    assert_eq!(trail["items"].as_array().map(Vec::len), Some(2));
    host.finish().await
}

/// Cuts the ledger for a month and draws up nothing.
async fn cut(host: &TestHost, month: Month) -> anyhow::Result<()> {
    for _ in 0..50 {
        pass(host, month).await?;
        match close::cut(&host.app, month).await {
            Err(Error::Period(PeriodError::NotDrained { .. })) => {}
            cut => return Ok(cut.map(|_| ())?),
        }
    }
    anyhow::bail!("{month} cannot be cut")
}

/// What a node finds in its journal that died in a month with a call that it had not posted.
async fn late(host: &TestHost, node: NodeId, tenant: &Tenant, month: Month) -> anyhow::Result<()> {
    let at = month.begin() + time::Duration::days(20);
    let call = Call {
        invocation: InvocationId(SystemClock.mint()),
        kind: CallKind::Infer,
        tenant: tenant.id.parse()?,
        deployment: Some("late".parse()?),
        release: Some(1),
        started_at: at,
    };
    let work = Work {
        graph: Digest::of(b"graph"),
        backend: "rten 0.27.0".into(),
        device: "cpu".into(),
        precision: "exact".into(),
        runs: 1,
        rows: 1,
        cpu_ns: 5,
        busy_ns: 0,
        tokens: 40,
    };
    let usage = Usage {
        fuel: 123,
        work: vec![work],
        ..Usage::default()
    };
    let finished = vec![Finished {
        call,
        outcome: Outcome::Ok,
        usage,
    }];
    let crash = Crash {
        at,
        readings: vec![],
        finished,
    };
    let epoch = SystemClock.epoch();
    let mut sealer = Sealer::new(node, epoch, 0, Digest::ZERO, at, vec![], OpenReceipts::default());
    let mut tx = host.app.db.writer_tx().await?;
    tx.posting_insert(&sealer.seal_crash(&[], &crash)).await?;
    Ok(tx.commit().await?)
}

/// Takes a receipt's energy off again, and refuses what cannot be corrected; how much was added.
async fn correct(host: &TestHost, tenant: &Tenant) -> anyhow::Result<i64> {
    let path = "/api/v1/ledger/corrections";
    let all = receipts(tenant).await?;
    let receipt = all
        .iter()
        .filter(|receipt| receipt["deployment"] == "echo" && receipt["kind"] == "infer")
        .max_by_key(|receipt| receipt["energy_uj"].as_i64())
        .context("a call")?;
    let receipt = receipt["id"].as_str().context("an id")?;
    let receipt = tenant
        .read
        .get(&format!("/api/v1/receipts/{receipt}"))
        .await?
        .expect(200)?;
    let line = receipt["lines"]
        .as_array()
        .and_then(|lines| lines.iter().find(|line| line["energy_uj"].as_i64() > Some(0)))
        .context("a line with energy")?;
    let (windows, _) = host.admin.pages("/api/v1/ledger/windows", 500).await?;
    let window = windows
        .iter()
        .find(|window| window["seq"] == line["posting"]["seq"] && window["epoch"] == line["posting"]["epoch"])
        .context("its window")?;
    let energy_uj = line["energy_uj"].as_i64().context("energy")?;
    let asked = |amount: i64| {
        json!({
            "tenant": tenant.id, "deployment": "echo", "unit": "uj", "amount": amount, "cites": window["hash"],
            "reason": "the meter was wrong",
        })
    };
    let spoilt = |field: &str, value: Value| {
        let mut body = asked(-1);
        body[field] = value;
        body
    };
    let nothing = format!("sha256:{}", "0".repeat(64));
    for (field, body) in [
        ("cites", spoilt("cites", json!(nothing))),
        ("cites", spoilt("cites", json!("sha256:00"))),
        ("amount", asked(0)),
        ("amount", asked(i64::MIN)),
        ("amount", asked(-1_000_000_000_000_000_000)),
        ("unit", spoilt("unit", json!("gram"))),
        ("unit", spoilt("unit", json!({ "uj": null }))),
        ("reason", spoilt("reason", json!(""))),
        ("reason", spoilt("reason", json!("a\u{0}b"))),
        ("reason", spoilt("reason", json!("x".repeat(501)))),
        ("deployment", spoilt("deployment", json!("No Name"))),
    ] {
        let answer = host.admin.post(path, &body).await?;
        problem(&answer, 422, "invalid_field").with_context(|| format!("{body}"))?;
        assert_eq!(answer.body["field"], field, "{body}");
    }
    let stranger = spoilt("tenant", json!(SystemClock.mint()));
    problem(&host.admin.post(path, &stranger).await?, 404, "tenant_not_found")?;
    let kept = host.admin.post(path, &asked(-energy_uj)).await?.expect(201)?;
    assert_eq!(kept["posting"], Value::Null);
    for _ in 0..500 {
        let own = tenant.read.get(path).await?.expect(200)?;
        assert_eq!(own["items"].as_array().map(Vec::len), Some(1));
        if own["items"][0]["posting"] != Value::Null {
            assert_eq!(own["items"][0]["digest"], kept["digest"]);
            let check = host.admin.get("/api/v1/ledger/check").await?.expect(200)?;
            assert_eq!(
                (&check["gap_uj"], &check["correction_mismatches"]),
                (&json!(0), &json!(0))
            );
            let trail = host
                .admin
                .get("/api/v1/audit?action=correction.create")
                .await?
                .expect(200)?;
            assert_eq!(trail["items"][0]["details"]["reason"], "the meter was wrong");
            return Ok(-energy_uj);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the correction is not in the ledger")
}

/// The exports of a month: the same charges in each, and the same bytes every time.
async fn exports(host: &TestHost, tenant: &Tenant, month: Month, statement: &str) -> anyhow::Result<()> {
    let statement: Value = serde_json::from_str(statement)?;
    let count = statement["lines"].as_array().context("lines")?.len();
    let get = async |reader: &Client, query: &str| {
        let path = format!("/api/v1/ledger/periods/{month}/export{query}");
        let response = reader
            .request(Method::GET, &path)
            .send()
            .await?
            .error_for_status()?;
        anyhow::Ok(response.bytes().await?)
    };
    let auditor = host.key("auditor", None).await?;
    let csv = get(&tenant.read, "").await?;
    assert_eq!(
        csv,
        get(&auditor, "?format=csv").await?,
        "one tenant is all there is"
    );
    let text = std::str::from_utf8(&csv)?;
    assert_eq!(text.lines().count(), count + 1, "{text}");
    ensure!(text.starts_with("BilledCost,BillingAccountId,"), "{text}");
    ensure!(
        text.contains("x_EnergyMicrojoules,x_CarbonLocationGrams"),
        "{text}"
    );
    let parquet = get(&auditor, "?format=parquet").await?;
    ensure!(
        parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"),
        "no Parquet"
    );
    assert_eq!(parquet, get(&tenant.read, "?format=parquet").await?);

    // By ones, and each page again: every charge comes in the same order.
    let (mut cursor, mut pulled) = (None::<String>, Vec::new());
    loop {
        let query = cursor
            .as_ref()
            .map(|cursor| format!("&cursor={cursor}"))
            .unwrap_or_default();
        let path = format!("/api/v1/ledger/charges?limit=1{query}");
        let page = auditor.get(&path).await?.expect(200)?;
        assert_eq!(page, auditor.get(&path).await?.expect(200)?);
        pulled.extend(page["items"].as_array().context("items")?.clone());
        cursor = page["next"].as_str().map(str::to_owned);
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(pulled.len(), count);
    let own = tenant
        .read
        .get("/api/v1/ledger/charges?limit=500")
        .await?
        .expect(200)?;
    assert_eq!(own["items"], json!(pulled));
    // Where all is pulled, the cursor stays good for what comes later.
    let path = format!("/api/v1/ledger/charges?cursor={}", cursor.context("a cursor")?);
    let rest = auditor.get(&path).await?.expect(200)?;
    assert_eq!((&rest["items"], &rest["more"]), (&json!([]), &json!(false)));
    for (charge, line) in pulled.iter().zip(statement["lines"].as_array().context("lines")?) {
        assert_eq!(charge["BilledCost"], line["amount"]);
        assert_eq!(charge["InvoiceId"], json!(format!("{month}/{}", tenant.id)));
        if line["item"] == "energy" {
            assert_eq!(json!(charge["x_EnergyMicrojoules"].to_string()), line["quantity"]);
            assert_eq!(charge["x_DataQuality"], line["provenance"]);
        }
    }
    let trail = host
        .admin
        .get("/api/v1/audit?action=period.export")
        .await?
        .expect(200)?;
    assert_eq!(
        trail["items"].as_array().map(Vec::len),
        Some(2),
        "a tenant's own are its own business"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_and_statements_are_refused_by_name() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (one, other) = (host.tenant("acacia").await?, host.tenant("wattle").await?);
    let plan = |field: &str, value: Value| {
        let mut plan = json!({ "from": "2027-01-01T00:00:00Z", "currency": "EUR" });
        plan[field] = value;
        plan
    };
    for (field, body) in [
        ("from", plan("from", json!("2027-01-01"))),
        ("from", plan("from", json!("9999-01-01T00:00:00Z"))),
        ("from", plan("from", json!("2027-01-01T00:00:00.0000001Z"))),
        ("currency", plan("currency", json!("EURO"))),
        ("currency", plan("currency", json!("ABC"))),
        ("per_kwh", plan("per_kwh", json!(0.31))),
        ("per_kwh", plan("per_kwh", json!("-1"))),
        ("per_call", plan("per_call", json!("0.0000000000001"))),
        ("per_megatoken", plan("per_megatoken", json!("1e3"))),
        ("per_month", plan("per_month", json!("1000000.000000000001"))),
        ("per_token", plan("per_token", json!("1"))),
        ("tenant", plan("tenant", json!("acacia"))),
    ] {
        let answer = host.admin.post("/api/v1/plans", &body).await?;
        problem(&answer, 422, "invalid_field").with_context(|| format!("{body}"))?;
        assert_eq!(answer.body["field"], field, "{body}");
    }
    let stranger = plan("tenant", json!(SystemClock.mint()));
    problem(
        &host.admin.post("/api/v1/plans", &stranger).await?,
        404,
        "tenant_not_found",
    )?;
    let now = SystemClock.now().replace_nanosecond(0)?;
    for tenant in [None, Some(one.id.as_str()), Some(other.id.as_str())] {
        let made = priced(&host, now, tenant).await?;
        assert_eq!(
            (&made["tenant"], &made["per_kwh"], &made["per_megatoken"]),
            (&json!(tenant), &json!("871.31"), &json!("0.5"))
        );
    }
    let (own, _) = one.read.pages("/api/v1/plans", 1).await?;
    let own: Vec<_> = own.iter().map(|plan| plan["tenant"].clone()).collect();
    assert_eq!(own, [Value::Null, json!(one.id)], "and not the other's");

    let month = Month::of(now).context("now")?;
    let statement = format!("/api/v1/ledger/statements/{month}");
    problem(&one.read.get(&statement).await?, 404, "statement_not_found")?;
    problem(&host.admin.get(&statement).await?, 422, "invalid_field")?;
    problem(
        &one.read
            .get(&format!("/api/v1/ledger/periods/{month}/export"))
            .await?,
        404,
        "period_not_found",
    )?;
    for bad in ["2027", "2027-13", "2027-1", "x"] {
        let answer = host
            .admin
            .post(&format!("/api/v1/ledger/periods/{bad}/close"), &json!({}))
            .await?;
        problem(&answer, 422, "invalid_field").with_context(|| bad.to_owned())?;
        assert_eq!(answer.body["field"], "month");
    }
    problem(&closing(&host.admin, month).await?, 409, "period_open")?;
    let before: Month = "2001-01".parse()?;
    problem(&closing(&host.admin, before).await?, 409, "period_out_of_order")?;
    for lost in [json!({}), json!({ "reason": "" }), json!({ "reason": 7 })] {
        let path = format!("/api/v1/nodes/{}/lost", host.app.node);
        problem(&host.admin.post(&path, &lost).await?, 422, "invalid_field")?;
    }
    let nobody = format!("/api/v1/nodes/{}/lost", SystemClock.mint());
    let lost = json!({ "reason": "gone" });
    problem(&host.admin.post(&nobody, &lost).await?, 404, "node_not_found")?;
    host.finish().await
}
