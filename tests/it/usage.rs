//! Usage over time: exactly what the ledger says, and to each its own.

use anyhow::Context as _;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};
use tests::TestHost;
use tests::client::problem;
use tests::host::Tenant;

async fn sums(client: &tests::Client, query: &str) -> anyhow::Result<Vec<Value>> {
    Ok(client.pages(&format!("/api/v1/usage{query}"), 2).await?.0)
}

/// Calls `echo` `times` times and waits until all of it is in the ledger.
async fn call(host: &TestHost, tenant: &Tenant, times: usize) -> anyhow::Result<()> {
    let inputs = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    for _ in 0..times {
        let answer = tenant.invoke.infer("echo", inputs.clone()).await?;
        let receipt = answer.receipt.context("a receipt")?;
        host.final_receipt(&tenant.read, &receipt).await?;
    }
    Ok(())
}

fn total(sums: &[Value], field: &str) -> u64 {
    sums.iter().filter_map(|sum| sum[field].as_u64()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_what_the_ledger_says() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (one, two) = (host.tenant("acacia").await?, host.tenant("banksia").await?);
    for (tenant, times) in [(&one, 3), (&two, 1)] {
        tenant.deploy("echo", &[], json!({})).await?;
        call(&host, tenant, times).await?;
    }
    let billing = host.key("billing", None).await?;
    let mut owner = PgConnection::connect(&host.owner_url).await?;
    for (tenant, times) in [(&one, 3), (&two, 1)] {
        let own = sums(&tenant.read, "").await?;
        let [sum] = own.as_slice() else {
            anyhow::bail!("one sum: {own:?}");
        };
        let lines = sqlx::query(
            "select count(*), sum(fuel)::bigint, sum(cpu_ns)::bigint, sum(model_ns)::bigint, sum(bytes_in)::bigint,
                 sum(bytes_out)::bigint, sum(energy_uj)::bigint
             from receipt_line where tenant = $1::text::uuid",
        )
        .bind(&tenant.id)
        .fetch_one(&mut owner)
        .await?;
        let fields = [
            "lines",
            "fuel",
            "cpu_ns",
            "model_ns",
            "bytes_in",
            "bytes_out",
            "energy_uj",
        ];
        for (column, field) in fields.into_iter().enumerate() {
            assert_eq!(
                sum[field],
                json!(lines.try_get::<i64, _>(column)?),
                "{field}: {sum}"
            );
        }
        let transfers = sqlx::query(
            "select sum(amount) filter (where unit.code = 'uj')::bigint,
                 sum(amount) filter (where unit.code = 'fuel')::bigint
             from transfer join unit on unit.id = unit where tenant = $1::text::uuid and kind = 'dynamic'",
        )
        .bind(&tenant.id)
        .fetch_one(&mut owner)
        .await?;
        for (column, field) in ["energy_uj", "fuel"].into_iter().enumerate() {
            assert_eq!(
                sum[field],
                json!(transfers.try_get::<i64, _>(column)?),
                "{field}: {sum}"
            );
        }
        assert_eq!(
            sum["calls"],
            json!({ "ok": times + 2 }),
            "publish and deploy are calls too"
        );
        assert_eq!((&sum["tenant"], &sum["from"]), (&Value::Null, &Value::Null));

        // Whatever it is summed up by, it is the same sum.
        for by in [
            "tenant",
            "deployment",
            "kind",
            "hour",
            "tenant,deployment,kind,hour",
            "day",
            "month",
        ] {
            let grouped = sums(&tenant.read, &format!("?group_by={by}")).await?;
            for field in fields {
                assert_eq!(
                    Some(total(&grouped, field)),
                    sum[field].as_u64(),
                    "{field} by {by}"
                );
            }
        }
        let infer = sums(
            &tenant.read,
            "?kind=infer&deployment=echo&group_by=deployment,kind",
        )
        .await?;
        assert_eq!(infer.len(), 1);
        assert_eq!(
            (&infer[0]["calls"], &infer[0]["deployment"], &infer[0]["kind"]),
            (&json!({ "ok": times }), &json!("echo"), &json!("infer"))
        );
        let filtered = sums(&billing, &format!("?tenant={}", tenant.id)).await?;
        assert_eq!(filtered, own);
    }
    owner.close().await?;
    let all = sums(&billing, "?group_by=tenant").await?;
    assert_eq!(all.len(), 2);
    assert_eq!(total(&all, "fuel"), total(&sums(&billing, "").await?, "fuel"));
    let foreign = two.read.get(&format!("/api/v1/usage?tenant={}", one.id)).await?;
    problem(&foreign, 422, "invalid_field")?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_cut_by_whole_hours() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    call(&host, &tenant, 1).await?;
    let hours = sums(&tenant.read, "?group_by=hour").await?;
    let from = hours[0]["from"].as_str().context("an hour")?;
    assert!(from.ends_with(":00:00Z"), "{from}");
    let days = sums(&tenant.read, "?group_by=day").await?;
    assert!(days[0]["from"].as_str().context("a day")?.ends_with("T00:00:00Z"));
    assert_eq!(
        sums(&tenant.read, &format!("?from={from}&group_by=hour")).await?,
        hours
    );
    assert_eq!(
        sums(&tenant.read, &format!("?to={from}")).await?,
        Vec::<Value>::new()
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_models_is_summed_up_by_graph() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (one, two) = (host.tenant("acacia").await?, host.tenant("banksia").await?);
    let rows = json!([{ "name": "rows", "shape": [2, 100], "datatype": "FP32", "data": vec![0.5; 200] }]);
    for tenant in [&one, &two] {
        tenant
            .deploy("tabular", &[("net", "tabular.onnx")], json!({}))
            .await?;
        for _ in 0..2 {
            let answer = tenant.invoke.infer("tabular", rows.clone()).await?;
            let receipt = answer.receipt.context("a receipt")?;
            host.final_receipt(&tenant.read, &receipt).await?;
        }
    }
    let work = async |client: &tests::Client, query: &str| {
        let path = format!("/api/v1/usage/graphs{query}");
        anyhow::Ok(client.pages(&path, 1).await?.0)
    };
    let calls = work(
        &one.read,
        "?deployment=tabular&group_by=tenant,deployment,graph,hour",
    )
    .await?;
    let graph = calls[0]["graph"].as_str().context("a graph")?;
    let versions = one
        .read
        .get("/api/v1/graphs/tabular/versions")
        .await?
        .expect(200)?;
    assert_eq!(versions["items"][0]["version"], graph);
    assert_eq!(
        (&calls[0]["tenant"], &calls[0]["deployment"]),
        (&json!(one.id), &json!("tabular"))
    );
    // Golden checks of the deployment are runs too, of more rows or fewer.
    let (runs, cpu_ns) = (total(&calls, "runs"), total(&calls, "cpu_ns"));
    let usage = sums(&one.read, "").await?;
    assert!(runs >= 2 && total(&calls, "rows") >= 4, "{calls:?}");
    assert_eq!(cpu_ns, total(&usage, "model_ns"));
    for query in [
        "".to_owned(),
        "?group_by=day".to_owned(),
        format!("?graph={graph}&group_by=graph,month"),
        "?from=2026-01-01T00:00:00Z".to_owned(),
    ] {
        let again = work(&one.read, &query).await?;
        assert_eq!(
            (total(&again, "runs"), total(&again, "cpu_ns")),
            (runs, cpu_ns),
            "{query}"
        );
    }
    assert_eq!(
        work(&one.read, &format!("?graph=sha256:{}", "0".repeat(64))).await?,
        [] as [Value; 0]
    );
    let billing = host.key("billing", None).await?;
    let all = work(&billing, "?group_by=tenant").await?;
    assert_eq!(all.len(), 2);
    let foreign = two
        .read
        .get(&format!("/api/v1/usage/graphs?tenant={}", one.id))
        .await?;
    problem(&foreign, 422, "invalid_field")?;
    host.finish().await
}
