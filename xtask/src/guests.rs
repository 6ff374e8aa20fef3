//! Builds the wasm guests: the example pipelines and the test guests, into `.tools/guests`. Those in
//! Python and JavaScript are [`scripted`](crate::scripted).
//!
//! Each becomes a component from a core module with the embedded contract, so that a guest is the same
//! whichever toolchain built it and imports nothing of WASI that it does not name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use wit_component::ComponentEncoder;

use crate::models;
use crate::packages::apt_install;
use crate::setup::{Inputs, cargo, once, read, root, run, step, succeeds_within, tools, works, write};

const TARGET: &str = "wasm32-unknown-unknown";
/// rustup hangs where its host cannot be reached, so it gets only this long.
const RUSTUP_LIMIT: Duration = Duration::from_secs(20);
/// The Debian packages that build the target's standard library from source.
const DEBIAN: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22"];

/// A workspace of guests and what `cargo build` names in it.
struct Workspace {
    title: &'static str,
    folder: &'static str,
    arguments: &'static str,
    /// Where below the profile's folder cargo leaves the modules.
    output: &'static str,
}

const WORKSPACES: [Workspace; 2] = [
    Workspace {
        title: "build the example pipelines",
        folder: "plugins",
        arguments: "",
        output: "",
    },
    Workspace {
        title: "build the test guests",
        folder: "tests/fixtures/guests",
        arguments: "--examples",
        output: "examples",
    },
];

/// Builds every guest in Rust whose sources changed.
pub fn ensure() -> Result<()> {
    models::vocabulary()?;
    for workspace in &WORKSPACES {
        let folder = root().join(workspace.folder);
        let inputs = Inputs::default()
            .text(TARGET)
            .tree(&root().join("sdk/Cargo.toml"))?
            .tree(&root().join("sdk/src"))?
            .tree(&root().join("sdk/wit"))?
            .tree(&root().join(".cargo"))?
            .tree(&root().join("xtask/src/guests.rs"))?;
        let inputs = sources(&folder)?
            .iter()
            .try_fold(inputs, |inputs, path| inputs.tree(path))?;
        let names = names(&folder)?;
        let outputs: Vec<_> = names.iter().map(|name| component_path(name)).collect();
        once(
            workspace.title,
            "30 to 90 s the first time",
            inputs,
            &outputs,
            || {
                let modules = toolchain()?.build(workspace)?;
                names.iter().try_for_each(|name| componentize(&modules, name))
            },
        )?;
    }
    Ok(())
}

/// Where a guest's component lies.
pub fn component_path(name: &str) -> PathBuf {
    tools("guests").join(format!("{name}.wasm"))
}

/// What a workspace is made of: its own files and `src`, and its members' folders.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.is_file() || path.ends_with("src") || path.join("Cargo.toml").exists());
    paths.sort();
    Ok(paths)
}

/// The names of a workspace's guests: its members' folders, or the sources beside its one package.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut paths = sources(folder)?;
    paths.retain(|path| {
        path.join("Cargo.toml").exists() || path.extension().is_some_and(|extension| extension == "rs")
    });
    let name = |path: &PathBuf| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    Ok(paths.iter().map(name).collect())
}

/// Wraps a core module; the module itself is kept beside it as `<name>.core.wasm`.
fn componentize(modules: &Path, name: &str) -> Result<()> {
    // Cargo names a library's file by its crate, an example's by the example.
    let module = [name.to_owned(), name.replace('-', "_")]
        .iter()
        .map(|name| modules.join(format!("{name}.wasm")))
        .find(|path| path.exists())
        .with_context(|| format!("cargo left no module for the guest '{name}'"))?;
    let module = read(&module)?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .with_context(|| format!("the guest '{name}' does not fit the contract"))?;
    write(&tools("guests").join(format!("{name}.core.wasm")), &module)?;
    write(&component_path(name), &component)
}

/// What builds for wasm on this machine.
enum Toolchain {
    /// The toolchain in use has the target.
    Rustup,
    /// Debian's compiler, with the standard library built from source.
    Debian,
}

/// Finds a toolchain, or installs one: rustup's target if it arrives in time, else Debian's packages.
fn toolchain() -> Result<Toolchain> {
    if has_target() {
        return Ok(Toolchain::Rustup);
    }
    if debian_is_there() {
        return Ok(Toolchain::Debian);
    }
    let added = step("rustup target add", "at most 20 s", || {
        Ok(succeeds_within(
            Command::new("rustup").args(["target", "add", TARGET]),
            RUSTUP_LIMIT,
        ))
    })?;
    if added && has_target() {
        return Ok(Toolchain::Rustup);
    }
    println!("   rustup did not bring the target; going on with Debian's packages");
    apt_install(&DEBIAN)?;
    if !debian_is_there() {
        bail!("no toolchain for wasm: run `rustup target add {TARGET}`");
    }
    Ok(Toolchain::Debian)
}

/// Whether the compiler in use has the target's standard library.
fn has_target() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    let output = command
        .current_dir(root())
        .args(["--print", "target-libdir", "--target", TARGET])
        .output();
    let Ok(output) = output else {
        return false;
    };
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    output.status.success() && folder.is_dir()
}

fn debian_is_there() -> bool {
    Path::new("/usr/lib/rustlib/src/rust/library/std").exists()
        && works(Command::new("/usr/bin/cargo").arg("--version"))
        && works(Command::new("/usr/bin/wasm-ld-22").arg("--version"))
}

impl Toolchain {
    /// Builds all guests of a workspace in one go; returns the folder with their core modules.
    fn build(&self, workspace: &Workspace) -> Result<PathBuf> {
        let target = root().join("target/guests");
        let arguments = format!("build --release --target {TARGET} {}", workspace.arguments);
        let mut command = match self {
            Self::Rustup => cargo(&arguments),
            Self::Debian => debian_cargo(&arguments),
        };
        run(command
            .current_dir(root().join(workspace.folder))
            .env("CARGO_TARGET_DIR", &target))?;
        Ok(target.join(TARGET).join("release").join(workspace.output))
    }
}

fn debian_cargo(arguments: &str) -> Command {
    let mut command = Command::new("/usr/bin/cargo");
    // rustup's variables would bring its own compiler back.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER",
            "/usr/bin/wasm-ld-22",
        );
    command
        .args(arguments.split_whitespace())
        .arg("-Zbuild-std=std,panic_abort");
    command
}

/// Lints the guests' sources for this machine's own target, where their code is the same.
pub fn clippy() -> Result<()> {
    for workspace in &WORKSPACES {
        let mut command = cargo("clippy --quiet --all-targets -- --deny warnings");
        command.current_dir(root().join(workspace.folder));
        run(command.env("CARGO_TARGET_DIR", root().join("target/guests")))?;
    }
    Ok(())
}
