//! What the graphs look at: parts of a picture, straightened and scaled.

use crate::image::Image;

/// A place in a picture, in pixels from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f32,
    pub y: f32,
}

impl Point {
    pub fn new(x: f32, y: f32) -> Self {
        Self { x, y }
    }

    /// How far it is to another place.
    pub fn distance(self, other: Self) -> f32 {
        (self.x - other.x).hypot(self.y - other.y)
    }
}

/// A parallelogram by its corners: upper left, upper right, lower right, lower left, as its text is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quad(pub [Point; 4]);

impl Quad {
    /// The whole of a picture.
    pub fn whole(image: &Image) -> Self {
        let (width, height) = (image.width as f32, image.height as f32);
        Self([
            Point::new(0.0, 0.0),
            Point::new(width, 0.0),
            Point::new(width, height),
            Point::new(0.0, height),
        ])
    }

    /// The length of the upper side.
    pub fn width(&self) -> f32 {
        self.0[0].distance(self.0[1])
    }

    /// The length of the left side.
    pub fn height(&self) -> f32 {
        self.0[0].distance(self.0[3])
    }

    /// Its left part, at most `width` long.
    pub fn beginning(&self, width: f32) -> Self {
        let Self([origin, right, _, down]) = *self;
        let part = (width / self.width()).min(1.0);
        let (x, y) = (part * (right.x - origin.x), part * (right.y - origin.y));
        let moved = |corner: Point| Point::new(corner.x + x, corner.y + y);
        Self([origin, moved(origin), moved(down), down])
    }

    /// The same place read with the page turned by a quarter, `turns` times counter-clockwise.
    pub fn turned(mut self, turns: usize) -> Self {
        self.0.rotate_left(turns % 4);
        self
    }
}

/// A batch of parts of one size, as the graphs take them: [n, 3, height, width], each pixel blue, green, red,
/// from −1 to 1. What a part does not fill stays 0, the middle.
pub struct Batch {
    pub width: usize,
    pub height: usize,
    pub data: Vec<f32>,
}

impl Batch {
    pub fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            data: Vec::new(),
        }
    }

    /// How many parts there are.
    pub fn count(&self) -> usize {
        self.data.len() / self.plane().max(1) / 3
    }

    fn plane(&self) -> usize {
        self.width * self.height
    }

    /// Adds what is in `quad`, in the leftmost `width` columns.
    pub fn push(&mut self, image: &Image, quad: &Quad, width: usize) {
        let (start, plane) = (self.data.len(), self.plane());
        self.data.resize(start + 3 * plane, 0.0);
        let width = width.min(self.width);
        let sampler = Sampler::new(image, quad, width, self.height);
        for row in 0..self.height {
            for column in 0..width {
                let [red, green, blue] = sampler.colour(column, row);
                for (channel, value) in [blue, green, red].into_iter().enumerate() {
                    let place = start + channel * plane + row * self.width + column;
                    self.data[place] = value / 127.5 - 1.0;
                }
            }
        }
    }
}

/// Most samples a side for one pixel, when a part shrinks.
const MAX_SAMPLES: f32 = 3.0;

/// Reads a quad as if it were an upright picture of another size.
struct Sampler<'a> {
    image: &'a Image,
    origin: Point,
    /// From one sample to the next along a row, and along a column.
    right: Point,
    down: Point,
    samples: usize,
}

impl<'a> Sampler<'a> {
    fn new(image: &'a Image, quad: &Quad, width: usize, height: usize) -> Self {
        let Quad([origin, right, _, down]) = *quad;
        let (across, along) = (quad.width() / width as f32, quad.height() / height as f32);
        let samples = across.max(along).ceil().clamp(1.0, MAX_SAMPLES);
        let step = |corner: Point, count: usize| {
            let count = count as f32 * samples;
            Point::new((corner.x - origin.x) / count, (corner.y - origin.y) / count)
        };
        Self {
            image,
            origin,
            right: step(right, width),
            down: step(down, height),
            samples: samples as usize,
        }
    }

    /// The mean of a pixel's samples, each channel from 0 to 255.
    fn colour(&self, column: usize, row: usize) -> [f32; 3] {
        if self.samples == 1 {
            return self.between(self.place(column, row));
        }
        let mut sum = [0; 3];
        for j in 0..self.samples {
            for i in 0..self.samples {
                let Point { x, y } = self.place(column * self.samples + i, row * self.samples + j);
                let pixel = self.image.pixel(x.floor() as isize, y.floor() as isize);
                (0..3).for_each(|channel| sum[channel] += u32::from(pixel[channel]));
            }
        }
        sum.map(|sum| sum as f32 / (self.samples * self.samples) as f32)
    }

    /// The middle of a sample.
    fn place(&self, column: usize, row: usize) -> Point {
        let (u, v) = (column as f32 + 0.5, row as f32 + 0.5);
        Point::new(
            self.origin.x + u * self.right.x + v * self.down.x,
            self.origin.y + u * self.right.y + v * self.down.y,
        )
    }

    /// Between the four nearest pixels, whose colour is that of their middle.
    fn between(&self, place: Point) -> [f32; 3] {
        let (x, y) = (place.x - 0.5, place.y - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (right_part, lower_part) = (x - left, y - top);
        let (left, top) = (left as isize, top as isize);
        let mut colour = [0.0; 3];
        for (pixel, part) in [
            (
                self.image.pixel(left, top),
                (1.0 - right_part) * (1.0 - lower_part),
            ),
            (self.image.pixel(left + 1, top), right_part * (1.0 - lower_part)),
            (self.image.pixel(left, top + 1), (1.0 - right_part) * lower_part),
            (self.image.pixel(left + 1, top + 1), right_part * lower_part),
        ] {
            (0..3).for_each(|channel| colour[channel] += part * f32::from(pixel[channel]));
        }
        colour
    }
}
