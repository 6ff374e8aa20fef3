//! Tables as Parquet: one row group, uncompressed, every column optional. Values come and go as text. Decimals have 38
//! digits, 12 of them behind the point; instants are microseconds in UTC.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::record::Field;
use parquet::schema::types::Type;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Digits of a decimal, and how many of them stand behind the point.
const PRECISION: i32 = 38;
const SCALE: i32 = 12;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// An exact decimal with at most 12 digits behind the point.
    Decimal,
    /// A whole number.
    Integer,
    /// An instant in UTC.
    Instant,
}

/// A row: its values as text, in the order of the columns.
pub type Row = Vec<Option<String>>;

/// The bytes of a Parquet file whose rows are called `name`: the same for the same rows.
pub fn written(name: &str, columns: &[(&str, Kind)], rows: &[Row]) -> Result<Vec<u8>, ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_created_by("wattle".to_owned())
        .build();
    let fields: Vec<_> = columns.iter().map(field).collect::<Result<_, _>>()?;
    let schema = Type::group_type_builder(name).with_fields(fields).build()?;
    let mut file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    let mut group = file.next_row_group()?;
    for (index, (name, kind)) in columns.iter().enumerate() {
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

/// The rows of a file with these columns, none of them decimals.
pub fn read(bytes: Bytes, columns: &[(&str, Kind)]) -> Result<Vec<Row>, ParquetError> {
    let reader = SerializedFileReader::new(bytes)?;
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let found: Vec<_> = row.get_column_iter().collect();
        if found.len() != columns.len() {
            return Err(ParquetError::General(format!(
                "there are {} columns",
                found.len()
            )));
        }
        let cells = columns.iter().zip(found);
        let cells = cells.map(|((name, kind), (found, field))| match found == name {
            true => cell(*kind, field).ok_or_else(|| unfit(name)),
            false => Err(unfit(found)),
        });
        rows.push(cells.collect::<Result<_, _>>()?);
    }
    Ok(rows)
}

/// A value as text, where there is one; nothing if it is of another kind.
fn cell(kind: Kind, field: &Field) -> Option<Option<String>> {
    match (kind, field) {
        (_, Field::Null) => Some(None),
        (Kind::Text, Field::Str(text)) => Some(Some(text.clone())),
        (Kind::Integer, Field::Long(number)) => Some(Some(number.to_string())),
        (Kind::Instant, Field::TimestampMicros(us)) => {
            let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(*us) * 1_000).ok()?;
            at.format(&Rfc3339).ok().map(Some)
        }
        _ => None,
    }
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
    use super::*;

    const COLUMNS: [(&str, Kind); 3] = [
        ("name", Kind::Text),
        ("count", Kind::Integer),
        ("at", Kind::Instant),
    ];

    fn row(cells: [Option<&str>; 3]) -> Row {
        cells.map(|cell| cell.map(ToOwned::to_owned)).to_vec()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let rows = [
            row([Some("a"), Some("-7"), Some("2026-11-30T00:00:00.000001Z")]),
            row([None, None, None]),
            row([
                Some(""),
                Some("9223372036854775807"),
                Some("1969-12-31T23:59:59Z"),
            ]),
        ];
        let bytes = written("row", &COLUMNS, &rows).unwrap();
        assert_eq!(written("row", &COLUMNS, &rows).unwrap(), bytes, "the same bytes");
        let bytes = Bytes::from(bytes);
        assert_eq!(read(bytes.clone(), &COLUMNS).unwrap(), rows);
        // Another table, and no table.
        let mut others = COLUMNS;
        others[1] = ("number", Kind::Integer);
        assert!(read(bytes.clone(), &others).is_err());
        others[1] = ("count", Kind::Text);
        assert!(read(bytes.clone(), &others).is_err());
        assert!(read(bytes.clone(), &COLUMNS[..2]).is_err());
        assert!(read(bytes.slice(..40), &COLUMNS).is_err());
    }

    #[test]
    fn decimals_are_written_as_they_are() {
        let columns = [("cost", Kind::Decimal)];
        let bytes = written("row", &columns, &[vec![Some("12.05".to_owned())], vec![None]]).unwrap();
        let reader = SerializedFileReader::new(Bytes::from(bytes)).unwrap();
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        let cells: Vec<_> = rows
            .iter()
            .flat_map(|row| row.get_column_iter().map(|(_, cell)| cell))
            .collect();
        let [Field::Decimal(cost), Field::Null] = cells[..] else {
            panic!("{cells:?}");
        };
        assert_eq!(cost.data(), scaled("12.05").unwrap().data());
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
