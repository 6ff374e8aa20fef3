//! `wattle completions`

use std::io::Write as _;

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::Cli;

/// Writes a script that completes this command line; bash: `source <(wattle completions bash)`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Does it.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "wattle", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}
