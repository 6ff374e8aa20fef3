//! A batch's work among those whose rows were in it.

use std::collections::BTreeMap;

use crate::InvocationId;
use crate::rounding::largest_remainder;

/// What one call had in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Rows, or tokens where a row is a sequence.
    pub rows: u64,
    /// The static cost of one of them, such as multiply-accumulates: rows of other shapes cost more.
    pub cost: u64,
}

/// Splits what a batch took (nanoseconds, bytes, whatever adds up) by rows × cost. The parts sum to `total`;
/// a call without rows gets nothing. Where no row has a cost, rows alone count. Empty if there are none.
pub fn split(total: u64, batch: &BTreeMap<InvocationId, Rows>) -> BTreeMap<InvocationId, u64> {
    let costed = batch.values().any(|part| part.rows > 0 && part.cost > 0);
    let weight = |part: &Rows| {
        let cost = if costed { part.cost } else { 1 };
        u128::from(part.rows) * u128::from(cost)
    };
    let weights = batch.iter().map(|(id, part)| (*id, weight(part))).collect();
    largest_remainder(total, &weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn parts(total: u64, rows: &[(u64, u64)]) -> Vec<u64> {
        let id = |n: usize| InvocationId(Uuid::from_u128(n as u128));
        let batch = rows.iter().map(|(rows, cost)| Rows {
            rows: *rows,
            cost: *cost,
        });
        let batch: BTreeMap<_, _> = batch.enumerate().map(|(n, part)| (id(n), part)).collect();
        let split = split(total, &batch);
        (0..rows.len())
            .map(|n| split.get(&id(n)).copied().unwrap_or(0))
            .collect()
    }

    #[test]
    fn by_rows_and_cost_and_to_the_last_unit() {
        let cases = [
            (10, vec![(1, 7), (3, 7), (0, 7)], vec![3, 7, 0]),
            (12, vec![(2, 1), (1, 4)], vec![4, 8]),
            (9, vec![(1, 0), (2, 0)], vec![3, 6]),
            (9, vec![(5, 0), (2, 1)], vec![0, 9]),
            (9, vec![(0, 5)], vec![0]),
            (
                u64::MAX,
                vec![(u64::MAX, u64::MAX); 2],
                vec![u64::MAX / 2 + 1, u64::MAX / 2],
            ),
        ];
        for (total, rows, expected) in cases {
            assert_eq!(parts(total, &rows), expected, "{total} {rows:?}");
        }
    }
}
