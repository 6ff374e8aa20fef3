//! Who caused what in a part of a slice: Aumann and Shapley's shares of the fitted power.
//!
//! The power above the floor is a function of how much of the time each player works. A player's share is
//! what he adds, on the mean over all scales from nobody to everybody as they were (Aumann and Shapley,
//! *Values of Non-Atomic Games*, 1974). Where players come and go independently that is the mean of the Shapley
//! share over who happens to be there (Owen, *Multilinear extensions of games*, 1972). It sums to the fitted power, so
//! that waking the machine, and slowing one another down, is shared by everyone who has a part in it.

use super::part::{Part, Player, Who};
use super::{
    BEND, CLASSES, COMMON, FOREIGN, FUEL, Filter, LEAST_WEIGHT, MODEL, OCCUPIED, PER_CLASS, TRAFFIC, whole_uw,
};
use crate::energy::Root;
use crate::estimator::whole_weights;
use crate::weights::{Class, ClassWeights, FEATURES, Feature, RootWeights};

/// Nodes and weights of Gauss and Legendre's rule on 0..1, exact up to the ninth power.
const NODES: [(f64, f64); 5] = [
    (0.046_910_077_030_668, 0.118_463_442_528_095),
    (0.230_765_344_947_158, 0.239_314_335_249_683),
    (0.5, 0.284_444_444_444_444),
    (0.769_234_655_052_842, 0.239_314_335_249_683),
    (0.953_089_922_969_332, 0.118_463_442_528_095),
];

/// Watts times seconds, and CPUs times seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    joules: f64,
    cpu_s: f64,
}

impl Sum {
    fn add(&mut self, joules: f64, cpu_s: f64) {
        self.joules += joules;
        self.cpu_s += cpu_s;
    }

    fn watts(&self) -> Option<f64> {
        (self.cpu_s > 0.0).then(|| self.joules / self.cpu_s)
    }
}

/// What the parts of a slice cost, whoever used them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::estimator) struct Tally {
    /// The parts go from one reading to another one.
    from_ns: u64,
    to_ns: u64,
    seconds: f64,
    floor_j: f64,
    classes: Vec<(Class, [Sum; 2])>,
    /// Of guests, models, the host and others.
    base: [Sum; 4],
}

impl Tally {
    /// Whether its parts are the whole of a span.
    pub(in crate::estimator) fn covers(&self, from_ns: u64, to_ns: u64) -> bool {
        self.seconds > 0.0 && (self.from_ns, self.to_ns) == (from_ns, to_ns)
    }

    fn add(&mut self, who: &Who, shares_w: [f64; 2], cpus: [f64; 2], seconds: f64) {
        let own = match who {
            Who::Call(class) => {
                let known = self.classes.iter().position(|(known, _)| known == class);
                let at = known.unwrap_or_else(|| {
                    self.classes.push((class.clone(), [Sum::default(); 2]));
                    self.classes.len() - 1
                });
                self.classes.get_mut(at).map(|(_, sums)| sums)
            }
            Who::System | Who::Foreign => None,
        };
        let joules = shares_w.map(|watts| watts * seconds);
        let cpu_s = cpus.map(|cpus| cpus * seconds);
        if let Some(own) = own {
            (0..2).for_each(|kind| own[kind].add(joules[kind], cpu_s[kind]));
        }
        match who {
            Who::Call(_) => (0..2).for_each(|kind| self.base[kind].add(joules[kind], cpu_s[kind])),
            Who::System => self.base[2].add(joules[0], cpu_s[0]),
            Who::Foreign => self.base[3].add(joules[0], cpu_s[0]),
        }
    }
}

impl Filter {
    /// Adds the part from `from_ns` to `to_ns` to what was tallied, or begins anew if it does not follow it.
    pub(super) fn tally(&self, tally: &mut Tally, part: &Part, from_ns: u64, to_ns: u64) {
        if tally.to_ns != from_ns {
            *tally = Tally {
                from_ns,
                ..Tally::default()
            };
        }
        let seconds = to_ns.saturating_sub(from_ns) as f64 / 1e9;
        tally.to_ns = to_ns;
        tally.seconds += seconds;
        tally.floor_j += self.floor_while_w(part.busy) * seconds;
        let shares = self.shares(part);
        for (player, shares_w) in part.players.iter().zip(shares) {
            tally.add(&player.who, shares_w, player.cpus, seconds);
        }
    }

    /// What each player's guest and model time costs above the floor, in watts; without traffic and fuel.
    fn shares(&self, part: &Part) -> Vec<[f64; 2]> {
        if self.device {
            let own = |player: &Player| [(self.own_w(player, 0) + self.wake_w()) * player.cpus[0], 0.0];
            return part.players.iter().map(own).collect();
        }
        let bend = |company: f64| self.bend(company);
        // What each would cost alone at full speed, its factor in company and on the mean over all scales.
        let factors: Vec<(f64, f64, f64)> = part
            .players
            .iter()
            .map(|player| {
                let own: f64 = (0..2)
                    .map(|kind| self.own_w(player, kind) * player.cpus[kind])
                    .sum();
                let (beside, company) = (player.beside(), part.company(player));
                let others = company - beside;
                let mean = NODES
                    .iter()
                    .map(|(at, weight)| weight * bend(beside + at * others))
                    .sum();
                let slowed = if others > 1e-9 {
                    own * (bend(company) - mean) / others
                } else {
                    0.0
                };
                (own, mean, slowed)
            })
            .collect();
        let slowed: f64 = factors.iter().map(|(_, _, slowed)| slowed).sum();
        let woken = self.woken(part);
        let share = |(index, player): (usize, &Player)| {
            let (_, mean, own_slowed) = factors[index];
            let present = player.all_present().max(1e-12);
            [0, 1].map(|kind| {
                let own = self.own_w(player, kind) * player.cpus[kind] * mean;
                let of_others = (slowed - own_slowed) * player.cpus[kind];
                own + of_others + woken[index] * player.present[kind] / present
            })
        };
        part.players.iter().enumerate().map(share).collect()
    }

    /// Each player's share in keeping the machine awake, in watts.
    fn woken(&self, part: &Part) -> Vec<f64> {
        let wake_w = self.at(OCCUPIED);
        let mut shares = vec![0.0; part.players.len()];
        for (at, weight) in NODES {
            let away = |player: &Player| (1.0 - at * player.all_present()).max(1e-9);
            let nobody: f64 = part.players.iter().map(away).product();
            for (share, player) in shares.iter_mut().zip(&part.players) {
                *share += weight * wake_w * player.all_present() * nobody / away(player);
            }
        }
        shares
    }

    /// The weights that share a slice like its parts.
    pub(in crate::estimator) fn tallied(&self, tally: &Tally, root: &Root) -> RootWeights {
        let mut watts = self.typical();
        let main = if self.device {
            Feature::Busy
        } else {
            Feature::Guest
        };
        let features = [main, Feature::Model, Feature::System, Feature::Foreign];
        let least_w = LEAST_WEIGHT * watts[main as usize];
        let weight = |sum: &Sum| sum.watts().map(|watts| watts.max(least_w));
        for (feature, sum) in features.into_iter().zip(&tally.base) {
            if let Some(found) = weight(sum) {
                watts[feature as usize] = found;
            }
        }
        let base = whole_weights(watts);
        let class = |(class, sums): &(Class, [Sum; 2])| {
            self.known(class)?;
            let typical = self.class_typical(class);
            let [first, model] = [0, 1].map(|kind| {
                let found = sums.get(kind).and_then(weight);
                whole_uw(found.unwrap_or(typical[kind]))
            });
            let (guest, busy) = if self.device { (0, first) } else { (first, 0) };
            Some(ClassWeights {
                class: class.clone(),
                guest,
                model: if self.device { 0 } else { model },
                busy,
            })
        };
        RootWeights {
            root: root.name.clone(),
            floor_uw: (tally.floor_j / tally.seconds.max(1e-9) * 1e6).round() as u64,
            base,
            classes: tally.classes.iter().filter_map(class).collect(),
        }
    }

    /// The common weights in the mix of late, in watts.
    pub(super) fn typical(&self) -> [f64; FEATURES] {
        let mut watts = [0.0; FEATURES];
        for (cell, feature) in watts.iter_mut().zip(Feature::ALL) {
            if !self.shared_by(feature) {
                continue;
            }
            *cell = match feature {
                Feature::Traffic => self.at(TRAFFIC),
                Feature::Fuel => self.at(FUEL),
                Feature::Guest | Feature::Busy => self.typical_w(&[]),
                Feature::Model => self.typical_w(&[(MODEL, 1.0)]),
                Feature::Foreign => self.typical_w(&[(FOREIGN, 1.0)]),
                Feature::System => self.typical_w(&self.guests()),
            };
        }
        watts
    }

    /// The same for guest (or busy) and model time of a class.
    pub(super) fn class_typical(&self, class: &Class) -> [f64; 2] {
        let Some(place) = self.known(class) else {
            return [self.typical_w(&[]), self.typical_w(&[(MODEL, 1.0)])];
        };
        let [guest, model] = [0, 1].map(|kind| (CLASSES + PER_CLASS * place + kind, 1.0));
        [self.typical_w(&[guest]), self.typical_w(&[model, (MODEL, 1.0)])]
    }

    /// A CPU's cost that deviates by these costs, in the mix of late, in watts.
    fn typical_w(&self, deviations: &[(usize, f64)]) -> f64 {
        let common_w = self.cost_w(COMMON);
        let own_w: f64 = deviations
            .iter()
            .map(|(cost, factor)| factor * self.cost_w(*cost))
            .sum();
        if self.device {
            return (common_w + own_w + self.wake_w()).max(LEAST_WEIGHT * common_w);
        }
        let (alone, mean, slowed) = self.typical_bends();
        let cost_w = alone * self.at(OCCUPIED) + (common_w + own_w) * mean + self.mean_cost_w * slowed;
        cost_w.max(LEAST_WEIGHT * common_w)
    }

    /// Of one CPU among those busy of late: the share in waking, the mean factor of company over all scales,
    /// and how much it slows the others.
    pub(super) fn typical_bends(&self) -> (f64, f64, f64) {
        let busy = self.busy.max(1e-6);
        let mean: f64 = NODES
            .iter()
            .map(|(at, weight)| weight * self.bend(at * busy))
            .sum();
        (-(-busy).exp_m1() / busy, mean, self.bend(busy) - mean)
    }

    /// What a CPU's cost falls to beside `company` others.
    pub(super) fn bend(&self, company: f64) -> f64 {
        let log = company.ln_1p();
        (1.0 + self.at(BEND) * log + self.at(BEND + 1) * log * log).max(0.1)
    }

    /// What a CPU of `player` costs alone, in watts: of a guest (0) or of a model (1).
    pub(super) fn own_w(&self, player: &Player, kind: usize) -> f64 {
        let costs = self.costs_of(player, kind);
        let sum: f64 = costs
            .iter()
            .map(|(cost, factor)| factor * self.cost_w(*cost))
            .sum();
        let of_late = if player.who == Who::Foreign {
            self.foreign_w
        } else {
            0.0
        };
        (sum + of_late).max(LEAST_WEIGHT * self.cost_w(COMMON))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::estimator::matrix::dot;

    /// A filter of which all is known: 20 W of floor, 7 W to wake it, 10 W a CPU, and 15 W on models.
    fn known() -> Filter {
        let mut filter = Filter::new(true, 20_000_000);
        filter.begin(20.0, 1.0);
        let state = [20.0, 7.0, 0.0, 0.0, -0.15, 0.01, 10.0, 5.0, -2.0];
        for (at, watts) in state.into_iter().enumerate() {
            filter.set(at, watts);
        }
        assert_eq!(filter.cost_w(MODEL), 5.0);
        filter
    }

    fn call(cpus: [f64; 2], busy: f64) -> Player {
        Player::new(Who::Call(Class::Publish), cpus, busy)
    }

    fn part(players: Vec<Player>) -> Part {
        Part {
            busy: players.iter().map(Player::all_cpus).sum(),
            players,
            ..Part::default()
        }
    }

    fn whole(shares: [f64; 2]) -> f64 {
        shares[0] + shares[1]
    }

    #[test]
    fn four_threads_wake_the_machine_once() {
        let (filter, one) = (known(), call([0.0, 0.4], 0.4));
        let alone = filter.shares(&part(vec![one.clone(), one.clone()]));
        let four = filter.shares(&part(vec![one, call([0.0, 1.6], 0.4)]));
        assert!(
            whole(four[1]) < 4.0 * whole(alone[1]) - 3.0 * 0.4 * 5.0,
            "{four:?} {alone:?}"
        );
    }

    proptest! {
        /// The shares sum to the fitted power; equals share alike, and who did nothing has no share.
        #[test]
        fn shares_are_all_there_is(
            calls in proptest::collection::vec((0.0..0.3_f64, 0.0..2.0_f64, 0.01..0.5_f64), 1..9),
            others in [0.0..0.5_f64, 0.0..3.0],
        ) {
            let filter = known();
            let mut players: Vec<Player> = calls.into_iter().map(|(g, m, busy)| call([g, m], busy)).collect();
            players.push(players[0].clone());
            players.push(Player::many(Who::System, others[0]));
            players.push(Player::many(Who::Foreign, others[1]));
            let twin = players.len() - 3;
            let part = part(players.clone());
            let shares = filter.shares(&part);
            let fitted_w = dot(&filter.terms(&part), &filter.coefficients()) - 20.0;
            let sum_w: f64 = shares.iter().copied().map(whole).sum();
            prop_assert!((sum_w - fitted_w).abs() <= 1e-3 * fitted_w + 1e-9, "{} {}", sum_w, fitted_w);
            prop_assert!((whole(shares[0]) - whole(shares[twin])).abs() < 1e-9);
            players.push(call([0.0, 0.0], 0.0));
            let with = filter.shares(&super::super::Part { players, ..part });
            prop_assert!(whole(with[with.len() - 1]).abs() < 1e-9);
        }
    }
}
