//! `wattle`: the host and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    wattle::cli::run(&args)
}
