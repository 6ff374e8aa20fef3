//! `wattle usage`

use clap::Args;
use domain::{Digest, Name, TenantId};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::client::Client;
use super::output::{self, Column, Style};
use super::spec;

/// Sums up what was used; the key of an admin, of billing or of an auditor sees everyone's, a tenant's its own.
#[derive(Args, Debug)]
pub struct UsageArgs {
    /// What to sum up by: tenant, deployment, kind, and one of hour, day and month, with commas between. With graph in
    /// place of kind it is the work of models.
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
    /// Only the work of the graph with this digest.
    #[arg(long, conflicts_with = "kind")]
    graph: Option<Digest>,
}

/// Does it.
pub async fn run(args: UsageArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let by = args.by.clone();
    let of_graphs = args.graph.is_some() || by.split(',').any(|word| word == "graph");
    let filters = [
        ("group_by", Some(args.by)),
        ("from", args.from.map(spec::rfc3339).transpose()?),
        ("to", args.to.map(spec::rfc3339).transpose()?),
        ("tenant", args.tenant.map(|tenant| tenant.to_string())),
        ("deployment", args.deployment.map(|name| name.to_string())),
        ("kind", args.kind),
        ("graph", args.graph.map(|graph| graph.to_string())),
    ];
    let path = if of_graphs {
        "/api/v1/usage/graphs"
    } else {
        "/api/v1/usage"
    };
    let mut sums = client.filtered(path, &filters, None).await?;
    if !json && !of_graphs {
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
            "graph" => Column("graph", "/graph", Style::Text),
            _ => Column("from (UTC)", "/from", Style::Instant),
        });
    }
    columns.extend_from_slice(if of_graphs { &OF_GRAPHS[..] } else { &OF_CALLS });
    output::list(&sums, &columns, json)
}

const OF_CALLS: [Column; 8] = [
    Column("calls", "/ended", Style::Text),
    Column("fuel", "/fuel", Style::Number),
    Column("CPU ms", "/cpu_ns", Style::Millis),
    Column("model ms", "/model_ns", Style::Millis),
    Column("in", "/bytes_in", Style::Bytes),
    Column("out", "/bytes_out", Style::Bytes),
    Column("energy", "/energy_uj", Style::Energy),
    Column("unmetered", "/lines_unmetered", Style::Number),
];

const OF_GRAPHS: [Column; 4] = [
    Column("runs", "/runs", Style::Number),
    Column("rows", "/rows", Style::Number),
    Column("tokens", "/tokens", Style::Number),
    Column("model ms", "/cpu_ns", Style::Millis),
];

/// Calls by outcome in words, such as `12 ok, 1 trapped`.
fn outcomes(calls: &Value) -> String {
    let calls = calls.as_object().into_iter().flatten();
    let calls: Vec<_> = calls
        .map(|(outcome, count)| format!("{count} {outcome}"))
        .collect();
    calls.join(", ")
}
