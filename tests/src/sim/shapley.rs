//! Truth: the Shapley share of each player in what a millisecond took above idle.
//!
//! The game is the energy above doing nothing that a coalition's work would have taken alone, on the
//! machine as warm as it was. The shares add up to the dynamic energy, give nothing to who did nothing, and
//! treat equals alike; shares of milliseconds add up to the share of the run. Up to [`EXACT`] players the
//! sum runs over all coalitions; beyond, over random orders and their reverses (Castro et al., *Polynomial
//! calculation of the Shapley value based on sampling*, 2009), whose error is reported with the figures.

use super::machine::Joules;
use super::random::Random;

/// Players up to which the shares are exact.
pub const EXACT: usize = 7;
/// Random orders beyond that, each with its reverse.
const ORDERS: usize = 8;

/// Each player's share, and the variance of its sum over both roots where it was sampled (0 where exact).
pub struct Shares {
    /// Joules by player.
    pub joules: Vec<Joules>,
    /// Variance of the sampled shares, in J².
    pub variance: Vec<f64>,
}

/// The shares of `players` in the game `value`, which takes a coalition as a bit mask.
pub fn shares(players: usize, value: impl Fn(u64) -> Joules, random: &mut Random) -> Shares {
    if players <= EXACT {
        let joules = exact(players, &value);
        return Shares {
            joules,
            variance: vec![0.0; players],
        };
    }
    sampled(players, &value, random)
}

fn exact(players: usize, value: &impl Fn(u64) -> Joules) -> Vec<Joules> {
    let values: Vec<Joules> = (0..1_u64 << players).map(value).collect();
    let factorial = |n: usize| (1..=n).map(|k| k as f64).product::<f64>();
    let weights: Vec<f64> = (0..players)
        .map(|size| factorial(size) * factorial(players - size - 1) / factorial(players))
        .collect();
    (0..players)
        .map(|player| {
            let mut share = [0.0; 2];
            for (mask, before) in values.iter().enumerate() {
                if mask >> player & 1 == 1 {
                    continue;
                }
                let after = values[mask | 1 << player];
                let weight = weights[mask.count_ones() as usize];
                for root in 0..2 {
                    share[root] += weight * (after[root] - before[root]);
                }
            }
            share
        })
        .collect()
}

fn sampled(players: usize, value: &impl Fn(u64) -> Joules, random: &mut Random) -> Shares {
    let mut sums = vec![[0.0; 2]; players];
    let mut squares = vec![0.0; players];
    let mut order: Vec<usize> = (0..players).collect();
    for _ in 0..ORDERS {
        random.shuffle(&mut order);
        let mut pair = vec![0.0; players];
        for _ in 0..2 {
            let (mut mask, mut before) = (0, [0.0; 2]);
            for &player in &order {
                mask |= 1 << player;
                let after = value(mask);
                for root in 0..2 {
                    sums[player][root] += after[root] - before[root];
                    pair[player] += (after[root] - before[root]) / 2.0;
                }
                before = after;
            }
            order.reverse();
        }
        for (square, pair) in squares.iter_mut().zip(&pair) {
            *square += pair * pair;
        }
    }
    let pairs = ORDERS as f64;
    let joules: Vec<Joules> = sums
        .iter()
        .map(|sum| sum.map(|sum| sum / (2.0 * pairs)))
        .collect();
    let variance = squares.iter().zip(&joules).map(|(square, mean)| {
        let mean = mean[0] + mean[1];
        (square / pairs - mean * mean).max(0.0) / (pairs - 1.0)
    });
    let variance = variance.collect();
    Shares { joules, variance }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three players: a glove game with a cost for being there at all, whose shares are known.
    fn gloves(mask: u64) -> Joules {
        let (left, right) = (mask & 1, (mask >> 1 & 1) + (mask >> 2 & 1));
        [left.min(right) as f64, f64::from(u8::from(mask > 0)) * 6.0]
    }

    #[test]
    fn exact_shares_are_the_known_ones() {
        let found = shares(3, gloves, &mut Random::new(1)).joules;
        for (share, glove) in found.iter().zip([2.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0]) {
            assert!((share[0] - glove).abs() < 1e-12 && (share[1] - 2.0).abs() < 1e-12);
        }
    }

    #[test]
    fn sampled_shares_add_up_and_come_near_the_exact() {
        let game = |mask: u64| {
            let load: f64 = (0..10)
                .filter(|p| mask >> p & 1 == 1)
                .map(|p| f64::from(p) + 1.0)
                .sum();
            [load.sqrt(), load * load]
        };
        let (mut random, rounds) = (Random::new(2), 400);
        let mut mean = [[0.0; 2]; 10];
        for _ in 0..rounds {
            let found = sampled(10, &game, &mut random);
            let total: f64 = found.joules.iter().map(|share| share[0]).sum();
            assert!((total - 55_f64.sqrt()).abs() < 1e-9);
            for (mean, share) in mean.iter_mut().zip(found.joules) {
                (0..2).for_each(|root| mean[root] += share[root] / f64::from(rounds));
            }
        }
        for (mean, exact) in mean.iter().zip(exact(10, &game)) {
            for root in 0..2 {
                // Some standard errors of the smallest share, which depends most on who comes before it.
                assert!(
                    (mean[root] / exact[root] - 1.0).abs() < 0.06,
                    "{mean:?} {exact:?}"
                );
            }
        }
    }
}
