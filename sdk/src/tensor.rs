use crate::parameter::find;
use crate::{Dtype, Failure, Parameter, Tensor};

/// For each numeric type a constructor and a reader.
macro_rules! numeric {
    ($($make:ident, $read:ident, $element:ty, $dtype:ident;)*) => {
        $(
            #[doc = concat!("A tensor of `", stringify!($element), "` values in row-major order.")]
            pub fn $make(name: impl Into<String>, shape: impl Into<Vec<u32>>, values: &[$element]) -> Self {
                let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Self::raw(name, Dtype::$dtype, shape, data)
            }

            #[doc = concat!("The values as `", stringify!($element), "`, or a failure `wrong-type`.")]
            pub fn $read(&self) -> Result<Vec<$element>, Failure> {
                self.expect(Dtype::$dtype)?;
                let (elements, _) = self.data.as_chunks::<{ size_of::<$element>() }>();
                Ok(elements.iter().map(|element| <$element>::from_le_bytes(*element)).collect())
            }
        )*
    };
}

impl Tensor {
    numeric! {
        u8, as_u8, u8, U8;
        i8, as_i8, i8, I8;
        u16, as_u16, u16, U16;
        i16, as_i16, i16, I16;
        u32, as_u32, u32, U32;
        i32, as_i32, i32, I32;
        u64, as_u64, u64, U64;
        i64, as_i64, i64, I64;
        fp32, as_fp32, f32, Fp32;
        fp64, as_fp64, f64, Fp64;
    }

    /// A tensor over bytes that are already laid out as the contract has them.
    pub fn raw(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<u32>>, data: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
            data,
            parameters: Vec::new(),
        }
    }

    /// A tensor of truth values.
    pub fn bool(name: impl Into<String>, shape: impl Into<Vec<u32>>, values: &[bool]) -> Self {
        Self::raw(
            name,
            Dtype::Bool,
            shape,
            values.iter().map(|&value| u8::from(value)).collect(),
        )
    }

    /// A tensor of byte strings, which may be text.
    pub fn bytes<B: AsRef<[u8]>>(
        name: impl Into<String>,
        shape: impl Into<Vec<u32>>,
        values: impl IntoIterator<Item = B>,
    ) -> Self {
        let mut data = Vec::new();
        for value in values {
            let value = value.as_ref();
            data.extend((value.len() as u32).to_le_bytes());
            data.extend(value);
        }
        Self::raw(name, Dtype::Bytes, shape, data)
    }

    /// The truth values, or a failure `wrong-type`.
    pub fn as_bool(&self) -> Result<Vec<bool>, Failure> {
        self.expect(Dtype::Bool)?;
        Ok(self.data.iter().map(|&byte| byte != 0).collect())
    }

    /// The byte strings, or a failure: `wrong-type`, or `malformed-bytes` where lengths do not add up.
    pub fn as_bytes(&self) -> Result<Vec<&[u8]>, Failure> {
        self.expect(Dtype::Bytes)?;
        let malformed = || Failure::new("malformed-bytes", format!("tensor '{}': malformed", self.name));
        let (mut rest, mut elements) = (&self.data[..], Vec::new());
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk().ok_or_else(malformed)?;
            let length = u32::from_le_bytes(*length) as usize;
            let (element, tail) = tail.split_at_checked(length).ok_or_else(malformed)?;
            elements.push(element);
            rest = tail;
        }
        Ok(elements)
    }

    /// The same tensor under another name.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self
        }
    }

    /// The value of a parameter, as JSON text.
    pub fn parameter(&self, key: &str) -> Option<&str> {
        find(&self.parameters, key)
    }

    /// The same tensor with a parameter; see [`Parameter::json`].
    pub fn with(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    fn expect(&self, dtype: Dtype) -> Result<(), Failure> {
        if self.dtype == dtype {
            return Ok(());
        }
        let message = format!(
            "tensor '{}': {dtype:?} expected, {:?} given",
            self.name, self.dtype
        );
        Err(Failure::new("wrong-type", message))
    }
}
