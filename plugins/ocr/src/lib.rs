//! Lines of text from a picture, as PP-OCRv4 reads them: find the lines, turn them upright, read them.
//!
//! The release has three graphs, all f32 and all of pixels from −1 to 1 in the order blue, green, red:
//! `detect` [1, 3, h, w] to a map of probabilities [1, 1, h, w], `classify` [n, 3, 48, 192] to upright or
//! upside down [n, 2], and `recognise` [n, 3, 48, w] to characters [n, w/8, 6625]. The setting `characters` has
//! what the last one's columns stand for, one a line.

mod detect;
mod image;
mod patch;
mod recognise;

use image::Image;
use patch::{Batch, Quad};
use recognise::{Alphabet, HEIGHT, NARROWEST, reading_width};
use wattle_sdk::{
    Dtype, Failure, Graph, Parameter, Pipeline, Request, Response, Signature, Tensor, config, pipeline,
};

/// Lines that are read; the answer says how many more there were.
const MAX_LINES: usize = 200;
/// What `classify` looks at.
const CLASSIFY_WIDTH: usize = 192;
/// From this probability on a line may be upside down. It is then read both ways: the graph often errs.
const UPSIDE_DOWN: f32 = 0.5;
/// From this ratio of its sides on a line runs downwards.
const UPRIGHT: f32 = 1.5;
/// Texts with a lower score are no text.
const LEGIBLE: f32 = 0.5;
/// Parts in one run of `classify`, and columns of pixels in one run of `recognise`: they bound the memory.
const CLASSIFY_BATCH: usize = 16;
const RECOGNISE_COLUMNS: usize = 4_800;

struct Ocr;

/// A line that was read.
struct Line {
    text: String,
    score: f32,
    place: Quad,
}

impl Pipeline for Ocr {
    fn describe() -> Result<Signature, Failure> {
        config::require("characters")?;
        Ok(Signature::new()
            .input("image", Dtype::Bytes, [Some(1)])
            .output("text", Dtype::Bytes, [None])
            .output("score", Dtype::Fp32, [None])
            .output("box", Dtype::Fp32, [None, Some(4), Some(2)]))
    }

    fn infer(request: Request) -> Result<Response, Failure> {
        let files = request.input("image")?.as_bytes()?;
        let image = Image::decode(files.first().copied().unwrap_or_default())?;
        let mut places = find(&image)?;
        let left_out = places.len().saturating_sub(MAX_LINES);
        places.truncate(MAX_LINES);
        let lines = read(&image, &ways(&image, &mut places)?, places.len())?;

        let count = lines.len() as u32;
        let texts = lines.iter().map(|line| &line.text);
        let scores: Vec<f32> = lines.iter().map(|line| line.score).collect();
        let corners = lines.iter().flat_map(|line| line.place.0);
        let (width, height) = (image.width as f32, image.height as f32);
        let corners: Vec<f32> = corners
            .flat_map(|corner| [corner.x.clamp(0.0, width), corner.y.clamp(0.0, height)])
            .collect();
        let mut response = Response::new([
            Tensor::bytes("text", [count], texts),
            Tensor::fp32("score", [count], &scores),
            Tensor::fp32("box", [count, 4, 2], &corners),
        ]);
        response.parameters.push(Parameter {
            key: "left_out".into(),
            value: left_out.to_string(),
        });
        Ok(response)
    }
}

/// Runs a graph over a batch.
fn run(graph: &Graph, batch: &Batch) -> Result<Tensor, Failure> {
    let shape = [batch.count(), 3, batch.height, batch.width].map(|side| side as u32);
    graph.compute_one(&[Tensor::fp32("x", shape, &batch.data)])
}

/// The places of lines, in reading order.
fn find(image: &Image) -> Result<Vec<Quad>, Failure> {
    let (width, height) = detect::input_size(image);
    let mut batch = Batch::new(width, height);
    batch.push(image, &Quad::whole(image), width);
    let map = run(&Graph::load("detect")?, &batch)?.as_fp32()?;
    if map.len() != width * height {
        return Err(Failure::new(
            "wrong-graph",
            "the graph 'detect' gives no map of its input",
        ));
    }
    Ok(detect::lines(&map, width, image))
}

/// The ways in which each place is to be read: the place's index, and the place as it is turned then.
fn ways(image: &Image, places: &mut [Quad]) -> Result<Vec<(usize, Quad)>, Failure> {
    for place in places.iter_mut() {
        if place.height() >= UPRIGHT * place.width() {
            *place = place.turned(1);
        }
    }
    let graph = Graph::load("classify")?;
    let mut ways: Vec<(usize, Quad)> = places.iter().copied().enumerate().collect();
    for (chunk, places) in places.chunks(CLASSIFY_BATCH).enumerate() {
        let mut batch = Batch::new(CLASSIFY_WIDTH, HEIGHT);
        for place in places {
            // A long line pressed into the graph's width would not look like letters.
            let place = place.beginning(place.height() * (CLASSIFY_WIDTH / HEIGHT) as f32);
            batch.push(image, &place, reading_width(place.width(), place.height()));
        }
        let probabilities = run(&graph, &batch)?.as_fp32()?;
        for (offset, (place, [_, upside_down])) in places.iter().zip(probabilities.as_chunks().0).enumerate()
        {
            if *upside_down > UPSIDE_DOWN {
                ways.push((chunk * CLASSIFY_BATCH + offset, place.turned(2)));
            }
        }
    }
    Ok(ways)
}

/// Reads the text of `count` places, each in the way that gives the best score. What is not legible is left
/// out.
fn read(image: &Image, ways: &[(usize, Quad)], count: usize) -> Result<Vec<Line>, Failure> {
    let characters = config::require("characters")?;
    let alphabet = Alphabet::new(&characters);
    let graph = Graph::load("recognise")?;
    let width = |place: &Quad| reading_width(place.width(), place.height());
    // Lines of like widths go together, so that little is filled up.
    let mut ways = ways.to_vec();
    ways.sort_by_key(|(_, place)| width(place));
    let mut lines: Vec<Option<Line>> = (0..count).map(|_| None).collect();
    let mut rest = &ways[..];
    while !rest.is_empty() {
        let widest = |count: usize| width(&rest[count - 1].1).max(NARROWEST);
        let fitting = |count: &usize| *count == 1 || count * widest(*count) <= RECOGNISE_COLUMNS;
        let count = (1..=rest.len()).take_while(fitting).last().unwrap_or(1);
        let mut batch = Batch::new(widest(count), HEIGHT);
        let (together, tail) = rest.split_at(count);
        for (_, place) in together {
            batch.push(image, place, width(place));
        }
        let texts = alphabet.decode(&run(&graph, &batch)?)?;
        for (&(index, place), (text, score)) in together.iter().zip(texts) {
            let better = lines[index].as_ref().is_none_or(|line| line.score < score);
            if better && score >= LEGIBLE {
                lines[index] = Some(Line { text, score, place });
            }
        }
        rest = tail;
    }
    Ok(lines.into_iter().flatten().collect())
}

pipeline!(Ocr);
