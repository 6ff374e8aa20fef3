//! Where in a recording someone speaks, by silero's model: a file at once, or a stream in pieces.
//!
//! The release has the graph `silero`: `input` f32 [frames, 576] with memories `h` and `c` [1, 1, 128] to
//! `speech_probs` [frames] and the memories after it.

mod segments;
mod stream;
mod wav;

use stream::Stream;
use wattle_sdk::{
    Dtype, Failure, Graph, Parameter, Pipeline, Request, Response, Signature, Tensor, pipeline,
};

/// Ten minutes: longer audio comes in pieces.
const MAX_SAMPLES: usize = 600 * wav::RATE;

struct Vad;

impl Pipeline for Vad {
    fn describe() -> Result<Signature, Failure> {
        Ok(Signature::new()
            .input("audio", Dtype::Bytes, [Some(1)])
            .output("segment", Dtype::Fp64, [None, Some(2)])
            .output("probability", Dtype::Fp32, [None]))
    }

    fn infer(request: Request) -> Result<Response, Failure> {
        let files = request.input("audio")?.as_bytes()?;
        let samples = wav::samples(files.first().copied().unwrap_or_default())?;
        if samples.len() > MAX_SAMPLES {
            let message = "the audio is longer than 10 minutes: send it in pieces, with 'more' and 'state'";
            return Err(Failure::new("audio-too-long", message));
        }
        let mut stream = match parameter::<String>(&request, "state")? {
            Some(saved) => Stream::restore(&saved)?,
            None => Stream::default(),
        };
        let more = parameter(&request, "more")?.unwrap_or(false);
        let graph = Graph::load("silero")?;
        let mut heard = stream.push(&samples, &graph)?;
        if !more {
            stream.end(&graph, &mut heard)?;
        }
        let (segments, frames) = (heard.segments.len() as u32, heard.probabilities.len() as u32);
        let mut response = Response::new([
            Tensor::fp64("segment", [segments, 2], &heard.segments.concat()),
            Tensor::fp32("probability", [frames], &heard.probabilities),
        ]);
        if more {
            response.parameters.push(Parameter {
                key: "state".into(),
                value: format!("\"{}\"", stream.save()?),
            });
        }
        Ok(response)
    }
}

/// A parameter of the call, or a failure `wrong-parameter`.
fn parameter<T: serde::de::DeserializeOwned>(request: &Request, key: &str) -> Result<Option<T>, Failure> {
    let wrong = |error| Failure::new("wrong-parameter", format!("parameter '{key}': {error}"));
    let value = request.parameter(key);
    value
        .map(|value| serde_json::from_str(value).map_err(wrong))
        .transpose()
}

pipeline!(Vad);
