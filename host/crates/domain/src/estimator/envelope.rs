//! The lowest power seen lately: no floor can be above it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Seconds that one entry covers.
const SECONDS: f64 = 30.0;
/// Entries that are kept: eight minutes in all. A machine warms up and cools down in some minutes, and a
/// bound from another temperature would hold the floor down.
const ENTRIES: usize = 16;

/// Power is taken over this many seconds at least: the lowest of many short ones is a meter's noise, or a late
/// reading, and lower than any floor.
const LEAST_S: f64 = 5.0;

/// The lowest power in each stretch of [`SECONDS`], the newest last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Envelope {
    lowest_w: VecDeque<f64>,
    /// Seconds in the newest entry.
    filled_s: f64,
    /// What is not in it yet, in joules and seconds.
    open: [f64; 2],
}

impl Envelope {
    /// Notes the mean power of some seconds, in watts.
    pub(super) fn note(&mut self, power_w: f64, seconds: f64) {
        self.open = [self.open[0] + power_w * seconds, self.open[1] + seconds];
        let [joules, seconds] = self.open;
        // Parts are not quite as long as they should be.
        if seconds < 0.95 * LEAST_S {
            return;
        }
        self.open = [0.0; 2];
        let power_w = joules / seconds;
        match self.lowest_w.back_mut() {
            Some(lowest_w) if self.filled_s < SECONDS => *lowest_w = lowest_w.min(power_w),
            _ => {
                self.lowest_w.push_back(power_w);
                self.filled_s = 0.0;
                if self.lowest_w.len() > ENTRIES {
                    self.lowest_w.pop_front();
                }
            }
        }
        self.filled_s += seconds;
    }

    /// The lowest power of all that is kept, in watts; none before the first slice.
    pub(super) fn bound_w(&self) -> Option<f64> {
        self.lowest_w.iter().copied().reduce(f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_is_kept_until_it_is_old() {
        let mut envelope = Envelope::default();
        assert_eq!(envelope.bound_w(), None);
        envelope.note(10.0, 2.5);
        assert_eq!(envelope.bound_w(), None);
        envelope.note(10.0, 2.5);
        let all = (SECONDS * ENTRIES as f64 / 5.0) as usize;
        for _ in 1..all {
            envelope.note(20.0, 5.0);
        }
        assert_eq!(envelope.bound_w(), Some(10.0));
        envelope.note(20.0, 5.0);
        assert_eq!(envelope.bound_w(), Some(20.0));
        assert_eq!(envelope.lowest_w.len(), ENTRIES);
    }
}
