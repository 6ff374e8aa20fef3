//! `wattle`: the host and its command line.

use std::process::ExitCode;

/// A call makes some hundreds of small allocations, many of them freed on another thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    wattle::cli::run(&args)
}
