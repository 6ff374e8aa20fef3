//! `wattle meter`

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::Client;
use super::output::{self, Column, Style, energy, say};

/// What to ask of the meters; needs an admin, billing or auditor key.
#[derive(Subcommand, Debug)]
pub enum MeterCommand {
    /// What is read, and all that might have been, with the reason.
    List,
    /// Watts by root, and where the last window's energy went, until interrupted.
    Watch(WatchArgs),
}

/// How to watch.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    every_s: u64,
    /// End after so many looks.
    #[arg(long)]
    looks: Option<u64>,
}

const PATH: &str = "/api/v1/ledger/meters";

/// Does it.
pub async fn run(command: MeterCommand, client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        MeterCommand::List => {
            let meters = client.get(PATH).await?;
            if json {
                output::say_json(&meters)?;
            } else {
                roots(&meters)?;
                say("")?;
                candidates(&meters)?;
            }
        }
        MeterCommand::Watch(args) => watch(&args, client, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// On a terminal each look takes the place of the one before; elsewhere they stand below each other.
async fn watch(args: &WatchArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let clears = !json && io::stdout().is_terminal();
    let mut looks = 0;
    loop {
        let meters = client.get(PATH).await?;
        if clears {
            // To the top, and nothing below.
            write!(io::stdout().lock(), "\x1b[H\x1b[2J")?;
        }
        if json {
            say(&meters)?;
        } else {
            look(&meters)?;
        }
        looks += 1;
        if args.looks.is_some_and(|most| looks >= most) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(args.every_s)).await;
    }
}

fn look(meters: &Value) -> anyhow::Result<()> {
    let at = meters["at"].as_str().unwrap_or_default();
    say(format_args!(
        "node {}   {}",
        text(&meters["node"]),
        at.get(..19).unwrap_or(at)
    ))?;
    say("")?;
    roots(meters)?;
    say("")?;
    for line in window(&meters["last_window"]) {
        say(line)?;
    }
    Ok(())
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("–")
}

fn roots(meters: &Value) -> anyhow::Result<()> {
    let mut table = output::table(
        &["root", "kind", "watts", "floor", "±", "counter", "state"],
        &[2, 3, 4, 5],
    );
    for root in list(meters, "roots") {
        let state = match (root["fault"].as_str(), root["calibrates"].as_bool()) {
            (Some(fault), _) => fault,
            (None, Some(true)) => "calibrates",
            (None, _) => "billed",
        };
        let share = |ppm: u64| format!("{} %", ppm.div_ceil(10_000));
        table.add_row([
            text(&root["root"]).to_owned(),
            text(&root["kind"]).to_owned(),
            figure(&root["power_uw"], watts),
            figure(&root["floor_uw"], watts),
            figure(&root["uncertainty_ppm"], share),
            figure(&root["counter_uj"], energy),
            state.to_owned(),
        ]);
    }
    say(table.trim_fmt())?;
    if let Some(line) = comparison(&meters["comparison"]) {
        say(line)?;
    }
    Ok(())
}

/// The roots beside the meter of the whole machine.
fn comparison(compared: &Value) -> Option<String> {
    let figure = |key: &str| compared[key].as_u64();
    let percent = |ppm: u64| ppm.div_ceil(10_000);
    let line = format!(
        "the roots say {} % (±{}) of what '{}' measures of the whole machine, over {} s",
        percent(figure("ratio_ppm")?),
        percent(figure("band_ppm")?),
        text(&compared["wall"]),
        figure("span_ms")? / 1_000
    );
    Some(match compared["exceeds"].as_bool() {
        Some(true) => format!("{line}: too much, a joule is counted twice or a meter is off"),
        _ => line,
    })
}

fn candidates(meters: &Value) -> anyhow::Result<()> {
    let columns = [
        Column("source", "/source", Style::Text),
        Column("which", "/subject", Style::Text),
        Column("verdict", "/verdict", Style::Text),
        Column("because", "/reason", Style::Text),
    ];
    output::list(list(meters, "candidates"), &columns, false)
}

/// How many signs a bar has at most.
const BAR: u64 = 40;

/// Where the last window's energy went: a bar each, as long as its share.
fn window(window: &Value) -> Vec<String> {
    let amounts = window["energy_uj"].as_object();
    let amount = |kind: &str| {
        amounts
            .and_then(|amounts| amounts.get(kind)?.as_u64())
            .unwrap_or_default()
    };
    let kinds = [
        ("tenants", amount("dynamic")),
        ("system", amount("system")),
        ("foreign", amount("foreign")),
        ("idle", amount("idle")),
        ("nobody's", amount("unattributed")),
    ];
    let all: u64 = kinds.iter().map(|(_, uj)| uj).sum();
    let span_ms = window["span_ms"].as_u64().unwrap_or_default();
    if all == 0 || span_ms == 0 {
        return vec!["no window is sealed yet".to_owned()];
    }
    let line = |(name, uj): (&str, u64)| {
        let bar = "█".repeat(usize::try_from(uj * BAR / all).unwrap_or_default());
        let power = watts(uj.saturating_mul(1_000) / span_ms);
        format!("{name:<9}{power:>9}  {:>3} %  {bar}", uj * 100 / all)
            .trim_end()
            .to_owned()
    };
    let mut lines = vec![format!(
        "the last window, {}.{} s, {}:",
        span_ms / 1_000,
        span_ms % 1_000 / 100,
        energy(all)
    )];
    lines.extend(kinds.map(line));
    lines
}

fn figure(value: &Value, write: impl Fn(u64) -> String) -> String {
    value.as_u64().map_or_else(|| "–".to_owned(), write)
}

fn watts(uw: u64) -> String {
    format!("{}.{:02} W", uw / 1_000_000, uw % 1_000_000 / 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bars_are_as_long_as_their_shares() {
        let lines = window(&json!({
            "span_ms": 10_000,
            "energy_uj": { "dynamic": 50_000_000, "idle": 100_000_000, "foreign": 49_999_999, "unattributed": 1 },
        }));
        assert_eq!(lines[0], "the last window, 10.0 s, 200.000 J:");
        assert_eq!(lines[1], format!("tenants     5.00 W   25 %  {}", "█".repeat(10)));
        assert_eq!(lines[2], "system      0.00 W    0 %");
        assert_eq!(lines[4], format!("idle       10.00 W   50 %  {}", "█".repeat(20)));
        assert_eq!(lines[5], "nobody's    0.00 W    0 %");
        assert_eq!(
            window(&json!({ "span_ms": 0, "energy_uj": {} })),
            ["no window is sealed yet"]
        );
    }

    #[test]
    fn the_roots_are_set_beside_the_whole_machine() {
        assert_eq!(comparison(&Value::Null), None);
        let compared = |exceeds: bool| {
            let (ratio, band) = (740_000, 102_000);
            comparison(&json!({
                "wall": "plug", "span_ms": 60_500, "ratio_ppm": ratio, "band_ppm": band, "exceeds": exceeds,
            }))
        };
        let line = "the roots say 74 % (±11) of what 'plug' measures of the whole machine, over 60 s";
        assert_eq!(compared(false).as_deref(), Some(line));
        assert!(compared(true).is_some_and(|line| line.contains("counted twice")));
    }
}
