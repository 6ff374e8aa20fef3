//! Checked conversions between Wattle's values and what a column holds. Nothing wraps.
//! Instants need none: a column keeps whole microseconds, and hashes are taken over the same.

use std::fmt::Display;
use std::str::FromStr;

use domain::Digest;
use serde::Serialize;
use serde::de::value::{Error as WordError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};

use crate::DbError;

/// An integer on its way into a column.
pub(crate) fn store<T: Copy + Display, U: TryFrom<T>>(field: &'static str, value: T) -> Result<U, DbError> {
    U::try_from(value).map_err(|_| DbError::out_of_range(field, value))
}

/// An integer out of a column.
pub(crate) fn load<T: Copy + Display, U: TryFrom<T>>(field: &'static str, value: T) -> Result<U, DbError> {
    U::try_from(value).map_err(|_| DbError::inconsistent(field, value))
}

/// A digest out of a column.
pub(crate) fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, DbError> {
    bytes
        .try_into()
        .map(Digest)
        .map_err(|_| DbError::inconsistent(field, format_args!("{} bytes", bytes.len())))
}

/// A name, account or role out of a column.
pub(crate) fn parse<T: FromStr>(field: &'static str, text: &str) -> Result<T, DbError> {
    text.parse().map_err(|_| DbError::inconsistent(field, text))
}

/// What may be missing, converted where it is not.
pub(crate) fn some<T, U>(
    value: Option<T>,
    convert: impl FnOnce(T) -> Result<U, DbError>,
) -> Result<Option<U>, DbError> {
    value.map(convert).transpose()
}

/// One of an enum's words out of a column.
pub(crate) fn word<T: DeserializeOwned>(field: &'static str, text: &str) -> Result<T, DbError> {
    let deserializer: StrDeserializer<'_, WordError> = text.into_deserializer();
    T::deserialize(deserializer).map_err(|_| DbError::inconsistent(field, text))
}

/// JSON on its way into a column.
pub(crate) fn to_json<T: Serialize>(field: &'static str, value: &T) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::out_of_range(field, error))
}

/// JSON out of a column.
pub(crate) fn from_json<T: DeserializeOwned>(field: &'static str, text: &str) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|error| DbError::inconsistent(field, error))
}

#[cfg(test)]
mod tests {
    use domain::energy::Provenance;
    use domain::posting::{CallKind, PostingKind, TransferKind, Unit};

    use super::*;

    #[test]
    fn nothing_wraps() {
        assert_eq!(store::<u64, i64>("n", i64::MAX as u64).unwrap(), i64::MAX);
        assert!(matches!(
            store::<u64, i64>("n", 1 << 63),
            Err(DbError::OutOfRange { field: "n", .. })
        ));
        assert!(matches!(
            load::<i64, u64>("n", -1),
            Err(DbError::Inconsistent { field: "n", .. })
        ));
    }

    #[test]
    fn words_are_what_the_database_holds() {
        fn check<T: DeserializeOwned + PartialEq + std::fmt::Debug>(value: T, text: &str) {
            assert_eq!(word::<T>("word", text).unwrap(), value);
        }
        for kind in [CallKind::Infer, CallKind::Publish, CallKind::Deploy] {
            check(kind, kind.as_str());
        }
        for kind in [
            PostingKind::Window,
            PostingKind::Allocation,
            PostingKind::Correction,
        ] {
            check(kind, kind.as_str());
        }
        for unit in [Unit::Uj, Unit::Fuel] {
            check(unit, unit.as_str());
        }
        for provenance in [Provenance::Measured, Provenance::Modelled, Provenance::Estimated] {
            check(provenance, provenance.as_str());
        }
        for kind in [
            TransferKind::Dynamic,
            TransferKind::Idle,
            TransferKind::System,
            TransferKind::Foreign,
            TransferKind::Unattributed,
            TransferKind::Allocation,
            TransferKind::Correction,
        ] {
            check(kind, kind.as_str());
        }
        assert!(word::<Unit>("unit", "gram").is_err());
    }
}
