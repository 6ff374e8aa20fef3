//! `wattle receipt`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use domain::{InvocationId, Name, Outcome};
use time::OffsetDateTime;

use super::api::{Receipt, Work};
use super::client::{Client, typed};
use super::output::{self, Column, Style, bytes, energy, grouped, millis, say};
use super::{Common, proof, spec};

/// Shows one receipt, lists the latest or proves one; all but `verify` need a key of the tenant.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct ReceiptArgs {
    /// The receipt's id: the reply to a call carries it as `wattle-receipt`.
    id: Option<InvocationId>,
    #[command(subcommand)]
    command: Option<ReceiptCommand>,
}

#[derive(Subcommand, Debug)]
enum ReceiptCommand {
    /// The tenant's receipts, latest first.
    #[command(visible_alias = "ls")]
    List {
        /// How many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        which: Which,
    },
    /// Write a receipt's proof, once a checkpoint covers it.
    Proof(proof::ProofArgs),
    /// Verify a proof offline; exits with 1 and names the first thing that does not fit.
    ///
    /// --key is not a bearer key here but who signed: `ed25519:<64 hex digits>`, several with commas between, or a
    /// file that names them, such as what `wattle ledger keys` wrote.
    Verify(proof::VerifyArgs),
}

/// Which receipts.
#[derive(Args, Debug, Default)]
struct Which {
    /// Only this deployment's.
    #[arg(long)]
    deployment: Option<Name>,
    /// Only calls of this kind: infer, publish or deploy.
    #[arg(long)]
    kind: Option<String>,
    /// Only calls that ended so, such as ok or trapped.
    #[arg(long)]
    outcome: Option<Outcome>,
    /// Only calls from then on, such as 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    from: Option<OffsetDateTime>,
    /// Only calls before.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    to: Option<OffsetDateTime>,
}

/// Does it.
pub async fn run(args: ReceiptArgs, client: &Client, common: &Common) -> anyhow::Result<ExitCode> {
    let json = common.json;
    match (args.command, args.id) {
        (Some(ReceiptCommand::Verify(args)), _) => return proof::verify(&args, common.key.as_ref(), json),
        (Some(ReceiptCommand::Proof(args)), _) => proof::bring(&args, client).await?,
        (Some(ReceiptCommand::List { limit, which }), _) => list(client, limit, which, json).await?,
        (None, Some(id)) => one(client, id, json).await?,
        (None, None) => list(client, 20, Which::default(), json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn one(client: &Client, id: InvocationId, json: bool) -> anyhow::Result<()> {
    let path = format!("/api/v1/receipts/{id}");
    let value = client.get(&path).await?;
    if json {
        return output::say_json(&value);
    }
    show(&typed(&path, value)?)
}

async fn list(client: &Client, limit: usize, which: Which, json: bool) -> anyhow::Result<()> {
    let filters = [
        ("deployment", which.deployment.map(|name| name.to_string())),
        ("kind", which.kind),
        (
            "outcome",
            which.outcome.map(|outcome| outcome.as_str().to_owned()),
        ),
        ("from", which.from.map(spec::rfc3339).transpose()?),
        ("to", which.to.map(spec::rfc3339).transpose()?),
    ];
    let receipts = client.filtered("/api/v1/receipts", &filters, Some(limit)).await?;
    let columns = [
        Column("receipt", "/id", Style::Text),
        Column("kind", "/kind", Style::Text),
        Column("deployment", "/deployment", Style::Text),
        Column("outcome", "/outcome", Style::Text),
        Column("fuel", "/fuel", Style::Number),
        Column("CPU ms", "/cpu_ns", Style::Millis),
        Column("model ms", "/model_ns", Style::Millis),
        Column("energy", "/energy_uj", Style::Energy),
        Column("state", "/state", Style::Text),
    ];
    output::list(&receipts, &columns, json)
}

fn show(receipt: &Receipt) -> anyhow::Result<()> {
    output::facts(&facts(receipt))?;
    if !receipt.lines.is_empty() {
        say(lines(receipt).trim_fmt())?;
    }
    Ok(())
}

fn facts(receipt: &Receipt) -> Vec<(&'static str, String)> {
    let mut what = receipt.kind.clone();
    if let (Some(deployment), Some(release)) = (&receipt.deployment, receipt.release) {
        what = format!("{what} of {deployment}, release {release}");
    }
    let joules = match (receipt.energy_uj, receipt.provisional_energy_uj) {
        (Some(uj), _) => energy(uj),
        (None, Some(uj)) => format!("{}, provisional", energy(uj)),
        (None, None) => "not known yet".to_owned(),
    };
    let schedule = receipt
        .fuel_schedule
        .map(|version| format!(" (schedule {version})"));
    let optional = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), bytes);
    let mut facts = vec![
        ("receipt", format!("{} ({})", receipt.id, receipt.state)),
        ("what", what),
        (
            "outcome",
            receipt.outcome.clone().unwrap_or_else(|| "running".to_owned()),
        ),
        (
            "started",
            receipt.started_at.clone().unwrap_or_else(|| "–".to_owned()),
        ),
        ("energy", joules),
        (
            "fuel",
            format!("{}{}", grouped(receipt.fuel), schedule.unwrap_or_default()),
        ),
        ("guest CPU", format!("{} ms", millis(receipt.cpu_ns))),
        ("model CPU", format!("{} ms", millis(receipt.model_ns))),
        (
            "bytes",
            format!(
                "{} in, {} out",
                optional(receipt.bytes_in),
                optional(receipt.bytes_out)
            ),
        ),
        (
            "memory",
            format!("{} at most", optional(receipt.peak_memory_bytes)),
        ),
    ];
    if receipt.is_final() {
        let proven = receipt.checkpoint.map_or_else(
            || "not yet".to_owned(),
            |number| format!("by checkpoint {number}"),
        );
        facts.push(("proven", proven));
    }
    facts.extend(receipt.work.iter().map(|work| ("work", work_done(work))));
    facts
}

fn work_done(work: &Work) -> String {
    let tokens = match work.tokens {
        0 => String::new(),
        tokens => format!(" {} token(s),", grouped(tokens)),
    };
    format!(
        "{} by {} on {}, {}: {} run(s), {} row(s),{tokens} {} ms",
        output::short_digest(&work.graph),
        work.backend,
        work.device,
        work.precision,
        work.runs,
        work.rows,
        millis(work.cpu_ns)
    )
}

/// The receipt's parts by window.
fn lines(receipt: &Receipt) -> comfy_table::Table {
    let headings = ["window", "from", "to", "fuel", "CPU ms", "model ms", "energy"];
    let mut table = output::table(&headings, &[0, 3, 4, 5, 6]);
    for line in &receipt.lines {
        table.add_row([
            line.posting.seq.to_string(),
            line.from.clone(),
            line.to.clone(),
            grouped(line.fuel),
            millis(line.cpu_ns),
            millis(line.model_ns),
            line.energy_uj.map_or_else(|| "–".to_owned(), energy),
        ]);
    }
    table
}
