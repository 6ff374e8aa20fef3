//! What can go wrong between the host and who knows the grid.

use std::path::PathBuf;

use domain::carbon::{FactorError, Zone};
use time::OffsetDateTime;

use crate::RowError;

/// Why there are no factors. No message has a key, a header or a body in it.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The address is none.
    #[error("'{0}' is no address of a provider: give one that begins with https://")]
    Url(String),
    /// No connection, or no answer in time.
    #[error("the provider cannot be reached: {0}")]
    Unreachable(#[source] reqwest::Error),
    /// The key is refused.
    #[error("the provider refuses the key, or the key may not ask for this zone (status {status})")]
    Unauthorised {
        /// The status, 401 or 403.
        status: u16,
    },
    /// Too many requests, and the time to wait is longer than is waited here.
    #[error("the provider takes no more requests for {retry_after_s} s")]
    RateLimited {
        /// Seconds after which to try again.
        retry_after_s: u64,
    },
    /// Any other status than success.
    #[error("the provider answers with status {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// An answer over its cap.
    #[error("the provider's answer is over {limit_bytes} bytes")]
    TooLarge {
        /// The cap.
        limit_bytes: usize,
    },
    /// An answer in another form than its documentation has.
    #[error("the provider's answer is not in its documented form: {0}")]
    Malformed(String),
    /// A figure that no grid has.
    #[error("the provider's figure does not fit: {0}")]
    Factor(#[from] FactorError),
    /// An answer about another place: some providers take the caller's place for a zone that they do not know.
    #[error("the provider answers for '{answered}' where '{asked}' was asked for: see its list of zones")]
    OtherZone {
        /// The zone that was asked for.
        asked: Zone,
        /// The zone of the answer.
        answered: String,
    },
    /// An answer of another signal or unit: an average must not pass for a marginal intensity.
    #[error("the provider answers with '{answered}' where '{asked}' was asked for")]
    OtherSignal {
        /// What was asked for.
        asked: &'static str,
        /// What came.
        answered: String,
    },
    /// A zone that the provider does not have.
    #[error("there are no intensities of zone '{zone}' here: {advice}")]
    UnknownZone {
        /// The zone.
        zone: Zone,
        /// What to give instead.
        advice: &'static str,
    },
    /// An answer without figures.
    #[error("the provider has no figures of zone '{0}' for this time")]
    Missing(Zone),
    /// Figures that are too old.
    #[error("the newest figure is over {max_age_min} minutes old (it ends at {newest:?})")]
    Stale {
        /// Where the newest ends; none if there is none.
        newest: Option<OffsetDateTime>,
        /// How old it may be, in minutes.
        max_age_min: i64,
    },
    /// A file that cannot be read, or is too large.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Rows that are wrong; the file is not used at all.
    #[error("{}: {}", path.display(), lines(rows))]
    Rows {
        /// The file.
        path: PathBuf,
        /// What is wrong, by line.
        rows: Vec<RowError>,
    },
}

impl ProviderError {
    /// The stable code of the problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Url(_) => "intensity_url",
            Self::Unreachable(_) => "intensity_unreachable",
            Self::Unauthorised { .. } => "intensity_unauthorised",
            Self::RateLimited { .. } => "intensity_rate_limited",
            Self::Status { .. } => "intensity_status",
            Self::TooLarge { .. } => "intensity_too_large",
            Self::Malformed(_) | Self::Factor(_) => "intensity_malformed",
            Self::OtherZone { .. } => "intensity_other_zone",
            Self::OtherSignal { .. } => "intensity_other_signal",
            Self::UnknownZone { .. } => "intensity_unknown_zone",
            Self::Missing(_) => "intensity_missing",
            Self::Stale { .. } => "intensity_stale",
            Self::File { .. } => "intensity_file",
            Self::Rows { .. } => "intensity_rows",
        }
    }

    pub(crate) fn malformed(what: impl ToString) -> Self {
        Self::Malformed(what.to_string())
    }
}

/// The first of the lines in words, and how many more there are.
fn lines(rows: &[RowError]) -> String {
    const SHOWN: usize = 20;
    let mut lines: Vec<_> = rows.iter().take(SHOWN).map(ToString::to_string).collect();
    if rows.len() > SHOWN {
        lines.push(format!("and {} more", rows.len() - SHOWN));
    }
    lines.join("; ")
}
