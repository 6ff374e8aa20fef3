//! `wattle deployment`

use clap::Subcommand;
use domain::Name;
use serde_json::{Value, json};

use super::client::Client;
use super::output::{self, Column, Style};

/// What to do with deployments; needs a key of the tenant. `wattle deploy` makes them.
#[derive(Subcommand, Debug)]
pub enum DeploymentCommand {
    /// The tenant's deployments.
    #[command(visible_alias = "ls")]
    List,
    /// What a deployment runs; settings by their names alone.
    Show {
        /// The deployment.
        name: Name,
        /// One of its releases instead of the one that it points to.
        #[arg(long)]
        release: Option<u32>,
    },
    /// Take no more calls for it. Its receipts stay.
    Rm {
        /// The deployment.
        name: Name,
    },
}

/// Does it.
pub async fn run(command: DeploymentCommand, client: &Client, json: bool) -> anyhow::Result<()> {
    match command {
        DeploymentCommand::List => {
            let deployments = client.list("/api/v1/deployments", None).await?;
            let columns = [
                Column("deployment", "/name", Style::Text),
                Column("release", "/release", Style::Number),
                Column("made (UTC)", "/created_at", Style::Instant),
            ];
            output::list(&deployments, &columns, json)
        }
        DeploymentCommand::Show { name, release } => {
            let path = match release {
                Some(number) => format!("/api/v1/deployments/{name}/releases/{number}"),
                None => format!("/api/v1/deployments/{name}"),
            };
            let release = client.get(&path).await?;
            match json {
                true => output::say_json(&release),
                false => output::facts(&facts(&release)),
            }
        }
        DeploymentCommand::Rm { name } => {
            client.delete(&format!("/api/v1/deployments/{name}")).await?;
            match json {
                true => output::say_json(&json!({ "removed": name })),
                false => Ok(output::say(format_args!("{name} takes no more calls"))?),
            }
        }
    }
}

fn facts(release: &Value) -> Vec<(&'static str, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("–").to_owned();
    let pinned = |name: &Value, digest: &Value| format!("{}@{}", text(name), text(digest));
    let mut facts = vec![
        (
            "deployment",
            format!("{} release {}", text(&release["name"]), release["release"]),
        ),
        ("made", text(&release["created_at"])),
    ];
    let component = &release["component"];
    if component.is_object() {
        facts.push(("component", pinned(&component["name"], &component["revision"])));
    }
    for (alias, graph) in release["graphs"].as_object().into_iter().flatten() {
        facts.push((
            "graph",
            format!("{alias}={}", pinned(&graph["name"], &graph["version"])),
        ));
    }
    facts.push(("backend", text(&release["backend"])));
    let settings = release["settings"].as_object().into_iter().flatten();
    let settings: Vec<_> = settings.map(|(key, _)| key.as_str()).collect();
    if !settings.is_empty() {
        facts.push(("settings", settings.join(", ")));
    }
    let limits = release["limits"].as_object().into_iter().flatten();
    facts.extend(limits.map(|(field, value)| ("limit", format!("{field}={value}"))));
    for (name, tensors) in [("takes", "inputs"), ("gives", "outputs")] {
        let tensors = release["signature"][tensors].as_array().into_iter().flatten();
        facts.extend(tensors.map(|tensor| (name, output::tensor(tensor))));
    }
    facts
}
