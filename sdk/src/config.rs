//! The release's own settings.

use crate::Failure;
use crate::bindings::wattle::pipeline::config;

/// The value of a setting, or `None` where the release has no such key.
pub fn get(key: &str) -> Option<String> {
    config::get(key)
}

/// The value of a setting, or a failure `missing-setting` that names it.
pub fn require(key: &str) -> Result<String, Failure> {
    get(key).ok_or_else(|| Failure::new("missing-setting", format!("the release has no setting '{key}'")))
}
