//! Names that tenants choose.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// The name of a tenant, component, graph or deployment: 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`,
/// beginning with a letter or digit. It is safe in a path, a header and a metric label, and cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(Arc<str>);

/// Text that is no name.
#[derive(Debug, thiserror::Error)]
#[error("a name is 1 to 63 characters of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit")]
pub struct ParseNameError;

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = ParseNameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let first_fits = text.bytes().next().is_some_and(alphanumeric);
        let all_fit = text
            .bytes()
            .all(|b| alphanumeric(b) || matches!(b, b'-' | b'_' | b'.'));
        if first_fits && all_fit && text.len() <= 63 {
            Ok(Self(text.into()))
        } else {
            Err(ParseNameError)
        }
    }
}

impl FromStr for Name {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "0", "file-type", "v1.2_x", &"a".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good:?}");
        }
        for bad in ["", "-a", ".a", "A", "a b", "a/b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
