//! The `vad` pipeline: audio to segments of speech, at once or in pieces.
//!
//! The known numbers are those of ONNX Runtime 1.32 on the same graph.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use tests::client::Answer;
use tests::host::Tenant;
use tests::{TestHost, guests};

const RATE: u32 = 16_000;

async fn deployed(host: &TestHost) -> anyhow::Result<Tenant> {
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("vad", &[("silero", "silero.onnx")], json!({}))
        .await?;
    Ok(tenant)
}

/// A second of silence, "he was not an ill disposed young man", a second of silence.
fn speech() -> anyhow::Result<Vec<i16>> {
    let file = std::fs::read(guests::workspace().join("plugins/vad/samples/speech.wav"))?;
    let second = vec![0; RATE as usize];
    let (samples, _) = file[44..].as_chunks();
    let samples = samples.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect();
    Ok([second.clone(), samples, second].concat())
}

/// A WAV file of 16-bit samples.
fn wav(samples: &[i16]) -> Vec<u8> {
    file(
        1,
        1,
        RATE,
        16,
        &samples
            .iter()
            .flat_map(|sample| sample.to_le_bytes())
            .collect::<Vec<_>>(),
    )
}

fn file(encoding: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let frame = channels * bits / 8;
    let mut file = b"RIFF\0\0\0\0WAVEfmt ".to_vec();
    file.extend(16_u32.to_le_bytes());
    file.extend([encoding, channels].map(u16::to_le_bytes).concat());
    file.extend([rate, rate * u32::from(frame)].map(u32::to_le_bytes).concat());
    file.extend([frame, bits].map(u16::to_le_bytes).concat());
    file.extend(b"data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

async fn call(tenant: &Tenant, file: &[u8], parameters: Value) -> anyhow::Result<Answer> {
    let input = json!({
        "name": "audio", "shape": [1], "datatype": "BYTES",
        "parameters": { "content_type": "base64" }, "data": [BASE64_STANDARD.encode(file)],
    });
    let body = json!({ "inputs": [input], "parameters": parameters });
    tenant.invoke.post("/v2/models/vad/infer", &body).await
}

/// The segments and the probabilities of an answer.
fn heard(body: &Value) -> anyhow::Result<(Vec<f64>, Vec<f32>)> {
    let output = |index: usize| body["outputs"][index]["data"].clone();
    Ok((
        serde_json::from_value(output(0))?,
        serde_json::from_value(output(1))?,
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_is_found_between_silences() -> anyhow::Result<()> {
    known_speech(TestHost::start().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_is_found_on_onnx_runtime() -> anyhow::Result<()> {
    known_speech(TestHost::start_with_onnxruntime().await?).await
}

async fn known_speech(host: TestHost) -> anyhow::Result<()> {
    let tenant = deployed(&host).await?;
    let body = call(&tenant, &wav(&speech()?), json!({})).await?.expect(200)?;
    let (segments, probabilities) = heard(&body)?;
    assert_eq!(segments, [1.25, 3.902], "one segment: the pause in it is short");
    assert_eq!(body["outputs"][0]["shape"], json!([1, 2]));
    assert_eq!(probabilities.len(), 156);
    assert_eq!(
        probabilities
            .iter()
            .filter(|&&probability| probability > 0.5)
            .count(),
        77
    );
    let known = [
        (0, 0.00167),
        (39, 0.29502),
        (40, 0.96563),
        (64, 0.46226),
        (66, 0.14462),
        (67, 0.67157),
        (121, 0.08205),
    ];
    for (frame, want) in known {
        let got = probabilities[frame];
        assert!(
            (got - want).abs() < 1e-3,
            "frame {frame}: {got} instead of {want}"
        );
    }

    let floats = speech()?
        .into_iter()
        .flat_map(|sample| (f32::from(sample) / 32_768.0).to_le_bytes());
    let floats = file(3, 1, RATE, 32, &floats.collect::<Vec<_>>());
    let again = call(&tenant, &floats, json!({})).await?.expect(200)?;
    assert_eq!(
        heard(&again)?,
        (segments, probabilities),
        "the same samples as floats"
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_tones_and_noise_are_no_speech() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    let silence = vec![0; 32_000];
    let tone = (0..32_000)
        .map(|n| (9_830.0 * (f64::from(n) * 440.0 * std::f64::consts::TAU / 16_000.0).sin()) as i16);
    let mut seed = 1_u32;
    let noise = (0..32_000).map(|_| {
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7fff_ffff;
        ((seed >> 8) % 6_554) as i16 - 3_277
    });
    for (name, samples) in [
        ("silence", silence),
        ("tone", tone.collect()),
        ("noise", noise.collect::<Vec<_>>()),
    ] {
        let body = call(&tenant, &wav(&samples), json!({})).await?.expect(200)?;
        let (segments, probabilities) = heard(&body)?;
        assert_eq!(segments, [0.0; 0], "{name}");
        let loudest = probabilities.into_iter().fold(0.0, f32::max);
        assert!(loudest < 0.05, "{name}: {loudest}");
    }
    let nothing = call(&tenant, &wav(&[]), json!({})).await?.expect(200)?;
    assert_eq!(heard(&nothing)?, (vec![], vec![]));
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_pieces_is_heard_as_a_whole() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    let samples = [speech()?, speech()?].concat();
    let whole = call(&tenant, &wav(&samples), json!({})).await?.expect(200)?;
    let (segments, probabilities) = heard(&whole)?;
    assert_eq!(segments.len(), 4);
    // Within frames, at their edges, within speech, an empty piece, and one shorter than a frame.
    let cuts = [
        0,
        100,
        512,
        5_001,
        20_000,
        20_000,
        50_000,
        79_999,
        80_300,
        120_000,
        samples.len(),
    ];
    let (mut pieces, mut state) = ((Vec::new(), Vec::new()), None);
    for cut in cuts.windows(2) {
        let more = cut[1] < samples.len();
        let mut parameters = json!({ "more": more });
        if let Some(state) = state {
            parameters["state"] = state;
        }
        let body = call(&tenant, &wav(&samples[cut[0]..cut[1]]), parameters)
            .await?
            .expect(200)?;
        let (segments, probabilities) = heard(&body)?;
        pieces.0.extend(segments);
        pieces.1.extend(probabilities);
        state = body["parameters"].get("state").cloned();
        assert_eq!(state.is_some(), more);
    }
    assert_eq!(pieces.0, segments);
    assert_eq!(pieces.1.len(), probabilities.len());
    for (got, want) in pieces.1.iter().zip(&probabilities) {
        assert!((got - want).abs() < 1e-5, "{got} instead of {want}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_audio_has_a_code() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    let good = wav(&[0; 1_000]);
    let late = [&file(1, 1, RATE, 16, &[])[..12], b"data\0\0\0\0"].concat();
    let cases: [(&str, Vec<u8>); 11] = [
        ("audio-unknown", vec![]),
        ("audio-unknown", b"RIFF\0\0\0\0AVI ".to_vec()),
        ("audio-malformed", good[..20].to_vec()),
        ("audio-malformed", good[..good.len() - 1].to_vec()),
        ("audio-malformed", late),
        ("audio-malformed", file(1, 1, RATE, 16, &[0; 3])),
        ("audio-malformed", file(3, 1, RATE, 32, &f32::NAN.to_le_bytes())),
        ("audio-format", file(1, 1, 44_100, 16, &[0; 4])),
        ("audio-format", file(1, 2, RATE, 16, &[0; 4])),
        ("audio-format", file(1, 1, RATE, 8, &[0; 4])),
        ("audio-too-long", wav(&vec![0; 600 * RATE as usize + 1])),
    ];
    for (code, file) in cases {
        let answer = call(&tenant, &file, json!({})).await?;
        assert_eq!(answer.code(), code, "{}", answer.body);
    }
    let body = call(&tenant, &good, json!({ "more": true })).await?.expect(200)?;
    let state = body["parameters"]["state"].as_str().unwrap_or_default();
    let shorter = BASE64_STANDARD.encode(&BASE64_STANDARD.decode(state)?[1..]);
    for (code, parameters) in [
        ("wrong-parameter", json!({ "more": "yes" })),
        ("wrong-parameter", json!({ "state": 7 })),
        ("malformed-state", json!({ "state": "" })),
        ("malformed-state", json!({ "state": "no base64" })),
        ("malformed-state", json!({ "state": shorter })),
    ] {
        let answer = call(&tenant, &good, parameters).await?;
        assert_eq!(answer.code(), code, "{}", answer.body);
    }
    host.finish().await
}
