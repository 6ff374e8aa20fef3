//! Input tensors on the command line.

use std::path::Path;
use std::str::FromStr;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use domain::DType;
use serde::Deserialize;
use serde_json::{Value, json};

use super::spec::{Source, named};

/// `NAME[:DTYPE][[D,D…]]=JSON` or `…=@FILE`: an input tensor.
///
/// What is left out is taken from the deployment's metadata; a file is one byte string of a BYTES
/// tensor, or the elements of a UINT8 one.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    name: String,
    dtype: Option<DType>,
    shape: Option<Vec<u64>>,
    source: Source,
}

impl FromStr for Input {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (head, value) = named(
            text,
            "NAME[:DTYPE][[SHAPE]]=JSON or …=@FILE, such as 'x:FP32[2,3]=[1,2,3,4,5,6]'",
        )?;
        let (head, shape) = match head.strip_suffix(']') {
            Some(open) => {
                let (head, axes) = open.rsplit_once('[').ok_or("the shape has no '['")?;
                (head, Some(parse_shape(axes)?))
            }
            None => (head, None),
        };
        let (name, dtype) = match head.rsplit_once(':') {
            Some((name, dtype)) => (name, Some(parse_dtype(dtype)?)),
            None => (head, None),
        };
        if name.is_empty() {
            return Err("the tensor has no name".into());
        }
        Ok(Self {
            name: name.to_owned(),
            dtype,
            shape,
            source: Source::from(value),
        })
    }
}

fn parse_shape(axes: &str) -> Result<Vec<u64>, String> {
    let axis = |axis: &str| {
        axis.trim()
            .parse()
            .map_err(|_| format!("'{axis}' in the shape is no whole number"))
    };
    axes.split(',')
        .filter(|_| !axes.trim().is_empty())
        .map(axis)
        .collect()
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    serde_json::from_value(json!(text.to_uppercase()))
        .map_err(|_| format!("'{text}' is no element type of the V2 protocol, such as FP32, INT64 or BYTES"))
}

/// A tensor in a deployment's V2 metadata; -1 is a free axis.
#[derive(Clone, Debug, Deserialize)]
pub struct TensorMeta {
    /// The tensor's name.
    pub name: String,
    /// Its element type.
    pub datatype: DType,
    /// Its axes.
    pub shape: Vec<i64>,
}

impl Input {
    /// The tensor as the V2 protocol writes it. `read` gives a file's bytes.
    pub fn to_v2(
        &self,
        metas: &[TensorMeta],
        read: impl FnOnce(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Value, String> {
        let name = &self.name;
        let meta = metas.iter().find(|meta| meta.name == *name);
        let dtype = self.dtype.or(meta.map(|meta| meta.datatype)).ok_or_else(|| {
            let known: Vec<_> = metas.iter().map(|meta| meta.name.as_str()).collect();
            format!(
                "the deployment names no input '{name}' (it has: {}); write '{name}:DTYPE=…'",
                known.join(", ")
            )
        })?;
        let mut base64_coded = false;
        let data = match &self.source {
            Source::File(path) if dtype == DType::Bytes => {
                base64_coded = true;
                json!([BASE64_STANDARD.encode(read(path)?)])
            }
            Source::File(path) if dtype == DType::U8 => json!(read(path)?),
            Source::File(_) => {
                return Err(format!(
                    "input '{name}': a file can be BYTES or UINT8, not {}",
                    dtype.as_str()
                ));
            }
            Source::Text(text) => match serde_json::from_str::<Value>(text) {
                Ok(value @ Value::Array(_)) => value,
                Ok(value) if dtype != DType::Bytes || value.is_string() => json!([value]),
                _ if dtype == DType::Bytes => json!([text]),
                _ => return Err(format!("input '{name}': its data is not JSON")),
            },
        };
        let nested =
            nested_shape(&data).ok_or_else(|| format!("input '{name}': its rows differ in length"))?;
        let shape = self.shape.clone().unwrap_or_else(|| fitting_shape(&nested, meta));
        let mut tensor = json!({ "name": name, "shape": shape, "datatype": dtype.as_str(), "data": data });
        if base64_coded {
            tensor["parameters"] = json!({ "content_type": "base64" });
        }
        Ok(tensor)
    }
}

/// The lengths of nested arrays from the outside in, if all rows agree.
fn nested_shape(data: &Value) -> Option<Vec<u64>> {
    let Value::Array(items) = data else {
        return Some(Vec::new());
    };
    let mut shapes = items.iter().map(nested_shape);
    let inner = shapes.next().unwrap_or(Some(Vec::new()))?;
    if shapes.any(|shape| shape.as_ref() != Some(&inner)) {
        return None;
    }
    Some([vec![items.len() as u64], inner].concat())
}

/// The shape of data whose arrays nest as `nested`: flat data fills the one free axis of the metadata.
fn fitting_shape(nested: &[u64], meta: Option<&TensorMeta>) -> Vec<u64> {
    let (&[count], Some(meta)) = (nested, meta) else {
        return nested.to_vec();
    };
    let known: u64 = meta
        .shape
        .iter()
        .filter_map(|&axis| u64::try_from(axis).ok())
        .product();
    let free = meta.shape.iter().filter(|&&axis| axis < 0).count();
    let fits = free <= 1 && known > 0 && count.is_multiple_of(known) && (free == 1 || count == known);
    if !fits {
        return nested.to_vec();
    }
    meta.shape
        .iter()
        .map(|&axis| u64::try_from(axis).unwrap_or(count / known))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(name: &str, datatype: DType, shape: &[i64]) -> TensorMeta {
        TensorMeta {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
        }
    }

    fn v2(text: &str, metas: &[TensorMeta]) -> Result<Value, String> {
        text.parse::<Input>()?.to_v2(metas, |_| Ok(vec![1, 2, 250]))
    }

    #[test]
    fn inputs_say_type_and_shape_or_take_them_from_the_deployment() {
        let rows = [meta("rows", DType::Fp32, &[-1, 2])];
        for (text, shape) in [
            ("rows=[1,2,3,4]", json!([2, 2])),
            ("rows=[[1,2]]", json!([1, 2])),
            ("rows[4,1]=[1,2,3,4]", json!([4, 1])),
            ("rows=[1,2,3]", json!([3])), // fits nothing: the host says so
        ] {
            let tensor = v2(text, &rows).unwrap();
            assert_eq!(
                (&tensor["shape"], &tensor["datatype"]),
                (&shape, &json!("FP32")),
                "{text}"
            );
        }
        let tensor = v2("y:int64=7", &rows).unwrap();
        assert_eq!(
            tensor,
            json!({"name": "y", "shape": [1], "datatype": "INT64", "data": [7]})
        );
        assert_eq!(v2("y:INT64[]=7", &rows).unwrap()["shape"], json!([]));
        assert!(
            v2("y=7", &rows).unwrap_err().contains("rows"),
            "the known inputs are named"
        );
        for bad in [
            "rows",
            "=1",
            ":FP32=1",
            "rows:FP31=1",
            "rows[a]=1",
            "rows]=1",
            "rows=[[1,2],[3]]",
            "rows=[1,",
            "rows=@f",
        ] {
            assert!(v2(bad, &rows).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn files_are_byte_strings_or_bytes() {
        let file = [meta("file", DType::Bytes, &[-1])];
        let tensor = v2("file=@any", &file).unwrap();
        assert_eq!(
            (&tensor["shape"], &tensor["data"]),
            (&json!([1]), &json!(["AQL6"]))
        );
        assert_eq!(tensor["parameters"]["content_type"], "base64");
        let tensor = v2("raw:UINT8=@any", &file).unwrap();
        assert_eq!(
            (&tensor["shape"], &tensor["data"]),
            (&json!([3]), &json!([1, 2, 250]))
        );
        let text = v2("file=plain words", &file).unwrap();
        assert_eq!(
            (&text["data"], &text["parameters"]),
            (&json!(["plain words"]), &Value::Null)
        );
    }
}
