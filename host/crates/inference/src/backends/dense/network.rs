//! The arithmetic: steps over some rows.

use multiversion::multiversion;

/// The most work of a row, in multiply-accumulates and what counts as such.
pub(super) const MAX_ROW_COST: usize = 1 << 18;

/// The most work of a short run: some 0.05 ms, for which the thread is nobody else's. A few milliseconds where a model
/// is made to be slow, of numbers so small that processors take a detour.
const MAX_RUN_COST: usize = 1 << 19;

/// Rows that share what is read of a matrix.
const TOGETHER: usize = 4;

/// A network as it is worked out. Every value is a matrix of rows; the rows do not meet.
pub(super) struct Network {
    /// Elements in a row of each value: of the input, then of each step's result.
    widths: Vec<usize>,
    steps: Vec<Step>,
    /// Which values are the outputs.
    outputs: Vec<usize>,
    /// The most rows of a short run.
    max_rows: u64,
}

/// What makes a value of earlier ones.
pub(super) struct Step {
    pub(super) from: usize,
    pub(super) op: Op,
}

pub(super) enum Op {
    /// The row times a matrix, and something more.
    Product {
        /// In the order `[input element][output element]`.
        weights: Vec<f32>,
        /// One for each output element.
        bias: Vec<f32>,
    },
    Each(Function),
    Softmax,
    /// With one number, or with one for each element; turned around where those stand first.
    WithFixed {
        how: Arithmetic,
        fixed: Vec<f32>,
        turned: bool,
    },
    WithValue {
        how: Arithmetic,
        other: usize,
    },
}

#[derive(Clone, Copy)]
pub(super) enum Function {
    Relu,
    LeakyRelu { slope: f32 },
    Sigmoid,
    Tanh,
}

#[derive(Clone, Copy)]
pub(super) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
}

impl Network {
    /// `widths` has one more entry than `steps`, none of them 0; every value that is named is an earlier one.
    pub(super) fn new(widths: Vec<usize>, steps: Vec<Step>, outputs: Vec<usize>, row_cost: usize) -> Self {
        Self {
            widths,
            steps,
            outputs,
            max_rows: (MAX_RUN_COST / row_cost.max(1)) as u64,
        }
    }

    /// Elements in a row of each output.
    pub(super) fn output_widths(&self) -> impl Iterator<Item = usize> {
        self.outputs.iter().map(|output| self.widths[*output])
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        let held = self.steps.iter().map(|step| match &step.op {
            Op::Product { weights, bias } => weights.len() + bias.len(),
            Op::WithFixed { fixed, .. } => fixed.len(),
            Op::Each(_) | Op::Softmax | Op::WithValue { .. } => 0,
        });
        4 * held.sum::<usize>() + self.steps.len() * size_of::<Step>()
    }

    /// Whether a run of so many rows is short.
    pub(super) fn is_short(&self, rows: u64) -> bool {
        rows <= self.max_rows
    }

    /// The rows of each output for those of the input, as little-endian bytes.
    pub(super) fn run(&self, input: &[u8]) -> Vec<Vec<u8>> {
        let mut values = Vec::with_capacity(self.widths.len());
        let (input, _) = input.as_chunks::<4>();
        values.push(input.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
        for (step, &width) in self.steps.iter().zip(&self.widths[1..]) {
            let value = step.op.run(&values, step.from, width);
            values.push(value);
        }
        let bytes = |output: &usize| {
            values[*output]
                .iter()
                .flat_map(|x: &f32| x.to_le_bytes())
                .collect()
        };
        self.outputs.iter().map(bytes).collect()
    }
}

impl Op {
    fn run(&self, values: &[Vec<f32>], from: usize, width: usize) -> Vec<f32> {
        let rows = &values[from];
        match self {
            Self::Product { weights, bias } => product(rows, weights, bias),
            Self::Each(function) => function.of(rows),
            Self::Softmax => softmax(rows, width),
            Self::WithValue { how, other } => how.of(rows.iter().zip(&values[*other]), false),
            Self::WithFixed { how, fixed, turned } => how.of(rows.iter().zip(fixed.iter().cycle()), *turned),
        }
    }
}

/// Rows of `weights.len() / bias.len()` elements times the matrix, and the bias. Each sum is added up in the order of
/// the row's elements, however many the processor adds at once: the bits are the same on every machine.
fn product(rows: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f32> {
    let (width, depth) = (bias.len(), weights.len() / bias.len());
    let mut products = bias.repeat(rows.len() / depth);
    let some = rows
        .chunks(TOGETHER * depth)
        .zip(products.chunks_mut(TOGETHER * width));
    for (rows, sums) in some {
        if sums.len() == TOGETHER * width {
            add_four(rows, weights, sums);
        } else {
            for (row, sums) in rows.chunks(depth).zip(sums.chunks_mut(width)) {
                add(row, weights, sums);
            }
        }
    }
    products
}

/// Adds a row's products to its sums: one row of the matrix after the other, since what is added at once lies side by
/// side.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn add(row: &[f32], weights: &[f32], sums: &mut [f32]) {
    for (x, weights) in row.iter().zip(weights.chunks_exact(sums.len())) {
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum += x * weight;
        }
    }
}

/// The same for four rows.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn add_four(rows: &[f32], weights: &[f32], sums: &mut [f32]) {
    let (depth, width) = (rows.len() / TOGETHER, sums.len() / TOGETHER);
    let (first, second) = sums.split_at_mut(2 * width);
    let ((a, b), (c, d)) = (first.split_at_mut(width), second.split_at_mut(width));
    for (at, weights) in weights.chunks_exact(width).enumerate() {
        let [w, x, y, z] = [0, 1, 2, 3].map(|row| rows[row * depth + at]);
        let sums = a.iter_mut().zip(b.iter_mut()).zip(c.iter_mut().zip(d.iter_mut()));
        for (((a, b), (c, d)), weight) in sums.zip(weights) {
            *a += w * weight;
            *b += x * weight;
            *c += y * weight;
            *d += z * weight;
        }
    }
}

fn softmax(rows: &[f32], width: usize) -> Vec<f32> {
    let mut shares = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(width) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let at = shares.len();
        shares.extend(row.iter().map(|x| (x - largest).exp()));
        let sum: f32 = shares[at..].iter().sum();
        shares[at..].iter_mut().for_each(|share| *share /= sum);
    }
    shares
}

impl Function {
    fn of(self, rows: &[f32]) -> Vec<f32> {
        let each = rows.iter();
        match self {
            // What is not a number stays none.
            Self::Relu => each.map(|&x| if x < 0.0 { 0.0 } else { x }).collect(),
            Self::LeakyRelu { slope } => each.map(|&x| if x < 0.0 { slope * x } else { x }).collect(),
            Self::Sigmoid => each.map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Self::Tanh => each.map(|x| x.tanh()).collect(),
        }
    }
}

impl Arithmetic {
    fn of<'a>(self, pairs: impl Iterator<Item = (&'a f32, &'a f32)>, turned: bool) -> Vec<f32> {
        match (self, turned) {
            (Self::Add, _) => pairs.map(|(a, b)| a + b).collect(),
            (Self::Mul, _) => pairs.map(|(a, b)| a * b).collect(),
            (Self::Sub, false) => pairs.map(|(a, b)| a - b).collect(),
            (Self::Sub, true) => pairs.map(|(a, b)| b - a).collect(),
            (Self::Div, false) => pairs.map(|(a, b)| a / b).collect(),
            (Self::Div, true) => pairs.map(|(a, b)| b / a).collect(),
        }
    }
}
