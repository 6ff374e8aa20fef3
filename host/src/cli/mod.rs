//! The command line: a file per subcommand, all but `new`, `serve`, `calibrate`, `backup`, `restore`, `doctor`, `config`,
//! `key recover` and `receipt verify` over the public HTTP API.
//!
//! Exit codes: 0 it worked, 1 it failed, 2 wrong usage, 3 the key may not, 4 a limit refused it.

mod api;
mod audit;
mod backup;
mod bench;
mod billing;
mod body;
mod calibrate;
mod carbon;
mod client;
mod completions;
mod component;
mod config;
mod demo;
mod deploy;
mod deployment;
mod doctor;
mod error;
mod graph;
mod input;
mod invoke;
mod key;
mod ledger;
mod meter;
mod new;
mod output;
mod proof;
mod receipt;
mod spec;
mod tenant;
mod usage;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::client::Client;
use self::error::{ClientError, exit_code, is_broken_pipe};
use crate::config::{ConfigErrors, ConfigFile, ConfigPath, Secret, ServeArgs};

/// Hosts models for many tenants and accounts for every joule.
#[derive(Parser, Debug)]
#[command(name = "wattle", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What every subcommand takes.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 it worked, 1 it failed, 2 wrong usage, 3 the key may not, 4 a limit refused it.";

/// Which host to ask, as whom, and how to print its answer.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Address of the host.
    #[arg(
        long,
        global = true,
        env = "WATTLE_URL",
        default_value = "http://127.0.0.1:8700"
    )]
    pub url: String,
    /// Bearer key.
    #[arg(long, global = true, env = "WATTLE_KEY", hide_env_values = true)]
    pub key: Option<Secret>,
    /// Certificates (PEM) to trust instead of this machine's, for an https:// host with a CA of its own.
    #[arg(long, global = true, env = "WATTLE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the host until SIGTERM.
    Serve(Box<ServeCommand>),
    /// Run known loads for a minute and learn from the meters what use costs here; no host may run meanwhile.
    Calibrate(calibrate::CalibrateArgs),
    /// Copy all that a host keeps, its database included, into a new directory; the host may go on.
    Backup(backup::BackupArgs),
    /// Make a data directory of a backup.
    Restore(backup::RestoreArgs),
    /// Check or show what `serve` would be told by its file and its environment.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Play a tenant's first minutes on a host of its own, and check the ledger against the meter.
    Demo(demo::DemoArgs),
    /// Say what this machine has, what it lacks, and which meter is in use.
    Doctor(doctor::DoctorArgs),
    /// Start a pipeline: a folder that builds and deploys as it is.
    New(new::NewArgs),
    /// Owners of everything billed.
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Bearer keys: shown once, stored hashed.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// WebAssembly pipelines.
    #[command(subcommand)]
    Component(component::ComponentCommand),
    /// Model files.
    #[command(subcommand)]
    Graph(graph::GraphCommand),
    /// Create a deployment, or a new release of it.
    Deploy(deploy::DeployArgs),
    /// Named routes to pipelines.
    #[command(subcommand)]
    Deployment(deployment::DeploymentCommand),
    /// Call a deployment.
    Invoke(invoke::InvokeArgs),
    /// What a call used and what it cost.
    Receipt(receipt::ReceiptArgs),
    /// What was used, over time and by deployment.
    Usage(usage::UsageArgs),
    /// What energy was worth in carbon and water, and the factors behind it.
    #[command(subcommand)]
    Carbon(carbon::CarbonCommand),
    /// What use costs: price plans, corrections, months that close, statements and exports.
    #[command(subcommand)]
    Billing(billing::BillingCommand),
    /// Who did what.
    Audit(audit::AuditArgs),
    /// The books: joules and fuel by account, and whether they balance.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// The meters of the host: which there are, and what they say now.
    #[command(subcommand)]
    Meter(meter::MeterCommand),
    /// Call a deployment over and over and report its speed, latencies and joules per call.
    Bench(bench::BenchArgs),
    /// Write a shell's completions for this command line.
    Completions(completions::CompletionsArgs),
    /// Compile the component on standard input; the host starts this itself, with limits.
    #[command(hide = true)]
    CompileChild,
    /// Run the graph that comes over standard input; the host starts this itself, with limits.
    #[command(hide = true)]
    GraphWorker,
}

/// What `serve` takes.
#[derive(Args, Debug)]
pub struct ServeCommand {
    #[command(flatten)]
    path: ConfigPath,
    #[command(flatten)]
    serve: ServeArgs,
}

/// Parses the command line, with the environment behind it and behind both the file that they name. Ends the
/// process after `--help`, and when the flags are wrong.
pub fn parse(args: &[OsString]) -> Result<Cli, ConfigErrors> {
    let cli = Cli::parse_from(args);
    let path = match &cli.command {
        Command::Serve(serve) => &serve.path,
        Command::Doctor(doctor) => &doctor.path,
        Command::Calibrate(calibrate) => &calibrate.path,
        _ => return Ok(cli),
    };
    let Some(path) = &path.config else {
        return Ok(cli);
    };
    let file = ConfigFile::read(path)?;
    let told = ["serve", "doctor", "calibrate"];
    let command = told.iter().fold(Cli::command(), |command, name| {
        command.mut_subcommand(name, |serve| file.behind(serve))
    });
    let matches = command.get_matches_from(args);
    Ok(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
}

/// Does what the command line says and tells people on standard error what went wrong.
///
/// Not async, so that `serve` starts its own runtime and its child processes start none.
pub fn run(args: &[OsString]) -> ExitCode {
    match parse(args).map_err(anyhow::Error::from).and_then(dispatch) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wattle: {error:#}");
            if let Some(next) = error
                .downcast_ref::<ClientError>()
                .and_then(ClientError::next_step)
            {
                eprintln!("  next: {next}");
            }
            exit_code(&error)
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { common, command } = cli;
    match command {
        Command::New(args) => new::run(&args, common.json).map(|()| ExitCode::SUCCESS),
        Command::Serve(args) => crate::serve(args.serve).map(|()| ExitCode::SUCCESS),
        Command::Calibrate(args) => calibrate::run(&args, common.json).map(|()| ExitCode::SUCCESS),
        Command::Backup(args) => backup::backup(&args, common.json).map(|()| ExitCode::SUCCESS),
        Command::Restore(args) => backup::restore(&args, common.json).map(|()| ExitCode::SUCCESS),
        Command::Config(command) => config::run(&command, common.json),
        Command::Completions(args) => completions::run(&args).map(|()| ExitCode::SUCCESS),
        Command::CompileChild => {
            runtime::compile_child()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::GraphWorker => {
            inference::graph_worker()?;
            Ok(ExitCode::SUCCESS)
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(ask(common, command))
        }
    }
}

async fn ask(common: Common, command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::open(&common)?;
    match command {
        Command::Demo(args) => return demo::run(args, common.json).await,
        Command::Doctor(args) => return doctor::run(args, &client, common.json).await,
        Command::Receipt(args) => return receipt::run(args, &client, &common).await,
        Command::Ledger(command) => return ledger::run(command, &client, common.json).await,
        Command::Meter(command) => return meter::run(command, &client, common.json).await,
        Command::Tenant(command) => tenant::run(command, &client, common.json).await?,
        Command::Key(command) => key::run(command, &client, common.json).await?,
        Command::Component(command) => component::run(command, &client, common.json).await?,
        Command::Graph(command) => graph::run(command, &client, common.json).await?,
        Command::Deployment(command) => deployment::run(command, &client, common.json).await?,
        Command::Deploy(args) => deploy::run(args, &client, common.json).await?,
        Command::Invoke(args) => invoke::run(args, &client, common.json).await?,
        Command::Usage(args) => usage::run(args, &client, common.json).await?,
        Command::Carbon(command) => carbon::run(command, &client, common.json).await?,
        Command::Billing(command) => billing::run(command, &client, common.json).await?,
        Command::Audit(args) => audit::run(args, &client, common.json).await?,
        Command::Bench(args) => bench::run(args, &common).await?,
        // `dispatch` has taken them.
        Command::Serve(_)
        | Command::Calibrate(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Config(_)
        | Command::Completions(_)
        | Command::New(_)
        | Command::CompileChild
        | Command::GraphWorker => {}
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_all_commands_may_stand_behind_the_subcommand() {
        let cli = Cli::try_parse_from(["wattle", "receipt", "list", "--json", "--key", "s3cret"]).unwrap();
        assert!(cli.common.json);
        assert_eq!(cli.common.key.as_ref().map(Secret::reveal), Some("s3cret"));
        assert!(
            !format!("{cli:?}").contains("s3cret"),
            "a key must not be debugged"
        );
    }

    #[test]
    fn help_does_not_show_the_key() {
        let help = Cli::command().render_long_help().to_string();
        assert!(
            help.contains("WATTLE_KEY") && !help.contains("WATTLE_KEY="),
            "{help}"
        );
    }
}
