//! The `ocr` pipeline: pictures to lines of text, by three graphs, with decoding and geometry in the guest.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use tests::client::Answer;
use tests::host::Tenant;
use tests::{TestHost, guests};

const LINES: [&str; 5] = [
    "Every call has a receipt",
    "Fuel, CPU time and joules",
    "Total: 1,234 mJ",
    "No.42",
    "Metered to the microjoule.",
];

async fn deployed(host: &TestHost) -> anyhow::Result<Tenant> {
    let tenant = host.tenant("acacia").await?;
    let characters = String::from_utf8(guests::model("ocr.characters.txt")?)?;
    let graphs = [
        ("detect", "ocr-detect.onnx"),
        ("classify", "ocr-classify.onnx"),
        ("recognise", "ocr-recognise.onnx"),
    ];
    let more = json!({ "settings": { "characters": characters }, "limits": { "deadline_ms": 120_000 } });
    tenant.deploy("ocr", &graphs, more).await?;
    Ok(tenant)
}

fn sample(name: &str) -> anyhow::Result<Vec<u8>> {
    Ok(std::fs::read(
        guests::workspace().join("plugins/ocr/samples").join(name),
    )?)
}

fn fixture(name: &str) -> anyhow::Result<Vec<u8>> {
    Ok(std::fs::read(
        guests::workspace().join("tests/fixtures/pictures").join(name),
    )?)
}

async fn call(tenant: &Tenant, file: &[u8]) -> anyhow::Result<Answer> {
    tenant.invoke.infer("ocr", picture(file)).await
}

fn picture(file: &[u8]) -> Value {
    json!([{
        "name": "image", "shape": [1], "datatype": "BYTES",
        "parameters": { "content_type": "base64" }, "data": [BASE64_STANDARD.encode(file)],
    }])
}

/// A line as it was read: its corners begin at the upper left of the text as it is read.
#[derive(Debug)]
struct Line {
    text: String,
    score: f32,
    corners: Vec<f32>,
}

async fn read(tenant: &Tenant, file: &[u8]) -> anyhow::Result<Vec<Line>> {
    let body = call(tenant, file).await?.expect(200)?;
    let output = |index: usize| body["outputs"][index]["data"].clone();
    let texts: Vec<String> = serde_json::from_value(output(0))?;
    let scores: Vec<f32> = serde_json::from_value(output(1))?;
    let corners: Vec<f32> = serde_json::from_value(output(2))?;
    assert_eq!(body["outputs"][2]["shape"], json!([texts.len(), 4, 2]));
    assert_eq!(body["parameters"]["left_out"], 0);
    let lines = texts.into_iter().zip(scores).zip(corners.chunks(8));
    let line = |((text, score), corners): ((String, f32), &[f32])| Line {
        text,
        score,
        corners: corners.to_vec(),
    };
    Ok(lines.map(line).collect())
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_read_upright_and_upside_down() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    // The text begins at its upper left corner, wherever that is in the picture of 440 × 80 pixels.
    let upright = [24.0, 23.0, 389.0, 23.0, 389.0, 57.0, 24.0, 57.0];
    let turned = [416.0, 57.0, 51.0, 57.0, 51.0, 23.0, 416.0, 23.0];
    for (name, corners) in [("hello.png", upright), ("upside-down.png", turned)] {
        let lines = read(&tenant, &sample(name)?).await?;
        assert_eq!(texts(&lines), ["Hello WASI-NN 2026"], "{name}");
        assert!(lines[0].score > 0.9, "{lines:?}");
        for (got, want) in lines[0].corners.iter().zip(&corners) {
            assert!(
                (got - want).abs() < 8.0,
                "{name}: {:?} instead of {corners:?}",
                lines[0].corners
            );
        }
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_read_in_order_straight_and_tilted() -> anyhow::Result<()> {
    known_lines(TestHost::start().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_read_on_onnx_runtime() -> anyhow::Result<()> {
    known_lines(TestHost::start_with_onnxruntime().await?).await
}

async fn known_lines(host: TestHost) -> anyhow::Result<()> {
    let tenant = deployed(&host).await?;
    let lines = read(&tenant, &sample("lines.jpg")?).await?;
    assert_eq!(texts(&lines), LINES);
    let mut lines = read(&tenant, &sample("tilted.jpg")?).await?;
    // Its right side is higher.
    lines.sort_by(|a, b| {
        (a.corners[1], a.corners[0])
            .partial_cmp(&(b.corners[1], b.corners[0]))
            .expect("numbers")
    });
    let mut expected = LINES;
    expected.swap(2, 3);
    assert_eq!(texts(&lines), expected);
    for line in &lines {
        assert!(line.corners[3] < line.corners[1], "{line:?}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photographed_page_is_read() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    let answer = call(&tenant, &sample("page.png")?).await?;
    let receipt = answer.receipt.clone().expect("a receipt");
    let lines: Vec<String> = serde_json::from_value(answer.expect(200)?["outputs"][0]["data"].clone())?;
    assert_eq!(lines.len(), 7, "{lines:?}");
    // Small letters stand so close that spaces get lost.
    let plain: Vec<String> = lines.iter().map(|line| line.replace(' ', "")).collect();
    assert_eq!(plain[0], "Region-basedsegmentation");
    assert_eq!(plain[1], "Letusfirstdeterminemarkersofthecoinsandthe");
    assert_eq!(plain[5], "histogramofgreyvalues:");
    let receipt = host.final_receipt(&tenant.read, &receipt).await?;
    assert_eq!(receipt["outcome"], "ok");
    assert!(
        receipt["model_ns"].as_u64() > receipt["cpu_ns"].as_u64(),
        "{receipt}"
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_without_text_have_no_lines() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    // 8,192 × 2,048 pixels in 5 kB: as large as is allowed, within the default limits.
    for name in ["blank.png", "large.png"] {
        let lines = read(&tenant, &fixture(name)?).await?;
        assert!(lines.is_empty(), "{name}: {lines:?}");
    }
    host.finish().await
}

/// A PNG's checksum (RFC 2083, appendix 15).
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

/// The same PNG that says of itself that it has another size.
fn with_size(png: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut png = png.to_vec();
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    png
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_pictures_have_codes() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    let (png, jpeg) = (sample("hello.png")?, sample("lines.jpg")?);
    let frame = jpeg
        .windows(2)
        .position(|marker| marker == [0xff, 0xc0])
        .expect("a frame");
    let resized = |height: u16, width: u16| {
        let mut jpeg = jpeg.clone();
        jpeg[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
        jpeg[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
        jpeg
    };
    let mut flipped = png.clone();
    flipped[png.len() / 2] ^= 0x55;
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("nothing", "image-unknown", vec![]),
        ("a text", "image-unknown", b"Hello WASI-NN 2026".to_vec()),
        ("a GIF", "image-unknown", b"GIF89a\x01\0\x01\0\0\0\0;".to_vec()),
        ("a PNG's first bytes", "image-malformed", png[..8].to_vec()),
        ("a PNG's header", "image-malformed", png[..33].to_vec()),
        ("half a PNG", "image-malformed", png[..png.len() / 2].to_vec()),
        ("a PNG with a wrong byte", "image-malformed", flipped),
        ("a PNG without pixels", "image-malformed", with_size(&png, 0, 0)),
        ("a PNG of no width", "image-malformed", with_size(&png, 0, 80)),
        (
            "a PNG that has too few rows",
            "image-malformed",
            with_size(&png, 440, 8_000),
        ),
        ("a wide PNG", "image-too-large", with_size(&png, 8_193, 1)),
        ("a high PNG", "image-too-large", with_size(&png, 1, 8_193)),
        ("a large PNG", "image-too-large", with_size(&png, 8_192, 2_049)),
        (
            "a huge PNG",
            "image-too-large",
            with_size(&png, 0x7fff_ffff, 0x7fff_ffff),
        ),
        ("a JPEG's first bytes", "image-malformed", jpeg[..4].to_vec()),
        ("half a JPEG", "image-malformed", jpeg[..jpeg.len() / 2].to_vec()),
        ("a JPEG without pixels", "image-malformed", resized(0, 0)),
        ("a huge JPEG", "image-too-large", resized(65_535, 65_535)),
    ];
    for (name, code, file) in cases {
        let answer = call(&tenant, &file).await?;
        assert_eq!(answer.code(), code, "{name}: {}", answer.body);
        assert!(matches!(answer.status, 400..=499), "{name}: {}", answer.status);
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn characters_must_fit_the_graph() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    let graphs = json!({
        "detect": { "name": "ocr-detect" },
        "classify": { "name": "ocr-classify" },
        "recognise": { "name": "ocr-recognise" },
    });
    let none = json!({ "name": "few", "component": { "name": "ocr" }, "graphs": graphs });
    let refused = tenant.manage.post("/api/v1/deployments", &none).await?;
    assert!(
        refused.body.to_string().contains("characters"),
        "{}",
        refused.body
    );
    let mut few = none;
    few["settings"] = json!({ "characters": "a\nb\nc" });
    tenant
        .manage
        .post("/api/v1/deployments", &few)
        .await?
        .expect(201)?;
    let answer = tenant.invoke.infer("few", picture(&sample("hello.png")?)).await?;
    assert_eq!(answer.code(), "wrong-characters", "{}", answer.body);
    host.finish().await
}
