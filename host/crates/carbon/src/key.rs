//! Keys of providers.

use std::fmt;

/// A key or password that must not be shown: it has no `Display`, and its `Debug` keeps it back.
#[derive(Clone)]
pub struct Key(String);

impl Key {
    /// The key that `text` is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}
