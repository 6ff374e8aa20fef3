//! `wattle usage`

use clap::Args;
use domain::{Name, TenantId};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::client::Client;
use super::output::{self, Column, Style};
use super::spec;

/// Sums up what was used; the key of an admin, of billing or of an auditor sees everyone's, a tenant's its own.
#[derive(Args, Debug)]
pub struct UsageArgs {
    /// What to sum up by: tenant, deployment, kind, and one of hour, day and month, with commas between.
    #[arg(long, value_name = "WHAT", default_value = "deployment,day")]
    by: String,
    /// Only from this hour on, such as 2027-01-31T13:00:00Z.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    from: Option<OffsetDateTime>,
    /// Only before this hour.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    to: Option<OffsetDateTime>,
    /// Only this tenant's.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Only this deployment's.
    #[arg(long)]
    deployment: Option<Name>,
    /// Only calls of this kind: infer, publish or deploy.
    #[arg(long)]
    kind: Option<String>,
}

/// Does it.
pub async fn run(args: UsageArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let by = args.by.clone();
    let filters = [
        ("group_by", Some(args.by)),
        ("from", args.from.map(spec::rfc3339).transpose()?),
        ("to", args.to.map(spec::rfc3339).transpose()?),
        ("tenant", args.tenant.map(|tenant| tenant.to_string())),
        ("deployment", args.deployment.map(|name| name.to_string())),
        ("kind", args.kind),
    ];
    let mut sums = client.filtered("/api/v1/usage", &filters, None).await?;
    if !json {
        for sum in &mut sums {
            sum["ended"] = json!(outcomes(&sum["calls"]));
        }
    }
    let mut columns = Vec::new();
    for word in by.split(',') {
        columns.push(match word {
            "tenant" => Column("tenant", "/tenant", Style::Text),
            "deployment" => Column("deployment", "/deployment", Style::Text),
            "kind" => Column("kind", "/kind", Style::Text),
            _ => Column("from (UTC)", "/from", Style::Instant),
        });
    }
    columns.extend([
        Column("calls", "/ended", Style::Text),
        Column("fuel", "/fuel", Style::Number),
        Column("CPU ms", "/cpu_ns", Style::Millis),
        Column("model ms", "/model_ns", Style::Millis),
        Column("in", "/bytes_in", Style::Bytes),
        Column("out", "/bytes_out", Style::Bytes),
        Column("energy", "/energy_uj", Style::Energy),
        Column("unmetered", "/lines_unmetered", Style::Number),
    ]);
    output::list(&sums, &columns, json)
}

/// Calls by outcome in words, such as `12 ok, 1 trapped`.
fn outcomes(calls: &Value) -> String {
    let calls = calls.as_object().into_iter().flatten();
    let calls: Vec<_> = calls
        .map(|(outcome, count)| format!("{count} {outcome}"))
        .collect();
    calls.join(", ")
}
