//! From a file's bytes to what the graph takes.

/// Bytes read from each end.
const BLOCK: usize = 4_096;
/// Tokens kept of each end.
const KEPT: usize = 1_024;
/// A token that stands for no byte.
const PADDING: i32 = 256;
/// Fewer bytes than this, white space aside, say too little for the graph.
const FEWEST: usize = 8;

/// What a file's bytes lead to.
pub enum Features {
    /// 2,048 tokens for the graph: the file's beginning, then its end.
    Tokens(Vec<i32>),
    /// A label that needs no graph.
    Answer(&'static str),
}

/// Reads a file's ends: at most [`BLOCK`] bytes each, without outer white space, [`KEPT`] of them.
pub fn features(file: &[u8]) -> Features {
    if file.is_empty() {
        return Features::Answer("empty");
    }
    let block = file.len().min(BLOCK);
    let beginning = trim_start(&file[..block]);
    let end = trim_end(&file[file.len() - block..]);
    if beginning.len() < FEWEST {
        let text = str::from_utf8(&file[..block]).is_ok();
        return Features::Answer(if text { "txt" } else { "unknown" });
    }
    let mut tokens = vec![PADDING; 2 * KEPT];
    let beginning = &beginning[..beginning.len().min(KEPT)];
    for (token, &byte) in tokens.iter_mut().zip(beginning) {
        *token = byte.into();
    }
    let end = &end[end.len().saturating_sub(KEPT)..];
    let start = tokens.len() - end.len();
    for (token, &byte) in tokens[start..].iter_mut().zip(end) {
        *token = byte.into();
    }
    Features::Tokens(tokens)
}

/// The white space of Python's `bytes.strip`, which has the vertical tab besides ASCII's.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let start = bytes
        .iter()
        .position(|byte| !is_space(byte))
        .unwrap_or(bytes.len());
    &bytes[start..]
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .rposition(|byte| !is_space(byte))
        .map_or(0, |last| last + 1);
    &bytes[..end]
}
