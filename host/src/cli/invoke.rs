//! `wattle invoke`

use clap::Args;
use domain::Name;
use serde_json::{Value, json};

use super::body::BodyArgs;
use super::client::{Client, Reply};
use super::output::{self, energy, grouped, say};

/// Calls a deployment and shows its answer and what it cost; needs a key of the tenant.
#[derive(Args, Debug)]
pub struct InvokeArgs {
    /// The deployment.
    name: Name,
    #[command(flatten)]
    body: BodyArgs,
}

/// Does it.
pub async fn run(args: InvokeArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let body = args
        .body
        .read(client, &format!("/v2/models/{}", args.name))
        .await?;
    let reply = client.infer(args.name.as_str(), body).await?;
    if json {
        return output::say_json(&as_json(&reply));
    }
    for tensor in reply.body["outputs"].as_array().into_iter().flatten() {
        let text = |field: &str| tensor[field].as_str().unwrap_or_default();
        say(format_args!(
            "{} {} {}: {}{}",
            text("name"),
            text("datatype"),
            tensor["shape"],
            excerpt(&tensor["data"]),
            beside(&tensor["parameters"])
        ))?;
    }
    if reply.body["parameters"].is_object() {
        say(format_args!("answer{}", beside(&reply.body["parameters"])))?;
    }
    let mut cost = vec![format!("receipt {}", reply.receipt)];
    cost.extend(reply.energy_uj.map(|uj| format!("{} (provisional)", energy(uj))));
    cost.extend(reply.fuel.map(|fuel| format!("{} fuel", grouped(fuel))));
    cost.extend(
        reply
            .timing_ms
            .iter()
            .map(|(name, ms)| format!("{name} {ms:.2} ms")),
    );
    Ok(say(format_args!("— {}", cost.join(" · ")))?)
}

fn as_json(reply: &Reply) -> Value {
    let timing: serde_json::Map<_, _> = reply
        .timing_ms
        .iter()
        .map(|(name, ms)| (name.clone(), json!(ms)))
        .collect();
    json!({
        "response": reply.body,
        "receipt": reply.receipt,
        "energy_uj": reply.energy_uj,
        "fuel": reply.fuel,
        "timing_ms": timing,
    })
}

/// Parameters, to stand after what they belong to; nothing if there are none.
fn beside(parameters: &Value) -> String {
    let pairs = parameters.as_object().into_iter().flatten();
    let pairs: Vec<_> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() {
        String::new()
    } else {
        format!(" ({})", pairs.join(", "))
    }
}

/// The first elements of a tensor's data, flat.
fn excerpt(data: &Value) -> String {
    const SHOWN: usize = 16;
    let mut flat = Vec::new();
    flatten(data, &mut flat);
    let more = if flat.len() > SHOWN {
        format!(" … {} in all", flat.len())
    } else {
        String::new()
    };
    let shown: Vec<_> = flat.iter().take(SHOWN).map(|value| value.to_string()).collect();
    format!("{}{more}", shown.join(" "))
}

fn flatten<'a>(value: &'a Value, flat: &mut Vec<&'a Value>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, flat)),
        other => flat.push(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_are_cut_and_say_so() {
        assert_eq!(excerpt(&json!([[1, 2], ["a", null]])), r#"1 2 "a" null"#);
        let long = excerpt(&json!(vec![0; 100]));
        assert!(long.ends_with("… 100 in all"), "{long}");
        assert_eq!(beside(&json!({ "n": 1, "unit": "J" })), r#" (n=1, unit="J")"#);
        assert_eq!(beside(&Value::Null), "");
    }
}
