//! Pictures: from a file's bytes to pixels, within limits that are checked before anything is decoded.

use std::io::Cursor;

use png::{ColorType, Transformations};
use wattle_sdk::Failure;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The longest side, in pixels.
const MAX_SIDE: usize = 8_192;
/// The largest area: decoded it fits the default memory limit, with what the decoders need.
const MAX_PIXELS: usize = 16 << 20;
/// What the PNG decoder may take beside the pixels, such as for profiles and texts.
const MAX_BESIDE_BYTES: usize = 16 << 20;

/// A decoded picture.
pub struct Image {
    pub width: usize,
    pub height: usize,
    /// Three bytes a pixel, row by row.
    rgb: Vec<u8>,
}

impl Image {
    /// Decodes a PNG or a JPEG file; failures are `image-unknown`, `image-too-large` and `image-malformed`.
    pub fn decode(file: &[u8]) -> Result<Self, Failure> {
        match file {
            [0x89, b'P', b'N', b'G', ..] => decode_png(file),
            [0xff, 0xd8, 0xff, ..] => decode_jpeg(file),
            _ => Err(Failure::new("image-unknown", "the picture is no PNG and no JPEG")),
        }
    }

    /// The pixel at a column and a row; beyond the edge it is the edge's.
    pub fn pixel(&self, x: isize, y: isize) -> [u8; 3] {
        let x = x.clamp(0, self.width as isize - 1) as usize;
        let y = y.clamp(0, self.height as isize - 1) as usize;
        let start = (y * self.width + x) * 3;
        [self.rgb[start], self.rgb[start + 1], self.rgb[start + 2]]
    }

    fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self, Failure> {
        if rgb.is_empty() || rgb.len() != width * height * 3 {
            return Err(malformed("its pixels do not fill it"));
        }
        Ok(Self { width, height, rgb })
    }
}

fn decode_png(file: &[u8]) -> Result<Image, Failure> {
    let limits = png::Limits {
        bytes: MAX_BESIDE_BYTES,
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), limits);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(malformed)?;
    let (width, height) = (header.width as usize, header.height as usize);
    check_size(width, height)?;
    let mut reader = decoder.read_info().map_err(malformed)?;
    let size = reader.output_buffer_size().unwrap_or_default();
    let mut pixels = vec![0; size];
    reader.next_frame(&mut pixels).map_err(malformed)?;
    let mut rgb = Vec::with_capacity(width * height * 3);
    match reader.output_color_type().0 {
        ColorType::Rgb => rgb = pixels,
        ColorType::Grayscale => pixels.iter().for_each(|&gray| rgb.extend([gray; 3])),
        ColorType::GrayscaleAlpha => {
            for &[gray, alpha] in pixels.as_chunks().0 {
                rgb.extend([over_white(gray, alpha); 3]);
            }
        }
        ColorType::Rgba => {
            for &[red, green, blue, alpha] in pixels.as_chunks().0 {
                rgb.extend([red, green, blue].map(|colour| over_white(colour, alpha)));
            }
        }
        ColorType::Indexed => return Err(malformed("it has no palette")),
    }
    Image::new(width, height, rgb)
}

/// Transparent text is meant for a white page.
fn over_white(colour: u8, alpha: u8) -> u8 {
    let (colour, alpha) = (u32::from(colour), u32::from(alpha));
    ((colour * alpha + 255 * (255 - alpha)) / 255) as u8
}

fn decode_jpeg(file: &[u8]) -> Result<Image, Failure> {
    // The decoder paints grey what a broken-off file lacks.
    if !file.windows(2).rev().any(|marker| marker == [0xff, 0xd9]) {
        return Err(malformed("it breaks off"));
    }
    let options = DecoderOptions::default()
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(malformed)?;
    let info = decoder.info().ok_or_else(|| malformed("it has no header"))?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    check_size(width, height)?;
    let rgb = decoder.decode().map_err(malformed)?;
    Image::new(width, height, rgb)
}

fn check_size(width: usize, height: usize) -> Result<(), Failure> {
    if width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS {
        let message = format!(
            "the picture has {width}×{height} pixels; {MAX_SIDE} a side and {MAX_PIXELS} in all are allowed"
        );
        return Err(Failure::new("image-too-large", message));
    }
    Ok(())
}

fn malformed(error: impl ToString) -> Failure {
    Failure::new(
        "image-malformed",
        format!("the picture cannot be read: {}", error.to_string()),
    )
}
