//! Who used what: places for classes, the host's own time and that of others.

use std::collections::BTreeMap;

use super::{CLASS_KEPT, CLASSES, DEVIATION_MEMORY, FUEL, Filter, MAX_CLASSES, MIX, MOST_BEHIND_NS, Place};
use crate::energy::Root;
use crate::posting::Slice;
use crate::weights::{Class, Feature, Features, other_features};

impl Filter {
    /// The place of a class, a new one if it is busy and there is room.
    pub(super) fn place(&mut self, class: &Class, busy: f64) -> Option<usize> {
        let known = self.places.iter().position(|place| place.class == *class);
        if known.is_none() && busy <= 0.0 {
            return None;
        }
        let seen = self.slices;
        if let Some(index) = known {
            if let (Some(place), true) = (self.places.get_mut(index), busy > 0.0) {
                place.seen = seen;
            }
            return Some(index);
        }
        let fresh = Place {
            class: class.clone(),
            seen,
        };
        if self.places.len() < MAX_CLASSES {
            self.places.push(fresh);
            self.state.push(0.0);
            self.powers.push(0.0);
            self.expected.push((0.0, MIX));
            self.products.grow();
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
        self.set(CLASSES + index, 0.0);
        self.products.clear(CLASSES + index);
        if let Some(sum) = self.powers.get_mut(CLASSES + index) {
            *sum = 0.0;
        }
        Some(index)
    }

    /// What system and foreign load used. The kernel counts the machine's time in steps: what it was behind
    /// the host's own clock comes off the next slices' foreign time, or noise would always count as load.
    pub(super) fn others(&mut self, slice: &Slice, root: &Root) -> [Features; 2] {
        let [system, foreign] = other_features(slice, root);
        let activity = &slice.activity;
        let ours_ns = activity.host_ns.saturating_add(activity.postgres_ns);
        let behind_ns = self
            .behind_ns
            .saturating_add(ours_ns.saturating_sub(activity.machine_ns));
        let foreign_ns = foreign.get(Feature::Foreign);
        self.behind_ns = behind_ns.saturating_sub(foreign_ns).min(MOST_BEHIND_NS);
        let foreign = Features::of(Feature::Foreign, foreign_ns.saturating_sub(behind_ns));
        [system, foreign]
    }

    /// Follows the mean deviation of guests, fuel included, by their CPU time: the host's own code is of that
    /// kind, but burns no fuel.
    pub(super) fn deviate(&mut self, by_class: &BTreeMap<Class, Features>, length_ns: u64) {
        let (mut deviating_w, mut busy) = (0.0, 0.0);
        for (class, features) in by_class {
            let guest = features.get(Feature::Guest) as f64 / length_ns as f64;
            let place = self.places.iter().position(|place| place.class == *class);
            deviating_w += place.map_or(0.0, |place| self.at(CLASSES + place)) * guest;
            deviating_w += self.at(FUEL) * features.get(Feature::Fuel) as f64 / length_ns as f64;
            busy += guest;
        }
        let [sum, weight] = &mut self.deviating;
        *sum += (deviating_w - *sum) / DEVIATION_MEMORY;
        *weight += (busy - *weight) / DEVIATION_MEMORY;
    }
}
