//! Making a new cluster, whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::discovery::Installation;
use crate::error::{PostgresError, io_error};
use crate::identity::User;
use crate::{DATABASE, OWNER_ROLE};

/// The major version that made the cluster in `data_dir`; none if there is no cluster yet.
pub(crate) fn major_of(data_dir: &Path) -> Result<Option<u32>, PostgresError> {
    let path = data_dir.join("PG_VERSION");
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(major) => Ok(Some(major)),
            Err(_) => Err(PostgresError::NotACluster {
                data_dir: data_dir.to_owned(),
            }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let occupied = std::fs::read_dir(data_dir).is_ok_and(|mut entries| entries.next().is_some());
            if occupied {
                Err(PostgresError::NotACluster {
                    data_dir: data_dir.to_owned(),
                })
            } else {
                Ok(None)
            }
        }
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// Runs `initdb` beside `data_dir` and renames the result into place, so that a kill on the way
/// leaves nothing that looks like a cluster. The caller holds the start lock.
pub(crate) fn initialise(
    data_dir: &Path,
    installation: &Installation,
    user: &User,
    throwaway: bool,
) -> Result<(), PostgresError> {
    sweep(data_dir);
    let staging = data_dir.with_added_extension(format!("init.{}", std::process::id()));
    user.private_dir(&staging)?;

    let mut initdb = user.command(&installation.program("initdb"));
    initdb
        .arg("-D")
        .arg(&staging)
        .args(["-U", OWNER_ROLE, "-E", "UTF8", "--no-locale", "--data-checksums"]);
    initdb.args(["--auth-local=peer", "--auth-host=reject"]);
    if throwaway {
        initdb.arg("--no-sync");
    }
    run(initdb, "")?;

    let mut single = user.command(&installation.program("postgres"));
    single
        .arg("--single")
        .arg("-D")
        .arg(&staging)
        .args(["-c", "exit_on_error=on", "template1"]);
    run(single, &format!("create database {DATABASE}\n"))?;

    std::fs::rename(&staging, data_dir).map_err(io_error("put in place", data_dir))?;
    // Without this a power cut could take the new name back, and with it the ledger.
    let parent = data_dir.parent().unwrap_or(data_dir);
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", parent))
}

/// Removes what killed attempts left behind.
fn sweep(data_dir: &Path) {
    let prefix = format!(
        "{}.init.",
        data_dir.file_name().unwrap_or_default().to_string_lossy()
    );
    let entries = data_dir
        .parent()
        .and_then(|parent| std::fs::read_dir(parent).ok());
    let leftovers: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    for path in leftovers {
        // An `initdb` whose host was killed may still be writing there; the next start sweeps again.
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "an unfinished cluster could not be removed");
        }
    }
}

/// Runs a program to its end with `input` on its standard input.
fn run(mut command: Command, input: &str) -> Result<(), PostgresError> {
    let program = PathBuf::from(command.get_program());
    let failed = || io_error("run", &program);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early closes the pipe; its exit status says more than the write.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed())?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Err(PostgresError::Program {
        program: program.display().to_string(),
        status: output.status.to_string(),
        output: last_lines(&text.concat(), 12),
    })
}

/// The end of a text, for an error message.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
