//! `wattle backup` and `wattle restore`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::output::{self, grouped, say};
use crate::backup::{self, BackupError, Copied, Place};
use crate::config::default_data_dir;

/// Which host's, as `serve` was told.
#[derive(Args, Debug)]
struct Of {
    /// The host's data directory [default: /var/lib/wattle as root, else ./.wattle].
    #[arg(long, env = "WATTLE_DATA")]
    data: Option<PathBuf>,
    /// Folder of the Postgres binaries, pg_dump and pg_restore among them [default: found].
    #[arg(long, env = "WATTLE_PG_BIN")]
    pg_bin: Option<PathBuf>,
    /// The database is not the host's own (`DATABASE_URL`): leave it to its own means. Dump it before a backup, and
    /// restore it before a restore.
    #[arg(long)]
    without_database: bool,
}

impl Of {
    fn place(&self) -> Place {
        Place {
            data: self.data.clone().unwrap_or_else(default_data_dir),
            pg_bin: self.pg_bin.clone(),
            database: !self.without_database,
        }
    }
}

/// Run it as the user that runs the host. Who holds the backup holds the host's keys.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Where to: a directory that is new or empty.
    dir: PathBuf,
    #[command(flatten)]
    of: Of,
}

/// Run it as the user that is to run the host.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// Where from.
    dir: PathBuf,
    #[command(flatten)]
    of: Of,
}

/// Backs up.
pub fn backup(args: &BackupArgs, json: bool) -> anyhow::Result<()> {
    let copied = backup::backup(&args.of.place(), &args.dir).map_err(coded)?;
    told(copied, "backed up", json)
}

/// Restores.
pub fn restore(args: &RestoreArgs, json: bool) -> anyhow::Result<()> {
    let copied = backup::restore(&args.dir, &args.of.place()).map_err(coded)?;
    told(copied, "restored", json)
}

fn told(copied: Copied, done: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return output::say_json(&json!(copied));
    }
    let (files, bytes) = (grouped(copied.files), grouped(copied.bytes));
    Ok(say(format_args!("{done} {files} files, {bytes} bytes"))?)
}

/// The stable code before the words.
fn coded(error: BackupError) -> anyhow::Error {
    let code = error.code();
    anyhow::Error::from(error).context(code)
}
