//! Where lines of text are: the graph `detect`'s map of probabilities, and boxes from it.
//!
//! The method and its constants are those of differentiable binarization (Liao et al. 2019) as PP-OCR uses it.

use std::collections::BTreeMap;

use crate::image::Image;
use crate::patch::{Point, Quad};

/// The longer side that the graph sees; larger pictures are made smaller.
const SIDE: usize = 960;
/// Smaller pictures are made larger by up to this measure: small letters are found and read better.
const ENLARGE: f32 = 2.0;
/// The graph halves its input five times.
const MULTIPLE: usize = 32;
/// From this probability on a pixel belongs to text.
const PIXEL: f32 = 0.3;
/// From this mean over its pixels on a region is text.
const REGION: f32 = 0.5;
/// The graph was taught lines shrunk by this measure (area × ratio / perimeter).
const UNCLIP: f32 = 2.0;
/// Narrower regions, in the map's pixels, are noise.
const NARROWEST: f32 = 3.0;
/// Regions that are looked at.
const MAX_REGIONS: usize = 1_000;

/// The size at which the graph sees a picture: width and height.
pub fn input_size(image: &Image) -> (usize, usize) {
    let scale = (SIDE as f32 / image.width.max(image.height) as f32).min(ENLARGE);
    let fit = |side: usize| {
        let multiples = (side as f32 * scale / MULTIPLE as f32).round() as usize;
        multiples.max(1) * MULTIPLE
    };
    (fit(image.width), fit(image.height))
}

/// The lines in a map of `width` columns, as places in the picture, in reading order.
pub fn lines(map: &[f32], width: usize, image: &Image) -> Vec<Quad> {
    let height = map.len() / width.max(1);
    let scale = Point::new(
        image.width as f32 / width as f32,
        image.height as f32 / height as f32,
    );
    let quads = regions(map, width, height).into_iter().filter_map(|region| {
        let rectangle = smallest_rectangle(&hull(&region.outline()))?;
        let large = rectangle.half[0].min(rectangle.half[1]) * 2.0 >= NARROWEST;
        (large && region.score() >= REGION).then(|| rectangle.unclipped().quad(scale))
    });
    in_reading_order(quads.collect())
}

/// Pixels that hang together.
#[derive(Default)]
struct Region {
    /// For each row the first and the last column.
    rows: BTreeMap<usize, (usize, usize)>,
    pixels: usize,
    sum: f32,
}

impl Region {
    fn add(&mut self, x: usize, y: usize, probability: f32) {
        let (first, last) = self.rows.entry(y).or_insert((x, x));
        *first = x.min(*first);
        *last = x.max(*last);
        self.pixels += 1;
        self.sum += probability;
    }

    fn score(&self) -> f32 {
        self.sum / self.pixels as f32
    }

    /// The middles of the outermost pixels of each row.
    fn outline(&self) -> Vec<Point> {
        let middle = |x: usize, y: usize| Point::new(x as f32 + 0.5, y as f32 + 0.5);
        let ends = |(&y, &(first, last)): (&usize, &(usize, usize))| [middle(first, y), middle(last, y)];
        self.rows.iter().flat_map(ends).collect()
    }
}

/// The regions above the threshold, by flooding from each pixel that no region has yet.
fn regions(map: &[f32], width: usize, height: usize) -> Vec<Region> {
    // A pixel counts if it or a neighbour above or to the left does: letters grow together.
    let over = |x: usize, y: usize| map[y * width + x] > PIXEL;
    let text = |x: usize, y: usize| {
        let (left, above) = (x.saturating_sub(1), y.saturating_sub(1));
        over(x, y) || over(left, y) || over(x, above) || over(left, above)
    };
    let mut free: Vec<bool> = (0..width * height)
        .map(|at| text(at % width, at / width))
        .collect();
    let (mut regions, mut stack) = (Vec::new(), Vec::new());
    for start in 0..free.len() {
        if !free[start] || regions.len() == MAX_REGIONS {
            continue;
        }
        let mut region = Region::default();
        free[start] = false;
        stack.push(start);
        while let Some(at) = stack.pop() {
            let (x, y) = (at % width, at / width);
            region.add(x, y, map[at]);
            for y in y.saturating_sub(1)..=(y + 1).min(height - 1) {
                for x in x.saturating_sub(1)..=(x + 1).min(width - 1) {
                    let near = y * width + x;
                    if std::mem::take(&mut free[near]) {
                        stack.push(near);
                    }
                }
            }
        }
        regions.push(region);
    }
    regions
}

/// The corners of the convex hull (Andrew's monotone chain).
fn hull(points: &[Point]) -> Vec<Point> {
    let mut points = points.to_vec();
    points.sort_by(|a, b| a.x.total_cmp(&b.x).then(a.y.total_cmp(&b.y)));
    points.dedup();
    let turns = |a: Point, b: Point, c: Point| (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x);
    let half = |points: &mut dyn Iterator<Item = Point>| {
        let mut chain: Vec<Point> = Vec::new();
        for point in points {
            while let [.., a, b] = chain[..]
                && turns(a, b, point) <= 0.0
            {
                chain.pop();
            }
            chain.push(point);
        }
        chain.pop(); // it begins the other half
        chain
    };
    let mut hull = half(&mut points.iter().copied());
    hull.extend(half(&mut points.iter().rev().copied()));
    hull
}

/// A rectangle at any angle.
#[derive(Clone, Copy)]
struct Rectangle {
    centre: Point,
    /// The direction of its first side, of length 1.
    along: Point,
    /// Half its length along that direction and across.
    half: [f32; 2],
}

/// The smallest rectangle around a hull: one of its sides lies on one of the hull's. `None` without an area.
fn smallest_rectangle(hull: &[Point]) -> Option<Rectangle> {
    let next = hull.iter().cycle().skip(1);
    let rectangles = hull.iter().zip(next).filter_map(|(&a, &b)| {
        let length = a.distance(b);
        let along = Point::new((b.x - a.x) / length, (b.y - a.y) / length);
        (length > 0.0).then(|| Rectangle::around(hull, along))
    });
    let area = |rectangle: &Rectangle| rectangle.half[0] * rectangle.half[1];
    rectangles.min_by(|a, b| area(a).total_cmp(&area(b)))
}

impl Rectangle {
    fn around(hull: &[Point], along: Point) -> Self {
        let extent = |x: f32, y: f32| {
            let places = hull.iter().map(|point| point.x * x + point.y * y);
            let (low, high) = places.fold((f32::MAX, f32::MIN), |(low, high), place| {
                (low.min(place), high.max(place))
            });
            // From the middles of pixels to their edges.
            ((low + high) / 2.0, (high - low + 1.0) / 2.0)
        };
        let (u, half_along) = extent(along.x, along.y);
        let (v, half_across) = extent(-along.y, along.x);
        Self {
            centre: Point::new(u * along.x - v * along.y, u * along.y + v * along.x),
            along,
            half: [half_along, half_across],
        }
    }

    /// Grown to the line that the graph was taught to shrink.
    fn unclipped(self) -> Self {
        let [a, b] = self.half;
        let distance = 4.0 * a * b * UNCLIP / (4.0 * (a + b));
        Self {
            half: [a + distance, b + distance],
            ..self
        }
    }

    /// Its corners in the picture, the upper left first.
    fn quad(self, scale: Point) -> Quad {
        let Self {
            centre,
            along,
            half: [a, b],
        } = self;
        let corner = |a: f32, b: f32| {
            let x = centre.x + a * along.x - b * along.y;
            let y = centre.y + a * along.y + b * along.x;
            Point::new(x * scale.x, y * scale.y)
        };
        let mut corners = [corner(-a, -b), corner(a, -b), corner(a, b), corner(-a, b)];
        corners.sort_by(|a, b| a.x.total_cmp(&b.x));
        let [left, right] = [0, 2].map(|first| {
            let mut pair = [corners[first], corners[first + 1]];
            pair.sort_by(|a, b| a.y.total_cmp(&b.y));
            pair
        });
        Quad([left[0], right[0], right[1], left[1]])
    }
}

/// From top to bottom, and from left to right where boxes stand beside each other.
fn in_reading_order(mut quads: Vec<Quad>) -> Vec<Quad> {
    let middle = |quad: &Quad| (quad.0[0].y + quad.0[2].y) / 2.0;
    quads.sort_by(|a, b| middle(a).total_cmp(&middle(b)));
    let beside = |a: &Quad, b: &Quad| middle(b) - middle(a) < a.height().min(b.height()) / 2.0;
    for row in quads.chunk_by_mut(beside) {
        row.sort_by(|a, b| a.0[0].x.total_cmp(&b.0[0].x));
    }
    quads
}
