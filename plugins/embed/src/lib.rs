//! Sentences to unit vectors whose products say how alike they are, by MiniLM (all-MiniLM-L6-v2).
//!
//! The release has the graph `minilm`: `input_ids`, `attention_mask` and `token_type_ids` i64 [n, tokens] to
//! `last_hidden_state` f32 [n, tokens, 384].

mod tokenizer;

use tokenizer::{Tokens, tokenize};
use wattle_sdk::{
    Dtype, Failure, Graph, Parameter, Pipeline, Request, Response, Signature, Tensor, pipeline,
};

/// Numbers in a vector.
const DIMENSIONS: usize = 384;
/// Texts in a call.
const MAX_TEXTS: usize = 256;
/// Tokens in one run of the graph, filling included: they bound the memory.
const RUN_TOKENS: usize = 2_048;

struct Embed;

impl Pipeline for Embed {
    fn describe() -> Result<Signature, Failure> {
        Ok(Signature::new().input("text", Dtype::Bytes, [None]).output(
            "embedding",
            Dtype::Fp32,
            [None, Some(DIMENSIONS as u32)],
        ))
    }

    fn infer(request: Request) -> Result<Response, Failure> {
        let texts = request.input("text")?.as_bytes()?;
        if texts.len() > MAX_TEXTS {
            let message = format!("{} texts; a call takes {MAX_TEXTS}", texts.len());
            return Err(Failure::new("too-many-texts", message));
        }
        let texts = texts.iter().enumerate().map(|(index, text)| read(index, text));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let truncated = texts.iter().filter(|tokens| tokens.truncated).count();

        let graph = Graph::load("minilm")?;
        let mut vectors = Vec::with_capacity(texts.len() * DIMENSIONS);
        let mut rest = &texts[..];
        while !rest.is_empty() {
            let fitting = |count: &usize| *count == 1 || count * longest(&rest[..*count]) <= RUN_TOKENS;
            let count = (1..=rest.len()).take_while(fitting).last().unwrap_or(1);
            let (batch, tail) = rest.split_at(count);
            embed(&graph, batch, &mut vectors)?;
            rest = tail;
        }
        let shape = [texts.len() as u32, DIMENSIONS as u32];
        let mut response = Response::new([Tensor::fp32("embedding", shape, &vectors)]);
        response.parameters.push(Parameter {
            key: "truncated".into(),
            value: truncated.to_string(),
        });
        Ok(response)
    }
}

/// The tokens of a text, or a failure that names it.
fn read(index: usize, text: &[u8]) -> Result<Tokens, Failure> {
    let failure = |code, fault| Failure::new(code, format!("text {index} {fault}"));
    let text = str::from_utf8(text).map_err(|_| failure("malformed-text", "is no UTF-8"))?;
    tokenize(text).ok_or_else(|| failure("empty-text", "has nothing to read in it"))
}

fn longest(texts: &[Tokens]) -> usize {
    texts
        .iter()
        .map(|tokens| tokens.ids.len())
        .max()
        .unwrap_or_default()
}

/// Runs the graph over texts, filled up to the longest, and adds the vector of each.
fn embed(graph: &Graph, texts: &[Tokens], vectors: &mut Vec<f32>) -> Result<(), Failure> {
    let (count, length) = (texts.len(), longest(texts));
    let (mut ids, mut mask) = (vec![0; count * length], vec![0; count * length]);
    for (row, tokens) in texts.iter().enumerate() {
        let place = row * length..row * length + tokens.ids.len();
        ids[place.clone()].copy_from_slice(&tokens.ids);
        mask[place].fill(1);
    }
    let shape = [count as u32, length as u32];
    let states = graph.compute_one(&[
        Tensor::i64("input_ids", shape, &ids),
        Tensor::i64("attention_mask", shape, &mask),
        Tensor::i64("token_type_ids", shape, &vec![0; ids.len()]),
    ])?;
    let states = states.as_fp32()?;
    if states.len() != ids.len() * DIMENSIONS {
        return Err(Failure::new(
            "wrong-graph",
            "the graph 'minilm' does not answer as expected",
        ));
    }
    for (states, tokens) in states.chunks(length * DIMENSIONS).zip(texts) {
        vectors.extend(pooled(&states[..tokens.ids.len() * DIMENSIONS]));
    }
    Ok(())
}

/// The direction of the mean over a text's tokens: a vector of length 1.
fn pooled(states: &[f32]) -> [f32; DIMENSIONS] {
    let mut sum = [0.0; DIMENSIONS];
    for state in states.chunks(DIMENSIONS) {
        sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += value);
    }
    let length = sum
        .iter()
        .map(|value| value * value)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    sum.map(|value| value / length)
}

pipeline!(Embed);
