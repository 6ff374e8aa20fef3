//! ONNX Runtime's library: where it is looked for. A host without it runs every graph on rten.

use std::path::{Path, PathBuf};

use inference::{LoadError, OnnxRuntimeLibrary, WorkerOptions};

/// The library's name in the known places.
const NAME: &str = "libonnxruntime.so";

/// How an operator brings it.
pub const ADVICE: &str = "take libonnxruntime.so, 1.24 or newer, out of the wheel `pip download onnxruntime` \
                          brings, and put it beside wattle or into /usr/local/lib, or name it by --onnxruntime";

/// The library that was named cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--onnxruntime {}: {reason}; {ADVICE}, or leave the flag out to run graphs on rten alone", path.display())]
pub struct Unusable {
    /// What was named.
    path: PathBuf,
    /// Why not.
    reason: LoadError,
}

/// Opens the library that was named, or the first of the known places that can be opened; none is fine there.
/// It is opened in a process that `worker` starts.
pub async fn find(
    named: Option<&Path>,
    worker: &WorkerOptions,
) -> Result<Option<OnnxRuntimeLibrary>, Unusable> {
    if let Some(named) = named {
        // The library's loader takes a relative path from the program's folder.
        let path = std::path::absolute(named).unwrap_or_else(|_| named.to_owned());
        let found = OnnxRuntimeLibrary::probe(&path, worker).await;
        return found.map(Some).map_err(|reason| Unusable { path, reason });
    }
    for path in places().into_iter().filter(|path| path.exists()) {
        match OnnxRuntimeLibrary::probe(&path, worker).await {
            Ok(library) => return Ok(Some(library)),
            Err(error) => tracing::warn!(path = %path.display(), %error, "this ONNX Runtime is passed over"),
        }
    }
    Ok(None)
}

/// Where it may be, the nearest first.
fn places() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent);
    let mut folders: Vec<PathBuf> = beside.map(Path::to_owned).into_iter().collect();
    folders.extend(beside.map(|beside| beside.join("../lib/wattle")));
    folders.extend(["/usr/local/lib", "/usr/lib/wattle", "/usr/lib"].map(PathBuf::from));
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    folders.push(multiarch.into());
    folders.into_iter().map(|folder| folder.join(NAME)).collect()
}
