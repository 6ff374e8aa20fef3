//! Whole amounts in exact proportion: the largest remainder (Hamilton's method).

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Splits `total` by `weights`, exactly: each share is the exact one rounded down or up, and all together
/// are `total`. The microunits that rounding down leaves go to the largest remainders; ties go to the key
/// that sorts first. A weight of 0 gets nothing. Empty if all weights are 0.
pub fn largest_remainder<K: Ord + Clone>(total: u64, weights: &BTreeMap<K, u128>) -> BTreeMap<K, u64> {
    let mut parts: Vec<(&K, u128)> = weights
        .iter()
        .filter(|(_, weight)| **weight > 0)
        .map(|(key, weight)| (key, *weight))
        .collect();
    let sum = fit(parts.iter_mut().map(|(_, weight)| weight));
    if sum == 0 {
        return BTreeMap::new();
    }
    let mut shares: Vec<(&K, u64, u128)> = parts
        .into_iter()
        .map(|(key, weight)| {
            // Both factors are below 2⁶⁴.
            let exact = u128::from(total) * weight;
            (key, u64::try_from(exact / sum).unwrap_or(u64::MAX), exact % sum)
        })
        .collect();
    let given = shares.iter().map(|(_, share, _)| share).sum::<u64>();
    let mut left = total.saturating_sub(given);
    shares.sort_unstable_by_key(|(key, _, rest)| (Reverse(*rest), *key));
    for (_, share, rest) in &mut shares {
        if left == 0 || *rest == 0 {
            break;
        }
        *share += 1;
        left -= 1;
    }
    shares
        .into_iter()
        .map(|(key, share, _)| (key.clone(), share))
        .collect()
}

/// Halves all weights until their sum fits 64 bits, and gives the sum. What is less than one part in 2⁶³
/// of the whole may become nothing.
pub(crate) fn fit<'a>(weights: impl Iterator<Item = &'a mut u128>) -> u128 {
    let mut weights: Vec<&mut u128> = weights.collect();
    loop {
        let sum = weights
            .iter()
            .try_fold(0_u128, |sum, weight| sum.checked_add(**weight));
        match sum {
            Some(sum) if sum <= u128::from(u64::MAX) => return sum,
            _ => weights.iter_mut().for_each(|weight| **weight /= 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(total: u64, weights: &[u128]) -> Vec<u64> {
        let weights = (0..).zip(weights.iter().copied()).collect::<BTreeMap<i32, _>>();
        largest_remainder(total, &weights).into_values().collect()
    }

    #[test]
    fn the_rest_goes_to_the_largest_remainder_and_ties_to_the_first() {
        assert_eq!(split(4, &[5, 3, 1]), [2, 1, 1]);
        assert_eq!(split(5, &[1, 1, 1]), [2, 2, 1]);
        assert_eq!(split(7, &[1, 0]), [7]);
        assert!(split(7, &[0, 0]).is_empty());
        assert!(split(7, &[]).is_empty());
        assert_eq!(split(9, &[u128::MAX, u128::MAX, u128::MAX]), [3, 3, 3]);
    }

    proptest! {
        #[test]
        fn all_is_placed_within_one_of_the_exact_share(
            total in prop_oneof![0..30_u64, any::<u64>()],
            weights in proptest::collection::vec(prop_oneof![Just(0), 0..9_u128, 0..u128::from(u64::MAX >> 3)], 1..9),
        ) {
            let keyed: BTreeMap<usize, u128> = weights.iter().copied().enumerate().collect();
            let shares = largest_remainder(total, &keyed);
            let sum: u128 = weights.iter().sum();
            if sum == 0 {
                prop_assert!(shares.is_empty());
                return Ok(());
            }
            prop_assert_eq!(shares.values().map(|share| u128::from(*share)).sum::<u128>(), u128::from(total));
            for (key, share) in shares {
                let exact = total as f64 * (keyed[&key] as f64 / sum as f64);
                prop_assert!((share as f64 - exact).abs() <= 1.0 + exact * 1e-9, "{} {}", share, exact);
            }
        }
    }
}
