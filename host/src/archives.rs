//! The file of an archive: the receipt lines of whole postings as Parquet, each with its leaf, its posting's Merkle root
//! and its posting's hash.

use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use db::PostingKey;
use domain::posting::{Call, Posting, ReceiptLine};
use domain::{Digest, Epoch, InvocationId, NodeId, TenantId, Usage};
use parquet::errors::ParquetError;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::columnar::{self, Kind, Row};

/// The columns, in the order of [`row`].
const COLUMNS: [(&str, Kind); 25] = [
    ("node", Kind::Text),
    ("epoch", Kind::Text),
    ("seq", Kind::Integer),
    ("began_at", Kind::Instant),
    ("ended_at", Kind::Instant),
    ("fuel_schedule", Kind::Integer),
    ("merkle_root", Kind::Text),
    ("hash", Kind::Text),
    ("tenant", Kind::Text),
    ("invocation", Kind::Text),
    ("ordinal", Kind::Integer),
    ("kind", Kind::Text),
    ("deployment", Kind::Text),
    ("release", Kind::Integer),
    ("started_at", Kind::Instant),
    ("outcome", Kind::Text),
    ("fuel", Kind::Integer),
    ("cpu_ns", Kind::Integer),
    ("model_ns", Kind::Integer),
    ("bytes_in", Kind::Integer),
    ("bytes_out", Kind::Integer),
    ("peak_memory_bytes", Kind::Integer),
    ("energy_uj", Kind::Integer),
    ("work", Kind::Text),
    ("leaf", Kind::Text),
];

/// A posting in an archive: its lines, and what is needed to know them again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// The posting.
    pub key: PostingKey,
    /// Where its window begins.
    pub from: OffsetDateTime,
    /// Where it ends.
    pub to: OffsetDateTime,
    /// The fuel schedule of its lines.
    pub fuel_schedule: u32,
    /// The Merkle root of its lines.
    pub merkle_root: Digest,
    /// Its hash.
    pub hash: Digest,
    /// Its lines, by their calls.
    pub lines: Vec<ReceiptLine>,
}

impl From<&Posting> for Archived {
    fn from(posting: &Posting) -> Self {
        let (node, epoch, seq) = (posting.node, posting.epoch, posting.seq);
        Self {
            key: PostingKey { node, epoch, seq },
            from: posting.from,
            to: posting.to,
            fuel_schedule: posting.fuel_schedule,
            merkle_root: posting.merkle_root,
            hash: posting.hash,
            lines: posting.lines.clone(),
        }
    }
}

/// Why a file is not one of an archive, or cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is no such table.
    #[error(transparent)]
    Table(#[from] ParquetError),
    /// A value that its column cannot have.
    #[error("{column} cannot be {value:?}")]
    Value {
        /// The column.
        column: &'static str,
        /// The value.
        value: String,
    },
    /// A line that is not what was hashed into its leaf.
    #[error("the line of call {0} has another leaf")]
    Leaf(InvocationId),
}

/// The bytes of a file with the lines of `postings`: the same for the same postings.
pub fn written(postings: &[Archived]) -> Result<Vec<u8>, FileError> {
    let lines = postings
        .iter()
        .flat_map(|posting| posting.lines.iter().map(move |line| (posting, line)));
    let rows = lines
        .map(|(posting, line)| row(posting, line))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(columnar::written("receipt_line", &COLUMNS, &rows)?)
}

/// The postings of a file, in its order.
pub fn read(bytes: Bytes) -> Result<Vec<Archived>, FileError> {
    let mut postings: Vec<Archived> = Vec::new();
    for row in columnar::read(bytes, &COLUMNS)? {
        let mut found = posting(&row)?;
        match postings.last_mut().filter(|last| last.key == found.key) {
            Some(last) => last.lines.append(&mut found.lines),
            None => postings.push(found),
        }
    }
    Ok(postings)
}

fn row(posting: &Archived, line: &ReceiptLine) -> Result<Row, FileError> {
    let (call, usage) = (&line.call, &line.usage);
    let text = |value: &dyn Display| Some(value.to_string());
    let instant = |column: &'static str, at: OffsetDateTime| {
        let text = at.format(&Rfc3339);
        text.map(Some).map_err(|_| unfit(column, &at))
    };
    let work = serde_json::to_string(&usage.work).map_err(|error| unfit("work", &error))?;
    Ok(vec![
        text(&posting.key.node),
        text(&posting.key.epoch),
        text(&posting.key.seq),
        instant("began_at", posting.from)?,
        instant("ended_at", posting.to)?,
        text(&posting.fuel_schedule),
        text(&posting.merkle_root),
        text(&posting.hash),
        text(&call.tenant),
        text(&call.invocation),
        text(&line.ordinal),
        text(&call.kind.as_str()),
        call.deployment.as_ref().map(ToString::to_string),
        call.release.map(|number| number.to_string()),
        instant("started_at", call.started_at)?,
        line.outcome.map(|outcome| outcome.as_str().to_owned()),
        text(&usage.fuel),
        text(&usage.cpu_ns),
        text(&usage.model_ns()),
        text(&usage.bytes_in),
        text(&usage.bytes_out),
        text(&usage.peak_memory_bytes),
        line.energy_uj.map(|energy| energy.to_string()),
        Some(work),
        text(&line.leaf()),
    ])
}

/// The posting of a row, with the one line that stands there.
fn posting(row: &Row) -> Result<Archived, FileError> {
    let cells = Cells(row);
    let line = ReceiptLine {
        call: Call {
            invocation: InvocationId(cells.parsed("invocation")?),
            kind: cells.word("kind")?,
            tenant: TenantId(cells.parsed("tenant")?),
            deployment: cells.some("deployment")?,
            release: cells.some("release")?,
            started_at: cells.instant("started_at")?,
        },
        ordinal: cells.parsed("ordinal")?,
        outcome: cells.some("outcome")?,
        usage: Usage {
            fuel: cells.parsed("fuel")?,
            cpu_ns: cells.parsed("cpu_ns")?,
            bytes_in: cells.parsed("bytes_in")?,
            bytes_out: cells.parsed("bytes_out")?,
            peak_memory_bytes: cells.parsed("peak_memory_bytes")?,
            work: serde_json::from_str(cells.text("work")?).map_err(|error| unfit("work", &error))?,
        },
        energy_uj: cells.some("energy_uj")?,
    };
    if cells.parsed::<Digest>("leaf")? != line.leaf() {
        return Err(FileError::Leaf(line.call.invocation));
    }
    Ok(Archived {
        key: PostingKey {
            node: NodeId(cells.parsed("node")?),
            epoch: Epoch(cells.parsed("epoch")?),
            seq: cells.parsed("seq")?,
        },
        from: cells.instant("began_at")?,
        to: cells.instant("ended_at")?,
        fuel_schedule: cells.parsed("fuel_schedule")?,
        merkle_root: cells.parsed("merkle_root")?,
        hash: cells.parsed("hash")?,
        lines: vec![line],
    })
}

/// The values of a row, by their columns.
struct Cells<'a>(&'a Row);

impl<'a> Cells<'a> {
    fn get(&self, column: &'static str) -> Option<&'a str> {
        let at = COLUMNS.iter().position(|(name, _)| *name == column)?;
        self.0.get(at)?.as_deref()
    }

    fn text(&self, column: &'static str) -> Result<&'a str, FileError> {
        self.get(column).ok_or_else(|| unfit(column, &"nothing"))
    }

    fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, FileError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| unfit(column, &text))
    }

    fn some<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, FileError> {
        let parsed = |text: &str| text.parse().map_err(|_| unfit(column, &text));
        self.get(column).map(parsed).transpose()
    }

    fn word<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, FileError> {
        let text = self.text(column)?;
        serde_json::from_value(text.into()).map_err(|_| unfit(column, &text))
    }

    fn instant(&self, column: &'static str) -> Result<OffsetDateTime, FileError> {
        let text = self.text(column)?;
        OffsetDateTime::parse(text, &Rfc3339).map_err(|_| unfit(column, &text))
    }
}

fn unfit(column: &'static str, value: &dyn Display) -> FileError {
    FileError::Value {
        column,
        value: value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use domain::posting::CallKind;
    use domain::{Outcome, Work};
    use uuid::Uuid;

    use super::*;

    fn line(n: u128, outcome: Option<Outcome>) -> ReceiptLine {
        let named = outcome.is_some();
        ReceiptLine {
            call: Call {
                invocation: InvocationId(Uuid::from_u128(n)),
                kind: if named { CallKind::Infer } else { CallKind::Publish },
                tenant: TenantId(Uuid::from_u128(7)),
                deployment: named.then(|| "echo".parse().unwrap()),
                release: named.then_some(3),
                started_at: OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(1),
            },
            ordinal: 2,
            outcome,
            usage: Usage {
                fuel: 1,
                cpu_ns: i64::MAX.unsigned_abs(),
                bytes_in: 2,
                bytes_out: 3,
                peak_memory_bytes: 4,
                work: vec![Work {
                    graph: Digest::of(b"graph"),
                    backend: "rten 0.27.0".into(),
                    device: "cpu".into(),
                    precision: "exact".into(),
                    runs: 1,
                    rows: 2,
                    cpu_ns: 0,
                    busy_ns: 5,
                    tokens: 6,
                }],
            },
            energy_uj: named.then_some(9),
        }
    }

    fn archived(seq: u64, lines: Vec<ReceiptLine>) -> Archived {
        Archived {
            key: PostingKey {
                node: NodeId(Uuid::from_u128(1)),
                epoch: Epoch(Uuid::from_u128(2)),
                seq,
            },
            from: OffsetDateTime::UNIX_EPOCH,
            to: OffsetDateTime::UNIX_EPOCH + time::Duration::SECOND,
            fuel_schedule: 1,
            merkle_root: Digest::of(b"root"),
            hash: Digest::of(b"hash"),
            lines,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let postings = [
            archived(0, vec![line(1, Some(Outcome::Ok)), line(2, None)]),
            archived(1, vec![line(1, Some(Outcome::Trapped))]),
        ];
        let bytes = written(&postings).unwrap();
        assert_eq!(written(&postings).unwrap(), bytes, "the same bytes");
        assert_eq!(read(bytes.into()).unwrap(), postings);
    }

    #[test]
    fn a_line_that_is_not_its_leaf_is_refused() {
        let posting = archived(0, vec![line(1, Some(Outcome::Ok))]);
        let mut cells = row(&posting, &posting.lines[0]).unwrap();
        let fuel = COLUMNS.iter().position(|(name, _)| *name == "fuel").unwrap();
        cells[fuel] = Some("2".to_owned());
        let bytes = columnar::written("receipt_line", &COLUMNS, &[cells.clone()]).unwrap();
        assert!(matches!(read(bytes.into()), Err(FileError::Leaf(_))));
        cells[fuel] = None;
        let bytes = columnar::written("receipt_line", &COLUMNS, &[cells]).unwrap();
        assert!(matches!(
            read(bytes.into()),
            Err(FileError::Value { column: "fuel", .. })
        ));
        assert!(matches!(read(Bytes::new()), Err(FileError::Table(_))));
    }
}
