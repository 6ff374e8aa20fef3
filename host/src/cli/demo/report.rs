//! What the demo shows: the calls, what else was charged, and the ledger against the meter.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::story::{Called, Played, Props};
use super::verdict::Verdict;
use crate::cli::api::Receipt;
use crate::cli::ledger;
use crate::cli::output::{energy, grouped, millis, say, short_id, table};

/// Prints all of it.
pub fn print(props: &Props, played: &Played) -> anyhow::Result<()> {
    say(format_args!("\nThe calls\n"))?;
    calls(played)?;
    network(props)?;
    say(format_args!("\nUploads and deployments are charged as well\n"))?;
    beside(played)?;
    say(format_args!(
        "\nThe ledger against the meter, by SQL that knows nothing of the attribution\n"
    ))?;
    ledger::meters(&played.check)?;
    say(format_args!("\nWhere {} went\n", energy(played.check.energy_uj)))?;
    accounts(played)?;
    Ok(say("")?)
}

fn calls(played: &Played) -> anyhow::Result<()> {
    let headings = [
        "tenant",
        "deployment",
        "input",
        "answer",
        "fuel",
        "CPU ms",
        "model ms",
        "provisional mJ →",
        "final mJ",
        "receipt",
    ];
    let mut table = table(&headings, &[4, 5, 6, 7, 8]);
    for called in &played.calls {
        let Called {
            call,
            judged,
            receipt,
            reply,
            ..
        } = called;
        let mark = if judged.fault.is_none() { '✓' } else { '✗' };
        let figure = |write: &dyn Fn(&Receipt) -> String| receipt.as_ref().map_or_else(none, write);
        table.add_row([
            played.tenants[called.tenant].name.to_owned(),
            call.deployment.to_owned(),
            call.input.clone(),
            format!("{mark} {}", judged.answer),
            figure(&|receipt| grouped(receipt.fuel)),
            figure(&|receipt| millis(receipt.cpu_ns)),
            figure(&|receipt| millis(receipt.model_ns)),
            reply
                .as_ref()
                .and_then(|reply| reply.energy_uj)
                .map_or_else(none, millijoules),
            figure(&|receipt| receipt.energy_uj.map_or_else(none, millijoules)),
            figure(&|receipt| short_id(&receipt.id)),
        ]);
    }
    Ok(say(table.trim_fmt())?)
}

/// What is not there, which is not 0.
fn none() -> String {
    "–".to_owned()
}

fn millijoules(uj: u64) -> String {
    format!("{:.3}", uj as f64 / 1e3)
}

/// What is known of the network behind `tabular`.
fn network(props: &Props) -> anyhow::Result<()> {
    let report = &props.report;
    say(format_args!(
        "\ntabular is a network of {} parameters, trained for 10 epochs on random rows: evaluation loss {:.4}, \
         accuracy {:.2}\n(on the rows it learnt {:.4} and {:.2}; random labels teach nothing, so one half is what to expect).",
        grouped(report.parameters),
        report.loss,
        report.accuracy,
        report.training_loss,
        report.training_accuracy,
    ))?;
    Ok(())
}

/// What each tenant was charged, by kind of invocation.
fn beside(played: &Played) -> anyhow::Result<()> {
    let mut table = table(
        &["tenant", "kind", "receipts", "fuel", "CPU ms", "model ms", "mJ"],
        &[2, 3, 4, 5, 6],
    );
    for (tenant, receipts) in played.tenants.iter().zip(&played.receipts) {
        let mut kinds: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
        for receipt in receipts {
            let sums = kinds.entry(&receipt.kind).or_default();
            let figures = [
                1,
                receipt.fuel,
                receipt.cpu_ns,
                receipt.model_ns,
                receipt.energy_uj.unwrap_or_default(),
            ];
            sums.iter_mut()
                .zip(figures)
                .for_each(|(sum, figure)| *sum += figure);
        }
        for (kind, [count, fuel, cpu_ns, model_ns, energy_uj]) in kinds {
            let figures = [
                grouped(count),
                grouped(fuel),
                millis(cpu_ns),
                millis(model_ns),
                millijoules(energy_uj),
            ];
            table.add_row(
                [tenant.name.to_owned(), kind.to_owned()]
                    .into_iter()
                    .chain(figures),
            );
        }
    }
    Ok(say(table.trim_fmt())?)
}

/// Who used the energy, with bars.
fn accounts(played: &Played) -> anyhow::Result<()> {
    let shares = shares(played);
    let total: u64 = shares.iter().map(|(_, uj)| uj).sum();
    let mut table = table(&["account", "J", "share", ""], &[1, 2]);
    for (account, uj) in shares {
        let share = if total == 0 { 0.0 } else { uj as f64 / total as f64 };
        table.add_row([
            account,
            format!("{:.3}", uj as f64 / 1e6),
            format!("{:.1} %", share * 100.0),
            bar(share, 32),
        ]);
    }
    say(table.trim_fmt())?;
    let check = &played.check;
    let windows = check.windows;
    Ok(say(format_args!(
        "\nΣ transfers − (last counter − first counter) = {} µJ over {windows} window(s).",
        check.gap_uj
    ))?)
}

/// Accounts that use energy, tenants first by their names, then the platform's.
fn shares(played: &Played) -> Vec<(String, u64)> {
    let held = |account: &str| {
        let of_account = played
            .balances
            .iter()
            .filter(|balance| balance.account == account && is_energy(&balance.unit));
        of_account
            .map(|balance| balance.amount.unsigned_abs())
            .sum::<u64>()
    };
    let tenants = played
        .tenants
        .iter()
        .map(|tenant| (tenant.name.to_owned(), held(&format!("tenant:{}", tenant.id))));
    let others = ["platform", "idle", "system", "foreign", "unattributed"];
    let others = others.map(|account| (account.to_owned(), held(account)));
    tenants.chain(others).collect()
}

fn is_energy(unit: &str) -> bool {
    unit == "uj"
}

/// A bar of at most `width` cells, in eighths of a cell.
fn bar(share: f64, width: u32) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * f64::from(width) * 8.0).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// All of it for programs, with whole ids.
pub fn as_json(played: Option<&Played>, verdict: &Verdict) -> Value {
    let Some(played) = played else {
        return json!({ "verdict": verdict.as_json() });
    };
    let calls = played.calls.iter().map(|called| {
        let receipt = called.receipt.as_ref();
        json!({
            "tenant": played.tenants[called.tenant].name,
            "deployment": called.call.deployment,
            "input": called.call.input,
            "answer": called.judged.answer,
            "fault": called.judged.fault,
            "receipt": called.reply.as_ref().map(|reply| &reply.receipt),
            "fuel": receipt.map(|receipt| receipt.fuel),
            "cpu_ns": receipt.map(|receipt| receipt.cpu_ns),
            "model_ns": receipt.map(|receipt| receipt.model_ns),
            "provisional_energy_uj": called.reply.as_ref().and_then(|reply| reply.energy_uj),
            "energy_uj": receipt.and_then(|receipt| receipt.energy_uj),
        })
    });
    let accounts: serde_json::Map<_, _> = shares(played)
        .into_iter()
        .map(|(account, uj)| (account, json!(uj)))
        .collect();
    json!({
        "calls": calls.collect::<Vec<_>>(),
        "accounts_uj": accounts,
        "verdict": verdict.as_json(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_share() {
        for (share, text) in [
            (0.0, ""),
            (1.0, "████"),
            (0.5, "██"),
            (0.28125, "█▏"),
            (7.0, "████"),
        ] {
            assert_eq!(bar(share, 4), text);
        }
    }
}
