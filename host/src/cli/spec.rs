//! The small languages of the command line: pins, graphs, settings and limits.

use std::path::PathBuf;
use std::str::FromStr;

use domain::{Digest, Limits, Name};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `NAME[@sha256:…]`: a component or graph, newest or pinned.
#[derive(Clone, Debug, PartialEq)]
pub struct Pinned {
    /// The tenant's name for it.
    pub name: Name,
    /// The one upload of it; the newest without.
    pub digest: Option<Digest>,
}

impl FromStr for Pinned {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(|error| format!("{error}"))?)),
            None => (text, None),
        };
        Ok(Self {
            name: name.parse().map_err(|error| format!("{error}"))?,
            digest,
        })
    }
}

/// `ALIAS=NAME[@sha256:…]`: a graph under the name that the pipeline loads it by.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphSpec {
    /// The pipeline's name for it.
    pub alias: Name,
    /// The tenant's graph.
    pub graph: Pinned,
}

impl FromStr for GraphSpec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (alias, graph) = text
            .split_once('=')
            .ok_or("write ALIAS=NAME or ALIAS=NAME@sha256:…")?;
        Ok(Self {
            alias: alias.parse().map_err(|error| format!("{error}"))?,
            graph: graph.parse()?,
        })
    }
}

/// `KEY=VALUE` or `KEY=@FILE`: a setting that the pipeline can ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its key.
    pub key: String,
    /// Its value, or the file that holds it.
    pub value: Source,
}

impl FromStr for Setting {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = named(text, "KEY=VALUE or KEY=@FILE")?;
        Ok(Self {
            key: key.to_owned(),
            value: Source::from(value),
        })
    }
}

/// Text on the command line, or the file that holds it.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// `@FILE`
    File(PathBuf),
    /// Anything else.
    Text(String),
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(path) => Self::File(path.into()),
            None => Self::Text(text.to_owned()),
        }
    }
}

/// `FIELD=NUMBER`, where the number may have `_` and end in k, M, G (thousands) or Ki, Mi, Gi.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// A field of [`Limits`].
    pub field: String,
    /// In the field's own unit.
    pub value: u64,
}

impl FromStr for Limit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (field, number) = named(text, "FIELD=NUMBER, such as fuel=5M")?;
        let known = json!(Limits::default());
        let fields: Vec<_> = known
            .as_object()
            .into_iter()
            .flatten()
            .map(|(field, _)| field.as_str())
            .collect();
        if !fields.contains(&field) {
            return Err(format!(
                "there is no limit '{field}'; there are {}",
                fields.join(", ")
            ));
        }
        let value = whole_number(number).ok_or_else(|| format!("'{number}' is no whole number"))?;
        Ok(Self {
            field: field.to_owned(),
            value,
        })
    }
}

fn whole_number(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u64); 6] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
    ];
    let suffix = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (digits, factor) = suffix.unwrap_or((text, 1));
    digits.replace('_', "").parse::<u64>().ok()?.checked_mul(factor)
}

/// The parts of `NAME=VALUE`, where the name is not empty.
pub fn named<'a>(text: &'a str, form: &str) -> Result<(&'a str, &'a str), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("write {form}"))
}

/// An instant such as `2027-01-31T00:00:00Z`.
pub fn instant(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|error| error.to_string())
}

/// An instant as [`instant`] reads it.
pub fn rfc3339(at: OffsetDateTime) -> Result<String, time::error::Format> {
    at.format(&Rfc3339)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_may_be_pinned() {
        let digest = Digest::of(b"x");
        let spec: GraphSpec = format!("net=tabular@{digest}").parse().unwrap();
        assert_eq!(
            (spec.alias.as_str(), spec.graph.name.as_str()),
            ("net", "tabular")
        );
        assert_eq!(spec.graph.digest, Some(digest));
        assert_eq!("net=tabular".parse::<GraphSpec>().unwrap().graph.digest, None);
        for bad in [
            "tabular",
            "=tabular",
            "net=",
            "net=a b",
            "net=tabular@",
            "net=tabular@sha256:00",
        ] {
            assert!(bad.parse::<GraphSpec>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn limits_take_known_fields_and_suffixes() {
        for (text, value) in [
            ("fuel=12", 12),
            ("fuel=1_000", 1_000),
            ("fuel=5M", 5_000_000),
            ("memory_bytes=64Mi", 64 << 20),
            ("deadline_ms=2k", 2_000),
        ] {
            assert_eq!(text.parse::<Limit>().unwrap().value, value, "{text}");
        }
        let unknown = "gas=1".parse::<Limit>().unwrap_err();
        assert!(
            unknown.contains("deadline_ms"),
            "the known ones are named: {unknown}"
        );
        for bad in [
            "fuel",
            "fuel=",
            "fuel=-1",
            "fuel=1.5",
            "fuel=many",
            "fuel=99999999999G",
        ] {
            assert!(bad.parse::<Limit>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn settings_keep_what_follows_the_first_equals_sign() {
        let setting: Setting = "greeting=a=b".parse().unwrap();
        assert_eq!(
            (setting.key.as_str(), setting.value),
            ("greeting", Source::Text("a=b".into()))
        );
        let setting: Setting = "labels=@dir/labels.json".parse().unwrap();
        assert_eq!(setting.value, Source::File("dir/labels.json".into()));
        assert!("=x".parse::<Setting>().is_err());
    }
}
