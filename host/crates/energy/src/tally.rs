//! From what hardware says to a counter that never falls: wraps, baselines, jumps, sleep and restarts.
//!
//! [`Tally`] follows a counter, [`Integral`] adds up power over time. Both refuse what cannot be: a value
//! that is refused never enters the count, and once believable ones come again the count goes on from where
//! it was. If the hardware counter is then at another place, what was taken in between is not known: the
//! read that finds the new place fails, so that the slice is marked, and adds nothing that is not sure.

use domain::energy::Reading;

use crate::MeterError;

/// µW × ns, of which a microjoule has this many.
const FJ_PER_UJ: u128 = 1_000_000_000;

/// Registers behind wrapping counters have 32 bits (Intel SDM vol. 4, `MSR_PKG_ENERGY_STATUS`, and the mask
/// of the kernel's RAPL driver): this many steps are the highest value.
const STEPS: u64 = u32::MAX as u64;

/// Counters step: a read may see what was taken up to this long before, as sensors behind a slow bus are
/// refreshed about once a second.
const REFRESH_NS: u64 = 2_000_000_000;

/// The two clocks are read one after the other: less sleep than this is no sleep.
const SLEEP_NS: u64 = 10_000_000;

/// The longest span over which power is taken to go straight from one value to the next: a start of the
/// host must not make what the machine took meanwhile disappear, hours are a guess.
pub(crate) const LONGEST_BRIDGE_NS: u64 = 60_000_000_000;

/// The layout of a tally's state: this number, the hardware's counter, time asleep, when the counter moved.
const TALLY_STATE: u64 = 1;

/// The layout of an integral's state: this number, power, time asleep, half femtojoules below a microjoule.
const INTEGRAL_STATE: u64 = 2;

/// An instant, and how much of the time before it the machine slept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Nanoseconds since boot, suspended time included.
    pub(crate) at_ns: u64,
    /// Nanoseconds of those in which the machine was suspended.
    pub(crate) asleep_ns: u64,
}

impl Moment {
    /// How long the machine slept after `earlier`, if it did.
    fn slept_ns(&self, earlier: &Self) -> Option<u64> {
        let slept_ns = self.asleep_ns.saturating_sub(earlier.asleep_ns);
        (slept_ns > SLEEP_NS).then_some(slept_ns)
    }
}

/// The most power that a root is believed to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerBound {
    /// In microwatts.
    pub power_uw: u64,
    /// Where that comes from, in words.
    pub source: String,
}

impl PowerBound {
    /// The most energy in `span_ns` and the time by which a counter may lag, in microjoules.
    fn energy_uj(&self, span_ns: u64) -> u64 {
        let span_ns = span_ns.saturating_add(REFRESH_NS);
        let energy_uj = u128::from(self.power_uw) * u128::from(span_ns) / FJ_PER_UJ;
        u64::try_from(energy_uj).unwrap_or(u64::MAX)
    }
}

/// How a root's counter behaves.
#[derive(Clone, Debug)]
pub(crate) struct Habit {
    pub(crate) root: String,
    pub(crate) bound: PowerBound,
    /// The highest value of a counter that wraps, in microjoules.
    pub(crate) highest_uj: Option<u64>,
    /// Whether the counter may begin anew, or miss something, while the machine sleeps.
    pub(crate) sleep_loses: bool,
}

impl Habit {
    /// The longest span in which the counter cannot wrap twice: the time in which the root at its most takes
    /// the highest value.
    fn longest_ns(&self) -> Option<u64> {
        let longest_ns = u128::from(self.highest_uj?) * FJ_PER_UJ / u128::from(self.bound.power_uw.max(1));
        Some(u64::try_from(longest_ns).unwrap_or(u64::MAX))
    }

    /// How often to read: four times in the longest span, so that a late read or two do no harm.
    pub(crate) fn period_ns(&self) -> Option<u64> {
        Some(self.longest_ns()? / 4)
    }

    /// From one value of the hardware's counter to another; none if it fell and does not wrap.
    fn difference_uj(&self, before_uj: u64, now_uj: u64) -> Option<u64> {
        if let Some(grown_uj) = now_uj.checked_sub(before_uj) {
            return Some(grown_uj);
        }
        let highest_uj = self.highest_uj?;
        // The highest value and one step are 0 again.
        let step_uj = (highest_uj.saturating_add(STEPS / 2) / STEPS).max(1);
        Some(
            highest_uj
                .checked_sub(before_uj)?
                .saturating_add(step_uj)
                .saturating_add(now_uj),
        )
    }
}

/// A value of the hardware's counter at an instant.
#[derive(Clone, Copy, Debug)]
struct Place {
    raw_uj: u64,
    at: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Believed {
    place: Place,
    /// When the hardware's counter was first seen at this value.
    moved_ns: u64,
    counter_uj: u64,
}

/// A counter that follows the hardware's.
pub(crate) struct Tally {
    pub(crate) habit: Habit,
    last: Option<Believed>,
    /// What was not believed: if the next value follows from it, the counter has moved there.
    refused: Option<Place>,
    /// Where an earlier run's count ended whose place cannot be read.
    carried_uj: Option<u64>,
}

impl Tally {
    pub(crate) fn new(habit: Habit) -> Self {
        Self {
            habit,
            last: None,
            refused: None,
            carried_uj: None,
        }
    }

    /// Moves on to `raw_uj` of the hardware's counter; gives the count in microjoules. The first value is
    /// the count's beginning.
    pub(crate) fn advance(&mut self, raw_uj: u64, at: Moment) -> Result<u64, MeterError> {
        let now = Place { raw_uj, at };
        let Some(last) = self.last else {
            return match self.carried_uj.take() {
                None => Ok(self.anchor(now, raw_uj)),
                Some(counter_uj) => {
                    self.anchor(now, counter_uj);
                    Err(self.rebased())
                }
            };
        };
        if let Some(lost) = self.lost_since(&last.place.at, &at) {
            self.anchor(now, last.counter_uj);
            return Err(lost);
        }
        if let Some(grown_uj) = self.grown_uj(&last.place, last.moved_ns, &now) {
            let counter_uj = last.counter_uj.saturating_add(grown_uj);
            let moved_ns = if grown_uj > 0 { at.at_ns } else { last.moved_ns };
            self.refused = None;
            self.last = Some(Believed {
                place: now,
                moved_ns,
                counter_uj,
            });
            return Ok(counter_uj);
        }
        let follows = |refused: Place| self.grown_uj(&refused, refused.at.at_ns, &now);
        if let Some(grown_uj) = self.refused.and_then(follows) {
            self.anchor(now, last.counter_uj.saturating_add(grown_uj));
            return Err(self.rebased());
        }
        self.refused = Some(now);
        Err(self.why_not(&last, &now))
    }

    fn anchor(&mut self, place: Place, counter_uj: u64) -> u64 {
        let moved_ns = place.at.at_ns;
        self.refused = None;
        self.last = Some(Believed {
            place,
            moved_ns,
            counter_uj,
        });
        counter_uj
    }

    fn rebased(&self) -> MeterError {
        let root = self.habit.root.clone();
        MeterError::Rebased { root }
    }

    /// Why nothing can be said about the energy since `before`, if so.
    fn lost_since(&self, before: &Moment, now: &Moment) -> Option<MeterError> {
        let root = || self.habit.root.clone();
        if let Some(slept_ns) = now.slept_ns(before).filter(|_| self.habit.sleep_loses) {
            return Some(MeterError::Slept {
                root: root(),
                slept_ms: slept_ns / 1_000_000,
            });
        }
        let (span_ns, longest_ns) = (now.at_ns.saturating_sub(before.at_ns), self.habit.longest_ns()?);
        (span_ns > longest_ns).then(|| overdue(root(), span_ns, longest_ns))
    }

    /// The growth from one place to another, if the root can have taken that since `moved_ns`.
    fn grown_uj(&self, before: &Place, moved_ns: u64, now: &Place) -> Option<u64> {
        let most_uj = self.habit.bound.energy_uj(now.at.at_ns.saturating_sub(moved_ns));
        let grown_uj = self.habit.difference_uj(before.raw_uj, now.raw_uj)?;
        (grown_uj <= most_uj).then_some(grown_uj)
    }

    fn why_not(&self, last: &Believed, now: &Place) -> MeterError {
        let (root, bound) = (self.habit.root.clone(), &self.habit.bound);
        let (before_uj, now_uj) = (last.place.raw_uj, now.raw_uj);
        if now_uj < before_uj {
            return MeterError::Fell {
                root,
                before_uj,
                now_uj,
            };
        }
        let span_ns = now.at.at_ns.saturating_sub(last.moved_ns).max(1);
        let power_uw = u128::from(now_uj - before_uj) * FJ_PER_UJ / u128::from(span_ns);
        MeterError::Jumped {
            root,
            power_uw: u64::try_from(power_uw).unwrap_or(u64::MAX),
            most_uw: bound.power_uw,
            bound: bound.source.clone(),
        }
    }

    /// What [`Tally::resume`] needs of the last believed value.
    pub(crate) fn state(&self) -> Vec<u64> {
        let words = |last: Believed| {
            let Believed { place, moved_ns, .. } = last;
            vec![TALLY_STATE, place.raw_uj, place.at.asleep_ns, moved_ns]
        };
        self.last.map(words).unwrap_or_default()
    }

    /// Goes on from a reading of the same root and boot.
    pub(crate) fn resume(&mut self, last: &Reading) {
        let counter_uj = last.counter_uj;
        let [TALLY_STATE, raw_uj, asleep_ns, moved_ns] = last.state[..] else {
            self.carried_uj = Some(counter_uj);
            return;
        };
        let at = Moment {
            at_ns: last.at_ns,
            asleep_ns,
        };
        self.last = Some(Believed {
            place: Place { raw_uj, at },
            moved_ns,
            counter_uj,
        });
    }
}

fn overdue(root: String, span_ns: u64, longest_ns: u64) -> MeterError {
    MeterError::Overdue {
        root,
        span_ms: span_ns / 1_000_000,
        longest_ms: longest_ns / 1_000_000,
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    power_uw: u64,
    at: Moment,
    counter_uj: u64,
    /// Below one microjoule, in half femtojoules.
    rest: u64,
}

/// Power over time: the mean of two values times the time between them.
pub(crate) struct Integral {
    root: String,
    pub(crate) bound: PowerBound,
    last: Option<Sample>,
    carried_uj: Option<u64>,
}

impl Integral {
    pub(crate) fn new(root: String, bound: PowerBound) -> Self {
        Self {
            root,
            bound,
            last: None,
            carried_uj: None,
        }
    }

    /// Adds the energy up to a value of `power_uw`; gives the count in microjoules, which begins at 0.
    pub(crate) fn advance(&mut self, power_uw: u64, at: Moment) -> Result<u64, MeterError> {
        if power_uw > self.bound.power_uw {
            return Err(MeterError::Jumped {
                root: self.root.clone(),
                power_uw,
                most_uw: self.bound.power_uw,
                bound: self.bound.source.clone(),
            });
        }
        let begin = |counter_uj| Sample {
            power_uw,
            at,
            counter_uj,
            rest: 0,
        };
        let Some(last) = self.last else {
            let carried_uj = self.carried_uj.take();
            self.last = Some(begin(carried_uj.unwrap_or(0)));
            let root = self.root.clone();
            return carried_uj.map_or(Ok(0), |_| Err(MeterError::Rebased { root }));
        };
        if let Some(lost) = self.lost_since(&last.at, &at) {
            self.last = Some(begin(last.counter_uj));
            return Err(lost);
        }
        let span_ns = u128::from(at.at_ns.saturating_sub(last.at.at_ns));
        // At most 60 s at any power: both sums stay far below u128.
        let halves = (u128::from(last.power_uw) + u128::from(power_uw)) * span_ns + u128::from(last.rest);
        let grown_uj = u64::try_from(halves / (2 * FJ_PER_UJ)).unwrap_or(u64::MAX);
        let counter_uj = last.counter_uj.saturating_add(grown_uj);
        self.last = Some(Sample {
            power_uw,
            at,
            counter_uj,
            rest: (halves % (2 * FJ_PER_UJ)) as u64,
        });
        Ok(counter_uj)
    }

    fn lost_since(&self, before: &Moment, now: &Moment) -> Option<MeterError> {
        let root = || self.root.clone();
        if let Some(slept_ns) = now.slept_ns(before) {
            return Some(MeterError::Slept {
                root: root(),
                slept_ms: slept_ns / 1_000_000,
            });
        }
        let span_ns = now.at_ns.saturating_sub(before.at_ns);
        (span_ns > LONGEST_BRIDGE_NS).then(|| overdue(root(), span_ns, LONGEST_BRIDGE_NS))
    }

    /// What [`Integral::resume`] needs of the last value.
    pub(crate) fn state(&self) -> Vec<u64> {
        let words = |last: Sample| vec![INTEGRAL_STATE, last.power_uw, last.at.asleep_ns, last.rest];
        self.last.map(words).unwrap_or_default()
    }

    /// Goes on from a reading of the same root and boot.
    pub(crate) fn resume(&mut self, last: &Reading) {
        let counter_uj = last.counter_uj;
        let [INTEGRAL_STATE, power_uw, asleep_ns, rest] = last.state[..] else {
            self.carried_uj = Some(counter_uj);
            return;
        };
        let at = Moment {
            at_ns: last.at_ns,
            asleep_ns,
        };
        self.last = Some(Sample {
            power_uw,
            at,
            counter_uj,
            rest,
        });
    }
}

#[cfg(test)]
mod tests;
