//! `wattle demo`: a tenant's first minutes on a host of its own, over the public HTTP API, and then
//! the ledger against the meter.

mod calls;
mod files;
mod host;
mod report;
mod story;
mod tabular;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use tokio::time::Instant;

use self::host::Host;
use self::story::Played;
use self::verdict::Verdict;
use super::output::{say, say_json};

/// Plays a tenant's first minutes on a host of its own, and checks the ledger against the meter.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Folder with the example pipelines: echo.wasm and so on (`cargo xtask guests` makes it).
    #[arg(long, value_name = "DIR", default_value = ".tools/guests")]
    guests: PathBuf,
    /// Folder with their models: tabular.onnx and so on (`cargo xtask models` makes it).
    #[arg(long, value_name = "DIR", default_value = ".tools/models")]
    models: PathBuf,
    /// Leave the host running, and say how to go on with it.
    #[arg(long)]
    keep: bool,
    /// A new directory for the host's data, which is then kept [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Plays, reports and judges; the last line on standard output says how it went.
pub async fn run(args: DemoArgs, json: bool) -> anyhow::Result<ExitCode> {
    let stage = Stage { quiet: json };
    let (played, verdict) = match play(&args, &stage).await {
        Ok((played, verdict)) => (Some(played), verdict),
        Err(error) => (None, Verdict::broken(&error)),
    };
    if json {
        say_json(&report::as_json(played.as_ref(), &verdict))?;
    } else {
        say(&verdict)?;
    }
    Ok(if verdict.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn play(args: &DemoArgs, stage: &Stage) -> anyhow::Result<(Played, Verdict)> {
    let props = story::Props::find(&args.guests, &args.models)?;
    stage.line("Wattle demo: two tenants, one host, every joule accounted for\n")?;
    let step = stage.step("host", "starting a host on a Postgres of its own");
    let mut host = Host::start(args.data.as_deref()).await?;
    step.done(format_args!(
        "ready at {} (data in {})",
        host.url(),
        host.data().display()
    ))?;

    let played = tokio::select! {
        played = story::play(&props, &host, stage) => played,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let played = match played {
        Ok(played) => played,
        Err(error) => {
            host.keep_data();
            eprintln!(
                "{}\nits data and whole log are kept in {}",
                host.log_tail(),
                host.data().display()
            );
            host.stop().await?;
            return Err(error);
        }
    };
    let mut verdict = Verdict::of(&played);
    if !stage.quiet {
        report::print(&props, &played)?;
    }
    finish(args, stage, host, &played, &mut verdict).await?;
    Ok((played, verdict))
}

/// Leaves the host to the user, or ends it and its data.
async fn finish(
    args: &DemoArgs,
    stage: &Stage,
    host: Host,
    played: &Played,
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    if args.keep {
        let (url, data, pid) = host.leave()?;
        return stage.farewell(&url, &data, pid, played);
    }
    let step = stage.step("drain", "sending SIGTERM and waiting for the host to drain");
    match host.stop().await {
        Ok(()) => step.done("the host drained and ended; its Postgres with it")?,
        Err(error) => verdict.fail(format!("{error:#}")),
    }
    Ok(())
}

/// Where the demo says what it does: standard output for people, standard error beside JSON.
struct Stage {
    quiet: bool,
}

impl Stage {
    fn line(&self, line: impl std::fmt::Display) -> anyhow::Result<()> {
        if self.quiet {
            eprintln!("{line}");
        } else {
            say(line)?;
        }
        Ok(())
    }

    /// A step that may take a while: a spinner where someone watches, then a line with its time.
    fn step(&self, name: &'static str, doing: &str) -> Step<'_> {
        let spinner = ProgressBar::new_spinner().with_message(format!("{name}: {doing} …"));
        spinner.enable_steady_tick(Duration::from_millis(100));
        Step {
            stage: self,
            name,
            spinner,
            since: Instant::now(),
        }
    }

    fn farewell(&self, url: &str, data: &std::path::Path, pid: u32, played: &Played) -> anyhow::Result<()> {
        let key = &played.manage_key;
        self.line(format_args!(
            "\nThe host goes on at {url} (process {pid}, data in {}).",
            data.display()
        ))?;
        self.line(format_args!(
            "A key of tenant {} that may upload, deploy and call:\n",
            played.tenants[0].name
        ))?;
        self.line(format_args!("  KEY={key}\n"))?;
        for line in [
            format!(r#"curl -s {url}/v2/models/filetype -H "authorization: Bearer $KEY""#),
            format!(
                r#"curl -si {url}/v2/models/echo/infer -H "authorization: Bearer $KEY" -d '{{"inputs":[{{"name":"x","shape":[3],"datatype":"FP32","data":[1,2,3]}}]}}'"#
            ),
            format!(r#"curl -s "{url}/api/v1/receipts?limit=3" -H "authorization: Bearer $KEY""#),
        ] {
            self.line(format_args!("  {line}"))?;
        }
        self.line(format_args!("\nEnd it with: kill {pid}\n"))
    }
}

struct Step<'a> {
    stage: &'a Stage,
    name: &'static str,
    spinner: ProgressBar,
    since: Instant,
}

impl Step<'_> {
    fn done(self, what: impl std::fmt::Display) -> anyhow::Result<()> {
        self.spinner.finish_and_clear();
        let seconds = self.since.elapsed().as_secs_f64();
        self.stage
            .line(format_args!("{:<9} {what} · {seconds:.1} s", self.name))
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
    }
}
