//! From probabilities to segments of speech, one frame after the other. The rules and their constants are
//! silero's own.

use serde::{Deserialize, Serialize};

use crate::stream::FRAME;
use crate::wav::RATE;

/// From this probability on someone speaks…
const ENTER: f32 = 0.5;
/// …until it falls below this one…
const LEAVE: f32 = 0.35;
/// …for 100 ms.
const SILENCE: u64 = RATE as u64 / 10;
/// Segments of no more than 250 ms are noise.
const SPEECH: u64 = RATE as u64 / 4;
/// What a segment gets on each side: 30 ms.
const PAD: u64 = RATE as u64 * 3 / 100;

/// What is known so far; places are samples since the stream began.
#[derive(Default, Serialize, Deserialize)]
pub struct Segmenter {
    /// Where the next frame begins.
    position: u64,
    /// Where the speech began that goes on.
    start: Option<u64>,
    /// Since when it may have ended.
    quiet: Option<u64>,
}

/// Where someone speaks, in seconds since the stream began.
pub type Segment = [f64; 2];

impl Segmenter {
    /// Takes the next frame's probability; gives the segment that is over with it.
    pub fn push(&mut self, probability: f32) -> Option<Segment> {
        let now = self.position;
        self.position += FRAME as u64;
        if probability >= ENTER {
            self.start.get_or_insert(now);
            self.quiet = None;
        }
        let start = self.start?;
        if probability < LEAVE {
            self.quiet.get_or_insert(now);
        }
        let end = self.quiet?;
        if probability >= LEAVE || now - end < SILENCE {
            return None;
        }
        (self.start, self.quiet) = (None, None);
        segment(start, end, now)
    }

    /// Whether it has seen so many samples, and nothing beyond them.
    pub fn is_at(&self, samples: u64) -> bool {
        let start_is_past = self.start.is_none_or(|start| start < samples);
        let quiet_is_after = self
            .quiet
            .is_none_or(|quiet| quiet < samples && self.start.is_some_and(|start| start <= quiet));
        self.position == samples && start_is_past && quiet_is_after
    }

    /// Ends the stream after `length` samples; gives the segment that goes on until there.
    pub fn end(&mut self, length: u64) -> Option<Segment> {
        segment(self.start.take()?, length, length)
    }
}

/// Silences last longer than both pads, so no two segments meet.
fn segment(start: u64, end: u64, length: u64) -> Option<Segment> {
    let padded = [start.saturating_sub(PAD), (end + PAD).min(length)];
    (end - start > SPEECH).then(|| padded.map(|place| place as f64 / RATE as f64))
}
