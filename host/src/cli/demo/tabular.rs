//! What training said of the tabular network.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

/// The report beside `tabular.onnx`.
#[derive(Deserialize)]
pub struct Report {
    /// Weights and biases.
    pub parameters: u64,
    /// Binary cross-entropy on the training rows.
    pub training_loss: f64,
    /// Share of right answers on the training rows.
    pub training_accuracy: f64,
    /// Binary cross-entropy on rows that it had not seen.
    pub loss: f64,
    /// Share of right answers on rows that it had not seen.
    pub accuracy: f64,
    /// Sample rows of 100 numbers.
    pub rows: Vec<Vec<f64>>,
    /// The probabilities that the trainer computed for them.
    pub expected: Vec<f64>,
}

impl Report {
    /// Reads `tabular.json`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let report: Self = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
        anyhow::ensure!(
            report.rows.len() >= 4 && report.rows.len() == report.expected.len(),
            "{}: at least four rows, each with an expected answer, are needed",
            path.display()
        );
        Ok(report)
    }
}
