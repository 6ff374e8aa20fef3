//! Frames: a little-endian u32 length, the CRC-32 of the payload, the payload.
//!
//! A crash can leave the last frame of the last segment short, or (after a power cut) as long as it
//! should be with some of it never written. That is a torn tail. All else that does not fit is
//! damage: cutting there would lose records that were promised.

use crate::MAX_RECORD_BYTES;
use crate::record::Entry;

const HEADER: usize = 8;

/// Most frames are those of calls, which fit into this.
const USUAL_BYTES: usize = 256;

/// A frame around what `write` appends to the bytes it is given: at most [`MAX_RECORD_BYTES`].
pub(crate) fn encode<E>(write: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
    let mut frame = Vec::with_capacity(USUAL_BYTES);
    frame.resize(HEADER, 0);
    let mut frame = write(frame)?;
    let payload = &frame[HEADER..];
    // The cap is far below u32::MAX.
    let (length, crc) = (payload.len() as u32, crc32fast::hash(payload));
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..HEADER].copy_from_slice(&crc.to_le_bytes());
    Ok(frame)
}

/// What stands at a place in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// Nothing more.
    End,
    /// A whole frame, with the offset after it.
    Frame(&'a [u8], usize),
    /// The rest is a write that a crash cut short.
    Torn,
    /// The frame is damaged.
    Corrupt,
}

/// Reads the frame at `offset`.
pub(crate) fn next(segment: &[u8], offset: usize) -> Next<'_> {
    let rest = segment.get(offset..).unwrap_or_default();
    if rest.is_empty() {
        return Next::End;
    }
    let Some((length, crc)) = header(rest) else {
        return Next::Torn;
    };
    if length == 0 || length > MAX_RECORD_BYTES {
        // No frame has length 0: these are blocks that the file had been given but never held.
        return if all_zero(rest) { Next::Torn } else { Next::Corrupt };
    }
    let end = HEADER + length;
    match rest.get(HEADER..end) {
        Some(payload) if crc32fast::hash(payload) == crc => Next::Frame(payload, offset + end),
        Some(_) if all_zero(&rest[end..]) => Next::Torn,
        Some(_) => Next::Corrupt,
        // A damaged length can point past the end too; then good frames follow.
        None if holds_frame(&rest[1..]) => Next::Corrupt,
        None => Next::Torn,
    }
}

fn header(rest: &[u8]) -> Option<(usize, u32)> {
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let crc = rest.first_chunk::<4>()?;
    Some((u32::from_le_bytes(*length) as usize, u32::from_le_bytes(*crc)))
}

fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Whether a good frame begins anywhere in `bytes`.
fn holds_frame(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| {
        let rest = &bytes[at..];
        let Some((length, crc)) = header(rest) else {
            return false;
        };
        let payload = length.checked_add(HEADER).and_then(|end| rest.get(HEADER..end));
        payload.is_some_and(|payload| Entry::plausible(payload) && crc32fast::hash(payload) == crc)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::framed;

    fn payload(text: &str) -> Vec<u8> {
        [&[crate::record::VERSION, 1][..], text.as_bytes()].concat()
    }

    /// All payloads of a segment, and what stands after them.
    fn read(segment: &[u8]) -> (Vec<Vec<u8>>, Next<'_>) {
        let (mut payloads, mut offset) = (Vec::new(), 0);
        loop {
            match next(segment, offset) {
                Next::Frame(payload, after) => {
                    payloads.push(payload.to_vec());
                    offset = after;
                }
                other => return (payloads, other),
            }
        }
    }

    fn segment() -> Vec<u8> {
        [
            framed(&payload("first")),
            framed(&payload("second")),
            framed(&payload("third")),
        ]
        .concat()
    }

    #[test]
    fn a_flipped_byte_is_damage_in_the_middle_and_torn_at_the_end() {
        let whole = segment();
        let last = whole.len() - framed(&payload("third")).len();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let (payloads, end) = read(&bytes);
            if at >= last {
                assert_eq!(payloads.len(), 2, "byte {at}");
                assert!(matches!(end, Next::Torn | Next::Corrupt), "byte {at}: {end:?}");
            } else {
                assert_eq!(end, Next::Corrupt, "byte {at}");
            }
        }
    }

    #[test]
    fn unwritten_blocks_at_the_end_are_torn() {
        let whole = segment();
        let mut zeros = whole.clone();
        zeros.extend([0; 4096]);
        assert_eq!(read(&zeros).0.len(), 3);
        assert_eq!(read(&zeros).1, Next::Torn);
        // The last frame's own payload may be unwritten too.
        let mut hollow = zeros.clone();
        let keep = whole.len() - 3;
        hollow[keep..].fill(0);
        assert_eq!(read(&hollow).0.len(), 2);
        assert_eq!(read(&hollow).1, Next::Torn);
        // Zeros with something behind them are no tail.
        zeros.extend(framed(&payload("fourth")));
        assert_eq!(read(&zeros).1, Next::Corrupt);
    }

    proptest! {
        #[test]
        fn a_cut_anywhere_leaves_a_prefix(texts in prop::collection::vec(".{0,40}", 1..6)) {
            let payloads: Vec<_> = texts.iter().map(|text| payload(text)).collect();
            let frames: Vec<_> = payloads.iter().map(|payload| framed(payload)).collect();
            let whole = frames.concat();
            for cut in 0..=whole.len() {
                let (found, end) = read(&whole[..cut]);
                let whole_bytes: usize = frames[..found.len()].iter().map(Vec::len).sum();
                prop_assert_eq!(&found[..], &payloads[..found.len()]);
                prop_assert!(found.len() == frames.len() || whole_bytes + frames[found.len()].len() > cut);
                prop_assert_eq!(end, if whole_bytes == cut { Next::End } else { Next::Torn });
            }
        }
    }
}
