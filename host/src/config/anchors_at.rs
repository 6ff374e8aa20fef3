//! Where anchors are kept, in one line of text.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use object_store::path::Path as Key;

/// A directory, or a bucket of S3 with a folder in it: `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnchorsAt {
    /// A directory, which must exist.
    Directory(PathBuf),
    /// A bucket of S3, or of a store that speaks as it does.
    Bucket {
        /// The bucket.
        name: String,
        /// The folder; it may be the bucket's root.
        folder: Key,
    },
}

/// Text that names no place for anchors.
#[derive(Debug, thiserror::Error)]
pub enum AnchorsAtError {
    /// Nothing.
    #[error("write a directory, or s3://BUCKET/PREFIX")]
    Empty,
    /// A URL of something else.
    #[error("'{0}://' is not known: write a directory, or s3://BUCKET/PREFIX")]
    Scheme(String),
    /// A name that no bucket has.
    #[error(
        "write s3://BUCKET/PREFIX with a bucket of letters, digits, '-', '.' and '_'; keys stand in the environment"
    )]
    Bucket,
    /// A name that no folder has.
    #[error("write s3://BUCKET/PREFIX with a prefix that has neither '?', '#', '.', '..' nor '//' in it")]
    Prefix,
}

impl FromStr for AnchorsAt {
    type Err = AnchorsAtError;

    fn from_str(text: &str) -> Result<Self, AnchorsAtError> {
        let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return match text.is_empty() {
                true => Err(AnchorsAtError::Empty),
                false => Ok(Self::Directory(PathBuf::from(text))),
            };
        };
        if scheme != "s3" {
            return Err(AnchorsAtError::Scheme(scheme.to_owned()));
        }
        let (name, folder) = rest.split_once('/').unwrap_or((rest, ""));
        let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let begins_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        if !begins_well || !name.bytes().all(is_of_names) {
            return Err(AnchorsAtError::Bucket);
        }
        // In a URL the first two begin something else than a path.
        if folder.contains(['?', '#']) || folder.starts_with('/') {
            return Err(AnchorsAtError::Prefix);
        }
        Ok(Self::Bucket {
            name: name.to_owned(),
            folder: Key::parse(folder).map_err(|_| AnchorsAtError::Prefix)?,
        })
    }
}

fn is_scheme(text: &str) -> bool {
    let is_of_schemes = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_schemes)
}

impl fmt::Display for AnchorsAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Bucket { name, folder } if folder.is_root() => write!(f, "s3://{name}"),
            Self::Bucket { name, folder } => write!(f, "s3://{name}/{folder}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_or_a_bucket() {
        for (text, shown) in [
            ("/mnt/anchors", "/mnt/anchors"),
            ("anchors", "anchors"),
            ("/mnt/a://b", "/mnt/a://b"),
        ] {
            let at: AnchorsAt = text.parse().unwrap();
            assert_eq!(at, AnchorsAt::Directory(PathBuf::from(text)), "{text}");
            assert_eq!(at.to_string(), shown);
        }
        for (text, name, folder) in [
            ("s3://ledgers", "ledgers", ""),
            ("s3://ledgers/", "ledgers", ""),
            ("s3://ledgers/wattle", "ledgers", "wattle"),
            ("s3://my.ledgers-1/wattle/one/", "my.ledgers-1", "wattle/one"),
        ] {
            let at: AnchorsAt = text.parse().unwrap();
            let expected = AnchorsAt::Bucket {
                name: name.to_owned(),
                folder: Key::parse(folder).unwrap(),
            };
            assert_eq!(at, expected, "{text}");
            assert_eq!(at.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_to_write() {
        for bad in [
            "",
            "gs://ledgers",
            "file:///mnt/anchors",
            "S3://ledgers",
            "s3://",
            "s3:///wattle",
            "s3://-ledgers",
            "s3://led gers",
            "s3://key:secret@ledgers",
            "s3://ledgers:9000",
            "s3://ledgers?region=x",
            "s3://ledgers/a//b",
            "s3://ledgers//a",
            "s3://ledgers/../a",
            "s3://ledgers/a?b=c",
            "s3://ledgers/a#b",
        ] {
            let refused = bad.parse::<AnchorsAt>().unwrap_err().to_string();
            assert!(refused.contains("s3://BUCKET/PREFIX"), "{bad:?}: {refused}");
        }
    }
}
