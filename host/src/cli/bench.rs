//! `wattle bench`

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::future::join_all;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Common;
use super::body::BodyArgs;
use super::client::{Client, header};
use super::error::{ClientError, usage};
use super::output::{self, energy, grouped};

/// Calls a deployment over and over: calls per second, latencies, errors, and joules per call.
///
/// Latencies are exact, each from the start of a request to the last byte of its reply; a connection makes its
/// next call when it has its answer. The generator takes CPU time itself (the report says how much): on the
/// host's own machine the host has that much less, and the meter counts it.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// A deployment, or the whole URL to send to, such as http://host:8700/v2/models/echo/infer.
    target: String,
    #[command(flatten)]
    body: BodyArgs,
    /// Connections, each with one call at a time.
    #[arg(short, long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How long, such as 500ms, 10s or 2m.
    #[arg(short, long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// This many calls instead, however long they take.
    #[arg(short = 'n', long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    calls: Option<u64>,
    /// Then wait until the receipts are final, and give their joules too; needs a key that may read them.
    #[arg(long = "final")]
    settle: bool,
}

/// What one connection saw.
#[derive(Default)]
struct Tally {
    latencies_us: Vec<u32>,
    errors: BTreeMap<String, u64>,
    provisional_uj: u64,
    /// Answers that said what they cost.
    priced: u64,
    receipts: Vec<String>,
}

/// What all of them saw, latencies in order.
struct Report {
    tally: Tally,
    elapsed: Duration,
    generator: Duration,
    settled: Option<Settled>,
}

/// The final energy of the receipts that had become final.
#[derive(Default)]
struct Settled {
    receipts: u64,
    energy_uj: u64,
}

/// When a connection makes no more calls.
enum End {
    At(Instant),
    After(Cell<u64>),
}

impl End {
    fn reached(&self) -> bool {
        match self {
            Self::At(instant) => Instant::now() >= *instant,
            Self::After(left) => match left.get().checked_sub(1) {
                Some(less) => {
                    left.set(less);
                    false
                }
                None => true,
            },
        }
    }
}

/// Does it.
pub async fn run(args: BenchArgs, common: &Common) -> anyhow::Result<()> {
    let (client, path) = target(&args.target, common)?;
    let body = Bytes::from(args.body.read(&client, path.trim_end_matches("/infer")).await?);
    // If this one fails, all would.
    client.call(&path, body.clone()).await?;
    // A call on each connection that does not count: it opens the connection, and wakes what sleeps.
    join_all((0..args.connections).map(|_| client.call(&path, body.clone()))).await;

    let (started, busy) = (Instant::now(), cpu_time());
    let end = match args.calls {
        Some(calls) => End::After(Cell::new(calls)),
        None => End::At(started + args.duration),
    };
    let connections = (0..args.connections).map(|_| connection(&client, &path, &body, &end, args.settle));
    let tallies = join_all(connections).await;
    let (elapsed, generator) = (started.elapsed(), cpu_time().saturating_sub(busy));
    let tally = sum(tallies);
    let settled = match args.settle {
        true => Some(settle(&client, &tally.receipts).await?),
        false => None,
    };
    let report = Report {
        tally,
        elapsed,
        generator,
        settled,
    };
    if common.json {
        return output::say_json(&report.as_json(&args, body.len()));
    }
    output::facts(&report.facts(&args, body.len()))
}

/// Whom to call, and where.
fn target(text: &str, common: &Common) -> anyhow::Result<(Client, String)> {
    if !text.contains("://") {
        let name: domain::Name = text.parse().map_err(|error| usage(format!("{text}: {error}")))?;
        return Ok((Client::open(common)?, format!("/v2/models/{name}/infer")));
    }
    let url: Url = text.parse().map_err(|cause| usage(format!("{text}: {cause}")))?;
    let common = Common {
        url: url.origin().ascii_serialization(),
        ..common.clone()
    };
    Ok((Client::open(&common)?, url.path().to_owned()))
}

/// One call after the other, until the end.
async fn connection(client: &Client, path: &str, body: &Bytes, end: &End, receipts: bool) -> Tally {
    let mut tally = Tally::default();
    while !end.reached() {
        let started = Instant::now();
        match client.call(path, body.clone()).await {
            Ok((headers, _)) => {
                let us = started.elapsed().as_micros();
                tally.latencies_us.push(u32::try_from(us).unwrap_or(u32::MAX));
                if let Some(uj) =
                    header(&headers, "wattle-energy-uj").and_then(|text| text.parse::<u64>().ok())
                {
                    tally.provisional_uj += uj;
                    tally.priced += 1;
                }
                let receipt = header(&headers, "wattle-receipt").filter(|_| receipts);
                tally.receipts.extend(receipt.map(str::to_owned));
            }
            Err(error) => *tally.errors.entry(code(error)).or_default() += 1,
        }
    }
    tally
}

fn code(error: ClientError) -> String {
    match error {
        ClientError::Refused { code, .. } => code,
        ClientError::Unreachable { .. } => "no_answer".to_owned(),
        ClientError::Unexpected { .. } => "unexpected_answer".to_owned(),
    }
}

fn sum(tallies: Vec<Tally>) -> Tally {
    let mut all = Tally::default();
    for tally in tallies {
        all.latencies_us.extend(tally.latencies_us);
        all.provisional_uj += tally.provisional_uj;
        all.priced += tally.priced;
        all.receipts.extend(tally.receipts);
        for (code, count) in tally.errors {
            *all.errors.entry(code).or_default() += count;
        }
    }
    all.latencies_us.sort_unstable();
    all
}

/// How often the receipts are looked at until they are final, and how many times.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: u32 = 240;

/// The final energy of `receipts`, once the last of them is sealed.
async fn settle(client: &Client, receipts: &[String]) -> anyhow::Result<Settled> {
    let wanted: HashSet<_> = receipts.iter().map(String::as_str).collect();
    let (Some(first), Some(last)) = (wanted.iter().min(), wanted.iter().max()) else {
        return Ok(Settled::default());
    };
    // Ids grow with time and windows are sealed in order.
    for _ in 0..LOOKS {
        let receipt = client.find(&format!("/api/v1/receipts/{last}")).await?;
        if receipt.is_some_and(|receipt| receipt["state"] == "final") {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let (mut settled, mut cursor) = (Settled::default(), None);
    loop {
        let (page, next) = client.page("/api/v1/receipts", &[], cursor.as_deref()).await?;
        for receipt in &page {
            let ours = receipt["id"].as_str().is_some_and(|id| wanted.contains(id));
            // Only what is final has it.
            if let Some(uj) = receipt["energy_uj"].as_u64().filter(|_| ours) {
                settled.receipts += 1;
                settled.energy_uj += uj;
            }
        }
        // The latest come first.
        let oldest = page.last().and_then(|receipt| receipt["id"].as_str());
        cursor = next;
        if cursor.is_none() || oldest.is_none_or(|oldest| oldest < *first) {
            return Ok(settled);
        }
    }
}

impl Report {
    /// Answers per second.
    fn rps(&self) -> f64 {
        self.tally.latencies_us.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn latency_us(&self) -> [(&'static str, u32); 5] {
        [
            ("p50", 500),
            ("p90", 900),
            ("p99", 990),
            ("p99.9", 999),
            ("max", 1_000),
        ]
        .map(|(name, permille)| (name, percentile(&self.tally.latencies_us, permille)))
    }

    fn as_json(&self, args: &BenchArgs, body_bytes: usize) -> Value {
        let latency: serde_json::Map<_, _> = self
            .latency_us()
            .into_iter()
            .map(|(name, us)| (name.to_owned(), json!(us)))
            .collect();
        json!({
            "target": args.target,
            "connections": args.connections,
            "body_bytes": body_bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "answers": self.tally.latencies_us.len(),
            "rps": self.rps(),
            "latency_us": latency,
            "errors": self.tally.errors,
            "energy": {
                "provisional_uj": self.tally.provisional_uj,
                "provisional_answers": self.tally.priced,
                "final_uj": self.settled.as_ref().map(|settled| settled.energy_uj),
                "final_answers": self.settled.as_ref().map(|settled| settled.receipts),
            },
            "generator_cpu_seconds": self.generator.as_secs_f64(),
        })
    }

    fn errors(&self) -> String {
        let errors: Vec<_> = self
            .tally
            .errors
            .iter()
            .map(|(code, count)| format!("{count} {code}"))
            .collect();
        match errors.is_empty() {
            true => "none".to_owned(),
            false => errors.join(" · "),
        }
    }

    fn facts(&self, args: &BenchArgs, body_bytes: usize) -> Vec<(&'static str, String)> {
        let answers = self.tally.latencies_us.len() as u64;
        let latency = self
            .latency_us()
            .map(|(name, us)| format!("{name} {:.2} ms", f64::from(us) / 1e3));
        let each = |uj: u64, of: u64| match uj.checked_div(of) {
            Some(each) => format!(
                "{} a call, from {} of {} answers",
                energy(each),
                grouped(of),
                grouped(answers)
            ),
            None => "not known".to_owned(),
        };
        let mut facts = vec![
            ("target", args.target.clone()),
            (
                "sent",
                format!(
                    "{} at a time over {} connections",
                    output::bytes(body_bytes as u64),
                    args.connections
                ),
            ),
            (
                "answers",
                format!(
                    "{} in {:.2} s: {:.1} per second",
                    grouped(answers),
                    self.elapsed.as_secs_f64(),
                    self.rps()
                ),
            ),
            ("latency", latency.join(" · ")),
            ("errors", self.errors()),
            (
                "energy",
                format!(
                    "{} (provisional)",
                    each(self.tally.provisional_uj, self.tally.priced)
                ),
            ),
        ];
        let settled = self.settled.as_ref();
        facts.extend(settled.map(|settled| {
            (
                "",
                format!("{} (final)", each(settled.energy_uj, settled.receipts)),
            )
        }));
        let share = self.generator.as_secs_f64() / self.elapsed.as_secs_f64() * 100.0;
        facts.push((
            "generator",
            format!(
                "{:.2} s of CPU time here, {share:.0} % of one core",
                self.generator.as_secs_f64()
            ),
        ));
        facts
    }
}

/// The smallest of `sorted` that at least `permille` of them do not exceed; 0 if there are none.
fn percentile(sorted: &[u32], permille: usize) -> u32 {
    let rank = (sorted.len() * permille).div_ceil(1_000);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// What this process has used.
fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        used.tv_sec.unsigned_abs(),
        u32::try_from(used.tv_nsec).unwrap_or_default(),
    )
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time: write 500ms, 10s or 2m");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(count)),
        "s" => Ok(Duration::from_secs(count)),
        "m" => count.checked_mul(60).map(Duration::from_secs).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let thousand: Vec<u32> = (1..=1_000).collect();
        for (permille, value) in [(500, 500), (900, 900), (990, 990), (999, 999), (1_000, 1_000)] {
            assert_eq!(percentile(&thousand, permille), value);
        }
        assert_eq!(percentile(&[7, 9], 500), 7);
        assert_eq!(percentile(&[7, 9], 501), 9);
        assert_eq!(percentile(&[7], 999), 7);
        assert_eq!(percentile(&[], 500), 0);
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "1h",
            "999999999999999999999m",
            "1 s",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_number_of_calls_is_made_by_all_connections_together() {
        let end = End::After(Cell::new(3));
        assert_eq!([(); 5].map(|()| end.reached()), [false, false, false, true, true]);
    }
}
