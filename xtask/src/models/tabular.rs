//! The tabular example: Dense 100→64→32→1 on random rows, as a hello-world of deep learning has it.

use serde_json::{Value, json};

use super::network::{Activation, Adam, Layer, Network, Random, Sample};
use super::onnx;

const SEED: u64 = 42;
const COLUMNS: usize = 100;
const ROWS: usize = 1_000;
const EVALUATED: usize = 100;
const EPOCHS: usize = 10;
const BATCH: usize = 32;
/// Rows that the report repeats with the answers expected for them.
const SHOWN: usize = 8;

/// The network as a file, and what is known of it.
pub struct Trained {
    pub onnx: Vec<u8>,
    pub report: Value,
}

/// Trains on random rows with random labels, so the accuracy to expect is one half.
pub fn train() -> Trained {
    let mut random = Random(SEED);
    let training = samples(ROWS, &mut random);
    let evaluated = samples(EVALUATED, &mut random);
    let layers = vec![
        Layer::new(COLUMNS, 64, Activation::Relu, &mut random),
        Layer::new(64, 32, Activation::Relu, &mut random),
        Layer::new(32, 1, Activation::Sigmoid, &mut random),
    ];
    let mut network = Network { layers };
    let mut adam = Adam::new(&network);
    let mut order: Vec<&Sample> = training.iter().collect();
    for _ in 0..EPOCHS {
        random.shuffle(&mut order);
        order
            .chunks(BATCH)
            .for_each(|batch| adam.descend(&mut network, batch));
    }
    let (training_loss, training_accuracy) = network.evaluate(&training);
    let (loss, accuracy) = network.evaluate(&evaluated);
    let shown = || evaluated.iter().take(SHOWN);
    let report = json!({
        "parameters": network.parameters(),
        "training_loss": training_loss,
        "training_accuracy": training_accuracy,
        "loss": loss,
        "accuracy": accuracy,
        "rows": shown().map(|sample| &sample.row).collect::<Vec<_>>(),
        "expected": shown().map(|sample| network.predict(&sample.row)).collect::<Vec<_>>(),
    });
    Trained {
        onnx: onnx::export("tabular", &network.layers),
        report,
    }
}

/// Rows even in [0, 1), rounded to single precision as the graph takes them, with labels 0 or 1 by chance.
fn samples(count: usize, random: &mut Random) -> Vec<Sample> {
    let sample = |_| {
        let row = (0..COLUMNS).map(|_| f64::from(random.uniform() as f32)).collect();
        Sample {
            row,
            label: random.below(2) as f64,
        }
    };
    (0..count).map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_is_repeatable_and_learns_its_rows() {
        let (first, second) = (train(), train());
        assert_eq!(first.onnx, second.onnx);
        assert_eq!(first.report, second.report);
        assert_eq!(first.report["parameters"], 8_577);
        assert!(
            first.report["training_loss"].as_f64().unwrap() < 0.693,
            "{}",
            first.report["training_loss"]
        );
        assert_eq!(first.report["rows"].as_array().unwrap().len(), SHOWN);
    }
}
