//! Parameters as V2's JSON has them: an object of values.

use std::fmt;

use domain::{DType, Parameter};
use runtime::check_parameters;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap as _, Serializer};
use serde_json::value::RawValue;

use crate::flow::Error;

/// What marks byte strings that are not text, and how.
const CONTENT_TYPE: &str = "content_type";
const BASE64: &str = "\"base64\"";

/// Whether a parameter speaks of how the message is encoded: the host's business, not a pipeline's.
fn is_of_encoding(dtype: Option<DType>, key: &str, value: &str) -> bool {
    match key {
        "binary_data" | "binary_data_size" | "binary_data_output" => true,
        CONTENT_TYPE => dtype == Some(DType::Bytes) && value == BASE64,
        _ => false,
    }
}

/// Parameters of a request, as they stand in its body.
#[derive(Default)]
pub(super) struct Given<'a>(Vec<(String, &'a RawValue)>);

impl Given<'_> {
    /// Whether byte strings are in base64.
    pub(super) fn base64(&self) -> bool {
        let marked = |(key, value): &(String, &RawValue)| key == CONTENT_TYPE && value.get() == BASE64;
        self.0.iter().any(marked)
    }

    /// What a pipeline is to see of them; `field` is where they stand, `dtype` their tensor's.
    pub(super) fn take(self, field: &str, dtype: Option<DType>) -> Result<Vec<Parameter>, Error> {
        let seen = self.0.into_iter();
        let seen = seen.filter(|(key, value)| !is_of_encoding(dtype, key, value.get()));
        let own = |(key, value): (String, &RawValue)| Parameter {
            key,
            value: value.get().to_owned(),
        };
        let list: Vec<_> = seen.map(own).collect();
        check_parameters(&list).map_err(|wrong| Error::invalid(field, wrong))?;
        Ok(list)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Given<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries).map(Self)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// Parameters on their way out: keys and JSON texts.
pub(in crate::http) struct Object<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Object<'a> {
    /// All of `list`.
    pub(in crate::http) fn of(list: &'a [Parameter]) -> Self {
        Self(list.iter().map(|own| (&own.key[..], &own.value[..])).collect())
    }

    /// Those of an answer, or of one of its tensors, whose byte strings may be in base64.
    pub(super) fn of_answer(list: &'a [Parameter], dtype: Option<DType>, base64: bool) -> Self {
        let Self(mut pairs) = Self::of(list);
        pairs.retain(|(key, value)| !is_of_encoding(dtype, key, value));
        if base64 {
            pairs.retain(|(key, _)| *key != CONTENT_TYPE);
            pairs.push((CONTENT_TYPE, BASE64));
        }
        Self(pairs)
    }

    /// Whether there are none.
    pub(in crate::http) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            let value: &RawValue = serde_json::from_str(value).map_err(S::Error::custom)?;
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
