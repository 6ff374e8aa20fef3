//! Tensors of the Open Inference Protocol, with one constructor that checks length against shape.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The element type of a tensor, as the guest contract and the V2 protocol name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DType {
    /// One byte, 0 or 1.
    #[serde(rename = "BOOL")]
    Bool,
    /// Unsigned 8-bit integer.
    #[serde(rename = "UINT8")]
    U8,
    /// Signed 8-bit integer.
    #[serde(rename = "INT8")]
    I8,
    /// Unsigned 16-bit integer.
    #[serde(rename = "UINT16")]
    U16,
    /// Signed 16-bit integer.
    #[serde(rename = "INT16")]
    I16,
    /// Unsigned 32-bit integer.
    #[serde(rename = "UINT32")]
    U32,
    /// Signed 32-bit integer.
    #[serde(rename = "INT32")]
    I32,
    /// Unsigned 64-bit integer.
    #[serde(rename = "UINT64")]
    U64,
    /// Signed 64-bit integer.
    #[serde(rename = "INT64")]
    I64,
    /// IEEE 754 half precision.
    #[serde(rename = "FP16")]
    Fp16,
    /// Truncated single precision.
    #[serde(rename = "BF16")]
    Bf16,
    /// IEEE 754 single precision.
    #[serde(rename = "FP32")]
    Fp32,
    /// IEEE 754 double precision.
    #[serde(rename = "FP64")]
    Fp64,
    /// Byte strings: each element is a little-endian u32 length, then the bytes.
    #[serde(rename = "BYTES")]
    Bytes,
}

impl DType {
    /// Bytes per element; `None` for byte strings, whose elements differ.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::U8 | Self::I8 => Some(1),
            Self::U16 | Self::I16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::U32 | Self::I32 | Self::Fp32 => Some(4),
            Self::U64 | Self::I64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// The V2 protocol's name, such as `FP32`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "UINT8",
            Self::I8 => "INT8",
            Self::U16 => "UINT16",
            Self::I16 => "INT16",
            Self::U32 => "UINT32",
            Self::I32 => "INT32",
            Self::U64 => "UINT64",
            Self::I64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }
}

/// A named JSON value beside tensors: metadata, not data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name, once in each list.
    pub key: String,
    /// A JSON text.
    pub value: String,
}

impl Parameter {
    /// The most parameters of one list.
    pub const MAX_COUNT: usize = 256;
    /// The most bytes of a key.
    pub const MAX_KEY_BYTES: usize = 256;
    /// The most bytes of a value.
    pub const MAX_VALUE_BYTES: usize = 64 << 10;

    /// Bytes of key and value.
    pub fn bytes(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64
    }

    /// Checks a list's counts and bytes, and that no key stands in it twice; says what is wrong. Whether
    /// values are JSON is not looked at.
    pub fn check(list: &[Self]) -> Result<(), String> {
        if list.len() > Self::MAX_COUNT {
            return Err(format!("more than {} parameters", Self::MAX_COUNT));
        }
        for (index, Self { key, value }) in list.iter().enumerate() {
            if key.len() > Self::MAX_KEY_BYTES {
                let limit = Self::MAX_KEY_BYTES;
                return Err(format!("a parameter's key is over {limit} bytes"));
            }
            if value.len() > Self::MAX_VALUE_BYTES {
                let limit = Self::MAX_VALUE_BYTES;
                return Err(format!("the parameter '{key}' is over {limit} bytes"));
            }
            if list[..index].iter().any(|earlier| earlier.key == *key) {
                return Err(format!("the parameter '{key}' stands twice"));
            }
        }
        Ok(())
    }
}

/// A named, immutable tensor: row-major, little-endian, its length proven to fit its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    name: String,
    dtype: DType,
    shape: Vec<u32>,
    data: Bytes,
    parameters: Vec<Parameter>,
}

/// Why bytes are not the tensor that they claim to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The product of the dimensions overflows.
    #[error("tensor '{name}': the shape {shape:?} has too many elements")]
    ShapeTooLarge {
        /// The tensor's name.
        name: String,
        /// The shape that was given.
        shape: Vec<u32>,
    },
    /// The data is shorter or longer than shape and type say.
    #[error("tensor '{name}': {expected} bytes expected for its shape and type, {actual} given")]
    LengthMismatch {
        /// The tensor's name.
        name: String,
        /// Bytes that shape and type ask for.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// Byte-string elements do not add up to the shape.
    #[error("tensor '{name}': its byte strings do not match its shape")]
    MalformedBytes {
        /// The tensor's name.
        name: String,
    },
}

impl Tensor {
    /// A tensor of `shape` over `data`, or why they do not fit. A scalar has the empty shape.
    pub fn new(
        name: impl Into<String>,
        dtype: DType,
        shape: Vec<u32>,
        data: impl Into<Bytes>,
    ) -> Result<Self, TensorError> {
        let (name, data) = (name.into(), data.into());
        let elements = shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(u64::from(d)));
        let Some(elements) = elements else {
            return Err(TensorError::ShapeTooLarge { name, shape });
        };
        match dtype.size() {
            Some(size) => {
                let Some(expected) = elements.checked_mul(size as u64) else {
                    return Err(TensorError::ShapeTooLarge { name, shape });
                };
                let actual = data.len() as u64;
                if actual != expected {
                    return Err(TensorError::LengthMismatch {
                        name,
                        expected,
                        actual,
                    });
                }
            }
            None if byte_strings(&data).is_none_or(|found| found.len() as u64 != elements) => {
                return Err(TensorError::MalformedBytes { name });
            }
            None => {}
        }
        Ok(Self {
            name,
            dtype,
            shape,
            data,
            parameters: Vec::new(),
        })
    }

    /// The same tensor with other parameters.
    pub fn with_parameters(self, parameters: Vec<Parameter>) -> Self {
        Self { parameters, ..self }
    }

    /// What is said beside the elements.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Bytes of its elements and parameters.
    pub fn bytes(&self) -> u64 {
        let parameters: u64 = self.parameters.iter().map(Parameter::bytes).sum();
        self.data.len() as u64 + parameters
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions; empty for a scalar.
    pub fn shape(&self) -> &[u32] {
        &self.shape
    }

    /// The raw little-endian bytes, shared.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The same tensor under another name.
    pub fn renamed(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self
        }
    }

    /// Elements: 1 for a scalar.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&size| u64::from(size)).product()
    }

    /// Rows: the first dimension, or 1 for a scalar.
    pub fn rows(&self) -> u64 {
        self.shape.first().map_or(1, |&rows| u64::from(rows))
    }
}

/// The elements of a BYTES tensor, or `None` if the lengths do not add up.
pub fn byte_strings(mut data: &[u8]) -> Option<Vec<&[u8]>> {
    let mut elements = Vec::new();
    while !data.is_empty() {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        elements.push(element);
        data = rest;
    }
    Some(elements)
}

/// What a tensor must look like; a `None` in the shape is a free axis.
///
/// No field is skipped where it is empty: a graph's process sends it in a form without names of fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The tensor's name.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The dimensions; `None` is free.
    pub shape: Vec<Option<u32>>,
    /// Whether a call may leave it out, or an answer that was not asked for it by name.
    #[serde(default)]
    pub optional: bool,
    /// What callers may like to know of it.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
}

impl TensorSpec {
    /// A tensor that must be there, without parameters.
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl Into<Vec<Option<u32>>>) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
            optional: false,
            parameters: Vec::new(),
        }
    }

    /// Whether a tensor of `dtype` and `shape` fits.
    pub fn accepts(&self, dtype: DType, shape: &[u32]) -> bool {
        self.dtype == dtype
            && self.shape.len() == shape.len()
            && self
                .shape
                .iter()
                .zip(shape)
                .all(|(want, got)| want.is_none_or(|want| want == *got))
    }
}

/// What a pipeline or graph takes and gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Inputs, in the graph's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the graph's order.
    pub outputs: Vec<TensorSpec>,
    /// What callers may like to know of the whole.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_must_fit_shape() {
        assert!(Tensor::new("x", DType::Fp32, vec![2, 3], vec![0; 24]).is_ok());
        assert!(Tensor::new("x", DType::Fp32, vec![], vec![0; 4]).is_ok());
        assert!(Tensor::new("x", DType::Fp32, vec![0, 9], vec![]).is_ok());
        assert!(matches!(
            Tensor::new("x", DType::Fp32, vec![2, 3], vec![0; 23]),
            Err(TensorError::LengthMismatch {
                expected: 24,
                actual: 23,
                ..
            })
        ));
        for shape in [vec![u32::MAX; 3], vec![u32::MAX, u32::MAX]] {
            assert!(matches!(
                Tensor::new("x", DType::I64, shape, vec![]),
                Err(TensorError::ShapeTooLarge { .. })
            ));
        }
    }

    #[test]
    fn parameters_are_bounded() {
        let list = |count: usize, key: usize, value: usize| -> Vec<_> {
            let one = |n| Parameter {
                key: format!("{n:0key$}"),
                value: "1".repeat(value),
            };
            (0..count).map(one).collect()
        };
        for (good, list) in [
            (true, list(256, 256, 1)),
            (false, list(257, 3, 1)),
            (false, list(1, 257, 1)),
            (true, list(1, 1, 65_536)),
            (false, list(1, 1, 65_537)),
            (false, [list(1, 1, 1), list(1, 1, 2)].concat()),
        ] {
            assert_eq!(Parameter::check(&list).is_ok(), good, "{} of them", list.len());
        }
    }

    #[test]
    fn byte_strings_must_add_up() {
        assert!(Tensor::new("x", DType::Bytes, vec![2], b"\x01\0\0\0a\0\0\0\0".to_vec()).is_ok());
        for bad in [&b"\x01\0\0\0"[..], b"\x01\0\0", b"\x01\0\0\0a", b""] {
            assert!(
                Tensor::new("x", DType::Bytes, vec![2], bad.to_vec()).is_err(),
                "{bad:?}"
            );
        }
    }
}
