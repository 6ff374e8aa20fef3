//! `wattle deploy`

use clap::Args;
use domain::{BackendChoice, Name};
use serde_json::{Map, Value, json};

use super::client::Client;
use super::error::usage;
use super::output;
use super::spec::{GraphSpec, Limit, Pinned, Setting, Source};

/// Creates a deployment, or a new release of it when it is there; needs a key of the tenant.
#[derive(Args, Debug)]
pub struct DeployArgs {
    /// The deployment's name: what callers call.
    name: Name,
    /// The pipeline to run; without one the graph is served as it is.
    #[arg(long, value_name = "NAME[@sha256:…]")]
    component: Option<Pinned>,
    /// A graph under the name that the pipeline loads it by.
    #[arg(long = "graph", value_name = "ALIAS=NAME[@sha256:…]")]
    graphs: Vec<GraphSpec>,
    /// A setting that the pipeline can ask for.
    #[arg(long = "set", value_name = "KEY=VALUE|KEY=@FILE")]
    settings: Vec<Setting>,
    /// A limit of each call that differs from the default, such as fuel=5M or memory_bytes=64Mi.
    #[arg(long = "limit", value_name = "FIELD=NUMBER")]
    limits: Vec<Limit>,
    /// What runs the graphs: rten, onnxruntime, dense, or auto for the fastest that answers as rten does.
    #[arg(long, default_value_t)]
    backend: BackendChoice,
}

/// Does it.
pub async fn run(args: DeployArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    if args.component.is_none() && args.graphs.len() != 1 {
        return Err(usage(
            "give a --component, or exactly one --graph to serve as it is",
        ));
    }
    let mut body = release(&args)?;
    let path = format!("/api/v1/deployments/{}", args.name);
    let deployed = if client.find(&path).await?.is_some() {
        client.post(&format!("{path}/releases"), &body).await?
    } else {
        body["name"] = json!(args.name);
        client.post("/api/v1/deployments", &body).await?
    };
    if json {
        return output::say_json(&deployed);
    }
    output::say(format_args!(
        "{} release {} answers at {}/v2/models/{0}/infer",
        args.name,
        deployed["release"],
        client.url()
    ))?;
    for (heading, tensors) in [
        ("takes", &deployed["signature"]["inputs"]),
        ("gives", &deployed["signature"]["outputs"]),
    ] {
        let tensors: Vec<_> = tensors
            .as_array()
            .into_iter()
            .flatten()
            .map(output::tensor)
            .collect();
        output::say(format_args!("  {heading} {}", tensors.join(", ")))?;
    }
    for (alias, graph) in deployed["graphs"].as_object().into_iter().flatten() {
        let text = |field: &str| graph["placement"][field].as_str().unwrap_or_default();
        let (backend, check) = (text("backend"), text("check"));
        output::say(format_args!(
            "  {alias} runs on {backend} (golden check: {check})"
        ))?;
    }
    Ok(())
}

/// The body of a release; settings from files are read.
fn release(args: &DeployArgs) -> anyhow::Result<Value> {
    let component = args
        .component
        .as_ref()
        .map(|pin| json!({ "name": pin.name, "revision": pin.digest }));
    let graphs = args.graphs.iter().map(|spec| {
        (
            spec.alias.to_string(),
            json!({ "name": spec.graph.name, "version": spec.graph.digest }),
        )
    });
    let graphs: Map<_, _> = graphs.collect();
    let mut settings = Map::new();
    for setting in &args.settings {
        let value = match &setting.value {
            Source::Text(text) => text.clone(),
            Source::File(path) => std::fs::read_to_string(path)
                .map_err(|error| usage(format!("--set {}=@{}: {error}", setting.key, path.display())))?,
        };
        settings.insert(setting.key.clone(), Value::String(value));
    }
    let limits: Map<_, _> = args
        .limits
        .iter()
        .map(|limit| (limit.field.clone(), json!(limit.value)))
        .collect();
    Ok(json!({
        "component": component,
        "graphs": graphs,
        "settings": settings,
        "limits": limits,
        "backend": args.backend,
    }))
}
