//! Answers in the V2 protocol's JSON, written straight from their tensors into a bounded text.

use std::io;

use base64::display::Base64Display;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use domain::tensor::byte_strings;
use domain::{DType, Limits, Outcome, Tensor};
use runtime::{Failure, Response};
use serde::{Serialize, Serializer};

use super::parameters::Object;

/// How many bytes of text there may be for each byte that the answer may have: enough for any numbers,
/// which take 3.75 bytes for one at most, save small integers in bulk.
const TEXT_FACTOR: u64 = 4;
/// What names, shapes and the like may take besides.
const FRAME_BYTES: u64 = 64 << 10;

/// Whether elements of a type have a form in V2's JSON.
pub(in crate::http) fn has_form(dtype: DType) -> bool {
    !matches!(dtype, DType::Fp16 | DType::Bf16)
}

/// The body of an answer to the call that its caller named `id`.
pub(in crate::http) fn encode(
    id: &str,
    deployment: &str,
    release: u32,
    response: &Response,
    limits: &Limits,
) -> Result<Bytes, Failure> {
    let limit = limits
        .output_bytes
        .saturating_mul(TEXT_FACTOR)
        .saturating_add(FRAME_BYTES);
    let mut text = Bounded {
        bytes: Vec::new(),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let reply = Reply {
        model_name: deployment,
        model_version: release.to_string(),
        id,
        parameters: Object::of_answer(&response.parameters, None, false),
        outputs: response.outputs.iter().map(Output::of).collect(),
    };
    match serde_json::to_writer(&mut text, &reply) {
        Ok(()) => Ok(text.bytes.into()),
        Err(error) if error.is_io() => {
            let message = format!(
                "the answer may have {limit} bytes in JSON, {TEXT_FACTOR} for each of limits.output_bytes: \
                 raise it or ask for fewer outputs"
            );
            Err(Failure::new(Outcome::OutputExceeded, message))
        }
        Err(error) => Err(Failure::new(Outcome::InvalidOutput, error.to_string())),
    }
}

/// Text that grows to its limit and no further.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if more.len() > self.limit - self.bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Serialize)]
struct Reply<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "Object::is_empty")]
    parameters: Object<'a>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: DType,
    shape: &'a [u32],
    #[serde(skip_serializing_if = "Object::is_empty")]
    parameters: Object<'a>,
    data: Elements<'a>,
}

impl<'a> Output<'a> {
    fn of(tensor: &'a Tensor) -> Self {
        let strings = match tensor.dtype() {
            DType::Bytes => byte_strings(tensor.data()).unwrap_or_default(),
            _ => Vec::new(),
        };
        let base64 = strings.iter().any(|bytes| str::from_utf8(bytes).is_err());
        let data = match tensor.dtype() {
            DType::Bytes if base64 => Elements::Base64(strings),
            DType::Bytes => Elements::Text(strings),
            dtype => Elements::Fixed(dtype, tensor.data()),
        };
        Self {
            name: tensor.name(),
            datatype: tensor.dtype(),
            shape: tensor.shape(),
            parameters: Object::of_answer(tensor.parameters(), Some(tensor.dtype()), base64),
            data,
        }
    }
}

enum Elements<'a> {
    Fixed(DType, &'a [u8]),
    Text(Vec<&'a [u8]>),
    Base64(Vec<&'a [u8]>),
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        macro_rules! numbers {
            ($data:expr, $type:ty) => {{
                let (elements, _) = $data.as_chunks::<{ size_of::<$type>() }>();
                elements
                    .iter()
                    .map(|element| <$type>::from_le_bytes(*element))
            }};
        }
        let (dtype, data) = match self {
            Self::Fixed(dtype, data) => (*dtype, *data),
            Self::Text(strings) => {
                return to.collect_seq(strings.iter().map(|bytes| String::from_utf8_lossy(bytes)));
            }
            Self::Base64(strings) => {
                return to.collect_seq(strings.iter().map(|bytes| Coded(bytes)));
            }
        };
        match dtype {
            DType::Bool => to.collect_seq(data.iter().map(|&byte| byte != 0)),
            DType::U8 => to.collect_seq(data),
            DType::I8 => to.collect_seq(numbers!(data, i8)),
            DType::U16 => to.collect_seq(numbers!(data, u16)),
            DType::I16 => to.collect_seq(numbers!(data, i16)),
            DType::U32 => to.collect_seq(numbers!(data, u32)),
            DType::I32 => to.collect_seq(numbers!(data, i32)),
            DType::U64 => to.collect_seq(numbers!(data, u64)),
            DType::I64 => to.collect_seq(numbers!(data, i64)),
            DType::Fp32 => to.collect_seq(numbers!(data, f32).map(Single)),
            DType::Fp64 => to.collect_seq(numbers!(data, f64).map(Double)),
            DType::Fp16 | DType::Bf16 | DType::Bytes => Err(serde::ser::Error::custom(format!(
                "{} has no form in JSON: let the pipeline answer FP32",
                dtype.as_str()
            ))),
        }
    }
}

struct Coded<'a>(&'a [u8]);

impl Serialize for Coded<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Base64Display::new(self.0, &BASE64_STANDARD))
    }
}

/// Numbers that are none. JSON has no form for them, and neither has V2: Triton writes bare words, which most
/// parsers refuse, others `null`, which hides what it was, and failing would throw away an answer that a masked
/// logarithm made. So they are the strings of protobuf's JSON, as V2's own messages have them there; NumPy's
/// conversions and this host's requests read them back.
fn word(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

struct Single(f32);

impl Serialize for Single {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            to.serialize_f32(self.0)
        } else {
            to.serialize_str(word(self.0.into()))
        }
    }
}

struct Double(f64);

impl Serialize for Double {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            to.serialize_f64(self.0)
        } else {
            to.serialize_str(word(self.0))
        }
    }
}
