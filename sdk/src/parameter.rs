use std::fmt::Write as _;

use crate::Parameter;

impl Parameter {
    /// A parameter whose value is the JSON text `value`: a number, a boolean, a list. The host refuses
    /// what is no JSON.
    pub fn json(key: impl Into<String>, value: impl ToString) -> Self {
        Self {
            key: key.into(),
            value: value.to_string(),
        }
    }

    /// A parameter whose value is a string.
    pub fn string(key: impl Into<String>, value: &str) -> Self {
        let mut quoted = String::with_capacity(value.len() + 2);
        quoted.push('"');
        for character in value.chars() {
            match character {
                '"' | '\\' => quoted.extend(['\\', character]),
                // Writing to a string does not fail.
                '\0'..' ' => _ = write!(quoted, "\\u{:04x}", u32::from(character)),
                _ => quoted.push(character),
            }
        }
        quoted.push('"');
        Self::json(key, quoted)
    }
}

/// The value of the parameter `key`, as JSON text.
pub(crate) fn find<'a>(parameters: &'a [Parameter], key: &str) -> Option<&'a str> {
    let found = parameters.iter().find(|parameter| parameter.key == key);
    found.map(|parameter| parameter.value.as_str())
}
