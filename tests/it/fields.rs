//! Every place of a request, filled wrongly: the answer is a problem that names the place, and never a 500.

mod bodies;
mod places;

use anyhow::ensure;
use reqwest::{Method, RequestBuilder};
use tests::Client;
use tests::client::{Answer, problem};

/// What a wrong request must be answered.
struct Wanted<'a> {
    status: u16,
    code: &'a str,
    field: Option<&'a str>,
}

fn invalid(field: &str) -> Wanted<'_> {
    Wanted {
        status: 422,
        code: "invalid_field",
        field: Some(field),
    }
}

fn refused(status: u16, code: &str) -> Wanted<'_> {
    Wanted {
        status,
        code,
        field: None,
    }
}

/// What differs from what was wanted.
fn judge(answer: &Answer, wanted: &Wanted<'_>) -> anyhow::Result<()> {
    let detail = problem(answer, wanted.status, wanted.code)?;
    let field = answer.body["field"].as_str();
    ensure!(
        field == wanted.field,
        "it names {field:?} instead of {:?}: {detail}",
        wanted.field
    );
    if let Some(field) = wanted.field {
        ensure!(detail.starts_with(&format!("{field}: ")), "{detail}");
    }
    Ok(())
}

/// Sends each request and tells of all that were answered wrongly.
#[derive(Default)]
struct Cases(Vec<String>);

impl Cases {
    async fn send(&mut self, caller: &Client, name: &str, request: RequestBuilder, wanted: Wanted<'_>) {
        let judged = async { judge(&caller.send(request).await?, &wanted) }.await;
        if let Err(error) = judged {
            let name: String = name.chars().take(160).collect();
            self.0.push(format!("{name}: {error}"));
        }
    }

    async fn json(&mut self, caller: &Client, method: Method, path: &str, body: &str, wanted: Wanted<'_>) {
        let name = format!("{method} {path} {body}");
        let request = caller.request(method, path);
        let request = request
            .header("content-type", "application/json")
            .body(body.to_owned());
        self.send(caller, &name, request, wanted).await;
    }

    fn none(self) {
        assert!(self.0.is_empty(), "{:#?}", self.0);
    }
}

const NOTHING: &str = "00000000-0000-7000-8000-000000000000";
