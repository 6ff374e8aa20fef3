//! A symmetric matrix that can grow and shrink: the covariance of a filter's state.

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

    /// Adds to a cell and to its mirror image.
    pub(super) fn add(&mut self, row: usize, column: usize, value: f64) {
        let cells = [row * self.size + column, column * self.size + row];
        let apart = if row == column { 1 } else { 2 };
        for cell in cells.into_iter().take(apart) {
            if let Some(cell) = self.cells.get_mut(cell) {
                *cell += value;
            }
        }
    }

    /// One more row and column, zero but for the corner.
    pub(super) fn grow(&mut self, corner: f64) {
        let mut grown = Self::zero(self.size + 1);
        for row in 0..self.size {
            for column in 0..=row {
                grown.add(row, column, self.get(row, column));
            }
        }
        grown.add(self.size, self.size, corner);
        *self = grown;
    }

    /// Makes the row and column zero but for the diagonal: what was known of it is forgotten.
    pub(super) fn reset(&mut self, at: usize, diagonal: f64) {
        for other in 0..self.size {
            let value = self.get(at, other);
            self.add(at, other, -value);
        }
        self.add(at, at, diagonal);
    }

    /// Scales the row and the column, the corner twice.
    pub(super) fn scale(&mut self, at: usize, factor: f64) {
        for other in 0..self.size {
            let value = self.get(at, other);
            let scaled = if other == at { factor * factor } else { factor };
            self.add(at, other, value * (scaled - 1.0));
        }
    }

    /// The product with a vector.
    pub(super) fn times(&self, vector: &[f64]) -> Vec<f64> {
        let rows = self.cells.chunks(self.size.max(1));
        rows.map(|row| dot(row, vector)).collect()
    }

    /// Takes `scale · vector · vectorᵀ` away.
    pub(super) fn subtract_outer(&mut self, vector: &[f64], scale: f64) {
        for (row, left) in self.cells.chunks_mut(self.size.max(1)).zip(vector) {
            for (cell, right) in row.iter_mut().zip(vector) {
                *cell -= scale * left * right;
            }
        }
    }
}

pub(super) fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_symmetric_through_every_change() {
        let mut matrix = Symmetric::zero(2);
        matrix.add(0, 0, 4.0);
        matrix.add(0, 1, 1.0);
        matrix.grow(9.0);
        matrix.add(2, 0, 2.0);
        assert_eq!(matrix.times(&[1.0, 2.0, 3.0]), [12.0, 1.0, 29.0]);
        matrix.subtract_outer(&[1.0, 0.0, 2.0], 0.5);
        assert_eq!(
            (matrix.get(0, 2), matrix.get(2, 0), matrix.get(2, 2)),
            (1.0, 1.0, 7.0)
        );
        matrix.scale(2, 2.0);
        assert_eq!(
            (matrix.get(0, 2), matrix.get(2, 0), matrix.get(2, 2)),
            (2.0, 2.0, 28.0)
        );
        matrix.scale(2, 0.5);
        matrix.reset(0, 3.0);
        assert_eq!(matrix.times(&[1.0, 1.0, 1.0]), [3.0, 0.0, 7.0]);
    }
}
