//! Tensors in the V2 protocol's JSON: flat or nested numbers, booleans and strings.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use domain::tensor::byte_strings;
use domain::{DType, Tensor};
use runtime::{Request, Response};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::flow::Error;
use crate::flow::invoke::Answer;

#[derive(Deserialize)]
struct Infer<'a> {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    shape: Vec<u32>,
    datatype: DType,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Output {
    name: String,
}

/// Most tensors in a request.
const TENSORS: usize = 256;

/// The call in a body of `POST …/infer`.
pub(super) fn request(body: &[u8]) -> Result<Request, Error> {
    let infer: Infer<'_> = super::body::parse(body)?;
    if infer.inputs.len() > TENSORS {
        return Err(Error::invalid("inputs", format!("at most {TENSORS} tensors")));
    }
    let inputs = infer
        .inputs
        .iter()
        .enumerate()
        .map(|(index, input)| tensor(index, input));
    Ok(Request {
        id: infer.id,
        inputs: inputs.collect::<Result<_, _>>()?,
        outputs: infer.outputs.into_iter().map(|output| output.name).collect(),
        parameters: infer
            .parameters
            .into_iter()
            .map(|(key, value)| (key, value.to_string()))
            .collect(),
    })
}

fn tensor(index: usize, input: &Input<'_>) -> Result<Tensor, Error> {
    if matches!(input.datatype, DType::Fp16 | DType::Bf16) {
        let message = format!("{} has no form in JSON: send FP32", input.datatype.as_str());
        return Err(Error::invalid(format!("inputs[{index}].datatype"), message));
    }
    let base64 = input.parameters.get("content_type").and_then(Value::as_str) == Some("base64");
    let mut data = Vec::new();
    let sink = Elements {
        dtype: input.datatype,
        base64,
        data: &mut data,
    };
    let mut json = serde_json::Deserializer::from_str(input.data.get());
    let parsed = sink.deserialize(&mut json);
    parsed.map_err(|error| Error::invalid(format!("inputs[{index}].data"), error))?;
    let tensor = Tensor::new(&input.name, input.datatype, input.shape.clone(), data);
    tensor.map_err(|error| Error::invalid(format!("inputs[{index}]"), error))
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
        if self.dtype != DType::Bytes {
            return Err(E::custom(format!("a string is no {}", self.dtype.as_str())));
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

/// The body of an answer.
pub(super) fn response(id: &str, deployment: &str, answer: &Answer) -> Result<Bytes, Error> {
    let Response { outputs, parameters } = &answer.response;
    let outputs: Vec<Value> = outputs.iter().map(output).collect::<Result<_, _>>()?;
    let mut body = json!({
        "model_name": deployment,
        "model_version": answer.release.to_string(),
        "outputs": outputs,
    });
    if !id.is_empty() {
        body["id"] = json!(id);
    }
    if !parameters.is_empty() {
        let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        let all = parameters.iter().map(|(key, value)| (key.clone(), parse(value)));
        body["parameters"] = Value::Object(all.collect());
    }
    serde_json::to_vec(&body)
        .map(Bytes::from)
        .map_err(|_| Error::Internal)
}

fn output(tensor: &Tensor) -> Result<Value, Error> {
    let data = tensor.data();
    macro_rules! numbers {
        ($type:ty) => {
            data.chunks_exact(size_of::<$type>())
                .map(|chunk| Value::from(<$type>::from_le_bytes(chunk.try_into().unwrap_or_default())))
                .collect()
        };
    }
    let mut parameters = None;
    let elements: Vec<Value> = match tensor.dtype() {
        DType::Bool => data.iter().map(|&byte| Value::from(byte != 0)).collect(),
        DType::U8 => numbers!(u8),
        DType::I8 => numbers!(i8),
        DType::U16 => numbers!(u16),
        DType::I16 => numbers!(i16),
        DType::U32 => numbers!(u32),
        DType::I32 => numbers!(i32),
        DType::U64 => numbers!(u64),
        DType::I64 => numbers!(i64),
        DType::Fp32 => numbers!(f32),
        DType::Fp64 => numbers!(f64),
        DType::Bytes => {
            let strings = byte_strings(data).unwrap_or_default();
            if strings.iter().all(|bytes| std::str::from_utf8(bytes).is_ok()) {
                strings
                    .iter()
                    .map(|bytes| Value::from(String::from_utf8_lossy(bytes)))
                    .collect()
            } else {
                parameters = Some(json!({ "content_type": "base64" }));
                strings
                    .iter()
                    .map(|bytes| Value::from(BASE64_STANDARD.encode(bytes)))
                    .collect()
            }
        }
        DType::Fp16 | DType::Bf16 => {
            let message = format!(
                "{} has no form in JSON: let the pipeline answer FP32",
                tensor.dtype().as_str()
            );
            return Err(Error::invalid(format!("outputs.{}", tensor.name()), message));
        }
    };
    let mut view = json!({
        "name": tensor.name(),
        "datatype": tensor.dtype(),
        "shape": tensor.shape(),
        "data": elements,
    });
    if let Some(parameters) = parameters {
        view["parameters"] = parameters;
    }
    Ok(view)
}
