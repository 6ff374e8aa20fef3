//! A stream of audio that may come in pieces: what must be known of the pieces before.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};
use wattle_sdk::{Failure, Graph, Tensor};

use crate::segments::{Segment, Segmenter};

/// Samples in a frame: 32 ms.
pub const FRAME: usize = 512;
/// Samples of the frame before that the graph sees again.
const CONTEXT: usize = 64;
/// Numbers in each of the graph's two memories.
const MEMORY: usize = 128;
/// Frames in one run of the graph.
const BLOCK: usize = 256;

/// The longest stream: two years.
const MAX_LENGTH: u64 = 1 << 40;

/// Everything that one call leaves to the next.
#[derive(Serialize, Deserialize)]
pub struct Stream {
    /// The graph's memories.
    h: Vec<f32>,
    c: Vec<f32>,
    /// The end of the last whole frame.
    context: Vec<f32>,
    /// Samples after it, fewer than a frame.
    pending: Vec<f32>,
    /// Samples so far.
    length: u64,
    segmenter: Segmenter,
}

/// What a piece of audio says.
#[derive(Default)]
pub struct Heard {
    /// Segments that are over.
    pub segments: Vec<Segment>,
    /// For each whole frame, how likely it is that someone speaks.
    pub probabilities: Vec<f32>,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            h: vec![0.0; MEMORY],
            c: vec![0.0; MEMORY],
            context: vec![0.0; CONTEXT],
            pending: Vec::new(),
            length: 0,
            segmenter: Segmenter::default(),
        }
    }
}

impl Stream {
    /// What [`Stream::save`] wrote; a failure `malformed-state` if it is not that.
    pub fn restore(saved: &str) -> Result<Self, Failure> {
        let bytes = BASE64_STANDARD.decode(saved).ok();
        let stream: Option<Self> = bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        stream
            .filter(Self::is_sound)
            .ok_or_else(|| Failure::new("malformed-state", "'state' is not what a call before gave"))
    }

    /// The stream as text.
    pub fn save(&self) -> Result<String, Failure> {
        let bytes = postcard::to_stdvec(self);
        let bytes = bytes.map_err(|error| Failure::new("unsaved-state", error.to_string()))?;
        Ok(BASE64_STANDARD.encode(bytes))
    }

    /// Callers can write what they like.
    fn is_sound(&self) -> bool {
        let lengths = [self.h.len(), self.c.len(), self.context.len()] == [MEMORY, MEMORY, CONTEXT];
        let mut numbers = self
            .h
            .iter()
            .chain(&self.c)
            .chain(&self.context)
            .chain(&self.pending);
        let frames = self.length.checked_sub(self.pending.len() as u64);
        lengths
            && self.length < MAX_LENGTH
            && self.pending.len() < FRAME
            && numbers.all(|number| number.is_finite())
            && frames.is_some_and(|samples| self.segmenter.is_at(samples))
    }

    /// Takes the next samples.
    pub fn push(&mut self, samples: &[f32], graph: &Graph) -> Result<Heard, Failure> {
        self.length += samples.len() as u64;
        let mut audio = std::mem::take(&mut self.pending);
        audio.extend(samples);
        let mut heard = Heard::default();
        let (frames, rest) = audio.as_chunks();
        for frames in frames.chunks(BLOCK) {
            self.run(frames, graph, &mut heard)?;
        }
        self.pending = rest.to_vec();
        Ok(heard)
    }

    /// Takes what is left as a frame filled up with silence, and ends the segment that goes on.
    pub fn end(&mut self, graph: &Graph, heard: &mut Heard) -> Result<(), Failure> {
        if !self.pending.is_empty() {
            let mut frame = [0.0; FRAME];
            frame[..self.pending.len()].copy_from_slice(&self.pending);
            self.run(&[frame], graph, heard)?;
        }
        heard.segments.extend(self.segmenter.end(self.length));
        Ok(())
    }

    /// Runs the graph over frames: each with the end of the one before, the memories from block to block.
    fn run(&mut self, frames: &[[f32; FRAME]], graph: &Graph, heard: &mut Heard) -> Result<(), Failure> {
        let mut windows = Vec::with_capacity(frames.len() * (CONTEXT + FRAME));
        for frame in frames {
            windows.extend(&self.context);
            windows.extend(frame);
            self.context.copy_from_slice(&frame[FRAME - CONTEXT..]);
        }
        let memory = [1, 1, MEMORY as u32];
        let outputs = graph.compute(&[
            Tensor::fp32("input", [frames.len() as u32, (CONTEXT + FRAME) as u32], &windows),
            Tensor::fp32("h", memory, &self.h),
            Tensor::fp32("c", memory, &self.c),
        ])?;
        let wrong = || Failure::new("wrong-graph", "the graph 'silero' does not answer as expected");
        let [probabilities, h, c] = <[Tensor; 3]>::try_from(outputs).map_err(|_| wrong())?;
        let probabilities = probabilities.as_fp32()?;
        (self.h, self.c) = (h.as_fp32()?, c.as_fp32()?);
        if [probabilities.len(), self.h.len(), self.c.len()] != [frames.len(), MEMORY, MEMORY] {
            return Err(wrong());
        }
        for probability in probabilities {
            heard.segments.extend(self.segmenter.push(probability));
            heard.probabilities.push(probability);
        }
        Ok(())
    }
}
