//! The count of a root: from the values of its hardware to readings.

use std::time::Duration;

use domain::energy::{Reading, Root};
use uuid::Uuid;

use crate::tally::{Habit, Integral, LONGEST_BRIDGE_NS, Moment, PowerBound, Tally};
use crate::{MeterError, boot_id, moment, root_lock};

/// No counter has come so far, 4.6 × 10¹² J, and no machine takes so much: what drivers say that have nothing to
/// say, such as all bits set, is above it. The ledger's integers end at twice as much.
const MOST: u64 = i64::MAX as u64 / 2;

/// How often power is read at least.
const POWER_PERIOD: Duration = Duration::from_secs(1);

const _: () = assert!(
    POWER_PERIOD.as_nanos() * 4 <= LONGEST_BRIDGE_NS as u128,
    "a late read or two do no harm"
);

/// What the hardware says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    /// A counter in microjoules.
    Energy {
        /// The highest value of one that wraps, in microjoules.
        highest_uj: Option<u64>,
        /// Whether it may begin anew, or miss something, while the machine sleeps.
        sleep_loses: bool,
    },
    /// Power in microwatts, to be integrated over time.
    Power,
}

enum Gauge {
    Counter(Tally),
    Power(Integral),
}

/// A root and how far it has been counted.
pub(crate) struct Count {
    root: Root,
    floor_uw: u64,
    boot_id: Uuid,
    clock: Box<dyn Fn() -> Moment + Send>,
    gauge: Gauge,
}

impl Count {
    /// The count of `root`, which takes `floor_uw` with nothing to do and at most `bound`.
    pub(crate) fn new(root: Root, floor_uw: u64, bound: PowerBound, says: Says) -> Result<Self, MeterError> {
        root_lock::check_name(&root.name)?;
        let name = root.name.clone();
        let gauge = match says {
            Says::Energy {
                highest_uj,
                sleep_loses,
            } => Gauge::Counter(Tally::new(Habit {
                root: name,
                bound,
                highest_uj,
                sleep_loses,
            })),
            Says::Power => Gauge::Power(Integral::new(name, bound)),
        };
        Ok(Self {
            root,
            floor_uw,
            boot_id: boot_id()?,
            clock: Box::new(moment),
            gauge,
        })
    }

    #[cfg(test)]
    pub(crate) fn set_clock(&mut self, clock: impl Fn() -> Moment + Send + 'static) {
        self.clock = Box::new(clock);
    }

    #[cfg(test)]
    pub(crate) fn set_boot_id(&mut self, boot_id: Uuid) {
        self.boot_id = boot_id;
    }

    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// Now, by the clock of the count.
    pub(crate) fn now(&self) -> Moment {
        (self.clock)()
    }

    /// Counts up to `value`, which the hardware has just said: microjoules or microwatts.
    pub(crate) fn advance(&mut self, value: u64) -> Result<Reading, MeterError> {
        if value > MOST {
            return Err(MeterError::Absurd {
                root: self.root.name.clone(),
                value,
            });
        }
        let at = self.now();
        let (counter_uj, state) = match &mut self.gauge {
            Gauge::Counter(tally) => (tally.advance(value, at)?, tally.state()),
            Gauge::Power(integral) => (integral.advance(value, at)?, integral.state()),
        };
        Ok(Reading {
            root: self.root.clone(),
            boot_id: self.boot_id,
            at_ns: at.at_ns,
            counter_uj,
            floor_uw: self.floor_uw,
            state,
        })
    }

    /// Goes on from the last reading of this root, if it is of this boot.
    pub(crate) fn resume(&mut self, last: &[Reading]) {
        let ours = |last: &&Reading| last.root.name == self.root.name && last.boot_id == self.boot_id;
        if let Some(last) = last.iter().find(ours) {
            match &mut self.gauge {
                Gauge::Counter(tally) => tally.resume(last),
                Gauge::Power(integral) => integral.resume(last),
            }
        }
    }

    /// The longest time between two reads, for a counter that wraps and for power.
    pub(crate) fn period(&self) -> Option<Duration> {
        match &self.gauge {
            Gauge::Counter(tally) => tally.habit.period_ns().map(Duration::from_nanos),
            Gauge::Power(_) => Some(POWER_PERIOD),
        }
    }

    pub(crate) fn bound(&self) -> &PowerBound {
        match &self.gauge {
            Gauge::Counter(tally) => &tally.habit.bound,
            Gauge::Power(integral) => &integral.bound,
        }
    }
}
