//! Sorts the vocabulary, so that a call can search it without reading it first.

use std::io::{Error, Result};
use std::path::Path;
use std::{env, fs};

/// Where `cargo xtask models` puts it.
const VOCABULARY: &str = "../../.tools/models/minilm.vocab.txt";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={VOCABULARY}");
    let vocabulary = fs::read_to_string(VOCABULARY)
        .map_err(|error| Error::other(format!("{VOCABULARY}: {error}: run `cargo xtask models`")))?;
    let mut tokens: Vec<(&str, usize)> = vocabulary.lines().zip(0..).collect();
    tokens.sort_unstable();
    let folder = env::var("OUT_DIR").map_err(Error::other)?;
    fs::write(Path::new(&folder).join("tokens.rs"), format!("&{tokens:?}"))
}
