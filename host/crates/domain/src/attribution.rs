//! Who caused a span's energy: the floor is idle, the rest goes by weighted use, to the microjoule.
//!
//! What a claimant used costs `Σ weight × use` by the weights in the slice ([`crate::weights`]), and the
//! dynamic energy goes by these costs: the weights only say how claimants compare, so that whatever they
//! are the shares sum to what was metered. Claimants are the calls; the *system* (the host's CPU time that
//! no call claims, and its Postgres: what serves everybody is charged to nobody, and the ledger shows it);
//! and *foreign* load (CPU time of the machine outside the host's process tree, steal included: joules of
//! others must not be billed to tenants). A device's root goes by busy time on that device alone.
//!
//! **Nobody used anything** although a root took more than its floor: unattributed, on devices too.
//! There it is what a device takes after its work until its clocks fall, or another process's work.
//! **Costs of nothing for use of something** (weights of 0): equal weights instead.
//!
//! Shares are exact rationals, rounded once by the largest remainder (Hamilton's method), the idle
//! share together with the others. So everyone is within 1 µJ of the exact share in each span, and
//! at constant rates a finer cut moves nobody by more than 1 µJ a slice. Ties go to the claimant that
//! sorts first, never to the one that was listed first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::energy::{Reading, Root};
use crate::posting::Slice;
use crate::weights::{RootWeights, other_features};
use crate::{InvocationId, rounding};

/// Femtojoules in a microjoule, which is also nanoseconds in a second: µW × ns = fJ.
const FJ_PER_UJ: u128 = 1_000_000_000;

/// Whose use shares in dynamic energy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claimant {
    /// A tenant's call.
    Invocation(InvocationId),
    /// The host's own work and its Postgres.
    System,
    /// Load on the machine that is not ours.
    Foreign,
}

/// What one root metered between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The counter's growth in microjoules.
    pub energy_uj: u64,
    /// The power with nothing to do, in microwatts.
    pub floor_uw: u64,
    /// How long it lasted in nanoseconds.
    pub length_ns: u64,
}

impl Span {
    /// The span from `before` to `now` over the meter's own floor; none if these are of two boots, or if
    /// the counter fell, which a meter promises not to do.
    pub fn between(before: &Reading, now: &Reading) -> Option<Self> {
        if before.boot_id != now.boot_id {
            return None;
        }
        Some(Self {
            energy_uj: now.counter_uj.checked_sub(before.counter_uj)?,
            floor_uw: now.floor_uw,
            length_ns: now.at_ns.saturating_sub(before.at_ns),
        })
    }

    /// The span over the floor that `slice` carries for the root, if it carries one.
    #[must_use]
    pub fn over_fitted_floor(self, slice: &Slice, root: &Root) -> Self {
        match slice.weights_of(root) {
            Some(fitted) => self.over(fitted.floor_uw),
            None => self,
        }
    }

    /// The span over another floor, in microwatts.
    #[must_use]
    pub fn over(self, floor_uw: u64) -> Self {
        Self { floor_uw, ..self }
    }

    /// The floor's energy, at most all that was metered, in femtojoules.
    fn floor_fj(&self) -> u128 {
        let floor_fj = u128::from(self.floor_uw) * u128::from(self.length_ns);
        floor_fj.min(u128::from(self.energy_uj) * FJ_PER_UJ)
    }

    /// What is above the floor, in microjoules, rounded up.
    pub fn dynamic_uj(&self) -> u64 {
        let floor_uj = u64::try_from(self.floor_fj() / FJ_PER_UJ).unwrap_or(u64::MAX);
        self.energy_uj.saturating_sub(floor_uj)
    }
}

/// A span's energy, split: all fields together are exactly what was metered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// The floor, in microjoules.
    pub idle_uj: u64,
    /// What is above the floor although nobody used anything, in microjoules.
    pub unattributed_uj: u64,
    /// Dynamic energy of those that used something, in microjoules.
    pub used_uj: BTreeMap<Claimant, u64>,
}

/// What each claimant's use of `root` in `slice` costs, in femtojoules by the slice's weights: calls, the
/// host beyond its calls, and the machine beyond the host.
pub fn costs(slice: &Slice, root: &Root) -> BTreeMap<Claimant, u128> {
    match slice.weights_of(root) {
        Some(fitted) => costs_by(fitted, slice, root),
        None => costs_by(&RootWeights::equal(root), slice, root),
    }
}

/// The same by other weights than the slice's. Where they make everything cost nothing, equal ones do not.
pub fn costs_by(weights: &RootWeights, slice: &Slice, root: &Root) -> BTreeMap<Claimant, u128> {
    let costs = weighed(weights, slice, root);
    if costs.values().all(|cost| *cost == 0) {
        return weighed(&RootWeights::equal(root), slice, root);
    }
    costs
}

fn weighed(weights: &RootWeights, slice: &Slice, root: &Root) -> BTreeMap<Claimant, u128> {
    let mut costs = BTreeMap::<_, u128>::new();
    for claim in &slice.claims {
        let cost = costs
            .entry(Claimant::Invocation(claim.call.invocation))
            .or_default();
        *cost = cost.saturating_add(weights.claim_fj(claim, root));
    }
    let [system, foreign] = other_features(slice, root);
    costs.insert(Claimant::System, weights.base.cost_fj(&system));
    costs.insert(Claimant::Foreign, weights.base.cost_fj(&foreign));
    costs
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Party {
    Claimant(Claimant),
    Idle,
    Unattributed,
}

struct Part {
    party: Party,
    uj: u64,
    /// What rounding down left, in 1 / (`FJ_PER_UJ` × total cost) of a microjoule.
    rest: u128,
}

/// Splits a span: the floor to idle, what is above it by cost. A cost of 0 gets nothing.
pub fn split(span: &Span, costs: &BTreeMap<Claimant, u128>) -> Shares {
    let floor_fj = span.floor_fj();
    let dynamic_fj = u128::from(span.energy_uj) * FJ_PER_UJ - floor_fj;
    let mut claims: Vec<(Party, u128)> = costs
        .iter()
        .filter(|(_, cost)| **cost > 0)
        .map(|(claimant, cost)| (Party::Claimant(*claimant), *cost))
        .collect();
    if claims.is_empty() {
        claims.push((Party::Unattributed, 1));
    }
    let total = rounding::fit(claims.iter_mut().map(|(_, cost)| cost));

    let mut parts = vec![Part {
        party: Party::Idle,
        uj: floor_uj(floor_fj),
        rest: floor_fj % FJ_PER_UJ * total,
    }];
    for (party, weight) in claims {
        // dynamic_fj × weight / total in two steps, so that no product leaves u128.
        let (whole, left) = (dynamic_fj / total, dynamic_fj % total);
        let share_fj = whole * weight + left * weight / total;
        let rest = share_fj % FJ_PER_UJ * total + left * weight % total;
        parts.push(Part {
            party,
            uj: floor_uj(share_fj),
            rest,
        });
    }
    hand_out_rest(&mut parts, span.energy_uj);

    let mut shares = Shares::default();
    for part in parts {
        match part.party {
            Party::Idle => shares.idle_uj = part.uj,
            Party::Unattributed => shares.unattributed_uj = part.uj,
            Party::Claimant(claimant) => {
                shares.used_uj.insert(claimant, part.uj);
            }
        }
    }
    shares
}

fn floor_uj(energy_fj: u128) -> u64 {
    u64::try_from(energy_fj / FJ_PER_UJ).unwrap_or(u64::MAX)
}

/// One more for those with the largest rest, until all of `energy_uj` is placed. There are always
/// more parts with a rest than microjoules left, so that a part without one gets nothing.
fn hand_out_rest(parts: &mut [Part], energy_uj: u64) {
    let mut left_uj = energy_uj - parts.iter().map(|part| part.uj).sum::<u64>();
    parts.sort_unstable_by_key(|part| (Reverse(part.rest), part.party));
    for part in parts {
        if left_uj == 0 {
            return;
        }
        part.uj += 1;
        left_uj -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn id(n: u64) -> Claimant {
        Claimant::Invocation(InvocationId(Uuid::from_u128(u128::from(n))))
    }

    fn total(shares: &Shares) -> u128 {
        let parts = shares
            .used_uj
            .values()
            .chain([&shares.idle_uj, &shares.unattributed_uj]);
        parts.map(|uj| u128::from(*uj)).sum()
    }

    fn span(energy_uj: u64, floor_uw: u64, length_ns: u64) -> Span {
        Span {
            energy_uj,
            floor_uw,
            length_ns,
        }
    }

    #[test]
    fn floor_first_then_by_weight() {
        // 1 W of floor for a second leaves 2 J.
        let weights = BTreeMap::from([(id(1), 30), (id(2), 10), (Claimant::System, 40), (id(3), 0)]);
        let shares = split(&span(3_000_000, 1_000_000, 1_000_000_000), &weights);
        assert_eq!(shares.idle_uj, 1_000_000);
        assert_eq!(shares.unattributed_uj, 0);
        let used = BTreeMap::from([(id(1), 750_000), (id(2), 250_000), (Claimant::System, 1_000_000)]);
        assert_eq!(shares.used_uj, used);
    }

    #[test]
    fn floor_takes_no_more_than_was_metered() {
        let shares = split(&span(5, u64::MAX, u64::MAX), &BTreeMap::from([(id(1), 1)]));
        assert_eq!((shares.idle_uj, shares.used_uj[&id(1)]), (5, 0));
    }

    #[test]
    fn largest_remainder_gets_the_rest_and_ties_go_to_the_first() {
        let used = |energy_uj, list: [u128; 3]| {
            let weights = (1..).map(id).zip(list).collect();
            split(&span(energy_uj, 0, 0), &weights)
                .used_uj
                .into_values()
                .collect::<Vec<_>>()
        };
        assert_eq!(used(4, [5, 3, 1]), [2, 1, 1]);
        assert_eq!(used(4, [1, 3, 5]), [1, 1, 2]);
        assert_eq!(used(5, [1, 1, 1]), [2, 2, 1]);
        // 0.6 µJ of floor round up before the 1.4 above it.
        let shares = split(&span(2, 600_000, 1_000), &BTreeMap::from([(id(1), 3)]));
        assert_eq!((shares.idle_uj, shares.used_uj[&id(1)]), (1, 1));
    }

    #[test]
    fn nobody_means_unattributed() {
        let shares = split(&span(10, 4, 1_000_000_000), &BTreeMap::from([(id(1), 0)]));
        assert_eq!(
            (shares.idle_uj, shares.unattributed_uj, shares.used_uj.len()),
            (4, 6, 0)
        );
    }

    #[test]
    fn extremes_do_not_overflow() {
        let weights = BTreeMap::from([(id(1), u128::MAX), (id(2), u128::MAX), (id(3), u128::MAX)]);
        for length_ns in [0, 1, u64::MAX] {
            let shares = split(&span(u64::MAX, 1, length_ns), &weights);
            assert_eq!(total(&shares), u128::from(u64::MAX));
        }
    }

    proptest! {
        #[test]
        fn all_is_placed_and_fairly(
            energy_uj in prop_oneof![0..20_u64, 0..10_000_000_u64, Just(u64::MAX)],
            floor_uw in prop_oneof![Just(0), 0..3_000_000_u64],
            length_ns in 0..3_000_000_000_u64,
            list in proptest::collection::vec(prop_oneof![Just(0), 0..5_u128, 0..9_000_000_000_u128], 0..8),
        ) {
            let mut weights: BTreeMap<_, _> = (0..).map(id).zip(list).collect();
            weights.extend([(Claimant::System, 7), (Claimant::Foreign, 0)]);
            let span = span(energy_uj, floor_uw, length_ns);
            let shares = split(&span, &weights);
            prop_assert_eq!(total(&shares), u128::from(energy_uj));
            prop_assert!(floor_uw > 0 || shares.idle_uj == 0);
            for (a, weight_a) in &weights {
                let share_a = shares.used_uj.get(a).copied().unwrap_or(0);
                // Null player.
                prop_assert!(*weight_a > 0 || share_a == 0);
                for (b, weight_b) in &weights {
                    let share_b = shares.used_uj.get(b).copied().unwrap_or(0);
                    // Symmetry, and more use never means less energy.
                    prop_assert!(weight_a != weight_b || share_a.abs_diff(share_b) <= 1);
                    prop_assert!(weight_a <= weight_b || share_a.saturating_add(1) >= share_b);
                }
            }
        }

        #[test]
        fn finer_cuts_move_nobody_by_more_than_one_a_slice(
            slices in 1..12_u64,
            energy_uj in 0..1_000_000_u64,
            floor_uw in 0..3_000_000_u64,
            length_ns in 0..1_000_000_000_u64,
            list in proptest::collection::vec(0..1_000_000_000_u64, 1..6),
        ) {
            let scaled = |n: u64| -> BTreeMap<_, _> {
                (0..).map(id).zip(list.iter().map(|weight| u128::from(weight * n))).collect()
            };
            let whole = split(&span(energy_uj * slices, floor_uw, length_ns * slices), &scaled(slices));
            let one = split(&span(energy_uj, floor_uw, length_ns), &scaled(1));
            prop_assert!((one.idle_uj * slices).abs_diff(whole.idle_uj) <= slices);
            for (claimant, uj) in &whole.used_uj {
                prop_assert!((one.used_uj[claimant] * slices).abs_diff(*uj) <= slices);
            }
        }
    }
}
