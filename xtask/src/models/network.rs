//! Dense networks: forward, backward, and Adam, in double precision.

/// What follows a layer's weighted sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Negative sums become 0.
    Relu,
    /// 1 / (1 + e^-x).
    Sigmoid,
}

/// One dense layer. `weights` are row-major, [inputs, outputs].
#[derive(Clone, Debug)]
pub struct Layer {
    pub inputs: usize,
    pub outputs: usize,
    pub activation: Activation,
    pub weights: Vec<f64>,
    pub biases: Vec<f64>,
}

/// A small generator of repeatable numbers (SplitMix64, Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Even in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `bound`; the bias of the remainder does not matter here.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Fisher and Yates's shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

impl Layer {
    /// Glorot's uniform initialisation: weights within ±√(6 / (inputs + outputs)), biases 0.
    pub fn new(inputs: usize, outputs: usize, activation: Activation, random: &mut Random) -> Self {
        let bound = (6.0 / (inputs + outputs) as f64).sqrt();
        let weights = (0..inputs * outputs)
            .map(|_| bound * (2.0 * random.uniform() - 1.0))
            .collect();
        Self {
            inputs,
            outputs,
            activation,
            weights,
            biases: vec![0.0; outputs],
        }
    }

    fn forward(&self, input: &[f64]) -> Vec<f64> {
        let mut sums = self.biases.clone();
        for (value, weights) in input.iter().zip(self.weights.chunks(self.outputs)) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += value * weight;
            }
        }
        for sum in &mut sums {
            *sum = match self.activation {
                Activation::Relu => sum.max(0.0),
                Activation::Sigmoid => 1.0 / (1.0 + (-*sum).exp()),
            };
        }
        sums
    }
}

/// A row with its label, 0 or 1.
pub struct Sample {
    pub row: Vec<f64>,
    pub label: f64,
}

/// A network that ends in one sigmoid: the probability of label 1.
pub struct Network {
    pub layers: Vec<Layer>,
}

/// The loss of one answer, kept off infinity as is usual.
fn cross_entropy(probability: f64, label: f64) -> f64 {
    let probability = probability.clamp(1e-7, 1.0 - 1e-7);
    -(label * probability.ln() + (1.0 - label) * (1.0 - probability).ln())
}

impl Network {
    /// The probability for a row.
    pub fn predict(&self, row: &[f64]) -> f64 {
        let output = self
            .layers
            .iter()
            .fold(row.to_vec(), |input, layer| layer.forward(&input));
        output.first().copied().unwrap_or_default()
    }

    /// Mean binary cross-entropy, and the part of the rows whose label is named.
    pub fn evaluate(&self, samples: &[Sample]) -> (f64, f64) {
        let (mut loss, mut right) = (0.0, 0.0);
        for sample in samples {
            let probability = self.predict(&sample.row);
            loss += cross_entropy(probability, sample.label);
            right += f64::from((probability > 0.5) == (sample.label > 0.5));
        }
        let count = samples.len() as f64;
        (loss / count, right / count)
    }

    /// How many numbers are trained.
    pub fn parameters(&self) -> usize {
        self.layers
            .iter()
            .map(|layer| layer.weights.len() + layer.biases.len())
            .sum()
    }

    /// The parameters in one order: each layer's weights, then its biases.
    fn each_mut(&mut self) -> impl Iterator<Item = &mut f64> {
        self.layers
            .iter_mut()
            .flat_map(|layer| layer.weights.iter_mut().chain(&mut layer.biases))
    }

    /// The gradient of the mean loss over a batch, in the order of [`Self::each_mut`].
    fn gradient(&self, batch: &[&Sample]) -> Vec<f64> {
        let mut gradient = vec![0.0; self.parameters()];
        for sample in batch {
            let mut values = vec![sample.row.clone()];
            for layer in &self.layers {
                let input = values.last().map_or(&[][..], Vec::as_slice);
                let output = layer.forward(input);
                values.push(output);
            }
            // Sigmoid and cross-entropy together leave this simple error of the last sums.
            let mut errors: Vec<f64> = values.pop().unwrap_or_default();
            errors.iter_mut().for_each(|output| *output -= sample.label);
            let mut end = gradient.len();
            for (layer, input) in self.layers.iter().zip(&values).rev() {
                let start = end - layer.weights.len() - layer.biases.len();
                let (weights, biases) = gradient[start..end].split_at_mut(layer.weights.len());
                errors = layer.backward(input, &errors, weights, biases);
                end = start;
            }
        }
        gradient.iter_mut().for_each(|slope| *slope /= batch.len() as f64);
        gradient
    }
}

impl Layer {
    /// Adds this layer's slopes, and gives the errors of the sums of the layer before, which is rectified.
    fn backward(&self, input: &[f64], errors: &[f64], weights: &mut [f64], biases: &mut [f64]) -> Vec<f64> {
        for (slope, error) in biases.iter_mut().zip(errors) {
            *slope += error;
        }
        let rows = self
            .weights
            .chunks(self.outputs)
            .zip(weights.chunks_mut(self.outputs));
        let before = input.iter().zip(rows).map(|(&value, (row, slopes))| {
            let mut error_before = 0.0;
            for ((weight, slope), error) in row.iter().zip(slopes).zip(errors) {
                *slope += value * error;
                error_before += weight * error;
            }
            if value > 0.0 { error_before } else { 0.0 }
        });
        before.collect()
    }
}

/// Adam (Kingma and Ba 2014) with its usual constants and a learning rate of 0.001.
pub struct Adam {
    step: i32,
    mean: Vec<f64>,
    square: Vec<f64>,
}

impl Adam {
    pub fn new(network: &Network) -> Self {
        let zeros = vec![0.0; network.parameters()];
        Self {
            step: 0,
            mean: zeros.clone(),
            square: zeros,
        }
    }

    /// One step down the gradient of a batch.
    pub fn descend(&mut self, network: &mut Network, batch: &[&Sample]) {
        const RATE: f64 = 1e-3;
        const KEEP_MEAN: f64 = 0.9;
        const KEEP_SQUARE: f64 = 0.999;
        const EPSILON: f64 = 1e-7;
        self.step += 1;
        let gradient = network.gradient(batch);
        let correct_mean = 1.0 - KEEP_MEAN.powi(self.step);
        let correct_square = 1.0 - KEEP_SQUARE.powi(self.step);
        let state = self.mean.iter_mut().zip(&mut self.square);
        for ((parameter, slope), (mean, square)) in network.each_mut().zip(gradient).zip(state) {
            *mean = KEEP_MEAN * *mean + (1.0 - KEEP_MEAN) * slope;
            *square = KEEP_SQUARE * *square + (1.0 - KEEP_SQUARE) * slope * slope;
            *parameter -= RATE * (*mean / correct_mean) / ((*square / correct_square).sqrt() + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(random: &mut Random) -> (Network, Vec<Sample>) {
        let layers = vec![
            Layer::new(5, 4, Activation::Relu, random),
            Layer::new(4, 3, Activation::Relu, random),
            Layer::new(3, 1, Activation::Sigmoid, random),
        ];
        let sample = |_| {
            let row: Vec<f64> = (0..5).map(|_| random.uniform()).collect();
            let label = f64::from(row[0] > row[1]);
            Sample { row, label }
        };
        let samples = (0..64).map(sample).collect();
        (Network { layers }, samples)
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let (mut network, samples) = small(&mut Random(7));
        let batch: Vec<_> = samples.iter().collect();
        let gradient = network.gradient(&batch);
        for (index, slope) in gradient.into_iter().enumerate() {
            let mut loss_at = |change: f64| {
                *network.each_mut().nth(index).unwrap() += change;
                let (loss, _) = network.evaluate(&samples);
                *network.each_mut().nth(index).unwrap() -= change;
                loss
            };
            let expected = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6;
            assert!(
                (slope - expected).abs() < 1e-7,
                "parameter {index}: {slope}, not {expected}"
            );
        }
    }

    #[test]
    fn training_lowers_the_loss() {
        let (mut network, samples) = small(&mut Random(7));
        let batch: Vec<_> = samples.iter().collect();
        let (before, _) = network.evaluate(&samples);
        let mut adam = Adam::new(&network);
        (0..500).for_each(|_| adam.descend(&mut network, &batch));
        let (after, right) = network.evaluate(&samples);
        assert!(
            after < before / 2.0 && right > 0.9,
            "{before} to {after}, {right} right"
        );
    }
}
