//! What serde lets pass in JSON and the API does not: members that stand twice, arrays for objects, objects
//! for words.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A `T` that is written as an object. Serde by itself takes a struct's fields from an array, too.
#[derive(Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// A word of a closed set. Serde by itself takes an enum's variant from an object, too.
pub fn word<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let word = String::deserialize(deserializer)?;
    word.parse().map_err(D::Error::custom)
}

/// The path of a member that stands twice in its object, if there is one. Which of both is meant nobody
/// knows.
pub fn repeated(json: &[u8]) -> Option<String> {
    let found = RefCell::new(None);
    let value = Value {
        path: "",
        found: &found,
    };
    // What else is wrong is said better by whoever reads the body for what it is.
    let _ = value.deserialize(&mut serde_json::Deserializer::from_slice(json));
    found.into_inner()
}

struct Value<'a> {
    path: &'a str,
    found: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = members.next_key::<String>()? {
            let path = match self.path {
                "" => key.clone(),
                parent => format!("{parent}.{key}"),
            };
            if !seen.insert(key) {
                self.found.replace(Some(path));
                return Err(A::Error::custom("it stands twice"));
            }
            members.next_value_seed(Value { path: &path, ..self })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        loop {
            let path = format!("{}[{index}]", self.path);
            if items.next_element_seed(Value { path: &path, ..self })?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn members_that_stand_twice_are_found_by_their_path() {
        for (json, path) in [
            (r#"{"a":1,"a":1}"#, Some("a")),
            (r#"{"a":{"b":null,"c":[],"b":0.5}}"#, Some("a.b")),
            (r#"{"a":[{},{"b":1,"\u0062":-2}]}"#, Some("a[1].b")),
            (r#"{"a":{"b":1},"b":{"a":"b"}}"#, None),
            (r#"{"a":1,"#, None),
            ("[]", None),
        ] {
            assert_eq!(repeated(json.as_bytes()).as_deref(), path, "{json}");
        }
    }
}
