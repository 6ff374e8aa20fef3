//! The calls of the demo: what is sent, and how the answer is judged.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use super::files::Sample;
use super::story::Props;

/// The most by which an answer may differ from what the trainer computed.
const TOLERANCE: f64 = 1e-4;

/// Pictures, each with its first line: a photograph of a page, and one that is upside down.
const PICTURES: [(&str, &[u8], &str); 2] = [
    (
        "page.png",
        include_bytes!("../../../../plugins/ocr/samples/page.png"),
        "Region-based segmentation",
    ),
    (
        "upside-down.png",
        include_bytes!("../../../../plugins/ocr/samples/upside-down.png"),
        "Hello WASI-NN 2026",
    ),
];

/// A call to be made.
pub struct Call {
    /// The deployment.
    pub deployment: &'static str,
    /// The input, for people.
    pub input: String,
    /// The V2 request.
    pub body: Value,
    /// What the answer must be.
    pub expected: Expected,
}

/// What an answer must be.
pub enum Expected {
    /// These numbers.
    Echo(Vec<f64>),
    /// These probabilities, within the tolerance.
    Probabilities(Vec<f64>),
    /// One of these labels.
    Label(&'static [&'static str]),
    /// Lines of text of which this is the first.
    Lines(&'static str),
}

/// An answer, and what is wrong with it.
pub struct Judged {
    /// For people.
    pub answer: String,
    /// `None` if it is right.
    pub fault: Option<String>,
}

/// The calls of tenant `turn` (0 or 1): both call every deployment, and share the files between them.
pub fn plan(props: &Props, turn: usize) -> Vec<Call> {
    let mut calls = vec![
        echo(vec![1.0, 2.0, 3.0]),
        echo((0..1_000).map(f64::from).collect()),
    ];
    let rows = props.report.rows.len();
    for (deployment, name, first, count) in [
        ("tabular", "rows", turn, 1),
        ("tabular", "rows", 2 + turn, 1),
        ("tabular", "rows", 0, rows),
        ("tabular-raw", "input", turn, 1),
        ("tabular-raw", "input", 0, rows),
    ] {
        calls.push(probabilities(props, deployment, name, first, count));
    }
    calls.extend(props.samples.iter().skip(turn).step_by(2).map(filetype));
    calls.extend(PICTURES.iter().skip(turn).step_by(2).map(ocr));
    calls
}

fn echo(numbers: Vec<f64>) -> Call {
    let input = format!("{} numbers", numbers.len());
    let tensor = json!({ "name": "x", "shape": [numbers.len()], "datatype": "FP32", "data": numbers });
    Call {
        deployment: "echo",
        input,
        body: json!({ "inputs": [tensor] }),
        expected: Expected::Echo(numbers),
    }
}

fn probabilities(props: &Props, deployment: &'static str, name: &str, first: usize, count: usize) -> Call {
    let range = first..first + count;
    let rows: Vec<f64> = props.report.rows[range.clone()].concat();
    let tensor =
        json!({ "name": name, "shape": [count, rows.len() / count], "datatype": "FP32", "data": rows });
    let input = if count == 1 {
        format!("row {first}")
    } else {
        format!("{count} rows at once")
    };
    let expected = Expected::Probabilities(props.report.expected[range].to_vec());
    Call {
        deployment,
        input,
        body: json!({ "inputs": [tensor] }),
        expected,
    }
}

fn filetype(sample: &Sample) -> Call {
    let name = sample.path.file_name().unwrap_or(sample.path.as_os_str());
    Call {
        deployment: "filetype",
        input: name.to_string_lossy().into_owned(),
        body: json!({ "inputs": [file("file", &sample.bytes)] }),
        expected: Expected::Label(sample.labels),
    }
}

fn ocr(&(name, bytes, first_line): &(&str, &[u8], &'static str)) -> Call {
    Call {
        deployment: "ocr",
        input: name.to_owned(),
        body: json!({ "inputs": [file("image", bytes)] }),
        expected: Expected::Lines(first_line),
    }
}

/// A file as an input.
fn file(name: &str, bytes: &[u8]) -> Value {
    json!({
        "name": name, "shape": [1], "datatype": "BYTES", "data": [BASE64_STANDARD.encode(bytes)],
        "parameters": { "content_type": "base64" },
    })
}

impl Expected {
    /// What the answer says, and whether it is right.
    pub fn judge(&self, body: &Value) -> Judged {
        match self {
            Self::Echo(numbers) => {
                let answer = numbers_of(body, 0);
                let fault = (answer != *numbers).then(|| "it is not what was sent".to_owned());
                Judged {
                    answer: format!("{} back", answer.len()),
                    fault,
                }
            }
            Self::Probabilities(expected) => {
                let answer = numbers_of(body, 0);
                let near = |(a, b): (&f64, &f64)| (a - b).abs() <= TOLERANCE;
                let right = answer.len() == expected.len() && answer.iter().zip(expected).all(near);
                let shown: Vec<_> = answer.iter().take(2).map(|p| format!("{p:.4}")).collect();
                let more = if answer.len() > 2 { " …" } else { "" };
                let fault = (!right).then(|| format!("{answer:?} is not {expected:?}"));
                Judged {
                    answer: format!("{}{more}", shown.join(" ")),
                    fault,
                }
            }
            Self::Label(labels) => {
                let label = body
                    .pointer("/outputs/0/data/0")
                    .and_then(Value::as_str)
                    .unwrap_or("no label");
                let score = numbers_of(body, 1).first().copied().unwrap_or_default();
                let fault =
                    (!labels.contains(&label)).then(|| format!("'{label}' is not {}", labels.join(" or ")));
                Judged {
                    answer: format!("{label} ({score:.3})"),
                    fault,
                }
            }
            Self::Lines(expected) => {
                let lines = body.pointer("/outputs/0/data").and_then(Value::as_array);
                let first = lines
                    .and_then(|lines| lines.first()?.as_str())
                    .unwrap_or("no text");
                let more = lines.map_or(0, |lines| lines.len().saturating_sub(1));
                let more = if more > 0 {
                    format!(" and {more} more lines")
                } else {
                    String::new()
                };
                let fault = (first != *expected).then(|| format!("'{first}' is not '{expected}'"));
                Judged {
                    answer: format!("{first}{more}"),
                    fault,
                }
            }
        }
    }
}

/// The numbers of an output, flat.
fn numbers_of(body: &Value, output: usize) -> Vec<f64> {
    let data = &body["outputs"][output]["data"];
    data.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(data: &[Value]) -> Value {
        json!({ "outputs": data.iter().map(|data| json!({ "data": data })).collect::<Vec<_>>() })
    }

    #[test]
    fn wrong_answers_are_faults() {
        let label = Expected::Label(&["elf", "macho"]);
        let right = label.judge(&outputs(&[json!(["elf"]), json!([0.998])]));
        assert_eq!((right.answer.as_str(), right.fault), ("elf (0.998)", None));
        assert!(
            label
                .judge(&outputs(&[json!(["ini"]), json!([0.9])]))
                .fault
                .is_some()
        );
        assert!(label.judge(&json!({})).fault.is_some());

        let lines = Expected::Lines("one");
        let right = lines.judge(&outputs(&[json!(["one", "two", "three"])]));
        assert_eq!(
            (right.answer.as_str(), right.fault),
            ("one and 2 more lines", None)
        );
        assert!(lines.judge(&outputs(&[json!(["two", "one"])])).fault.is_some());
        assert!(lines.judge(&outputs(&[json!([])])).fault.is_some());

        let probability = Expected::Probabilities(vec![0.5, 0.25]);
        assert_eq!(probability.judge(&outputs(&[json!([0.50009, 0.25])])).fault, None);
        for bad in [
            json!([0.5002, 0.25]),
            json!([0.5]),
            json!([0.5, 0.25, 0.1]),
            json!([0.5, null]),
        ] {
            assert!(probability.judge(&outputs(&[bad])).fault.is_some());
        }
        assert!(
            Expected::Echo(vec![1.0])
                .judge(&outputs(&[json!([2.0])]))
                .fault
                .is_some()
        );
    }
}
