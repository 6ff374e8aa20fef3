//! A symmetric matrix that can grow: the sums of products that a least-squares fit needs.

use serde::{Deserialize, Serialize};

/// A symmetric matrix, kept whole, row by row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Symmetric {
    size: usize,
    cells: Vec<f64>,
}

impl Symmetric {
    pub(super) fn zero(size: usize) -> Self {
        Self {
            size,
            cells: vec![0.0; size * size],
        }
    }

    pub(super) fn get(&self, row: usize, column: usize) -> f64 {
        self.cells
            .get(row * self.size + column)
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn set(&mut self, row: usize, column: usize, value: f64) {
        for at in [row * self.size + column, column * self.size + row] {
            if let Some(cell) = self.cells.get_mut(at) {
                *cell = value;
            }
        }
    }

    /// Adds to the diagonal.
    pub(super) fn add(&mut self, at: usize, value: f64) {
        self.set(at, at, self.get(at, at) + value);
    }

    /// One more row and column of zeros.
    pub(super) fn grow(&mut self) {
        let mut grown = Self::zero(self.size + 1);
        for row in 0..self.size {
            for column in 0..=row {
                grown.set(row, column, self.get(row, column));
            }
        }
        *self = grown;
    }

    /// Makes a row and its column zero: what was seen of it is forgotten.
    pub(super) fn clear(&mut self, at: usize) {
        (0..self.size).for_each(|other| self.set(at, other, 0.0));
    }

    /// Multiplies with a number.
    pub(super) fn scale(&mut self, factor: f64) {
        self.cells.iter_mut().for_each(|cell| *cell *= factor);
    }

    /// Adds `weight · vector · vectorᵀ`.
    pub(super) fn add_outer(&mut self, vector: &[f64], weight: f64) {
        for (row, left) in self.cells.chunks_mut(self.size.max(1)).zip(vector) {
            for (cell, right) in row.iter_mut().zip(vector) {
                *cell += weight * left * right;
            }
        }
    }

    /// The product with a vector.
    pub(super) fn times(&self, vector: &[f64]) -> Vec<f64> {
        let rows = self.cells.chunks(self.size.max(1));
        rows.map(|row| dot(row, vector)).collect()
    }

    /// The inverse over the rows and columns that are `free`, zero elsewhere; none if it is not positive
    /// definite there. By Cholesky's factors.
    pub(super) fn inverse(&self, free: &[bool]) -> Option<Self> {
        let order: Vec<usize> = (0..self.size)
            .filter(|at| free.get(*at).copied().unwrap_or(true))
            .collect();
        let size = order.len();
        let mut lower = vec![vec![0.0; size]; size];
        for row in 0..size {
            for column in 0..=row {
                let left = dot(&lower[row][..column], &lower[column][..column]);
                let rest = self.get(order[row], order[column]) - left;
                lower[row][column] = if row == column {
                    if rest.is_nan() || rest <= 0.0 {
                        return None;
                    }
                    rest.sqrt()
                } else {
                    rest / lower[column][column]
                };
            }
        }
        // The inverse of the factor, by rows; its outer product with itself is the inverse.
        let mut factor: Vec<Vec<f64>> = Vec::with_capacity(size);
        for (row, lower) in lower.iter().enumerate() {
            let pivot = lower[row];
            let below = |column: usize| {
                let known = (column..row).map(|at| lower[at] * factor[at][column]);
                -known.sum::<f64>() / pivot
            };
            let mut cells: Vec<f64> = (0..row).map(below).collect();
            cells.push(1.0 / pivot);
            factor.push(cells);
        }
        let mut inverse = Self::zero(self.size);
        for row in 0..size {
            for column in 0..=row {
                let cell = (row..size).map(|at| factor[at][row] * factor[at][column]).sum();
                inverse.set(order[row], order[column], cell);
            }
        }
        Some(inverse)
    }
}

pub(super) fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverts_what_it_may() {
        let mut matrix = Symmetric::zero(2);
        matrix.add_outer(&[1.0, 2.0], 1.0);
        matrix.add_outer(&[3.0, -1.0], 2.0);
        matrix.grow();
        matrix.add(2, 4.0);
        let inverse = matrix.inverse(&[true; 3]).unwrap();
        for at in 0..3 {
            let mut unit = vec![0.0; 3];
            unit[at] = 1.0;
            let back = matrix.times(&inverse.times(&unit));
            assert!(
                back.iter()
                    .zip(&unit)
                    .all(|(back, unit)| (back - unit).abs() < 1e-12),
                "{back:?}"
            );
        }
        // Without the second: 1 / (1 + 2 · 9).
        let part = matrix.inverse(&[true, false, true]).unwrap();
        assert!((part.get(0, 0) - 1.0 / 19.0).abs() < 1e-12 && part.get(0, 1) == 0.0);
        matrix.clear(2);
        assert_eq!(matrix.inverse(&[true; 3]), None);
    }
}
