//! What a line says: from the graph `recognise`'s probabilities to text.

use wattle_sdk::{Failure, Tensor};

/// The height at which the graph reads.
pub const HEIGHT: usize = 48;
/// Narrower lines are filled up to this width.
pub const NARROWEST: usize = 320;
/// Wider lines are pressed together.
pub const WIDEST: usize = 2_400;

/// The width at which the graph reads a line of these proportions.
pub fn reading_width(width: f32, height: f32) -> usize {
    let fitting = (HEIGHT as f32 * width / height.max(1.0)).ceil() as usize;
    fitting.clamp(1, WIDEST)
}

/// What the graph's columns stand for: nothing, then the setting's characters, then a space.
pub struct Alphabet<'a>(Vec<&'a str>);

impl<'a> Alphabet<'a> {
    /// Reads the setting `characters`: one a line.
    pub fn new(setting: &'a str) -> Self {
        let mut characters = vec![""];
        characters.extend(setting.lines());
        characters.push(" ");
        Self(characters)
    }

    /// Decodes a batch, [lines, steps, characters]: each text with the mean probability of its characters.
    pub fn decode(&self, output: &Tensor) -> Result<Vec<(String, f32)>, Failure> {
        let [_, steps, characters] = output.shape[..] else {
            return Err(Failure::new(
                "wrong-graph",
                "the graph 'recognise' does not give steps",
            ));
        };
        if characters as usize != self.0.len() {
            let message = format!(
                "the graph 'recognise' knows {characters} characters, the setting says {}",
                self.0.len()
            );
            return Err(Failure::new("wrong-characters", message));
        }
        let line = steps as usize * self.0.len();
        let probabilities = output.as_fp32()?;
        let lines = probabilities.chunks(line.max(1));
        Ok(lines.map(|line| self.read(line)).collect())
    }

    /// The best character of each step; the same one twice in a row is one (greedy CTC, Graves et al. 2006).
    fn read(&self, steps: &[f32]) -> (String, f32) {
        let (mut text, mut sum, mut count, mut before) = (String::new(), 0.0, 0.0, 0);
        for step in steps.chunks(self.0.len()) {
            let best = step.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
            let (best, probability) = best.map_or((0, 0.0), |(best, &probability)| (best, probability));
            if best != before && best != 0 {
                text.push_str(self.0[best]);
                sum += probability;
                count += 1.0;
            }
            before = best;
        }
        (text, if count > 0.0 { sum / count } else { 0.0 })
    }
}
