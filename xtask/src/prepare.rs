//! Writes `.sqlx` again: the cache of checked statements, so that a build needs no database.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::cluster::{Throwaway, ensure_binaries};
use crate::setup::{Inputs, cargo, root, run, run_quietly, step};

/// Builds `db` against a fresh database with all migrations, and keeps what its macros write.
pub fn run_prepare(check: bool) -> Result<()> {
    let database = Throwaway::start("prepare")?;
    step("apply the migrations", "1 s", || migrate(&database.owner_url()))?;
    let fresh = root().join("target/sqlx");
    step("check every statement", "1 min; 5 min the first time", || {
        collect(&database.owner_url(), &fresh)
    })?;
    let committed = root().join(".sqlx");
    if !check {
        return replace(&fresh, &committed);
    }
    if hash(&fresh)? != hash(&committed).unwrap_or_default() {
        bail!(".sqlx is not what the statements need; run `cargo xtask prepare` and commit it");
    }
    Ok(())
}

/// Applies every migration in order, each in one transaction.
fn migrate(url: &str) -> Result<()> {
    let psql = ensure_binaries()?.program("psql");
    for migration in sorted(&root().join("migrations"))? {
        let mut command = Command::new(&psql);
        command.args([
            "--no-psqlrc",
            "--quiet",
            "--single-transaction",
            "--set",
            "ON_ERROR_STOP=1",
        ]);
        run_quietly(command.arg("--file").arg(&migration).arg(url))
            .with_context(|| format!("the migration {} does not apply", migration.display()))?;
    }
    Ok(())
}

/// Has the compiler check `db` online, which leaves a file for each statement in `folder`.
fn collect(url: &str, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    // Macros run only in crates that are compiled again.
    let source = fs::File::options()
        .append(true)
        .open(root().join("host/crates/db/src/lib.rs"))?;
    source.set_modified(now())?;
    let mut check = cargo("check --quiet --workspace --all-targets");
    check
        .env("DATABASE_URL", url)
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", folder);
    run(&mut check)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file's time of change, for cargo to see"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Puts the new cache in the place of the old one.
fn replace(fresh: &Path, committed: &Path) -> Result<()> {
    if committed.exists() {
        fs::remove_dir_all(committed)?;
    }
    fs::create_dir_all(committed)?;
    for path in sorted(fresh)? {
        fs::copy(&path, committed.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn hash(folder: &Path) -> Result<String> {
    let inputs = sorted(folder)?
        .iter()
        .try_fold(Inputs::default(), |inputs, path| inputs.tree(path))?;
    Ok(inputs.hash())
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
