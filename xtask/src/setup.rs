//! Steps, their stamps, and the commands that they run.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The repository's root.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A place under `.tools`.
pub fn tools(path: &str) -> PathBuf {
    root().join(".tools").join(path)
}

/// The instant that durations are measured from.
#[expect(
    clippy::disallowed_methods,
    reason = "chores have no App; only durations are shown"
)]
fn now() -> Instant {
    Instant::now()
}

/// Runs one step under a heading that says what it does and how long it may take.
pub fn step<T>(title: &str, takes: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("── {title} ({takes})");
    let start = now();
    let done = work().with_context(|| format!("'{title}' failed"))?;
    println!("   {:.1} s", start.elapsed().as_secs_f64());
    Ok(done)
}

/// Runs one step unless its outputs are there and were made from the same inputs.
pub fn once(
    title: &str,
    takes: &str,
    inputs: Inputs,
    outputs: &[PathBuf],
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let stamp = tools("stamps").join(title.replace(' ', "-"));
    let hash = inputs.hash();
    let made_from = fs::read_to_string(&stamp).unwrap_or_default();
    if made_from == hash && outputs.iter().all(|output| output.exists()) {
        println!("── {title}: up to date");
        return Ok(());
    }
    step(title, takes, work)?;
    write(&stamp, hash.as_bytes())
}

/// The hash of all that a step depends on.
#[derive(Clone, Default)]
pub struct Inputs(Sha256);

impl Inputs {
    /// Adds a word, such as a version.
    pub fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    /// The hash as text.
    pub fn hash(self) -> String {
        hex::encode(self.0.finalize())
    }

    /// Adds a file or a folder with all below it but build outputs.
    pub fn tree(self, path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() {
            let mut inputs = self.text(&name);
            let bytes = read(path)?;
            inputs.0.update((bytes.len() as u64).to_le_bytes());
            inputs.0.update(bytes);
            return Ok(inputs);
        }
        if name == "target" || name == "__pycache__" {
            return Ok(self);
        }
        let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
        let mut paths = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        paths.sort();
        paths
            .iter()
            .try_fold(self.text(&name), |inputs, path| inputs.tree(path))
    }
}

/// A whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a whole file at once, and the folders above it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    let temporary = path.with_added_extension("new");
    let written = fs::create_dir_all(parent)
        .and_then(|()| fs::write(&temporary, bytes))
        .and_then(|()| fs::rename(&temporary, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Whether a program answers to a command at all, without output.
pub fn works(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Runs a command whose output people read while it runs.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a command and shows its output only if it fails.
pub fn run_quietly(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {}", line(command)))?;
    if !output.status.success() {
        eprint!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        bail!("`{}` ended with {}", line(command), output.status);
    }
    Ok(output.stdout)
}

/// Whether a command succeeds within a time limit; it is ended when the limit passes.
pub fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = spawned else {
        return false;
    };
    let start = now();
    while start.elapsed() < limit {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => sleep(Duration::from_millis(50)),
            Err(_) => break,
        }
    }
    // It may have ended by itself meanwhile; then there is nothing to end.
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// A command as a person would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The cargo that runs this chore, in the repository's root, with words as arguments.
pub fn cargo(arguments: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments.split_whitespace());
    // What cargo says of this package would reach the build scripts of others: ring's runs again whenever it is there
    // and was not before, and everything that uses it is compiled again.
    let ours = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for name in std::env::vars_os().map(|(name, _)| name).filter(ours) {
        command.env_remove(name);
    }
    command
}
