//! `wattle doctor`

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Args;
use energy::{Candidate, Verdict};
use serde_json::{Value, json};

use super::client::Client;
use super::output::{self, say};
use crate::config::{CarbonProvider, ConfigPath, ServeArgs};

/// Takes the flags of `serve`; exits with 1 if serving with them would fail.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Only ask the host that runs with these flags whether it takes calls; exits with 1 if it does not.
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    pub(super) path: ConfigPath,
    #[command(flatten)]
    serve: Box<ServeArgs>,
}

/// How a finding bears on serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Good,
    Note,
    Bad,
}

impl Mark {
    fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Note => "·",
            Self::Bad => "✗",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Bad => "bad",
        }
    }
}

struct Finding {
    mark: Mark,
    subject: &'static str,
    words: String,
}

fn finding(mark: Mark, subject: &'static str, words: impl Into<String>) -> Finding {
    Finding {
        mark,
        subject,
        words: words.into(),
    }
}

/// Looks at everything and says it in words.
pub async fn run(args: DoctorArgs, client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    if args.ready {
        let answer = operators(&args.serve)?.get("/readyz").await?;
        match json {
            true => output::say_json(&answer)?,
            false => say("ready")?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let up = client.is_up("/v2/health/live").await;
    let mut findings = vec![
        machine(),
        flags(&args.serve),
        database(&args.serve),
        data(&args.serve),
    ];
    findings.extend(addresses(&args.serve, up));
    findings.push(if up {
        finding(Mark::Good, "host", format!("one answers at {}", client.url()))
    } else {
        finding(Mark::Note, "host", format!("none answers at {}", client.url()))
    });
    findings.extend(meters(&args.serve).await);
    findings.push(onnxruntime(&args.serve).await);
    findings.push(guests());
    findings.push(carbon(&args.serve));
    let bad = findings
        .iter()
        .filter(|finding| finding.mark == Mark::Bad)
        .count();
    if json {
        output::say_json(&as_json(&findings, bad == 0))?;
    } else {
        for Finding { mark, subject, words } in &findings {
            say(format_args!("{} {subject:<10} {words}", mark.sign()))?;
        }
        say(match bad {
            0 => "\n`wattle serve` would start.".to_owned(),
            count => format!("\n`wattle serve` would fail: mend the {count} marked ✗."),
        })?;
    }
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the host could say of carbon. What is wrong with it is among the flags.
fn carbon(serve: &ServeArgs) -> Finding {
    let told = &serve.carbon;
    let Some(zone) = &told.carbon_zone else {
        let words =
            "none is told: say --carbon-zone, such as DE, and what energy was worth is known from then on";
        return finding(Mark::Note, "carbon", words);
    };
    let provider = match told.carbon_provider {
        CarbonProvider::Yearly => "the yearly figures that come with the host, as estimates",
        CarbonProvider::Csv => "a file of your own",
        CarbonProvider::ElectricityMaps => "Electricity Maps",
        CarbonProvider::Gb => "Great Britain's Carbon Intensity API",
    };
    let marginal = match told.carbon_watttime_region {
        Some(_) => "marginal ones by WattTime",
        None => "no marginal ones",
    };
    let guess = if told.carbon_pue.is_some() {
        ""
    } else {
        "; the PUE is a guess: say --carbon-pue"
    };
    finding(
        Mark::Good,
        "carbon",
        format!("zone {zone} by {provider}; {marginal}{guess}"),
    )
}

fn as_json(findings: &[Finding], ok: bool) -> Value {
    let findings = findings.iter().map(
        |Finding { mark, subject, words }| json!({ "mark": mark.word(), "subject": subject, "words": words }),
    );
    json!({ "ok": ok, "findings": findings.collect::<Vec<_>>() })
}

fn machine() -> Finding {
    let system = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let [name, release, kind] =
        [system.sysname(), system.release(), system.machine()].map(|text| text.to_string_lossy());
    finding(
        Mark::Good,
        "machine",
        format!("{cpus} CPU(s), {name} {release} on {kind}"),
    )
}

fn flags(serve: &ServeArgs) -> Finding {
    match serve.check() {
        Ok(()) => finding(Mark::Good, "flags", "they fit together"),
        Err(error) => finding(Mark::Bad, "flags", error.to_string()),
    }
}

fn database(serve: &ServeArgs) -> Finding {
    const SUBJECT: &str = "Postgres";
    if serve.database_url.is_some() {
        return finding(
            Mark::Note,
            SUBJECT,
            "DATABASE_URL names one: the host starts none of its own",
        );
    }
    if let Some(dir) = &serve.pg_bin {
        let (mark, words) = match dir.join("postgres").is_file() && dir.join("initdb").is_file() {
            true => (Mark::Good, "has postgres and initdb"),
            false => (Mark::Bad, "has no postgres or no initdb: mend --pg-bin"),
        };
        return finding(mark, SUBJECT, format!("{} {words}", dir.display()));
    }
    match postgres::discover() {
        Ok(found) => finding(
            Mark::Good,
            SUBJECT,
            format!("{} in {}", found.major, found.bin_dir.display()),
        ),
        Err(error) => finding(Mark::Bad, SUBJECT, error.to_string()),
    }
}

fn data(serve: &ServeArgs) -> Finding {
    let dir = &serve.data;
    let shown = dir.display();
    // Nothing is made here: the nearest folder that exists decides.
    let existing = dir.ancestors().map(|path| {
        if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        }
    });
    let Some(existing) = existing.into_iter().find(|path| path.exists()) else {
        return finding(Mark::Bad, "data", format!("{shown}: no part of this path exists"));
    };
    match tempfile::tempfile_in(existing) {
        Ok(_) if existing == dir.as_path() => finding(Mark::Good, "data", format!("{shown} can be written")),
        Ok(_) => finding(
            Mark::Good,
            "data",
            format!("{shown} can be made in {}", existing.display()),
        ),
        Err(error) => {
            let next = "give another with --data, or its rights to this user";
            finding(
                Mark::Bad,
                "data",
                format!("{shown} cannot be written ({error}): {next}"),
            )
        }
    }
}

/// Addresses that are taken keep a host from serving, unless it is the one that answers there.
fn addresses(serve: &ServeArgs, up: bool) -> Vec<Finding> {
    let taken = |address: &std::net::SocketAddr| match TcpListener::bind(address) {
        Ok(_) => None,
        Err(_) if up => None,
        Err(error) => Some(finding(
            Mark::Bad,
            "address",
            format!("{address}: {error}; choose another"),
        )),
    };
    [serve.listen, serve.admin_listen]
        .iter()
        .filter_map(taken)
        .collect()
}

/// Which meters are in use, and how sure they are: the operators' listener says it without a key.
async fn meters(serve: &ServeArgs) -> Vec<Finding> {
    let ready = match operators(serve) {
        Ok(operators) => operators.get("/readyz").await.unwrap_or_default(),
        Err(_) => Value::Null,
    };
    let mut findings = would_be_meters(serve);
    if let Some(meter) = ready["meter"].as_str() {
        findings.insert(0, finding(Mark::Good, "meter", format!("the host reads {meter}")));
    }
    findings
}

/// The operators' listener of a host with these flags.
fn operators(serve: &ServeArgs) -> anyhow::Result<Client> {
    let tls = serve.tls_cert.is_some() && !serve.admin_listen.ip().is_loopback();
    let scheme = if tls { "https" } else { "http" };
    Client::new(&format!("{scheme}://{}", serve.admin_listen), None)
}

/// What a host with these flags would read, and why it would leave the rest.
fn would_be_meters(serve: &ServeArgs) -> Vec<Finding> {
    const SUBJECT: &str = "meter";
    if let Err(error) = serve.check() {
        return vec![finding(Mark::Note, SUBJECT, error.to_string())];
    }
    let found = match crate::serve::meters(serve) {
        Ok(found) => found,
        Err(error) => return vec![finding(Mark::Bad, SUBJECT, error.to_string())],
    };
    let candidates = found.candidates.into_iter().map(|candidate| {
        let mark = match candidate.verdict {
            Verdict::Root | Verdict::Calibrates => Mark::Good,
            Verdict::Left | Verdict::Unusable => Mark::Note,
        };
        let Candidate {
            source,
            subject,
            verdict,
            reason,
        } = candidate;
        finding(
            mark,
            SUBJECT,
            format!("{source} {subject}: {}: {reason}", verdict.as_str()),
        )
    });
    candidates.collect()
}

/// What graphs would run on besides rten.
async fn onnxruntime(serve: &ServeArgs) -> Finding {
    const SUBJECT: &str = "ONNX";
    let worker = match crate::serve::graph_worker() {
        Ok(worker) => worker,
        Err(error) => return finding(Mark::Bad, SUBJECT, error.to_string()),
    };
    match crate::onnxruntime::find(serve.onnxruntime.as_deref(), &worker).await {
        Ok(Some(library)) => {
            let (version, path) = (library.version(), library.path().display());
            finding(
                Mark::Good,
                SUBJECT,
                format!(
                    "graphs run on rten, on ONNX Runtime {version} ({path}) or, if small and dense, within the call"
                ),
            )
        }
        Ok(None) => {
            let advice = crate::onnxruntime::ADVICE;
            let words = format!(
                "graphs run on rten or, if small and dense, within the call; for ONNX Runtime, mostly faster: {advice}"
            );
            finding(Mark::Note, SUBJECT, words)
        }
        Err(error) => finding(Mark::Bad, SUBJECT, error.to_string()),
    }
}

/// What is there to build pipelines with: serving needs none of it.
fn guests() -> Finding {
    let libraries = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", "wasm32-unknown-unknown"])
        .output();
    let libraries = libraries
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok());
    if libraries.is_some_and(|path| !path.trim().is_empty() && Path::new(path.trim()).is_dir()) {
        return finding(
            Mark::Good,
            "guests",
            "rustc builds pipelines (wasm32-unknown-unknown)",
        );
    }
    let hint = "to build pipelines: `rustup target add wasm32-unknown-unknown`, or in this repository `cargo xtask guests`";
    finding(Mark::Note, "guests", hint)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        doctor: DoctorArgs,
    }

    fn serve(flags: &[&str]) -> ServeArgs {
        *Flags::parse_from([&["doctor"], flags].concat()).doctor.serve
    }

    #[test]
    fn what_would_keep_a_host_from_serving_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("a/b").display().to_string();
        assert_eq!(data(&serve(&["--data", &inside])).mark, Mark::Good);
        assert_eq!(data(&serve(&["--data", "/proc/nowhere"])).mark, Mark::Bad);
        assert_eq!(flags(&serve(&["--listen", "0.0.0.0:1"])).mark, Mark::Bad);
        let embedded = ServeArgs {
            database_url: None,
            ..serve(&["--pg-bin", &inside])
        };
        assert_eq!(database(&embedded).mark, Mark::Bad);
        let watts = serve(&["--meter-idle-w", "40", "--meter-max-w", "120"]);
        let found = would_be_meters(&watts);
        let used = found.iter().find(|finding| finding.mark == Mark::Good);
        assert!(used.is_some(), "a host always has a meter");
        let nowhere = serve(&["--meter-sys", &inside]);
        let found = would_be_meters(&nowhere);
        let words = &found.last().unwrap().words;
        assert!(words.contains("modelled") && words.contains("root"), "{words}");
        let unnamed = serve(&["--meter-files", "UPPER=/p?unit=w&max_w=1"]);
        assert_eq!(would_be_meters(&unnamed)[0].mark, Mark::Bad);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let args = serve(&["--listen", &address, "--admin-listen", "127.0.0.1:0"]);
        assert_eq!(addresses(&args, false).len(), 1);
        assert!(addresses(&args, true).is_empty(), "a running host holds it");
        drop(taken);
    }
}
