//! The whole of a graph's process, as a host offers it under a hidden subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    match inference::graph_worker() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
