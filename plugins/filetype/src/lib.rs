//! Names the type of any file from its bytes, as magika 1.0.3 does in its high-confidence mode.
//!
//! The release has the graph `magika`, `bytes` i32 [n, 2048] to `target_label` f32 [n, 214], and the setting
//! `labels`: a JSON array with one [`labels::Label`] for each of the graph's columns.

mod features;
mod labels;

use features::{Features, features};
use labels::Label;
use wattle_sdk::{Dtype, Failure, Graph, Pipeline, Request, Response, Signature, Tensor, config, pipeline};

struct FileType;

impl Pipeline for FileType {
    fn describe() -> Result<Signature, Failure> {
        labels::parse(&config::require("labels")?)?;
        Ok(Signature::new()
            .input("file", Dtype::Bytes, [None])
            .output("label", Dtype::Bytes, [None])
            .output("score", Dtype::Fp32, [None]))
    }

    fn infer(request: Request) -> Result<Response, Failure> {
        let files = request.input("file")?.as_bytes()?;
        let features: Vec<_> = files.iter().map(|file| features(file)).collect();
        let tokens: Vec<&[i32]> = features
            .iter()
            .filter_map(|features| match features {
                Features::Tokens(tokens) => Some(&tokens[..]),
                Features::Answer(_) => None,
            })
            .collect();
        let mut guesses = guess(&tokens)?.into_iter();
        let mut answers = Vec::with_capacity(files.len());
        for features in &features {
            answers.push(match features {
                Features::Answer(label) => Some(((*label).to_owned(), 1.0)),
                Features::Tokens(_) => guesses.next(),
            });
        }
        let (labels, scores): (Vec<_>, Vec<_>) = answers.into_iter().flatten().unzip();
        let count = [files.len() as u32];
        Ok(Response::new([
            Tensor::bytes("label", count, labels),
            Tensor::fp32("score", count, &scores),
        ]))
    }
}

/// A label and its score for each file, from one run of the graph over all of them.
fn guess(tokens: &[&[i32]]) -> Result<Vec<(String, f32)>, Failure> {
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let labels: Vec<Label> = labels::parse(&config::require("labels")?)?;
    let input = Tensor::i32("bytes", [tokens.len() as u32, 2_048], &tokens.concat());
    let scores = Graph::load("magika")?.compute_one(&[input])?.as_fp32()?;
    if scores.len() != tokens.len() * labels.len() {
        let message = format!("{} scores for {} labels", scores.len(), labels.len());
        return Err(Failure::new("wrong-labels", message));
    }
    Ok(scores
        .chunks(labels.len())
        .filter_map(|scores| labels::choose(&labels, scores))
        .collect())
}

pipeline!(FileType);
