//! What use was worth, summed up by what is asked for.

use std::collections::BTreeMap;

use db::{Span, Use, UseFilter};
use domain::carbon::{Evidence, Valuation, Valued};
use domain::{Name, TenantId};
use time::{Duration, OffsetDateTime, Time, UtcOffset};

use super::Error;
use super::carbon::{MOST_FACTORS, MOST_USES, blocking};
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
    let (uses, evidence) = match own {
        Some(tenant) => {
            let mut tx = app.db.tenant_tx(tenant).await?;
            let uses = few(tx.carbon_use(filter, MOST_USES + 1).await?)?;
            let evidence = tx.carbon_evidence(&uses, as_of, MOST_FACTORS).await?;
            (uses, evidence)
        }
        None => {
            let mut tx = app.db.billing_tx().await?;
            let uses = few(tx.carbon_use(filter, MOST_USES + 1).await?)?;
            let evidence = tx.carbon_evidence(&uses, as_of, MOST_FACTORS).await?;
            (uses, evidence)
        }
    };
    let evidence = bounded(evidence)?;
    let sums = blocking(move || sums(&evidence, &uses, groups)).await?;
    Ok(Worth { as_of, sums })
}

/// No more use than is valued at once.
pub(super) fn few(uses: Vec<Use>) -> Result<Vec<Use>, Error> {
    match uses.len() <= MOST_USES as usize {
        true => Ok(uses),
        false => Err(Error::TooMuchUse {
            what: "rows of hourly use",
            limit: MOST_USES,
        }),
    }
}

/// Evidence, if it takes no more factors than are read at once.
pub(super) fn bounded(evidence: Option<Evidence>) -> Result<Evidence, Error> {
    evidence.ok_or(Error::TooMuchUse {
        what: "factors of its zones and times",
        limit: MOST_FACTORS,
    })
}

fn sums(evidence: &Evidence, uses: &[Use], groups: Groups) -> Result<BTreeMap<Place, Sum>, Error> {
    let mut sums: BTreeMap<Place, Sum> = BTreeMap::new();
    for used in uses {
        let place = Place {
            from: groups.span.map(|span| begin(span, used.slot.from)),
            tenant: groups.tenant.then_some(used.tenant),
            deployment: used.deployment.clone().filter(|_| groups.deployment),
        };
        sums.entry(place).or_default().add(evidence, used)?;
        if sums.len() > MOST_SUMS {
            let message = format!("it makes over {MOST_SUMS} sums: ask for a shorter time or sum up by less");
            return Err(Error::invalid("group_by", message));
        }
    }
    Ok(sums)
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
    use domain::NodeId;
    use domain::carbon::Slot;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    #[test]
    fn too_much_use_and_too_many_factors_are_refused() {
        let used = Use {
            node: NodeId(uuid::Uuid::nil()),
            tenant: TenantId(uuid::Uuid::nil()),
            deployment: None,
            slot: Slot {
                from: OffsetDateTime::UNIX_EPOCH,
                to: OffsetDateTime::UNIX_EPOCH + Duration::HOUR,
                energy_uj: None,
                used_ns: 0,
            },
            lines: 1,
            lines_unmetered: 1,
        };
        let most = vec![used.clone(); MOST_USES as usize];
        assert!(few(most.clone()).is_ok() && bounded(Some(Evidence::default())).is_ok());
        let more = few([most, vec![used]].concat()).unwrap_err();
        for (refused, what) in [
            (more, "100000 rows of hourly use"),
            (bounded(None).unwrap_err(), "200000 factors"),
        ] {
            assert!(refused.to_string().contains(what), "{refused}");
        }
    }

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
