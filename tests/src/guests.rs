//! Where `cargo xtask guests` and `cargo xtask models` put what tests need.

use std::path::{Path, PathBuf};

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

/// The `wattle` binary beside the test binary.
pub fn wattle() -> anyhow::Result<PathBuf> {
    let mut path = std::env::current_exe()?;
    path.pop();
    path.pop();
    path.push("wattle");
    anyhow::ensure!(
        path.exists(),
        "{} is missing: run cargo build --workspace",
        path.display()
    );
    Ok(path)
}

/// How the `wattle` binary is started for a graph.
pub fn graph_worker() -> anyhow::Result<inference::WorkerOptions> {
    Ok(inference::WorkerOptions::new(
        wattle()?,
        vec!["graph-worker".into()],
    ))
}

fn read(path: &Path, mend: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| anyhow::anyhow!("{}: {error}; run {mend}", path.display()))
}
