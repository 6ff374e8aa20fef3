//! Set-up and chores: `cargo xtask demo | test | bench | guests | models | runtimes | schemathesis | prepare`.
//!
//! Every step says what it does and how long it may take, is skipped when it is done, and names on failure
//! what mends it. What is fetched goes into `.tools/`, or by apt where a package must live in the system.

mod chores;
mod cluster;
mod guests;
mod models;
mod packages;
mod prepare;
mod runtimes;
mod scripted;
mod setup;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up and chores")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Set up what is missing, build, and play a tenant's first minutes over the HTTP API
    Demo {
        /// Leave the host running and print how to go on
        #[arg(long)]
        keep: bool,
    },
    /// Set up what is missing and run every check and test
    Test,
    /// Build the example pipelines and the test guests into .tools/guests
    Guests,
    /// Fetch and train the models into .tools/models
    Models,
    /// Fetch the libraries of backends into .tools/runtimes
    Runtimes,
    /// Fetch the program that tries the API's document into .tools/schemathesis
    Schemathesis,
    /// Run a benchmark of tests/bench and print its figures
    Bench {
        /// Such as overhead, serve, start, neighbour, soak or attribution
        name: String,
        /// What the bench itself takes, such as `--seconds 60` of soak
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
    /// Write the committed cache of checked SQL statements again
    Prepare {
        /// Only say whether it is what a new one would be
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<ExitCode> {
    match chore {
        Chore::Demo { keep } => return chores::demo(keep),
        Chore::Test => chores::test()?,
        Chore::Guests => {
            guests::ensure()?;
            scripted::ensure()?;
        }
        Chore::Models => models::ensure()?,
        Chore::Runtimes => runtimes::ensure()?,
        Chore::Schemathesis => packages::schemathesis()?,
        Chore::Bench { name, more } => chores::bench(&name, &more)?,
        Chore::Prepare { check } => prepare::run_prepare(check)?,
    }
    Ok(ExitCode::SUCCESS)
}
