//! `wattle billing`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use domain::billing::{Currency, Month, Rate};
use domain::{Digest, Name, NodeId, TenantId};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::client::Client;
use super::output::{self, Column, Style};
use super::spec;

/// What to ask or to do about money.
#[derive(Subcommand, Debug)]
pub enum BillingCommand {
    /// Price plans: a tenant's key sees its own and those of everyone.
    Plans {
        /// Only those of this tenant and those of everyone.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Make a price plan; needs an admin key. A change of prices is a further plan.
    Plan(PlanArgs),
    /// Nodes, and how far each has drained into the ledger.
    Nodes,
    /// Declare lost a node that will not drain, so that it holds up no month; needs an admin key.
    Lose {
        /// Its id.
        node: NodeId,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Closed months.
    Periods,
    /// Close a month for good and draw up its statements; needs an admin or billing key.
    Close {
        /// The month, such as 2027-01.
        month: Month,
    },
    /// Correct what a posting moved to a tenant; needs an admin key.
    Correct(CorrectArgs),
    /// Corrections; a tenant's key sees its own.
    Corrections {
        /// Only those of this tenant.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Statements of closed months; a tenant's key sees its own.
    Statements {
        /// Only those of this month.
        #[arg(long)]
        month: Option<Month>,
        /// Only those of this tenant.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// A statement; with --json its bytes as they are kept.
    Statement {
        /// The month.
        month: Month,
        /// Whose; left out with a tenant's key.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Charges for a billing system, as JSON: ask again with the `next` of the page before.
    Pull {
        /// The `next` of the page before.
        #[arg(long, value_name = "NEXT")]
        after: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = 500)]
        limit: u32,
    },
    /// Write a closed month's charges in the columns of FOCUS.
    Export(ExportArgs),
}

/// What use costs.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Since when it holds, such as 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    from: OffsetDateTime,
    /// In which currency, such as EUR.
    #[arg(long)]
    currency: Currency,
    /// For a kWh.
    #[arg(long, default_value = "0")]
    per_kwh: Rate,
    /// For 1,000,000,000 units of fuel.
    #[arg(long, default_value = "0")]
    per_gigafuel: Rate,
    /// For a GB·s of memory.
    #[arg(long, default_value = "0")]
    per_gb_second: Rate,
    /// For 1,000,000 tokens.
    #[arg(long, default_value = "0")]
    per_megatoken: Rate,
    /// For a call.
    #[arg(long, default_value = "0")]
    per_call: Rate,
    /// For a month.
    #[arg(long, default_value = "0")]
    per_month: Rate,
    /// Whose; every tenant's without one of its own, where it is left out.
    #[arg(long)]
    tenant: Option<TenantId>,
}

/// What to correct.
#[derive(Args, Debug)]
pub struct CorrectArgs {
    /// Whose use.
    #[arg(long)]
    tenant: TenantId,
    /// Of which deployment; left out for what belongs to none.
    #[arg(long)]
    deployment: Option<Name>,
    /// uj or fuel.
    #[arg(long, default_value = "uj")]
    unit: String,
    /// How much is added, or taken off where it is below 0.
    #[arg(long, allow_negative_numbers = true)]
    amount: i64,
    /// The hash of the posting that it corrects: see `wattle ledger windows --json`.
    #[arg(long)]
    cites: Digest,
    /// Why.
    #[arg(long)]
    reason: String,
}

/// What to write, and where.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The month.
    month: Month,
    /// csv or parquet.
    #[arg(long, default_value = "csv")]
    format: String,
    /// Only this tenant's.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Into which file; to standard output unless said.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// Does it.
pub async fn run(command: BillingCommand, client: &Client, json: bool) -> anyhow::Result<()> {
    match command {
        BillingCommand::Plans { tenant } => plans(tenant, client, json).await,
        BillingCommand::Plan(args) => plan(args, client, json).await,
        BillingCommand::Nodes => nodes(client, json).await,
        BillingCommand::Lose { node, reason } => {
            let path = format!("/api/v1/nodes/{node}/lost");
            let lost = client.post(&path, &json!({ "reason": reason })).await?;
            done(&lost, format_args!("node {node} is lost"), json)
        }
        BillingCommand::Periods => periods(client, json).await,
        BillingCommand::Close { month } => {
            let path = format!("/api/v1/ledger/periods/{month}/close");
            let closed = client.post(&path, &json!({})).await?;
            let said = format_args!("{month} is closed with {} statements", closed["statements"]).to_string();
            done(&closed, said, json)
        }
        BillingCommand::Correct(args) => correct(args, client, json).await,
        BillingCommand::Corrections { tenant } => corrections(tenant, client, json).await,
        BillingCommand::Statements { month, tenant } => statements(month, tenant, client, json).await,
        BillingCommand::Statement { month, tenant } => statement(month, tenant, client, json).await,
        BillingCommand::Pull { after, limit } => {
            let query = [("cursor", after), ("limit", Some(limit.to_string()))];
            output::say_json(&client.ask("/api/v1/ledger/charges", &query).await?)
        }
        BillingCommand::Export(args) => export(args, client).await,
    }
}

fn done(answer: &Value, said: impl std::fmt::Display, json: bool) -> anyhow::Result<()> {
    match json {
        true => output::say_json(answer),
        false => Ok(output::say(said)?),
    }
}

fn of(tenant: Option<TenantId>) -> (&'static str, Option<String>) {
    ("tenant", tenant.map(|tenant| tenant.to_string()))
}

async fn plans(tenant: Option<TenantId>, client: &Client, json: bool) -> anyhow::Result<()> {
    let plans = client.filtered("/api/v1/plans", &[of(tenant)], None).await?;
    let columns = [
        Column("plan", "/id", Style::Number),
        Column("tenant", "/tenant", Style::Text),
        Column("from (UTC)", "/from", Style::Instant),
        Column("currency", "/currency", Style::Text),
        Column("kWh", "/per_kwh", Style::Text),
        Column("10⁹ fuel", "/per_gigafuel", Style::Text),
        Column("GB·s", "/per_gb_second", Style::Text),
        Column("10⁶ tokens", "/per_megatoken", Style::Text),
        Column("call", "/per_call", Style::Text),
        Column("month", "/per_month", Style::Text),
    ];
    output::list(&plans, &columns, json)
}

async fn plan(args: PlanArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let body = json!({
        "tenant": args.tenant, "from": spec::rfc3339(args.from)?, "currency": args.currency,
        "per_kwh": args.per_kwh, "per_gigafuel": args.per_gigafuel, "per_gb_second": args.per_gb_second,
        "per_megatoken": args.per_megatoken, "per_call": args.per_call, "per_month": args.per_month,
    });
    let plan = client.post("/api/v1/plans", &body).await?;
    let said = format!("plan {} holds from {}", plan["id"], spec::rfc3339(args.from)?);
    done(&plan, said, json)
}

async fn nodes(client: &Client, json: bool) -> anyhow::Result<()> {
    let nodes = client.list("/api/v1/nodes", None).await?;
    let columns = [
        Column("name", "/name", Style::Text),
        Column("id", "/id", Style::Text),
        Column("drained to (UTC)", "/drained_to", Style::Instant),
        Column("posted (UTC)", "/posted_at", Style::Instant),
        Column("lost (UTC)", "/lost_at", Style::Instant),
        Column("why", "/lost_reason", Style::Text),
    ];
    output::list(&nodes, &columns, json)
}

async fn periods(client: &Client, json: bool) -> anyhow::Result<()> {
    let periods = client.list("/api/v1/ledger/periods", None).await?;
    let columns = [
        Column("month", "/month", Style::Text),
        Column("closed (UTC)", "/closed_at", Style::Instant),
        Column("statements", "/statements", Style::Number),
        Column("postings", "/postings_digest", Style::Text),
    ];
    output::list(&periods, &columns, json)
}

async fn correct(args: CorrectArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let body = json!({
        "tenant": args.tenant, "deployment": args.deployment, "unit": args.unit, "amount": args.amount,
        "cites": args.cites, "reason": args.reason,
    });
    let kept = client.post("/api/v1/ledger/corrections", &body).await?;
    let id = kept["id"].as_str().unwrap_or_default();
    done(
        &kept,
        format_args!("correction {id} will be in the ledger in a moment"),
        json,
    )
}

async fn corrections(tenant: Option<TenantId>, client: &Client, json: bool) -> anyhow::Result<()> {
    let path = "/api/v1/ledger/corrections";
    let corrections = client.filtered(path, &[of(tenant)], None).await?;
    let columns = [
        Column("at (UTC)", "/at", Style::Instant),
        Column("tenant", "/tenant", Style::Text),
        Column("deployment", "/deployment", Style::Text),
        Column("amount", "/amount", Style::Number),
        Column("unit", "/unit", Style::Text),
        Column("posted (UTC)", "/posted_at", Style::Instant),
        Column("why", "/reason", Style::Text),
    ];
    output::list(&corrections, &columns, json)
}

async fn statements(
    month: Option<Month>,
    tenant: Option<TenantId>,
    client: &Client,
    json: bool,
) -> anyhow::Result<()> {
    let filters = [("month", month.map(|month| month.to_string())), of(tenant)];
    let statements = client
        .filtered("/api/v1/ledger/statements", &filters, None)
        .await?;
    let columns = [
        Column("month", "/month", Style::Text),
        Column("tenant", "/tenant", Style::Text),
        Column("digest", "/digest", Style::Text),
    ];
    output::list(&statements, &columns, json)
}

async fn statement(
    month: Month,
    tenant: Option<TenantId>,
    client: &Client,
    json: bool,
) -> anyhow::Result<()> {
    let path = format!("/api/v1/ledger/statements/{month}");
    let bytes = client.fetch(&path, &[of(tenant)]).await?;
    if json {
        return Ok(output::write_all(&bytes)?);
    }
    let mut statement: Value = serde_json::from_slice(&bytes).context("the statement is no JSON")?;
    let lines = statement["lines"].take();
    let columns = [
        Column("of", "/month", Style::Text),
        Column("class", "/class", Style::Text),
        Column("deployment", "/deployment", Style::Text),
        Column("item", "/item", Style::Text),
        Column("quantity", "/priced_quantity", Style::Text),
        Column("unit", "/priced_unit", Style::Text),
        Column("rate", "/rate", Style::Text),
        Column("amount", "/amount", Style::Text),
        Column("", "/currency", Style::Text),
    ];
    output::list(lines.as_array().map_or(&[][..], Vec::as_slice), &columns, false)?;
    for total in statement["totals"].as_array().into_iter().flatten() {
        let text = |name: &str| total[name].as_str().unwrap_or_default().to_owned();
        output::say(format_args!("total {} {}", text("amount"), text("currency")))?;
    }
    Ok(())
}

async fn export(args: ExportArgs, client: &Client) -> anyhow::Result<()> {
    let path = format!("/api/v1/ledger/periods/{}/export", args.month);
    let bytes = client
        .fetch(&path, &[("format", Some(args.format)), of(args.tenant)])
        .await?;
    output::keep(&bytes, args.output.as_deref()).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn parsed(arguments: &[&str]) -> Option<BillingCommand> {
        let arguments = ["wattle", "billing"].iter().chain(arguments);
        match Cli::try_parse_from(arguments).ok()?.command {
            Command::Billing(command) => Some(command),
            _ => None,
        }
    }

    #[test]
    fn amounts_below_zero_are_no_flags() {
        let id = "00000000-0000-7000-8000-000000000000";
        let hash = Digest::ZERO.to_string();
        let arguments = [
            "correct", "--tenant", id, "--amount", "-5", "--cites", &hash, "--reason", "why",
        ];
        assert!(matches!(parsed(&arguments), Some(BillingCommand::Correct(args)) if args.amount == -5));
    }

    #[test]
    fn prices_and_months_are_read_before_anything_is_sent() {
        let plan = |price| {
            [
                "plan",
                "--from",
                "2027-01-01T00:00:00Z",
                "--currency",
                "EUR",
                "--per-kwh",
                price,
            ]
        };
        assert!(matches!(parsed(&plan("0.31")), Some(BillingCommand::Plan(_))));
        assert!(parsed(&plan("0,31")).is_none());
        assert!(parsed(&["close", "2027-13"]).is_none());
        assert!(parsed(&["close", "2027-12"]).is_some());
    }
}
