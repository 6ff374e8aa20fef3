//! `wattle ledger`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::api::{LedgerCheck, TenantCheck};
use super::client::{Client, typed};
use super::output::{self, Column, Style, energy, grouped, say};
use super::verify;

/// What to ask of the ledger; needs an admin, billing or auditor key.
#[derive(Subcommand, Debug)]
pub enum LedgerCommand {
    /// What each account holds.
    Balance,
    /// The sealed windows and other postings, latest first.
    Windows {
        /// How many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Whether the books balance against the meters; exits with 1 if they do not.
    Check,
    /// Recompute everything; exits with 1 and names the first row that does not fit.
    Verify(verify::VerifyArgs),
    /// The signed checkpoints, the first first.
    Checkpoints {
        /// How many.
        #[arg(long)]
        limit: Option<usize>,
    },
    /// The files of receipt lines that left the database, the first first.
    Archives {
        /// How many.
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Have the host archive receipt lines that are older than its limit now; needs an admin key.
    Archive,
    /// The public keys that sign checkpoints, and those that did; any key may ask.
    Keys,
    /// Have the host sign with a fresh key from now on; needs an admin key.
    RotateKey,
}

/// Does it.
pub async fn run(command: LedgerCommand, client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        LedgerCommand::Balance => {
            let balances = client.list("/api/v1/ledger/balances", None).await?;
            let columns = [
                Column("account", "/account", Style::Text),
                Column("unit", "/unit", Style::Text),
                Column("amount", "/amount", Style::Number),
            ];
            output::list(&balances, &columns, json)?;
            Ok(ExitCode::SUCCESS)
        }
        LedgerCommand::Windows { limit } => {
            let windows = client.list("/api/v1/ledger/windows", Some(limit)).await?;
            let columns = [
                Column("number", "/seq", Style::Number),
                Column("kind", "/kind", Style::Text),
                Column("from (UTC)", "/from", Style::Instant),
                Column("to (UTC)", "/to", Style::Instant),
                Column("energy", "/energy_uj", Style::Energy),
                Column("hash", "/hash", Style::Text),
            ];
            output::list(&windows, &columns, json)?;
            Ok(ExitCode::SUCCESS)
        }
        LedgerCommand::Verify(args) => verify::run(&args, client, json).await,
        LedgerCommand::Checkpoints { limit } => checkpoints(client, limit, json).await,
        LedgerCommand::Archives { limit } => archives(client, limit, json).await,
        LedgerCommand::Archive => archive(client, json).await,
        LedgerCommand::Keys => keys(client, json).await,
        LedgerCommand::RotateKey => rotate_key(client, json).await,
        LedgerCommand::Check => {
            let path = "/api/v1/ledger/check";
            let value = client.get(path).await?;
            let check: LedgerCheck = typed(path, value.clone())?;
            if json {
                output::say_json(&value)?;
            } else {
                meters(&check)?;
                tenants(&check)?;
                say(format_args!("{}", verdict(&check)))?;
            }
            Ok(if faults(&check).is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

async fn checkpoints(client: &Client, limit: Option<usize>, json: bool) -> anyhow::Result<ExitCode> {
    let checkpoints = client.list("/api/v1/ledger/checkpoints", limit).await?;
    let columns = [
        Column("number", "/signed/checkpoint/number", Style::Number),
        Column("made (UTC)", "/signed/checkpoint/at", Style::Instant),
        Column("postings", "/signed/checkpoint/postings", Style::Number),
        Column("hash", "/hash", Style::Text),
    ];
    output::list(&checkpoints, &columns, json)?;
    Ok(ExitCode::SUCCESS)
}

async fn archives(client: &Client, limit: Option<usize>, json: bool) -> anyhow::Result<ExitCode> {
    let archives = client.list("/api/v1/ledger/archives", limit).await?;
    let columns = [
        Column("archive", "/archive", Style::Number),
        Column("from (UTC)", "/from", Style::Instant),
        Column("to (UTC)", "/to", Style::Instant),
        Column("postings", "/postings", Style::Number),
        Column("lines", "/lines", Style::Number),
        Column("bytes", "/bytes", Style::Number),
        Column("left (UTC)", "/dropped_at", Style::Instant),
        Column("digest", "/digest", Style::Text),
    ];
    output::list(&archives, &columns, json)?;
    Ok(ExitCode::SUCCESS)
}

async fn archive(client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let archived = client.post("/api/v1/ledger/archives", &json!({})).await?;
    if json {
        output::say_json(&archived)?;
    } else {
        let number = |name: &str| grouped(archived[name].as_u64().unwrap_or_default());
        say(format_args!(
            "{} receipt lines left the database; {} archives were added",
            number("dropped"),
            number("archives")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn keys(client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let keys = client.list("/api/v1/ledger/keys", None).await?;
    let columns = [
        Column("key", "/key", Style::Text),
        Column("since (UTC)", "/since", Style::Instant),
        Column("node", "/node", Style::Text),
    ];
    output::list(&keys, &columns, json)?;
    Ok(ExitCode::SUCCESS)
}

async fn rotate_key(client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let key = client.post("/api/v1/ledger/keys/rotate", &json!({})).await?;
    if json {
        output::say_json(&key)?;
    } else {
        say(key["key"].as_str().unwrap_or_default())?;
        eprintln!("checkpoints are signed by this key from now on: hand it to those who verify");
    }
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with the books; empty when they balance.
pub fn faults(check: &LedgerCheck) -> Vec<String> {
    let mut faults = Vec::new();
    for root in check.roots.iter().filter(|root| root.gap_uj() != 0) {
        faults.push(format!(
            "the transfers of {} and its counters differ by {} µJ",
            root.root,
            root.gap_uj()
        ));
    }
    if check.gap_uj != 0 && faults.is_empty() {
        faults.push(format!("the gap is {} µJ", check.gap_uj));
    }
    for tenant in &check.tenants {
        let TenantCheck {
            tenant,
            receipts_uj,
            dynamic_uj,
            fuel_receipts,
            fuel_transfers,
        } = tenant;
        if receipts_uj != dynamic_uj {
            faults.push(format!(
                "receipts of {tenant} come to {receipts_uj} µJ, its transfers to {dynamic_uj} µJ"
            ));
        }
        if fuel_receipts != fuel_transfers {
            faults.push(format!(
                "receipts of {tenant} have {fuel_receipts} fuel, its transfers {fuel_transfers}"
            ));
        }
    }
    for (count, what) in [
        (check.breaks, "windows do not start where the one before ended"),
        (
            check.mismatches,
            "postings have receipts that differ from their transfers",
        ),
        (
            check.usage_mismatches,
            "hours of usage differ from their receipts",
        ),
        (
            check.chain_breaks,
            "postings do not name the hash of the one before",
        ),
        (
            check.correction_mismatches,
            "corrections are not what was asked for",
        ),
    ] {
        if count != 0 {
            faults.push(format!("{count} {what}"));
        }
    }
    let archives = check.archive_faults.iter();
    faults.extend(archives.map(|fault| format!("{} ({})", fault.what.trim_end_matches('.'), fault.code)));
    faults.extend(
        check
            .refused
            .iter()
            .map(|reason| format!("no more windows are posted: {reason}")),
    );
    faults
}

fn verdict(check: &LedgerCheck) -> String {
    let faults = faults(check);
    if faults.is_empty() {
        return format!(
            "The books balance to the microjoule over {} window(s).",
            check.windows
        );
    }
    format!("The books do NOT balance: {}.", faults.join("; "))
}

/// Each meter's counters against the transfers out of it.
pub fn meters(check: &LedgerCheck) -> anyhow::Result<()> {
    let headings = [
        "meter",
        "first µJ",
        "last µJ",
        "metered µJ",
        "Σ transfers µJ",
        "gap µJ",
        "provenance",
    ];
    let mut table = output::table(&headings, &[1, 2, 3, 4, 5]);
    for root in &check.roots {
        table.add_row([
            root.root.clone(),
            grouped(root.start_uj),
            grouped(root.end_uj),
            grouped(root.end_uj.saturating_sub(root.start_uj)),
            grouped(root.transfers_uj.unsigned_abs()),
            root.gap_uj().to_string(),
            root.provenance.clone().unwrap_or_else(|| "–".to_owned()),
        ]);
    }
    say(table.trim_fmt())?;
    Ok(say(format_args!("meter in use: {}", check.meter))?)
}

fn tenants(check: &LedgerCheck) -> anyhow::Result<()> {
    if check.tenants.is_empty() {
        return Ok(());
    }
    let headings = [
        "tenant",
        "receipts",
        "dynamic transfers",
        "fuel of receipts",
        "fuel transfers",
    ];
    let mut table = output::table(&headings, &[1, 2, 3, 4]);
    for tenant in &check.tenants {
        table.add_row([
            tenant.tenant.clone(),
            energy(tenant.receipts_uj),
            energy(tenant.dynamic_uj),
            grouped(tenant.fuel_receipts),
            grouped(tenant.fuel_transfers),
        ]);
    }
    Ok(say(table.trim_fmt())?)
}

#[cfg(test)]
mod tests {
    use super::super::api::ArchiveFault;
    use super::*;
    use serde_json::json;

    fn check(change: impl FnOnce(&mut LedgerCheck)) -> LedgerCheck {
        let mut check = serde_json::from_value(json!({
            "gap_uj": 0, "breaks": 0, "mismatches": 0, "usage_mismatches": 0, "chain_breaks": 0,
            "correction_mismatches": 0, "windows": 3, "unattributed_uj": 0, "energy_uj": 90, "fuel": 5, "meter": "modelled",
            "roots": [{"node": "n", "root": "modelled", "boot_id": "b", "start_uj": 10, "end_uj": 100,
                       "transfers_uj": 90, "provenance": "modelled"}],
            "tenants": [{"tenant": "t", "receipts_uj": 40, "dynamic_uj": 40,
                         "fuel_receipts": 5, "fuel_transfers": 5}],
        }))
        .unwrap();
        change(&mut check);
        check
    }

    #[test]
    fn any_difference_is_named() {
        assert!(faults(&check(|_| {})).is_empty());
        let changes: [fn(&mut LedgerCheck); 12] = [
            |check| check.gap_uj = 1,
            |check| check.breaks = 1,
            |check| check.mismatches = 1,
            |check| check.usage_mismatches = 1,
            |check| check.chain_breaks = 1,
            |check| check.correction_mismatches = 1,
            |check| {
                check.archive_faults.push(ArchiveFault {
                    code: "archive_missing".into(),
                    what: "archive 1 is missing".into(),
                });
            },
            |check| check.roots[0].end_uj += 1,
            |check| check.roots[0].transfers_uj -= 1,
            |check| check.tenants[0].receipts_uj -= 1,
            |check| check.tenants[0].fuel_receipts += 1,
            |check| check.refused = Some("posting 1 differs".into()),
        ];
        for change in changes {
            let unbalanced = check(change);
            assert_eq!(faults(&unbalanced).len(), 1, "{unbalanced:?}");
            assert!(verdict(&unbalanced).contains("NOT"));
        }
    }
}
