//! Tensors in the V2 protocol's JSON: flat or nested numbers, booleans and strings.

pub(super) mod parameters;
pub(super) mod reply;

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use domain::{DType, Tensor};
use runtime::{Request, RequestedOutput};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::flow::Error;
use parameters::Given;
use reply::has_form;

#[derive(Deserialize)]
struct Infer<'a> {
    #[serde(default)]
    id: String,
    #[serde(default, borrow)]
    parameters: Given<'a>,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(default, borrow)]
    outputs: Vec<Output<'a>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    shape: Vec<u32>,
    datatype: DType,
    #[serde(default, borrow)]
    parameters: Given<'a>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Output<'a> {
    name: String,
    #[serde(default, borrow)]
    parameters: Given<'a>,
}

/// Most tensors in a request.
const TENSORS: usize = 256;

/// The call in a body of `POST …/infer`.
pub(super) fn request(body: &[u8]) -> Result<Request, Error> {
    let infer: Infer<'_> = super::body::parse(body)?;
    if infer.inputs.len() > TENSORS {
        return Err(Error::invalid("inputs", format!("at most {TENSORS} tensors")));
    }
    if infer.outputs.len() > TENSORS {
        return Err(Error::invalid("outputs", format!("at most {TENSORS} tensors")));
    }
    let inputs = infer.inputs.into_iter().enumerate();
    let output = |(index, output): (usize, Output<'_>)| {
        let field = format!("outputs[{index}].parameters");
        Ok::<_, Error>(RequestedOutput {
            name: output.name,
            parameters: output.parameters.take(&field, None)?,
        })
    };
    Ok(Request {
        id: infer.id,
        inputs: inputs
            .map(|(index, input)| tensor(index, input))
            .collect::<Result<_, _>>()?,
        outputs: infer
            .outputs
            .into_iter()
            .enumerate()
            .map(output)
            .collect::<Result<_, _>>()?,
        parameters: infer.parameters.take("parameters", None)?,
    })
}

fn tensor(index: usize, input: Input<'_>) -> Result<Tensor, Error> {
    if !has_form(input.datatype) {
        let message = format!("{} has no form in JSON: send FP32", input.datatype.as_str());
        return Err(Error::invalid(format!("inputs[{index}].datatype"), message));
    }
    // At most four bytes for each of the body's, which is bounded: an FP64 is written `0,` at the shortest.
    let mut data = Vec::new();
    let sink = Elements {
        dtype: input.datatype,
        base64: input.parameters.base64(),
        data: &mut data,
    };
    let mut json = serde_json::Deserializer::from_str(input.data.get());
    let parsed = sink.deserialize(&mut json);
    parsed.map_err(|error| Error::invalid(format!("inputs[{index}].data"), error))?;
    let tensor = Tensor::new(input.name, input.datatype, input.shape, data);
    let tensor = tensor.map_err(|error| Error::invalid(format!("inputs[{index}]"), error))?;
    let field = format!("inputs[{index}].parameters");
    let parameters = input.parameters.take(&field, Some(input.datatype))?;
    Ok(tensor.with_parameters(parameters))
}

/// Takes elements, however nested, and appends their little-endian bytes.
struct Elements<'a> {
    dtype: DType,
    base64: bool,
    data: &'a mut Vec<u8>,
}

impl Elements<'_> {
    fn again(&mut self) -> Elements<'_> {
        Elements {
            dtype: self.dtype,
            base64: self.base64,
            data: self.data,
        }
    }

    fn integer<E: serde::de::Error>(self, value: i128) -> Result<(), E> {
        let wrong = || E::custom(format!("{value} does not fit {}", self.dtype.as_str()));
        let data = self.data;
        macro_rules! put {
            ($type:ty) => {
                data.extend(<$type>::try_from(value).map_err(|_| wrong())?.to_le_bytes())
            };
        }
        match self.dtype {
            DType::Bool if matches!(value, 0 | 1) => data.push(u8::from(value == 1)),
            DType::U8 => put!(u8),
            DType::I8 => put!(i8),
            DType::U16 => put!(u16),
            DType::I16 => put!(i16),
            DType::U32 => put!(u32),
            DType::I32 => put!(i32),
            DType::U64 => put!(u64),
            DType::I64 => put!(i64),
            DType::Fp32 => data.extend((value as f32).to_le_bytes()),
            DType::Fp64 => data.extend((value as f64).to_le_bytes()),
            DType::Bool | DType::Fp16 | DType::Bf16 | DType::Bytes => return Err(wrong()),
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "elements of type {}, flat or nested", self.dtype.as_str())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self.again())?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        match self.dtype {
            DType::Bool => self.data.push(u8::from(value)),
            dtype => return Err(E::custom(format!("a boolean is no {}", dtype.as_str()))),
        }
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        match self.dtype {
            DType::Fp32 if (value as f32).is_finite() => self.data.extend((value as f32).to_le_bytes()),
            DType::Fp64 => self.data.extend(value.to_le_bytes()),
            dtype => return Err(E::custom(format!("{value} is no {}", dtype.as_str()))),
        }
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        let number = match value {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        };
        match (self.dtype, number) {
            (DType::Bytes, _) => {}
            (DType::Fp32, Some(number)) => {
                self.data.extend((number as f32).to_le_bytes());
                return Ok(());
            }
            (DType::Fp64, Some(number)) => {
                self.data.extend(number.to_le_bytes());
                return Ok(());
            }
            (dtype, _) => return Err(E::custom(format!("a string is no {}", dtype.as_str()))),
        }
        let decoded;
        let bytes = if self.base64 {
            decoded = BASE64_STANDARD
                .decode(value)
                .map_err(|error| E::custom(format!("no base64: {error}")))?;
            &decoded
        } else {
            value.as_bytes()
        };
        let length = u32::try_from(bytes.len()).map_err(|_| E::custom("a string is over 4 GiB"))?;
        self.data.extend(length.to_le_bytes());
        self.data.extend(bytes);
        Ok(())
    }
}
