//! What use was worth, summed up by what is asked for.

use std::collections::BTreeMap;

use db::{Span, Use, UseFilter};
use domain::carbon::{Evidence, Valuation, Valued};
use domain::{Name, TenantId};
use time::{Duration, OffsetDateTime, Time, UtcOffset};

use super::Error;
use super::carbon::MOST_USES;
use crate::app::App;

/// The most sums of an answer.
const MOST_SUMS: usize = 1_000;

/// What to sum up by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// By tenant.
    pub tenant: bool,
    /// By deployment.
    pub deployment: bool,
    /// By span of time.
    pub span: Option<Span>,
}

/// What a sum is of; what is none is not told apart. In this order sums are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Where its span begins.
    pub from: Option<OffsetDateTime>,
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// The deployment.
    pub deployment: Option<Name>,
}

/// Use and its worth, exact until it is [`valued`](Self::valued).
#[derive(Clone, Debug, Default)]
pub struct Sum {
    valuation: Valuation,
    /// Receipt lines.
    pub lines: u64,
    /// Those whose energy no reading covers.
    pub lines_unmetered: u64,
}

impl Sum {
    /// Adds what `used` was worth by `evidence`.
    pub fn add(&mut self, evidence: &Evidence, used: &Use) -> Result<(), Error> {
        evidence.value(used.node, &used.slot, &mut self.valuation)?;
        self.lines += used.lines;
        self.lines_unmetered += used.lines_unmetered;
        Ok(())
    }

    /// The figures, rounded.
    pub fn valued(&self) -> Result<Valued, Error> {
        Ok(self.valuation.valued()?)
    }
}

/// What was asked for, and as of when.
#[derive(Debug)]
pub struct Worth {
    /// What was known by then is what the figures rest on.
    pub as_of: OffsetDateTime,
    /// The sums, in the order of their places.
    pub sums: BTreeMap<Place, Sum>,
}

/// Values use as of an instant, or as of now, for one tenant or for all.
pub async fn value(
    app: &App,
    own: Option<TenantId>,
    filter: &UseFilter,
    groups: Groups,
    as_of: Option<OffsetDateTime>,
) -> Result<Worth, Error> {
    let now = app.db.carbon_as_of().await?;
    let as_of = as_of.unwrap_or(now);
    if as_of > now {
        let message = "what will be known then is not known yet: give an instant that has passed";
        return Err(Error::invalid("as_of", message));
    }
    // An allocation belongs to the hours before it was posted.
    let since = filter.from - Duration::DAY;
    let (uses, evidence) = match own {
        Some(tenant) => {
            let mut tx = app.db.tenant_tx(tenant).await?;
            let uses = tx.carbon_use(filter, MOST_USES + 1).await?;
            (uses, tx.carbon_evidence(since, filter.to, as_of).await?)
        }
        None => {
            let mut tx = app.db.billing_tx().await?;
            let uses = tx.carbon_use(filter, MOST_USES + 1).await?;
            (uses, tx.carbon_evidence(since, filter.to, as_of).await?)
        }
    };
    if uses.len() > MOST_USES as usize {
        return Err(Error::TooMuchUse { limit: MOST_USES });
    }
    let mut sums: BTreeMap<Place, Sum> = BTreeMap::new();
    for used in &uses {
        let place = Place {
            from: groups.span.map(|span| begin(span, used.slot.from)),
            tenant: groups.tenant.then_some(used.tenant),
            deployment: used.deployment.clone().filter(|_| groups.deployment),
        };
        sums.entry(place).or_default().add(&evidence, used)?;
        if sums.len() > MOST_SUMS {
            let message = format!("it makes over {MOST_SUMS} sums: ask for a shorter time or sum up by less");
            return Err(Error::invalid("group_by", message));
        }
    }
    Ok(Worth { as_of, sums })
}

/// The start of the hour of `at`, in UTC.
pub fn hour(at: OffsetDateTime) -> OffsetDateTime {
    begin(Span::Hour, at)
}

/// The start of the day of `at`, in UTC.
pub fn day(at: OffsetDateTime) -> OffsetDateTime {
    begin(Span::Day, at)
}

/// The start of the month of `at`, in UTC.
pub fn month(at: OffsetDateTime) -> OffsetDateTime {
    begin(Span::Month, at)
}

fn begin(span: Span, at: OffsetDateTime) -> OffsetDateTime {
    let at = at.to_offset(UtcOffset::UTC);
    let midnight = at.replace_time(Time::MIDNIGHT);
    match span {
        Span::Hour => midnight + Duration::hours(at.hour().into()),
        Span::Day => midnight,
        Span::Month => midnight - Duration::days(i64::from(at.day()) - 1),
    }
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    #[test]
    fn spans_begin_in_utc() {
        for (span, at, begins) in [
            (
                Span::Hour,
                "2027-03-01T00:59:59.999999+02:00",
                "2027-02-28T22:00:00Z",
            ),
            (Span::Day, "2027-03-01T00:59:59+02:00", "2027-02-28T00:00:00Z"),
            (Span::Month, "2027-03-01T00:59:59+02:00", "2027-02-01T00:00:00Z"),
            (Span::Month, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z"),
            (Span::Hour, "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            let parse = |text: &str| OffsetDateTime::parse(text, &Rfc3339).unwrap();
            assert_eq!(begin(span, parse(at)), parse(begins), "{at}");
        }
    }
}
