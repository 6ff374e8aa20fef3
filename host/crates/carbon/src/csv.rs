//! Factors from a file of one's own.
//!
//! The first line that is no comment names the columns, in any order; all of them must be there:
//!
//! | Column | What |
//! |---|---|
//! | `zone` | the zone, as in the host's configuration |
//! | `signal` | `average` or `marginal` |
//! | `method` | `location`, or `market` for a residual mix |
//! | `from`, `to` | when it holds, RFC 3339, the end exclusive |
//! | `g_per_kwh` | the intensity, with at most three decimals |
//! | `source`, `version` | who says so, in which edition |
//! | `is_estimated` | `true` or `false` |
//!
//! Fields are separated by commas and are not quoted; lines that begin with `#` and empty ones are left out. A row that
//! is wrong makes the whole file wrong, and every such row is named: half a file would be a silent gap.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::path::PathBuf;

use domain::carbon::{Fact, Factor, Method, Signal, Zone};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{IntensityProvider, ProviderError, Span};

const COLUMNS: [&str; 9] = [
    "zone",
    "signal",
    "method",
    "from",
    "to",
    "g_per_kwh",
    "source",
    "version",
    "is_estimated",
];

/// The largest file that is read: ten years of half-hours for ten zones.
const MAX_BYTES: u64 = 128 << 20;

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// A file that is read anew each time.
#[derive(Debug)]
pub struct CsvFile {
    path: PathBuf,
}

impl CsvFile {
    /// The file at `path`, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    async fn read(&self, zone: &Zone) -> Result<Vec<Factor>, ProviderError> {
        let failed = |cause| ProviderError::File {
            path: self.path.clone(),
            cause,
        };
        let about = tokio::fs::metadata(&self.path).await.map_err(failed)?;
        if about.len() > MAX_BYTES {
            let cause = Error::new(ErrorKind::FileTooLarge, format!("it is over {MAX_BYTES} bytes"));
            return Err(failed(cause));
        }
        let text = tokio::fs::read_to_string(&self.path).await.map_err(failed)?;
        let factors = parse(&text).map_err(|rows| ProviderError::Rows {
            path: self.path.clone(),
            rows,
        })?;
        match factors.is_empty() {
            true => Err(ProviderError::Missing(zone.clone())),
            false => Ok(factors),
        }
    }
}

impl IntensityProvider for CsvFile {
    fn name(&self) -> &'static str {
        "csv"
    }

    /// All that the file has, of every zone and kind: it is its owner's to say.
    fn factors<'a>(&'a self, zone: &'a Zone, _: Span) -> BoxFuture<'a, Result<Vec<Factor>, ProviderError>> {
        self.read(zone).boxed()
    }
}

/// The factors that `text` has, or every row that is wrong.
pub fn parse(text: &str) -> Result<Vec<Factor>, Vec<RowError>> {
    let rows = text.lines().enumerate();
    let mut rows = rows
        .map(|(index, row)| (index + 1, row.trim_start_matches('\u{feff}').trim()))
        .filter(|(_, row)| !row.is_empty() && !row.starts_with('#'));
    let Some((line, header)) = rows.next() else {
        let message = format!("there is no row: begin with {}", COLUMNS.join(","));
        return Err(vec![RowError { line: 1, message }]);
    };
    let columns = columns(header).map_err(|message| vec![RowError { line, message }])?;
    let (mut factors, mut errors) = (Vec::new(), Vec::new());
    for (line, row) in rows {
        match factor(row, &columns) {
            Ok(factor) => factors.push(factor),
            Err(message) => errors.push(RowError { line, message }),
        }
    }
    if errors.is_empty() {
        Ok(factors)
    } else {
        Err(errors)
    }
}

/// Where each of [`COLUMNS`] stands.
fn columns(header: &str) -> Result<[usize; 9], String> {
    let names: Vec<_> = header.split(',').map(str::trim).collect();
    if names.len() != COLUMNS.len() {
        return Err(format!("the columns must be {}", COLUMNS.join(",")));
    }
    let mut places = [0; 9];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        let found = names.iter().position(|name| *name == column);
        *place = found.ok_or_else(|| format!("there is no column {column}"))?;
    }
    Ok(places)
}

fn factor(row: &str, columns: &[usize; 9]) -> Result<Factor, String> {
    let fields: Vec<_> = row.split(',').map(str::trim).collect();
    if fields.len() != columns.len() {
        return Err(format!(
            "it has {} fields instead of {}",
            fields.len(),
            columns.len()
        ));
    }
    if row.contains('"') {
        return Err("fields are not quoted: leave out the quotation marks".to_owned());
    }
    let [
        zone,
        signal,
        method,
        from,
        to,
        grams,
        source,
        version,
        is_estimated,
    ] = columns.map(|at| fields[at]);
    let fact = Fact {
        zone: zone.parse::<Zone>().map_err(|error| format!("zone: {error}"))?,
        from: instant("from", from)?,
        to: instant("to", to)?,
        intensity: milligrams(grams)?,
        source: source.to_owned(),
        version: version.to_owned(),
        is_estimated: is_estimated
            .parse()
            .map_err(|_| "is_estimated: write true or false".to_owned())?,
    };
    let signal = signal
        .parse::<Signal>()
        .map_err(|error| format!("signal: {error}"))?;
    let method = method
        .parse::<Method>()
        .map_err(|error| format!("method: {error}"))?;
    Factor::new(signal, method, fact).map_err(|error| error.to_string())
}

fn instant(field: &str, text: &str) -> Result<OffsetDateTime, String> {
    let at = OffsetDateTime::parse(text, &Rfc3339);
    at.map_err(|_| format!("{field}: write RFC 3339, such as 2027-01-31T13:00:00Z"))
}

/// Grams with at most three decimals, as whole milligrams: exactly, without a float.
fn milligrams(text: &str) -> Result<u64, String> {
    let refused = || "g_per_kwh: write grams with at most three decimals, such as 380.95".to_owned();
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || whole.len() > 12 || decimals.len() > 3 {
        return Err(refused());
    }
    format!("{whole}{decimals:0<3}").parse().map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "zone,signal,method,from,to,g_per_kwh,source,version,is_estimated\n";
    const ROW: &str =
        "DE,average,location,2026-01-01T00:00:00Z,2026-01-01T01:00:00+00:00,380.95,own,3,false\n";

    #[test]
    fn rows_are_read_exactly() {
        let text = format!(
            "\u{feff}# of our own\n\n{HEADER}{ROW}GB, marginal ,location,2026-01-01T00:00:00Z,2027-01-01T00:00:00Z,0,own,3,true\r\n"
        );
        let factors = parse(&text).unwrap();
        let parts: Vec<_> = factors.iter().map(Factor::parts).collect();
        assert_eq!(
            (parts[0].0, parts[0].1, parts[0].2.intensity),
            (Signal::Average, Method::Location, 380_950)
        );
        assert_eq!(
            (parts[1].0, parts[1].2.intensity, parts[1].2.is_estimated),
            (Signal::Marginal, 0, true)
        );
    }

    #[test]
    fn columns_stand_in_any_order() {
        let text = "is_estimated,version,source,g_per_kwh,to,from,method,signal,zone\n\
            false,3,own,12.5,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z,market,average,FR\n";
        let (signal, method, fact) = parse(text).unwrap()[0].parts();
        assert_eq!(
            (signal, method, fact.intensity),
            (Signal::Average, Method::Market, 12_500)
        );
    }

    #[test]
    fn every_bad_row_is_named_by_its_line() {
        let wrong = [
            (ROW.replace("DE", "D E"), "zone: "),
            (
                ROW.replace("average", "mean"),
                "signal: write one of average, marginal",
            ),
            (
                ROW.replace("location", "place"),
                "method: write one of location, market",
            ),
            (ROW.replace("average,location", "marginal,market"), "method: "),
            (
                ROW.replace("2026-01-01T00:00:00Z", "2026-01-01"),
                "from: write RFC 3339",
            ),
            (
                ROW.replace("T01:00:00+00:00", "T00:00:00Z"),
                "to: it must be after from",
            ),
            (ROW.replace("380.95", "380.9512"), "g_per_kwh: "),
            (ROW.replace("380.95", "-1"), "g_per_kwh: "),
            (ROW.replace("380.95", "1e3"), "g_per_kwh: "),
            (ROW.replace("380.95", ""), "g_per_kwh: "),
            (ROW.replace("380.95", "380."), "g_per_kwh: "),
            (
                ROW.replace("380.95", "10000.001"),
                "mg_per_kwh: 10000001 mg/kWh is more",
            ),
            (ROW.replace("own", ""), "source: "),
            (ROW.replace("false", "no"), "is_estimated: "),
            (ROW.replace("own,", ""), "it has 8 fields instead of 9"),
            (ROW.replace("own", "\"own\""), "fields are not quoted"),
        ];
        let text: String = wrong.iter().map(|(row, _)| row.as_str()).collect();
        let errors = parse(&format!("{HEADER}{ROW}{text}")).unwrap_err();
        assert_eq!(errors.len(), wrong.len());
        for (index, (error, (_, message))) in errors.iter().zip(&wrong).enumerate() {
            assert_eq!(error.line, index + 3);
            assert!(error.message.starts_with(message), "{error} instead of {message}");
        }
        let path = PathBuf::from("factors.csv");
        let said = ProviderError::Rows {
            path,
            rows: [errors.clone(), errors].concat(),
        }
        .to_string();
        assert!(
            said.contains("line 22: ") || said.contains("and 12 more"),
            "{said}"
        );
    }

    #[test]
    fn a_wrong_header_is_said() {
        for text in [
            "",
            "# nothing\n",
            "zone,signal\n",
            &HEADER.replace("method", "methode"),
        ] {
            assert_eq!(parse(text).unwrap_err().len(), 1, "{text}");
        }
    }
}
