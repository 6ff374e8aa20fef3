//! Where `cargo xtask guests`, `models` and `runtimes` put what tests need.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use inference::{OnnxRuntimeLibrary, WorkerOptions};

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// A component, by the name of its crate.
pub fn guest(name: &str) -> anyhow::Result<Vec<u8>> {
    read(
        &workspace().join(".tools/guests").join(format!("{name}.wasm")),
        "cargo xtask guests",
    )
}

/// A model file, such as `tabular.onnx`.
pub fn model(name: &str) -> anyhow::Result<Vec<u8>> {
    read(
        &workspace().join(".tools/models").join(name),
        "cargo xtask models",
    )
}

/// Whether the Rust toolchain in use builds for WebAssembly, as `cargo xtask guests` asks too.
pub fn rust_has_wasm() -> bool {
    let mut rustc = std::process::Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", "wasm32-unknown-unknown"]);
    let output = rustc.current_dir(workspace()).output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// The `wattle` binary.
pub fn wattle() -> anyhow::Result<PathBuf> {
    binary("wattle")
}

/// Where the workspace's binaries are, if not beside that of the tests: benches measure those of a release.
const BINARIES: &str = "WATTLE_TEST_BINARIES";

/// A binary of the workspace.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os(BINARIES) {
        Some(folder) => folder.into(),
        None => {
            let tests = std::env::current_exe()?;
            let folder = tests.parent().and_then(Path::parent);
            folder.context("the tests are in no folder")?.to_owned()
        }
    };
    let path = folder.join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is missing: run cargo build --workspace",
        path.display()
    );
    Ok(path)
}

/// How the `wattle` binary is started for a graph.
pub fn graph_worker() -> anyhow::Result<WorkerOptions> {
    Ok(WorkerOptions::new(wattle()?, vec!["graph-worker".into()]))
}

/// Where `cargo xtask runtimes` puts ONNX Runtime.
pub fn onnxruntime_path() -> PathBuf {
    workspace().join(".tools/runtimes/libonnxruntime.so")
}

/// That library, opened once.
pub async fn onnxruntime(worker: &WorkerOptions) -> anyhow::Result<OnnxRuntimeLibrary> {
    let found = OnnxRuntimeLibrary::probe(&onnxruntime_path(), worker).await;
    found.context("run cargo xtask runtimes")
}

fn read(path: &Path, mend: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| anyhow::anyhow!("{}: {error}; run {mend}", path.display()))
}
