//! Audio files: RIFF WAVE, one channel at 16 kHz.

use wattle_sdk::Failure;

/// Samples a second.
pub const RATE: usize = 16_000;

/// The encodings that are read.
const INTEGER: u16 = 1;
const FLOAT: u16 = 3;
/// The encoding stands further on.
const EXTENSIBLE: u16 = 0xfffe;

/// The samples of a file, from −1 to 1. Failures: `audio-unknown`, `audio-malformed` and `audio-format`.
pub fn samples(file: &[u8]) -> Result<Vec<f32>, Failure> {
    let body = match file {
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'A',
            b'V',
            b'E',
            body @ ..,
        ] => body,
        _ => return Err(Failure::new("audio-unknown", "the audio is no WAV file")),
    };
    let (mut rest, mut format) = (body, None);
    loop {
        let (name, tail) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let (length, tail) = tail.split_first_chunk().ok_or_else(malformed)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (chunk, tail) = tail.split_at_checked(length).ok_or_else(malformed)?;
        match name {
            b"fmt " => format = Some(Format::read(chunk).ok_or_else(malformed)?),
            b"data" => return format.ok_or_else(malformed)?.decode(chunk),
            _ => {}
        }
        // Chunks start at even places.
        rest = tail.get(length % 2..).unwrap_or_default();
    }
}

struct Format {
    encoding: u16,
    channels: u16,
    rate: u32,
    bits: u16,
}

impl Format {
    fn read(chunk: &[u8]) -> Option<Self> {
        let u16_at = |at: usize| Some(u16::from_le_bytes(*chunk.get(at..)?.first_chunk()?));
        let encoding = match u16_at(0)? {
            EXTENSIBLE => u16_at(24)?,
            encoding => encoding,
        };
        Some(Self {
            encoding,
            channels: u16_at(2)?,
            rate: u32::from_le_bytes(*chunk.get(4..)?.first_chunk()?),
            bits: u16_at(14)?,
        })
    }

    fn decode(&self, data: &[u8]) -> Result<Vec<f32>, Failure> {
        let Self {
            encoding,
            channels,
            rate,
            bits,
        } = *self;
        if (channels, rate as usize) != (1, RATE) {
            let message = format!("{channels} channels at {rate} Hz; one at {RATE} Hz is read");
            return Err(Failure::new("audio-format", message));
        }
        match (encoding, bits) {
            (INTEGER, 16) => {
                let (samples, rest) = data.as_chunks();
                let decode = |bytes: &[u8; 2]| f32::from(i16::from_le_bytes(*bytes)) / 32_768.0;
                if rest.is_empty() {
                    Ok(samples.iter().map(decode).collect())
                } else {
                    Err(malformed())
                }
            }
            (FLOAT, 32) => {
                let (samples, rest) = data.as_chunks();
                let samples: Vec<f32> = samples.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                let finite = samples.iter().all(|sample| sample.is_finite());
                if rest.is_empty() && finite {
                    Ok(samples)
                } else {
                    Err(malformed())
                }
            }
            _ => {
                let message =
                    format!("encoding {encoding} of {bits} bits; integers of 16 and floats of 32 are read");
                Err(Failure::new("audio-format", message))
            }
        }
    }
}

fn malformed() -> Failure {
    Failure::new("audio-malformed", "the WAV file breaks off or contradicts itself")
}
