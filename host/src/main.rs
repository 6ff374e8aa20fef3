//! `wattle`: the host and its command line.

use std::process::ExitCode;

use clap::Parser as _;
use wattle::cli::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
