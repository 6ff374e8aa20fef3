//! An input in the V2 protocol's JSON: its elements are read where they stand, if it is known by then of which type
//! they are.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use domain::DType;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::parameters::Given;
use super::reply::has_form;

/// An input as it stands in the body.
pub(super) struct Input<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<u32>,
    pub(super) datatype: DType,
    pub(super) parameters: Given<'a>,
    pub(super) data: Data<'a>,
}

/// The elements of an input.
pub(super) enum Data<'a> {
    /// Their little-endian bytes.
    Read(Vec<u8>),
    /// Their JSON, where what comes behind it says what it means.
    Unread(&'a RawValue),
}

impl Data<'_> {
    /// The elements' little-endian bytes.
    pub(super) fn elements(self, dtype: DType, base64: bool) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::Read(elements) => Ok(elements),
            Self::Unread(json) => read(&mut serde_json::Deserializer::from_str(json.get()), dtype, base64),
        }
    }
}

/// The members of an input in the order of V2, which most clients write them in.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Member {
    Name,
    Shape,
    Datatype,
    Parameters,
    Data,
    #[serde(other)]
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Input<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Input<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Input<'de>, A::Error> {
        let (mut name, mut shape, mut datatype, mut parameters, mut data) = (None, None, None, None, None);
        while let Some(member) = members.next_key()? {
            match member {
                Member::Name => once(&mut name, "name", members.next_value()?)?,
                Member::Shape => once(&mut shape, "shape", members.next_value()?)?,
                Member::Datatype => once(&mut datatype, "datatype", members.next_value()?)?,
                Member::Parameters => once(&mut parameters, "parameters", members.next_value()?)?,
                Member::Data => {
                    let read = members.next_value_seed(In(datatype))?;
                    once(&mut data, "data", read)?;
                }
                Member::Other => {
                    members.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        Ok(Input {
            name: name.ok_or_else(|| A::Error::missing_field("name"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            datatype: datatype.ok_or_else(|| A::Error::missing_field("datatype"))?,
            parameters: parameters.unwrap_or_default(),
            data: data.ok_or_else(|| A::Error::missing_field("data"))?,
        })
    }
}

/// Sets what stands once.
fn once<T, E: serde::de::Error>(member: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    match member.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(name)),
    }
}

/// The data of an input, of this type as far as is known.
struct In(Option<DType>);

impl<'de> DeserializeSeed<'de> for In {
    type Value = Data<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Data<'de>, D::Error> {
        match self.0 {
            // Parameters, which may come behind, say in which form byte strings are.
            Some(dtype) if dtype != DType::Bytes && has_form(dtype) => {
                read(deserializer, dtype, false).map(Data::Read)
            }
            _ => Deserialize::deserialize(deserializer).map(Data::Unread),
        }
    }
}

/// The little-endian bytes of elements.
fn read<'de, D: Deserializer<'de>>(from: D, dtype: DType, base64: bool) -> Result<Vec<u8>, D::Error> {
    // At most four bytes for each of the body's, which is bounded: an FP64 is written `0,` at the shortest.
    let mut data = Vec::new();
    let sink = Elements {
        dtype,
        base64,
        data: &mut data,
    };
    sink.deserialize(from)?;
    Ok(data)
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
