//! What energy cost in carbon and water: factors, sites and valuations.
//!
//! Energy is measured once and never changes; what it is worth in grams depends on who is asked and when. So a
//! factor has two times: when it holds and when it became known. A valuation names the instant that it takes its
//! knowledge from (`as_of`), and the same instant gives the same figures for ever, whatever is learnt later.
//!
//! Three intensities of a grid are three types, because adding one to another makes no sense: the [`Average`] of all
//! that feeds it (location-based), the [`Residual`] of what nobody has bought (market-based), and the [`Marginal`]
//! plant that answers one more watt.
//!
//! Integers only: factors in mg CO₂e per kWh, masses in µg CO₂e, water in µl, energy in µJ, shares in parts per
//! million. Sums are exact fractions in 128 bits and are rounded once, to the nearest and halves up, where a figure
//! leaves: so n figures differ from the figure of their sum by at most n halves.

mod site;
mod timeline;
mod valuation;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use site::{Hardware, Site};
pub use timeline::Timeline;
pub use valuation::{CarbonError, Evidence, Figure, Range, Slot, Valuation, Valued};

/// The largest intensity that is believed, in mg/kWh: ten times that of burning lignite.
pub const MAX_MG_PER_KWH: u64 = 10_000_000;

/// Most bytes of a factor's source and of its version.
pub const MAX_LABEL_BYTES: usize = 200;

/// A part of the power grid, as its provider names it: 1 to 63 of letters, digits, `-` and `_`, beginning with a
/// letter or digit, such as `DE`, `US-CAL-CISO` or `CAISO_NORTH`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

/// Text that is no zone.
#[derive(Debug, thiserror::Error)]
#[error("a zone is 1 to 63 letters, digits, '-' and '_', beginning with a letter or digit, such as DE")]
pub struct ParseZoneError;

impl Zone {
    /// The zone as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Zone {
    type Error = ParseZoneError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let first_fits = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        match first_fits && text.bytes().all(fits) && text.len() <= 63 {
            true => Ok(Self(text)),
            false => Err(ParseZoneError),
        }
    }
}

impl FromStr for Zone {
    type Err = ParseZoneError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which plants an intensity is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// All that feed the grid, by what they feed.
    Average,
    /// Those that answer a change of load.
    Marginal,
}

/// What counts as the energy's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The grid where it is used.
    Location,
    /// The contracts that were made; without one, what others' contracts leave over.
    Market,
}

/// A word that is none of those that there are.
#[derive(Debug, thiserror::Error)]
#[error("write one of {}", .0.join(", "))]
pub struct ParseWordError(&'static [&'static str]);

macro_rules! words {
    ($kind:ty: $($variant:ident = $name:literal),*) => {
        impl $kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in the API and in the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }

        impl FromStr for $kind {
            type Err = ParseWordError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(ParseWordError(&[$($name),*])),
                }
            }
        }
    };
}

words!(Signal: Average = "average", Marginal = "marginal");
words!(Method: Location = "location", Market = "market");

/// A grid's carbon intensity of one kind.
pub trait Intensity: Copy + fmt::Debug + PartialEq {
    /// Which plants it is of.
    const SIGNAL: Signal;
    /// By which method it is used.
    const METHOD: Method;
    /// This many mg CO₂e per kWh.
    fn of(mg_per_kwh: u64) -> Self;
    /// In mg CO₂e per kWh.
    fn mg_per_kwh(self) -> u64;
}

macro_rules! intensities {
    ($($(#[$doc:meta])* $name:ident: $signal:ident, $method:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(u64);

        impl Intensity for $name {
            const SIGNAL: Signal = Signal::$signal;
            const METHOD: Method = Method::$method;

            fn of(mg_per_kwh: u64) -> Self {
                Self(mg_per_kwh)
            }

            fn mg_per_kwh(self) -> u64 {
                self.0
            }
        }
    )*};
}

intensities! {
    /// The mean of all that feeds a grid: for location-based figures.
    Average: Average, Location;
    /// The mean of what no contract has claimed (a residual mix): for market-based figures.
    Residual: Average, Market;
    /// That of the plants that answer a change of load: for what a decision changes, never for what was used.
    Marginal: Marginal, Location;
}

/// An intensity of a zone in `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact<I> {
    /// Where.
    pub zone: Zone,
    /// Since when it holds.
    pub from: OffsetDateTime,
    /// Until when, exclusively. After that it is not known: nothing is carried on silently.
    pub to: OffsetDateTime,
    /// How much.
    pub intensity: I,
    /// Who says so, such as `electricity-maps`.
    pub source: String,
    /// Which edition of theirs.
    pub version: String,
    /// Whether it was guessed where nothing was measured.
    pub is_estimated: bool,
}

/// Something with the instant at which it became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known<T> {
    /// When it became known: before that nobody could have used it.
    pub known_at: OffsetDateTime,
    /// What.
    pub it: T,
}

/// A fact of any kind of intensity, as it is stored and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Factor {
    /// Location-based.
    Average(Fact<Average>),
    /// Market-based.
    Residual(Fact<Residual>),
    /// Marginal.
    Marginal(Fact<Marginal>),
}

/// Why something is no factor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FactorError {
    /// The field that does not fit.
    pub field: &'static str,
    /// What would.
    pub message: String,
}

impl Factor {
    /// The fact, with `mg_per_kwh` as the kind of intensity that `signal` and `method` are; checked.
    pub fn new(signal: Signal, method: Method, fact: Fact<u64>) -> Result<Self, FactorError> {
        check(&fact)?;
        match (signal, method) {
            (Signal::Average, Method::Location) => Ok(Self::Average(fact.typed())),
            (Signal::Average, Method::Market) => Ok(Self::Residual(fact.typed())),
            (Signal::Marginal, Method::Location) => Ok(Self::Marginal(fact.typed())),
            (Signal::Marginal, Method::Market) => Err(wrong(
                "method",
                "a marginal intensity is of a place: give the method location",
            )),
        }
    }

    /// Its signal, its method, and the fact with its intensity in mg/kWh.
    pub fn parts(&self) -> (Signal, Method, Fact<u64>) {
        fn of<I: Intensity>(fact: &Fact<I>) -> (Signal, Method, Fact<u64>) {
            (I::SIGNAL, I::METHOD, fact.with(fact.intensity.mg_per_kwh()))
        }
        match self {
            Self::Average(fact) => of(fact),
            Self::Residual(fact) => of(fact),
            Self::Marginal(fact) => of(fact),
        }
    }
}

impl Fact<u64> {
    fn typed<I: Intensity>(&self) -> Fact<I> {
        self.with(I::of(self.intensity))
    }
}

impl<I> Fact<I> {
    /// The same with another intensity.
    fn with<J>(&self, intensity: J) -> Fact<J> {
        Fact {
            zone: self.zone.clone(),
            from: self.from,
            to: self.to,
            intensity,
            source: self.source.clone(),
            version: self.version.clone(),
            is_estimated: self.is_estimated,
        }
    }
}

fn wrong(field: &'static str, message: impl Into<String>) -> FactorError {
    let message = message.into();
    FactorError { field, message }
}

fn check(fact: &Fact<u64>) -> Result<(), FactorError> {
    for (field, at) in [("from", fact.from), ("to", fact.to)] {
        if !(1990..=2100).contains(&at.year()) {
            return Err(wrong(field, "give a time from 1990 to 2100"));
        }
        // The database keeps no more: two times that differ by less would be one there.
        if at.nanosecond() % 1_000 != 0 {
            return Err(wrong(
                field,
                "give a time in whole microseconds: at most six decimals",
            ));
        }
    }
    if fact.to <= fact.from {
        return Err(wrong(
            "to",
            "it must be after from: the factor holds until then, exclusively",
        ));
    }
    if fact.intensity > MAX_MG_PER_KWH {
        let message = format!(
            "{} mg/kWh is more than any grid has: give at most {MAX_MG_PER_KWH}, and note that 1 g is 1000 mg",
            fact.intensity
        );
        return Err(wrong("mg_per_kwh", message));
    }
    for (field, text) in [("source", &fact.source), ("version", &fact.version)] {
        let fits = (1..=MAX_LABEL_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
        if !fits {
            let message = format!("give 1 to {MAX_LABEL_BYTES} bytes without control characters");
            return Err(wrong(field, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
