//! `wattle carbon`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use domain::carbon::{Factor, Zone};
use domain::{Name, TenantId};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::client::Client;
use super::error::usage;
use super::output::{self, Column, Style};
use super::spec;

/// What to ask or to say about carbon and water.
#[derive(Subcommand, Debug)]
pub enum CarbonCommand {
    /// What use was worth; the key of an admin, of billing or of an auditor sees everyone's, a tenant's its own.
    Usage(UsageArgs),
    /// What whole days were worth, as it was valued after they had ended.
    Valuations(ValuationsArgs),
    /// Carbon intensities, by when they became known; needs an admin, billing or auditor key.
    Factors(FactorsArgs),
    /// Bring factors of one's own, or revise those that are there; needs an admin or billing key.
    Bring {
        /// CSV with the columns zone, signal, method, from, to, g_per_kwh, source, version and is_estimated.
        file: PathBuf,
    },
}

/// Which use.
#[derive(Args, Debug)]
pub struct UsageArgs {
    /// What to sum up by: tenant, deployment, and one of hour, day and month, with commas between.
    #[arg(long, value_name = "WHAT", default_value = "deployment,day")]
    by: String,
    /// Only from this hour on, such as 2027-01-31T13:00:00Z [default: this month].
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    from: Option<OffsetDateTime>,
    /// Only before this hour.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    to: Option<OffsetDateTime>,
    /// By what was known at this instant [default: now].
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    as_of: Option<OffsetDateTime>,
    /// Only this tenant's.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Only this deployment's.
    #[arg(long)]
    deployment: Option<Name>,
}

/// Which valuations.
#[derive(Args, Debug)]
pub struct ValuationsArgs {
    /// Only of days that begin then or later.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    from: Option<OffsetDateTime>,
    /// Only of days that begin before this.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    to: Option<OffsetDateTime>,
    /// The newest of each day as of this instant.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    as_of: Option<OffsetDateTime>,
    /// Only this tenant's.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Only this deployment's.
    #[arg(long)]
    deployment: Option<Name>,
}

/// Which factors.
#[derive(Args, Debug)]
pub struct FactorsArgs {
    /// Only those of this zone.
    #[arg(long)]
    zone: Option<Zone>,
    /// Only those of this signal: average or marginal.
    #[arg(long)]
    signal: Option<String>,
    /// Only those of this method: location or market.
    #[arg(long)]
    method: Option<String>,
    /// Only those that hold at this instant.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    at: Option<OffsetDateTime>,
    /// Only those that were known at this instant.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    as_of: Option<OffsetDateTime>,
}

/// The columns that say what something was worth.
const WORTH: [Column; 6] = [
    Column("energy", "/energy_uj", Style::Energy),
    Column("CO₂e (location)", "/location/carbon_ug", Style::Mass),
    Column("CO₂e (market)", "/market/carbon_ug", Style::Mass),
    Column("CO₂e (marginal)", "/marginal/carbon_ug", Style::Mass),
    Column("embodied", "/embodied/mid_ug", Style::Mass),
    Column("water", "/water/water_ul", Style::Volume),
];

/// Does it.
pub async fn run(command: CarbonCommand, client: &Client, json: bool) -> anyhow::Result<()> {
    match command {
        CarbonCommand::Usage(args) => worth_of_use(args, client, json).await,
        CarbonCommand::Valuations(args) => valuations(args, client, json).await,
        CarbonCommand::Factors(args) => factors(args, client, json).await,
        CarbonCommand::Bring { file } => bring(&file, client, json).await,
    }
}

async fn worth_of_use(args: UsageArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let mut columns = Vec::new();
    for word in args.by.split(',') {
        columns.push(match word {
            "tenant" => Column("tenant", "/tenant", Style::Text),
            "deployment" => Column("deployment", "/deployment", Style::Text),
            _ => Column("from (UTC)", "/from", Style::Instant),
        });
    }
    let query = [
        ("group_by", Some(args.by)),
        ("from", args.from.map(spec::rfc3339).transpose()?),
        ("to", args.to.map(spec::rfc3339).transpose()?),
        ("as_of", args.as_of.map(spec::rfc3339).transpose()?),
        ("tenant", args.tenant.map(|tenant| tenant.to_string())),
        ("deployment", args.deployment.map(|name| name.to_string())),
    ];
    let mut answer = client.ask("/api/v1/carbon", &query).await?;
    if json {
        return output::say_json(&answer);
    }
    let mut items = answer["items"].take();
    let items = items.as_array_mut().map(std::mem::take).unwrap_or_default();
    show(items, columns)
}

async fn valuations(args: ValuationsArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let query = [
        ("from", args.from.map(spec::rfc3339).transpose()?),
        ("to", args.to.map(spec::rfc3339).transpose()?),
        ("as_of", args.as_of.map(spec::rfc3339).transpose()?),
        ("tenant", args.tenant.map(|tenant| tenant.to_string())),
        ("deployment", args.deployment.map(|name| name.to_string())),
    ];
    let items = client.filtered("/api/v1/ledger/valuations", &query, None).await?;
    if json {
        return output::list(&items, &[], true);
    }
    let columns = vec![
        Column("day (UTC)", "/day", Style::Instant),
        Column("tenant", "/tenant", Style::Text),
        Column("deployment", "/deployment", Style::Text),
        Column("as of (UTC)", "/as_of", Style::Instant),
    ];
    show(items, columns)
}

/// A table of what something was worth, with how much of it is known.
fn show(mut items: Vec<Value>, mut columns: Vec<Column>) -> anyhow::Result<()> {
    for item in &mut items {
        item["known"] = json!(known(item));
    }
    columns.extend(WORTH);
    columns.push(Column("known", "/known", Style::Text));
    output::list(&items, &columns, false)
}

/// How much of the energy the location-based figure speaks of, in words.
fn known(item: &Value) -> String {
    let of = |pointer: &str| item.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let (energy, covered, estimated) = (
        of("/energy_uj"),
        of("/location/covered_uj"),
        of("/location/estimated_uj"),
    );
    // In steps of a hundredth, rounded down: only all is 100 %.
    let percent = |part: u64| u128::from(part) * 100 / u128::from(energy.max(1));
    match (covered, estimated) {
        (0, _) => "nothing".to_owned(),
        (_, 0) => format!("{} %", percent(covered)),
        _ => format!("{} %, {} % estimated", percent(covered), percent(estimated)),
    }
}

async fn factors(args: FactorsArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let query = [
        ("zone", args.zone.map(String::from)),
        ("signal", args.signal),
        ("method", args.method),
        ("at", args.at.map(spec::rfc3339).transpose()?),
        ("as_of", args.as_of.map(spec::rfc3339).transpose()?),
    ];
    let items = client.filtered("/api/v1/ledger/factors", &query, None).await?;
    let columns = [
        Column("zone", "/zone", Style::Text),
        Column("signal", "/signal", Style::Text),
        Column("method", "/method", Style::Text),
        Column("from (UTC)", "/from", Style::Instant),
        Column("to (UTC)", "/to", Style::Instant),
        Column("mg/kWh", "/mg_per_kwh", Style::Number),
        Column("source", "/source", Style::Text),
        Column("version", "/version", Style::Text),
        Column("estimated", "/is_estimated", Style::Text),
        Column("known since (UTC)", "/known_at", Style::Instant),
    ];
    output::list(&items, &columns, json)
}

/// Sends the rows of a file, all of which must be right before the first is sent.
async fn bring(file: &std::path::Path, client: &Client, json: bool) -> anyhow::Result<()> {
    let text = tokio::fs::read_to_string(file).await;
    let text = text.map_err(|cause| usage(format!("{}: {cause}", file.display())))?;
    let factors = ::carbon::parse(&text).map_err(|rows| {
        let lines: Vec<_> = rows.iter().map(ToString::to_string).collect();
        usage(format!("{}: {}", file.display(), lines.join("\n")))
    })?;
    let mut kept = Vec::new();
    for (sent, factor) in factors.iter().enumerate() {
        let known = client.post("/api/v1/ledger/factors", &body(factor)?).await;
        kept.push(known.with_context(|| format!("{sent} of {} factors were sent before", factors.len()))?);
    }
    if json {
        return output::say_json(&json!({ "items": kept }));
    }
    Ok(output::say(format_args!("{} factors are known now", kept.len()))?)
}

fn body(factor: &Factor) -> anyhow::Result<Value> {
    let (signal, method, fact) = factor.parts();
    Ok(json!({
        "zone": fact.zone, "signal": signal, "method": method, "from": spec::rfc3339(fact.from)?,
        "to": spec::rfc3339(fact.to)?, "mg_per_kwh": fact.intensity, "source": fact.source, "version": fact.version,
        "is_estimated": fact.is_estimated,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_said_and_only_all_is_all() {
        for (energy, covered, estimated, said) in [
            (100, 0, 0, "nothing"),
            (100, 100, 0, "100 %"),
            (1_000, 999, 0, "99 %"),
            (100, 100, 50, "100 %, 50 % estimated"),
            (0, 0, 0, "nothing"),
        ] {
            let location = json!({ "covered_uj": covered, "estimated_uj": estimated });
            assert_eq!(known(&json!({ "energy_uj": energy, "location": location })), said);
        }
    }
}
