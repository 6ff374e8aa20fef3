//! Builds the guests in Python and JavaScript, each with the tool that its SDK pins.
//!
//! The tools put an interpreter into each component and run it up to the first call, so what they make differs
//! from build to build: Python's hashes are seeded by chance, and both keep addresses and paths.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::guests::component_path;
use crate::packages::{ensure_node, ensure_pip};
use crate::setup::{Inputs, once, root, run_quietly, tools};

/// The contract, as both tools want it.
const CONTRACT: &str = "sdk/wit";
/// Test guests, a file each.
const FIXTURES: &str = "tests/fixtures/guests";

/// A guest that is one file, with what else goes into it.
struct Guest {
    file: PathBuf,
    inputs: Inputs,
}

impl Guest {
    /// An example pipeline: the file `plugins/<name>/<name>.<extension>` and all beside it.
    fn plugin(name: &str, extension: &str, sdk: Inputs) -> Result<Self> {
        let folder = root().join("plugins").join(name);
        Ok(Self {
            file: folder.join(name).with_extension(extension),
            inputs: sdk.tree(&folder)?,
        })
    }

    /// Every file of a folder of test guests.
    fn fixtures(folder: &str, sdk: &Inputs) -> Result<Vec<Self>> {
        let folder = root().join(FIXTURES).join(folder);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let files = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        let guest = |file: PathBuf| {
            let inputs = sdk.clone().tree(&file)?;
            Ok(Self { file, inputs })
        };
        files
            .into_iter()
            .filter(|file| file.is_file())
            .map(guest)
            .collect()
    }

    /// Builds the guest if its sources changed. `tool` is told where its component goes.
    fn ensure(self, tool: impl FnOnce(&Path, &str, &Path) -> Result<Command>) -> Result<()> {
        let folder = self.file.parent().unwrap_or(root());
        let name = self.file.file_stem().unwrap_or_default().to_string_lossy();
        let component = component_path(&name);
        let title = format!("build the guest {name}");
        once(
            &title,
            "10 s",
            self.inputs,
            std::slice::from_ref(&component),
            || {
                let temporary = component.with_added_extension("new");
                run_quietly(tool(folder, &name, &temporary)?.current_dir(root()))?;
                Ok(fs::rename(&temporary, &component)?)
            },
        )
    }
}

/// Builds every guest whose sources changed.
pub fn ensure() -> Result<()> {
    fs::create_dir_all(tools("guests"))?;
    let common = Inputs::default()
        .tree(&root().join(CONTRACT))?
        .tree(&root().join("xtask/src/scripted.rs"))?;

    let sdk = common.clone().tree(&root().join("sdk/python"))?;
    let rank = sdk.clone().tree(&tools("models/minilm.vocab.txt"))?;
    componentize_py()?;
    Guest::plugin("rank", "py", rank)?.ensure(python)?;
    for guest in Guest::fixtures("python", &sdk)? {
        guest.ensure(python)?;
    }

    let sdk = common.tree(&root().join("sdk/js"))?;
    componentize_js()?;
    Guest::plugin("snippets", "js", sdk.clone())?.ensure(javascript)?;
    for guest in Guest::fixtures("js", &sdk)? {
        guest.ensure(javascript)?;
    }
    Ok(())
}

/// What makes a component of the Python module `name` in `folder`. Models are beside the modules, for what a
/// module reads while it is loaded.
fn python(folder: &Path, name: &str, component: &Path) -> Result<Command> {
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", tools("python"))
        // Else packages of whatever environment is active could get in.
        .env_remove("VIRTUAL_ENV")
        .args(["-c", "from componentize_py import script; script()", "--quiet"])
        .args([
            "--wit-path",
            CONTRACT,
            "--world",
            "pipeline",
            "componentize",
            name,
        ])
        .args(["--python-path", "sdk/python", "--python-path"])
        .arg(folder)
        .arg("--python-path")
        .arg(tools("models"))
        .arg("--output")
        .arg(component);
    Ok(command)
}

/// What makes a component of the JavaScript module `name` in `folder`: one that imports nothing of wasi:http.
fn javascript(folder: &Path, name: &str, component: &Path) -> Result<Command> {
    let mut command = Command::new(tools("npm/node_modules/.bin/componentize-js"));
    let module = folder.join(name).with_extension("js");
    command
        .arg(module.strip_prefix(root())?)
        .args(["--wit", CONTRACT, "--world-name", "pipeline"])
        .args(["--disable", "http", "fetch-event", "--out"])
        .arg(component);
    Ok(command)
}

/// Fetches componentize-py, with CPython for WebAssembly in it.
fn componentize_py() -> Result<()> {
    let folder = tools("python");
    let requirements = root().join("sdk/python/requirements.txt");
    let inputs = Inputs::default().tree(&requirements)?;
    let outputs = [folder.join("componentize_py")];
    once("fetch componentize-py", "20 s", inputs, &outputs, || {
        ensure_pip()?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args([
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
                "--upgrade",
            ])
            .arg("--requirement")
            .arg(&requirements)
            .arg("--target")
            .arg(&folder);
        run_quietly(&mut pip).context("check that pip reaches a package index")?;
        Ok(())
    })
}

/// Fetches componentize-js, with StarlingMonkey in it.
fn componentize_js() -> Result<()> {
    let folder = tools("npm");
    let manifests = ["package.json", "package-lock.json"];
    let mut inputs = Inputs::default();
    for manifest in manifests {
        inputs = inputs.tree(&root().join("sdk/js").join(manifest))?;
    }
    let outputs = [folder.join("node_modules/.bin/componentize-js")];
    once("fetch componentize-js", "30 s", inputs, &outputs, || {
        ensure_node()?;
        fs::create_dir_all(&folder)?;
        for manifest in manifests {
            fs::copy(root().join("sdk/js").join(manifest), folder.join(manifest))?;
        }
        let mut npm = Command::new("npm");
        npm.current_dir(&folder)
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        run_quietly(&mut npm).context("check that npm reaches a package registry")?;
        Ok(())
    })
}
