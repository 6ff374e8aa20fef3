//! The whole of a compile child, as a host offers it under a hidden subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    match runtime::compile_child() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
