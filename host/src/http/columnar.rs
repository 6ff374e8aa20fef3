//! Charges as Parquet: one row group, uncompressed, every column optional. Decimals have 38 digits, 12 of them behind
//! the point; instants are microseconds in UTC.

use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::focus::{COLUMNS, FocusCharge, Kind, cells};

/// Digits of a decimal, and how many of them stand behind the point.
const PRECISION: i32 = 38;
const SCALE: i32 = 12;

/// The bytes of a Parquet file with `charges`: the same for the same charges.
pub fn written(charges: &[FocusCharge]) -> Result<Vec<u8>, ParquetError> {
    let rows: Vec<_> = charges.iter().map(cells).collect();
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_created_by("wattle".to_owned())
        .build();
    let fields: Vec<_> = COLUMNS.iter().map(field).collect::<Result<_, _>>()?;
    let schema = Type::group_type_builder("charge").with_fields(fields).build()?;
    let mut file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    let mut group = file.next_row_group()?;
    for (index, (name, kind)) in COLUMNS.iter().enumerate() {
        let Some(mut column) = group.next_column()? else {
            return Err(ParquetError::General(format!("there is no column for {name}")));
        };
        let values: Vec<_> = rows
            .iter()
            .map(|row| row.get(index).and_then(Option::as_deref))
            .collect();
        write(&mut column, *kind, &values)?;
        column.close()?;
    }
    group.close()?;
    file.into_inner()
}

fn field((name, kind): &(&str, Kind)) -> Result<Arc<Type>, ParquetError> {
    let (physical, logical) = match kind {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Integer => (Physical::INT64, None),
        Kind::Instant => (
            Physical::INT64,
            Some(LogicalType::timestamp(true, TimeUnit::MICROS)),
        ),
        Kind::Decimal => (
            Physical::FIXED_LEN_BYTE_ARRAY,
            Some(LogicalType::decimal(SCALE, PRECISION)),
        ),
    };
    let mut field = Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical);
    if *kind == Kind::Decimal {
        field = field.with_length(16).with_precision(PRECISION).with_scale(SCALE);
    }
    Ok(Arc::new(field.build()?))
}

fn write(
    column: &mut SerializedColumnWriter<'_>,
    kind: Kind,
    values: &[Option<&str>],
) -> Result<(), ParquetError> {
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let present = values.iter().copied().flatten();
    match kind {
        Kind::Text => {
            let values: Vec<_> = present.map(ByteArray::from).collect();
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, Some(&levels), None)?;
        }
        Kind::Integer | Kind::Instant => {
            let values: Vec<_> = present.map(|text| whole(kind, text)).collect::<Result<_, _>>()?;
            column
                .typed::<Int64Type>()
                .write_batch(&values, Some(&levels), None)?;
        }
        Kind::Decimal => {
            let values: Vec<_> = present.map(scaled).collect::<Result<_, _>>()?;
            column
                .typed::<FixedLenByteArrayType>()
                .write_batch(&values, Some(&levels), None)?;
        }
    }
    Ok(())
}

fn unfit(text: &str) -> ParquetError {
    ParquetError::General(format!("{text:?} does not fit its column"))
}

/// A whole number, or an instant in microseconds since 1970.
fn whole(kind: Kind, text: &str) -> Result<i64, ParquetError> {
    if kind == Kind::Integer {
        return text.parse().map_err(|_| unfit(text));
    }
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| unfit(text))?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000).map_err(|_| unfit(text))
}

/// A decimal in parts of 10¹², as 128 bits with a sign, the highest first.
fn scaled(text: &str) -> Result<FixedLenByteArray, ParquetError> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{part:0<12}");
    let scaled: i128 = digits.parse().map_err(|_| unfit(text))?;
    if !whole.ends_with(|last: char| last.is_ascii_digit())
        || part.len() > SCALE as usize
        || scaled.unsigned_abs() >= 10_u128.pow(PRECISION as u32)
    {
        return Err(unfit(text));
    }
    Ok(FixedLenByteArray::from(scaled.to_be_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::Field;

    use super::super::focus::tests::charge;
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let charges = [FocusCharge::from(charge()), FocusCharge::from(charge())];
        let bytes = written(&charges).unwrap();
        assert_eq!(written(&charges).unwrap(), bytes, "the same bytes");
        let reader = SerializedFileReader::new(Bytes::from(bytes)).unwrap();
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 2);
        let read: Vec<_> = rows[1].get_column_iter().collect();
        for ((name, kind), (column, text)) in COLUMNS.iter().zip(read.iter().zip(cells(&charges[1]))) {
            assert_eq!(name, column.0);
            match (kind, column.1, text) {
                (_, Field::Null, None) => {}
                (Kind::Text, Field::Str(read), Some(text)) => assert_eq!(*read, text),
                (Kind::Integer, Field::Long(read), Some(text)) => assert_eq!(read.to_string(), text),
                (Kind::Instant, Field::TimestampMicros(read), Some(text)) => {
                    assert_eq!(whole(Kind::Instant, &text).unwrap(), *read);
                }
                (Kind::Decimal, Field::Decimal(read), Some(text)) => {
                    assert_eq!(read.data(), scaled(&text).unwrap().data());
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        for (text, expected) in [
            ("0", 0),
            ("12.05", 12_050_000_000_000),
            ("-0.000000000001", -1),
            ("-3.5", -3_500_000_000_000),
            ("7", 7_000_000_000_000),
        ] {
            assert_eq!(
                scaled(text).unwrap().data(),
                i128::to_be_bytes(expected),
                "{text}"
            );
        }
        for bad in ["", "x", "1.0000000000001", "100000000000000000000000000.0"] {
            assert!(scaled(bad).is_err(), "{bad}");
        }
    }
}
