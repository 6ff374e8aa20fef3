//! What the host and a graph's process say to each other: frames of a head and a body of raw bytes.
//!
//! The host does not trust the process: lengths are bounded before anything is allocated, and tensors pass
//! their one constructor.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use domain::{DType, Signature, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backends::Library;
use crate::error::{ComputeError, LoadError};

/// Bytes before the head: its length and the body's.
pub(super) const PREFIX_BYTES: usize = 12;

/// The most bytes of a head. The longest is a signature.
const MAX_HEAD_BYTES: u32 = 4 << 20;

/// What the host asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Open the ONNX Runtime at this path.
    Probe(PathBuf),
    /// Load the model in the body, to be run by this.
    Load(Library),
    /// Run on the tensors in the body.
    Run(Vec<Head>),
}

/// What the process answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is there and says that it has this version.
    Probed(String),
    /// The model is loaded.
    Loaded(Signature),
    /// It, or the library, cannot be.
    Refused(LoadError),
    /// A run, of which there may be several before the host reads an answer.
    Ran {
        /// Of the outputs, which are the tensors in the body, or why there are none.
        outputs: Result<Vec<Head>, ComputeError>,
        /// What the process says that it took, in nanoseconds of CPU time: several runs share by it what the host
        /// measured of all.
        cpu_ns: u64,
    },
}

/// A tensor without its data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    name: String,
    dtype: DType,
    shape: Vec<u32>,
    bytes: u64,
}

impl Head {
    pub(super) fn of(tensor: &Tensor) -> Self {
        Self {
            name: tensor.name().to_owned(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            bytes: tensor.data().len() as u64,
        }
    }
}

/// The lengths that a frame begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix {
    pub(super) head_bytes: usize,
    pub(super) body_bytes: usize,
}

impl Prefix {
    /// Refuses lengths beyond what the reader takes.
    pub(super) fn parse(bytes: [u8; PREFIX_BYTES], max_body_bytes: u64) -> io::Result<Self> {
        let [a, b, c, d, body @ ..] = bytes;
        let (head, body) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(body));
        if head > MAX_HEAD_BYTES || body > max_body_bytes {
            return Err(garbled(format!("a frame of {head} and {body} bytes")));
        }
        Ok(Self {
            head_bytes: head as usize,
            body_bytes: usize::try_from(body).map_err(garbled)?,
        })
    }
}

/// The start of a frame, to be followed by its body.
pub(super) fn start(head: &impl Serialize, body_bytes: u64) -> io::Result<Vec<u8>> {
    let mut frame = postcard::to_extend(head, vec![0; PREFIX_BYTES]).map_err(garbled)?;
    let head_bytes = u32::try_from(frame.len() - PREFIX_BYTES).map_err(garbled)?;
    if head_bytes > MAX_HEAD_BYTES {
        return Err(garbled("the head is too long"));
    }
    frame[..4].copy_from_slice(&head_bytes.to_le_bytes());
    frame[4..PREFIX_BYTES].copy_from_slice(&body_bytes.to_le_bytes());
    Ok(frame)
}

pub(super) fn head<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(garbled)
}

/// The tensors that `heads` describe and `body` holds.
pub(super) fn tensors(heads: Vec<Head>, mut body: Bytes) -> io::Result<Vec<Tensor>> {
    let mut tensors = Vec::with_capacity(heads.len());
    for Head {
        name,
        dtype,
        shape,
        bytes,
    } in heads
    {
        let length = usize::try_from(bytes).ok().filter(|&length| length <= body.len());
        let data = body.split_to(length.ok_or_else(|| garbled("a tensor longer than its frame"))?);
        // In memory of its own: a small tensor that is kept must not keep a large one beside it.
        let data = if body.is_empty() && tensors.is_empty() {
            data
        } else {
            Bytes::copy_from_slice(&data)
        };
        tensors.push(Tensor::new(name, dtype, shape, data).map_err(garbled)?);
    }
    if !body.is_empty() {
        return Err(garbled("a frame longer than its tensors"));
    }
    Ok(tensors)
}

pub(super) fn body_bytes(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|tensor| tensor.data().len() as u64).sum()
}

pub(super) fn garbled(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_tensor_keeps_no_large_one_in_memory() {
        let tensor =
            |name: &str, bytes: usize| Tensor::new(name, DType::U8, vec![bytes as u32], vec![7; bytes]);
        let sent = [tensor("large", 1 << 20).unwrap(), tensor("small", 1).unwrap()];
        let body: Bytes = sent.iter().flat_map(|tensor| tensor.data().to_vec()).collect();
        let watched = body.clone();
        let mut got = tensors(sent.iter().map(Head::of).collect(), body).unwrap();
        assert_eq!(got, sent);
        got.remove(0);
        assert!(watched.is_unique(), "what is left shares nothing of the frame");
    }
}
