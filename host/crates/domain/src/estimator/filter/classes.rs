//! Who used what: places for classes, the host's own time and that of others.

use super::{
    CLASS_KEPT, CLASSES, COST, Costs, DEVICE, Filter, GUESTS, KERNELS, LINEAR, MAX_CLASSES, MIX_MEMORY,
    MOST_BEHIND_NS, PER_CLASS, PER_COST, Place, SPREAD_S,
};
use crate::energy::Root;
use crate::posting::Slice;
use crate::weights::{Class, Feature, Features, other_features};

impl Filter {
    /// The place of a class, a new one if it is busy and there is room.
    pub(super) fn place(&mut self, class: &Class, is_busy: bool, guests: f64) -> Option<usize> {
        let known = self.known(class);
        if known.is_none() && !is_busy {
            return None;
        }
        let seen = self.slices;
        if let Some(index) = known {
            if let (Some(place), true) = (self.places.get_mut(index), is_busy) {
                place.seen = seen;
                place.guests += guests / MIX_MEMORY;
            }
            return Some(index);
        }
        let fresh = Place {
            class: class.clone(),
            seen,
            guests: guests / MIX_MEMORY,
        };
        if self.places.len() < MAX_CLASSES {
            self.places.push(fresh);
            let own = if self.device {
                [DEVICE, 0.0]
            } else {
                [GUESTS, KERNELS]
            };
            for sd in own {
                self.state.push(0.0);
                self.expected.push((0.0, sd));
                for _ in 0..PER_COST {
                    self.powers.push(0.0);
                    self.products.grow();
                }
            }
            return Some(self.places.len() - 1);
        }
        let (index, oldest) = self
            .places
            .iter_mut()
            .enumerate()
            .min_by_key(|(_, place)| place.seen)?;
        if oldest.seen + CLASS_KEPT > seen {
            return None;
        }
        *oldest = fresh;
        let first = CLASSES + PER_CLASS * index;
        for cost in first..first + PER_CLASS {
            self.set(COST + cost, 0.0);
        }
        for term in (0..PER_CLASS * PER_COST).map(|term| LINEAR + PER_COST * first + term) {
            self.products.clear(term);
            if let Some(sum) = self.powers.get_mut(term) {
                *sum = 0.0;
            }
        }
        Some(index)
    }

    /// What system and foreign load used. The kernel counts Postgres's time in steps, which are spread, and the
    /// machine's too: what it was behind
    /// the host's own clock comes off the next slices' foreign time, or noise would always count as load.
    pub(super) fn others(&mut self, slice: &Slice, root: &Root, seconds: f64) -> [Features; 2] {
        let [system, foreign] = other_features(slice, root);
        let activity = &slice.activity;
        let postgres_ns = if self.device { 0 } else { activity.postgres_ns };
        let held_ns = self.held_ns + postgres_ns as f64;
        self.held_ns = held_ns * (-seconds / SPREAD_S).exp();
        let system_ns = system.time_ns().saturating_sub(postgres_ns) as f64 + held_ns - self.held_ns;
        let system = Features::of(Feature::System, system_ns as u64);
        let ours_ns = activity.host_ns.saturating_add(activity.postgres_ns);
        let behind_ns = self
            .behind_ns
            .saturating_add(ours_ns.saturating_sub(activity.machine_ns));
        let foreign_ns = foreign.get(Feature::Foreign);
        self.behind_ns = behind_ns.saturating_sub(foreign_ns).min(MOST_BEHIND_NS);
        let foreign = Features::of(Feature::Foreign, foreign_ns.saturating_sub(behind_ns));
        [system, foreign]
    }

    /// The place of a class that has one.
    pub(super) fn known(&self, class: &Class) -> Option<usize> {
        self.places.iter().position(|place| place.class == *class)
    }

    /// The classes of guests as they are mixed on the mean: the host's own code is of that kind.
    pub(super) fn guests(&self) -> Costs {
        let all: f64 = self.places.iter().map(|place| place.guests).sum();
        let share =
            |(index, place): (usize, &Place)| (CLASSES + PER_CLASS * index, place.guests / all.max(1e-12));
        self.places.iter().enumerate().map(share).collect()
    }
}
