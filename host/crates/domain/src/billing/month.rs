//! Calendar months in UTC, which are billing's periods.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::{Date, OffsetDateTime, UtcOffset};

/// A calendar month in UTC, written `2027-01`: from 1970-01 to 8999-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Month {
    year: i32,
    month: u8,
}

/// Text that is no month.
#[derive(Debug, thiserror::Error)]
#[error("a month is written YYYY-MM, such as 2027-01")]
pub struct ParseMonthError;

impl Month {
    /// The month in which `at` lies; none outside the years 1970 to 8999.
    pub fn of(at: OffsetDateTime) -> Option<Self> {
        let at = at.to_offset(UtcOffset::UTC);
        Self::new(at.year(), at.month().into())
    }

    /// The month that begins with `day`; none for another day.
    pub fn beginning(day: Date) -> Option<Self> {
        Self::new(day.year(), day.month().into()).filter(|_| day.day() == 1)
    }

    fn new(year: i32, month: u8) -> Option<Self> {
        ((1970..9000).contains(&year) && (1..=12).contains(&month)).then_some(Self { year, month })
    }

    /// Its first day.
    pub fn day(self) -> Date {
        let month = time::Month::try_from(self.month).unwrap_or(time::Month::January);
        Date::from_calendar_date(self.year, month, 1).unwrap_or(Date::MIN)
    }

    /// When it begins.
    pub fn begin(self) -> OffsetDateTime {
        self.day().midnight().assume_utc()
    }

    /// When it ends, which is no longer in it.
    pub fn end(self) -> OffsetDateTime {
        let next = match self.month {
            12 => Self {
                year: self.year + 1,
                month: 1,
            },
            month => Self {
                month: month + 1,
                ..self
            },
        };
        next.begin()
    }

    /// The month after it; none after the last.
    pub fn next(self) -> Option<Self> {
        Self::of(self.end())
    }

    /// Its length in microseconds.
    pub fn micros(self) -> i128 {
        (self.end() - self.begin()).whole_microseconds()
    }
}

impl FromStr for Month {
    type Err = ParseMonthError;
    fn from_str(text: &str) -> Result<Self, ParseMonthError> {
        let digits = text.len() == 7
            && text.bytes().enumerate().all(|(at, byte)| match at {
                4 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        let (year, month) = text.split_once('-').filter(|_| digits).ok_or(ParseMonthError)?;
        let (year, month) = (year.parse().ok(), month.parse().ok());
        year.zip(month)
            .and_then(|(year, month)| Self::new(year, month))
            .ok_or(ParseMonthError)
    }
}

impl TryFrom<String> for Month {
    type Error = ParseMonthError;
    fn try_from(text: String) -> Result<Self, ParseMonthError> {
        text.parse()
    }
}

impl From<Month> for String {
    fn from(month: Month) -> Self {
        month.to_string()
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn months_are_read_and_written() {
        for text in ["1970-01", "2027-12", "8999-12"] {
            assert_eq!(text.parse::<Month>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "2027",
            "2027-00",
            "2027-13",
            "2027-1",
            "1969-12",
            "9000-01",
            "2027-01-01",
            "+027-01",
            "20270-1",
        ] {
            assert!(bad.parse::<Month>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_begins_where_the_one_before_ends() {
        let mut month: Month = "2026-11".parse().unwrap();
        for _ in 0..30 {
            let next = month.next().unwrap();
            assert_eq!((month.end(), next.day().day()), (next.begin(), 1));
            let days = month.micros() / 86_400_000_000;
            assert!((28..=31).contains(&days) && month.micros() % 86_400_000_000 == 0);
            assert_eq!(Month::of(month.end() - Duration::MICROSECOND), Some(month));
            assert_eq!(Month::beginning(next.day()), Some(next));
            month = next;
        }
        assert_eq!("8999-12".parse::<Month>().unwrap().next(), None);
        assert_eq!(Month::beginning(month.day().next_day().unwrap()), None);
    }
}
