//! From the graph's scores to a label.

use serde::Deserialize;
use wattle_sdk::Failure;

/// What one column of the graph's output stands for.
#[derive(Deserialize)]
pub struct Label {
    /// The label of the model.
    label: String,
    /// What to answer instead of it.
    answer: Option<String>,
    /// The least score at which it is believed.
    threshold: f32,
    /// Whether such files are text.
    text: bool,
}

/// Reads the setting `labels`.
pub fn parse(json: &str) -> Result<Vec<Label>, Failure> {
    let labels = serde_json::from_str(json);
    labels.map_err(|error| Failure::new("malformed-labels", format!("the setting 'labels': {error}")))
}

/// The label with the highest score, and that score. Where the score is too low to be believed, the answer
/// is only whether the file is text: `txt` or `unknown`.
pub fn choose(labels: &[Label], scores: &[f32]) -> Option<(String, f32)> {
    // The first of equal scores wins.
    let (label, &score) = labels
        .iter()
        .zip(scores)
        .rev()
        .max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let answer = if score >= label.threshold {
        label.answer.as_ref().unwrap_or(&label.label)
    } else if label.text {
        "txt"
    } else {
        "unknown"
    };
    Some((answer.to_owned(), score))
}
