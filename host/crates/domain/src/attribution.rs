//! Who caused a span's energy: the floor is idle, the rest goes by CPU time, to the microjoule.
//!
//! Shares are exact rationals, rounded once by the largest remainder (Hamilton's method), the idle
//! share together with the others. So everyone is within 1 µJ of the exact share in each span, and
//! at constant rates a finer cut moves nobody by more than 1 µJ a slice. Ties go to the claimant that
//! sorts first, never to the one that was listed first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::energy::Reading;
use crate::posting::Slice;
use crate::{InvocationId, Usage};

/// Femtojoules in a microjoule, which is also nanoseconds in a second: µW × ns = fJ.
const FJ_PER_UJ: u128 = 1_000_000_000;

/// Whose CPU time shares in dynamic energy.
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
    /// The span from `before` to `now`; none if these are of two boots, or if the counter fell, which
    /// a meter promises not to do.
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

/// The weights of a slice: CPU nanoseconds of each call, of the host beyond its calls, and of the
/// machine beyond the host.
pub fn weights(slice: &Slice) -> BTreeMap<Claimant, u64> {
    let mut weights = BTreeMap::<_, u64>::new();
    let mut claimed_ns = 0_u64;
    for claim in &slice.claims {
        let cpu_ns = claim.usage.total_cpu_ns();
        claimed_ns = claimed_ns.saturating_add(cpu_ns);
        let weight = weights
            .entry(Claimant::Invocation(claim.call.invocation))
            .or_default();
        *weight = weight.saturating_add(cpu_ns);
    }
    let activity = &slice.activity;
    let system_ns = activity
        .host_ns
        .saturating_sub(claimed_ns)
        .saturating_add(activity.postgres_ns);
    let ours_ns = activity.host_ns.saturating_add(activity.postgres_ns);
    weights.insert(Claimant::System, system_ns);
    weights.insert(Claimant::Foreign, activity.machine_ns.saturating_sub(ours_ns));
    weights
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
    /// What rounding down left, in 1 / (`FJ_PER_UJ` × total weight) of a microjoule.
    rest: u128,
}

/// Splits a span: the floor to idle, what is above it by weight. A weight of 0 gets nothing.
pub fn split(span: &Span, weights: &BTreeMap<Claimant, u64>) -> Shares {
    let floor_fj = span.floor_fj();
    let dynamic_fj = u128::from(span.energy_uj) * FJ_PER_UJ - floor_fj;
    let mut claims: Vec<(Party, u128)> = weights
        .iter()
        .filter(|(_, weight)| **weight > 0)
        .map(|(claimant, weight)| (Party::Claimant(*claimant), u128::from(*weight)))
        .collect();
    if claims.is_empty() {
        claims.push((Party::Unattributed, 1));
    }
    let total = fit_u64(&mut claims);

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

/// The sum of the weights, after halving them all until it fits 64 bits: centuries of CPU time.
fn fit_u64(claims: &mut [(Party, u128)]) -> u128 {
    loop {
        let total: u128 = claims.iter().map(|(_, weight)| weight).sum();
        if total <= u128::from(u64::MAX) {
            return total;
        }
        claims.iter_mut().for_each(|(_, weight)| *weight /= 2);
    }
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

/// Dynamic energy per CPU time over about the last [`Rate::MEMORY`] slices: what a call's use will
/// probably cost, before its window is sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    energy_uj: u64,
    cpu_ns: u64,
}

impl Rate {
    /// Each slice, the past loses one part in this many.
    pub const MEMORY: u64 = 16;

    /// Learns from a slice and the readings before it. A slice that no reading covers teaches nothing.
    pub fn observe(&mut self, before: &[Reading], slice: &Slice) {
        let spans: Vec<Span> = slice
            .readings
            .iter()
            .filter_map(|now| {
                let before = before.iter().find(|before| before.root.name == now.root.name)?;
                Span::between(before, now)
            })
            .collect();
        if spans.is_empty() {
            return;
        }
        let learn = |past: u64, new: u64| (past - past / Self::MEMORY).saturating_add(new);
        let dynamic_uj = spans.iter().map(Span::dynamic_uj).fold(0, u64::saturating_add);
        let cpu_ns = weights(slice).into_values().fold(0, u64::saturating_add);
        self.energy_uj = learn(self.energy_uj, dynamic_uj);
        self.cpu_ns = learn(self.cpu_ns, cpu_ns);
    }

    /// The probable dynamic energy of `usage` over all roots, in microjoules, to the nearest; none as
    /// long as nothing was learnt.
    pub fn provisional_uj(&self, usage: &Usage) -> Option<u64> {
        if self.cpu_ns == 0 {
            return None;
        }
        let cpu_ns = u128::from(self.cpu_ns);
        let uj = (u128::from(usage.total_cpu_ns()) * u128::from(self.energy_uj)).saturating_add(cpu_ns / 2)
            / cpu_ns;
        Some(u64::try_from(uj).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::energy::{Activity, Provenance, Root};

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
        let used = |energy_uj, list: [u64; 3]| {
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
        let weights = BTreeMap::from([(id(1), u64::MAX), (id(2), u64::MAX), (id(3), u64::MAX)]);
        for length_ns in [0, 1, u64::MAX] {
            let shares = split(&span(u64::MAX, 1, length_ns), &weights);
            assert_eq!(total(&shares), u128::from(u64::MAX));
        }
    }

    #[test]
    fn rate_is_dynamic_energy_per_cpu_time() {
        let usage = |cpu_ns| Usage {
            cpu_ns,
            ..Usage::default()
        };
        let root = Root {
            name: "modelled".into(),
            kind: "modelled".into(),
            provenance: Provenance::Modelled,
            uncertainty_ppm: 0,
            model_version: 1,
        };
        let reading = |at_ns, counter_uj| Reading {
            root: root.clone(),
            boot_id: Uuid::nil(),
            at_ns,
            counter_uj,
            floor_uw: 1_000_000,
            state: vec![],
        };
        let slice = |readings| Slice {
            index: 0,
            at: time::OffsetDateTime::UNIX_EPOCH,
            readings,
            activity: Activity {
                machine_ns: 4_000_000,
                ..Activity::default()
            },
            claims: vec![],
            faults: vec![],
        };
        let mut rate = Rate::default();
        rate.observe(&[], &slice(vec![reading(0, 7)]));
        assert_eq!(rate.provisional_uj(&usage(1)), None);
        // A second: 1 J of floor, then 2 J for 4 ms of CPU; then a second of floor alone.
        rate.observe(&[reading(0, 7)], &slice(vec![reading(1_000_000_000, 3_000_007)]));
        assert_eq!(rate.provisional_uj(&usage(2_000_001)), Some(1_000_001));
        rate.observe(&[reading(0, 0)], &slice(vec![reading(1_000_000_000, 1_000_000)]));
        assert_eq!(rate.provisional_uj(&usage(7_750_000)), Some(1_875_000));
        assert_eq!(rate.provisional_uj(&Usage::default()), Some(0));
    }

    proptest! {
        #[test]
        fn all_is_placed_and_fairly(
            energy_uj in prop_oneof![0..20_u64, 0..10_000_000_u64, Just(u64::MAX)],
            floor_uw in prop_oneof![Just(0), 0..3_000_000_u64],
            length_ns in 0..3_000_000_000_u64,
            list in proptest::collection::vec(prop_oneof![Just(0), 0..5_u64, 0..9_000_000_000_u64], 0..8),
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
                (0..).map(id).zip(list.iter().map(|weight| weight * n)).collect()
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
