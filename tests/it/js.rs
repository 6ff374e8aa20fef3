//! Guests in JavaScript: the SDK, the sandbox as the engine sees it, and the pipeline `snippets`.

use anyhow::ensure;
use serde_json::{Value, json};
use tests::host::Tenant;
use tests::{TestHost, guests};

use crate::probe;

const GUEST: &str = "jsprobe";

#[tokio::test(flavor = "multi_thread")]
async fn javascript_sees_an_empty_world_and_ends_only_itself() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = probe::deployed(&host, GUEST).await?;
    probe::every_type(&host, &tenant, GUEST).await?;

    let absent = "undefined";
    for (how, said) in [
        ("environment", &[absent, absent, absent, absent][..]),
        ("fetch", &["ReferenceError"]),
        ("clock", &["true", "true"]),
        ("timer", &["late"]),
    ] {
        assert_eq!(probe::said(&tenant, GUEST, how).await?, said, "{how}");
    }
    let first = probe::said(&tenant, GUEST, "random").await?;
    let second = probe::said(&tenant, GUEST, "random").await?;
    assert_ne!(first[1], second[1], "`crypto` is fresh");

    let ends = [
        ("fail", 422, "no-such-luck", "guest_failure"),
        ("graph", 422, "graph-not-found", "guest_failure"),
        ("throw", 422, "uncaught-exception", "guest_failure"),
        ("string", 422, "uncaught-exception", "guest_failure"),
        ("reject", 422, "uncaught-exception", "guest_failure"),
        ("wrong", 422, "invalid_output", "invalid_output"),
        ("recurse", 422, "uncaught-exception", "guest_failure"),
        ("never", 422, "trapped", "trapped"),
        ("import", 422, "trapped", "trapped"),
        ("fill", 422, "memory_exceeded", "memory_exceeded"),
        ("loop", 422, "fuel_exhausted", "fuel_exhausted"),
        ("chatter", 422, "log_exceeded", "log_exceeded"),
    ];
    probe::ends(&host, &tenant, GUEST, &ends).await?;
    host.finish().await
}

const PYTHON: &str = "import json\nimport sys\n\n\ndef main():\n    for line in sys.stdin:\n        record = json.loads(line)\n        print(record.get(\"name\"))\n\n\nif __name__ == \"__main__\":\n    main()\n";
const RUST: &str = "use std::collections::HashMap;\n\nfn main() -> Result<(), Box<dyn std::error::Error>> {\n    let mut counts: HashMap<String, usize> = HashMap::new();\n    for line in std::io::stdin().lines() {\n        *counts.entry(line?).or_default() += 1;\n    }\n    println!(\"{counts:?}\");\n    Ok(())\n}\n";
const INI: &str = "[server]\nhost = localhost\nport = 8080\n\n[client]\nname = acacia\nretries = 3\n";

/// Each block's code, language, line and score.
async fn snippets(tenant: &Tenant, page: &str) -> anyhow::Result<Vec<(String, String, u64, f64)>> {
    let input = json!([{ "name": "page", "shape": [1], "datatype": "BYTES", "data": [page] }]);
    let body = tenant.invoke.infer("snippets", input).await?.expect(200)?;
    let column = |name: &str| {
        let outputs = body["outputs"].as_array().into_iter().flatten();
        let output = outputs.into_iter().find(|output| output["name"] == name);
        output.map(|output| output["data"].clone()).unwrap_or_default()
    };
    let texts = |name: &str| serde_json::from_value::<Vec<String>>(column(name));
    let numbers = serde_json::from_value::<Vec<u64>>(column("line"))?;
    let scores = serde_json::from_value::<Vec<f64>>(column("score"))?;
    let rows = texts("code")?.into_iter().zip(texts("language")?);
    Ok(rows
        .zip(numbers)
        .zip(scores)
        .map(|(((code, language), line), score)| (code, language, line, score))
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn snippets_names_the_language_of_code() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let labels = String::from_utf8(guests::model("magika.labels.json")?)?;
    let release = json!({ "settings": { "labels": labels }, "limits": { "deadline_ms": 120_000 } });
    for pipeline in ["filetype", "snippets"] {
        tenant
            .deploy(pipeline, &[("magika", "magika.onnx")], release.clone())
            .await?;
    }

    let page = format!(
        "# A page\n\n```\n{PYTHON}```\n\n1. In a list:\n\n   ~~~~ Rust ignore\n   fn main() {{}}\n   ~~~\n   ~~~~\n\n\
         ```\n{RUST}````\n`` no ``` fence ```\n```\r\n{INI}```\n```\n```\n~~~\nx\n~~~\n```\nnever closed"
    );
    let found = snippets(&tenant, &page).await?;
    let codes: Vec<_> = found.iter().map(|(code, ..)| code.as_str()).collect();
    assert_eq!(
        codes,
        [
            PYTHON,
            "fn main() {}\n~~~\n",
            RUST,
            INI,
            "",
            "x\n",
            "never closed\n"
        ]
    );
    let lines: Vec<_> = found.iter().map(|(_, _, line, _)| *line).collect();
    let begin = |code: &str| page[..page.find(code).unwrap_or_default()].lines().count() as u64 + 1;
    assert_eq!(
        lines[..4],
        [begin(PYTHON), begin("   fn main"), begin(RUST), begin(INI)]
    );
    assert_eq!((&*found[1].1, found[1].3), ("rust", 1.0), "as the author says");

    // The same model behind another hand's code, in another language.
    let files: Vec<_> = found.iter().filter(|row| row.0 != found[1].0).collect();
    let codes: Vec<_> = files.iter().map(|row| &row.0).collect();
    let input = json!([{ "name": "file", "shape": [codes.len()], "datatype": "BYTES", "data": codes }]);
    let body = tenant.invoke.infer("filetype", input).await?.expect(200)?;
    let output = |index: usize| body["outputs"][index]["data"].clone();
    let languages: Vec<_> = files.iter().map(|row| &row.1).collect();
    assert_eq!(json!(languages), output(0));
    assert_eq!(languages[..3], ["python", "rust", "ini"]);
    let scores: Vec<f64> = serde_json::from_value(output(1))?;
    for (row, score) in files.iter().zip(scores) {
        ensure!((row.3 - score).abs() < 1e-4, "{row:?}: {score}");
    }

    assert_eq!(snippets(&tenant, "no code").await?, []);
    let many = "```\n```\n".repeat(257);
    let cases: [(&str, Value); 2] = [
        ("too-many-blocks", json!({ "data": [many] })),
        (
            "malformed-text",
            json!({ "data": ["/w=="], "parameters": { "content_type": "base64" } }),
        ),
    ];
    for (code, mut input) in cases {
        input["name"] = json!("page");
        input["shape"] = json!([1]);
        input["datatype"] = json!("BYTES");
        let answer = tenant.invoke.infer("snippets", json!([input])).await?;
        assert_eq!((answer.status, answer.code()), (422, code), "{}", answer.body);
    }
    host.finish().await
}
