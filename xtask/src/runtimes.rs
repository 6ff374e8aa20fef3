//! The libraries of backends that are not cargo's, into `.tools/runtimes`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::packages::Wheel;
use crate::setup::{Inputs, once, read, root, tools, write};

/// Fetches ONNX Runtime, unless it is there: its library as it is, and its licence beside it.
pub fn ensure() -> Result<()> {
    let wheel = Wheel {
        name: "onnxruntime",
        version: "1.32.0",
        // One for each platform; the library in it does not depend on Python's version.
        sha256: &[
            "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
            "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
            "366b9e53d07812cc5c92822cecf7563b76a8a0f32ba3bb8dd232a206ac3bcb6c",
        ],
        platform: None,
        python: Some("3.11"),
    };
    let named = if cfg!(target_os = "macos") {
        "libonnxruntime.1.32.0.dylib"
    } else {
        "libonnxruntime.so.1.32.0"
    };
    let library = onnxruntime();
    let outputs = [library.clone(), library.with_file_name("onnxruntime.LICENSE")];
    let inputs = Inputs::default()
        .text(&wheel.requirement())
        .tree(&root().join("xtask/src/runtimes.rs"))?;
    once("fetch ONNX Runtime", "15 s", inputs, &outputs, || {
        let package = wheel.unpack()?.join("onnxruntime");
        let bytes = read(&package.join("capi").join(named)).context("the wheel lacks its library")?;
        write(&outputs[0], &bytes)?;
        write(&outputs[1], &read(&package.join("LICENSE"))?)
    })
}

/// ONNX Runtime's library.
pub fn onnxruntime() -> PathBuf {
    let name = if cfg!(target_os = "macos") {
        "libonnxruntime.dylib"
    } else {
        "libonnxruntime.so"
    };
    tools("runtimes").join(name)
}
