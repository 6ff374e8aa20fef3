//! What a part of a slice was used for, by player: a call, the host, or others.

use super::{
    CLASSES, COMMON, Costs, FOREIGN, FUEL, Filter, LINEAR, MODEL, OCCUPIED, PER_CLASS, PER_COST, TRAFFIC,
};
use crate::energy::Root;
use crate::posting::Slice;
use crate::weights::{Class, Feature, Features, is_device, other_features};

/// Whose work it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Who {
    /// A call of this class.
    Call(Class),
    /// The host beyond its calls.
    System,
    /// Others on the machine.
    Foreign,
}

/// Someone who worked, with means over the part.
#[derive(Clone, Debug)]
pub(super) struct Player {
    pub(super) who: Who,
    /// CPUs that it kept busy: as a guest (or whatever is no model's; busy time on a device), and by models.
    pub(super) cpus: [f64; 2],
    /// The share of the time for which at least one of its threads worked, alike.
    pub(super) present: [f64; 2],
}

impl Player {
    pub(super) fn new(who: Who, cpus: [f64; 2], model_busy: f64) -> Self {
        let [guest, model] = cpus;
        // Without a time of its own, a model counts as one thread.
        let model_present = if model_busy > 0.0 {
            model.min(model_busy)
        } else {
            model
        };
        let all = guest + model_present;
        let within = if all > 1.0 { 1.0 / all } else { 1.0 };
        Self {
            who,
            cpus,
            present: [guest * within, model_present * within],
        }
    }

    /// Nobody knows how many of them there are: they come as chance has it (Poisson).
    pub(super) fn many(who: Who, cpus: f64) -> Self {
        Self {
            who,
            cpus: [cpus, 0.0],
            present: [-(-cpus).exp_m1(), 0.0],
        }
    }

    pub(super) fn all_cpus(&self) -> f64 {
        self.cpus[0] + self.cpus[1]
    }

    pub(super) fn all_present(&self) -> f64 {
        self.present[0] + self.present[1]
    }

    /// Threads of its own that run beside one of them while it runs.
    pub(super) fn beside(&self) -> f64 {
        (self.all_cpus() / self.all_present().max(1e-12) - 1.0).max(0.0)
    }
}

/// What a part of a slice was used for.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) players: Vec<Player>,
    /// CPUs busy in all.
    pub(super) busy: f64,
    /// GB/s and Gfuel/s.
    pub(super) traffic: f64,
    pub(super) fuel: f64,
}

impl Part {
    /// What was used in `length_ns`, where the host beyond its calls and others used `others`.
    pub(super) fn of(slice: &Slice, root: &Root, length_ns: u64, others: [Features; 2]) -> Self {
        let rate = |amount: u64| amount as f64 / length_ns.max(1) as f64;
        let mut part = Self::default();
        part.players.reserve(slice.claims.len() + others.len());
        for claim in &slice.claims {
            let features = Features::of_usage(&claim.usage, root);
            part.traffic += rate(features.get(Feature::Traffic));
            part.fuel += rate(features.get(Feature::Fuel));
            let guest_ns = features.get(Feature::Guest) + features.get(Feature::Busy);
            let model_ns = features.get(Feature::Model);
            if guest_ns + model_ns > 0 {
                let model_busy_ns = if is_device(root) {
                    0
                } else {
                    claim.usage.cpu_busy_ns()
                };
                part.players.push(Player::new(
                    Who::Call(Class::of(&claim.call)),
                    [rate(guest_ns), rate(model_ns)],
                    rate(model_busy_ns),
                ));
            }
        }
        for (who, features) in [Who::System, Who::Foreign].into_iter().zip(others) {
            let cpus = rate(features.time_ns());
            if cpus > 0.0 {
                part.players.push(Player::many(who, cpus));
            }
        }
        part.busy = part.players.iter().map(Player::all_cpus).sum();
        part
    }

    /// The same of a slice whose others nobody has followed.
    pub(super) fn alone(slice: &Slice, root: &Root, length_ns: u64) -> Self {
        Self::of(slice, root, length_ns, other_features(slice, root))
    }

    /// The probability that someone works, when each is there for his share of the time independently.
    pub(super) fn occupied(&self) -> f64 {
        let nobody: f64 = self
            .players
            .iter()
            .map(|player| 1.0 - player.all_present())
            .product();
        1.0 - nobody
    }

    /// How many CPUs are busy beside one of `player`, on the mean.
    pub(super) fn company(&self, player: &Player) -> f64 {
        player.beside() + (self.busy - player.all_cpus()).max(0.0)
    }
}

impl Filter {
    /// By which costs `player`'s guest time (0) or model time (1) goes, each with a factor.
    pub(super) fn costs_of(&self, player: &Player, kind: usize) -> Costs {
        let mut costs = vec![(COMMON, 1.0)];
        match &player.who {
            Who::Call(class) => {
                if kind == 1 {
                    costs.push((MODEL, 1.0));
                }
                let own = self.known(class).map(|place| CLASSES + PER_CLASS * place + kind);
                costs.extend(own.map(|cost| (cost, 1.0)));
            }
            Who::System => costs.extend(self.guests()),
            Who::Foreign => costs.push((FOREIGN, 1.0)),
        }
        costs
    }

    /// What the sums are over: 1, whether someone works, traffic, fuel; and for each cost the
    /// CPUs that it applies to, times 1, ln(1 + company) and its square.
    pub(super) fn terms(&self, part: &Part) -> Vec<f64> {
        let mut terms = vec![0.0; LINEAR + PER_COST * self.costs()];
        let linear = [1.0, part.occupied(), part.traffic, part.fuel];
        for (cell, value) in terms.iter_mut().zip(linear) {
            *cell = value;
        }
        if self.device {
            terms[OCCUPIED] = 0.0;
            terms[TRAFFIC] = 0.0;
            terms[FUEL] = 0.0;
        }
        for player in &part.players {
            let log = if self.device {
                0.0
            } else {
                part.company(player).ln_1p()
            };
            for (kind, cpus) in player.cpus.into_iter().enumerate() {
                if cpus <= 0.0 {
                    continue;
                }
                for (cost, factor) in self.costs_of(player, kind) {
                    let at = LINEAR + PER_COST * cost;
                    for (cell, bend) in terms.iter_mut().skip(at).zip([1.0, log, log * log]) {
                        *cell += factor * cpus * bend;
                    }
                }
            }
        }
        terms
    }
}
