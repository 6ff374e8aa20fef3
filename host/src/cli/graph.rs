//! `wattle graph`

use std::path::PathBuf;

use clap::Subcommand;
use domain::{Digest, Name};
use serde_json::json;

use super::client::Client;
use super::output::{self, Column, Style};

/// What to do with graphs; needs a key of the tenant.
#[derive(Subcommand, Debug)]
pub enum GraphCommand {
    /// Upload a version of an ONNX model. The same bytes are the same version.
    Push {
        /// The graph's name.
        name: Name,
        /// The ONNX file.
        file: PathBuf,
    },
    /// The tenant's graphs, or the versions of one.
    #[command(visible_alias = "ls")]
    List {
        /// Only this one.
        name: Option<Name>,
    },
    /// Hide a graph, or one version of it. What is deployed goes on.
    Rm {
        /// The graph's name.
        name: Name,
        /// Only this version.
        #[arg(long)]
        version: Option<Digest>,
    },
}

/// Does it.
pub async fn run(command: GraphCommand, client: &Client, json: bool) -> anyhow::Result<()> {
    match command {
        GraphCommand::Rm { name, version } => {
            let whole = format!("/api/v1/graphs/{name}");
            let path = match version {
                Some(version) => format!("{whole}/versions/{version}"),
                None => whole,
            };
            client.delete(&path).await?;
            if json {
                return output::say_json(&json!({ "deleted": name, "version": version }));
            }
            Ok(output::say(format_args!(
                "{name} is deleted; what is deployed goes on"
            ))?)
        }
        GraphCommand::Push { name, file } => {
            let (version, created) = client
                .upload(&format!("/api/v1/graphs/{name}/versions"), &file)
                .await?;
            if json {
                return output::say_json(&version);
            }
            let digest = version["version"].as_str().unwrap_or_default();
            let news = if created { "published" } else { "was there already" };
            Ok(output::say(format_args!("{name}@{digest} {news}"))?)
        }
        GraphCommand::List { name: Some(name) } => {
            let versions = client
                .list(&format!("/api/v1/graphs/{name}/versions"), None)
                .await?;
            let columns = [
                Column("version", "/version", Style::Text),
                Column("size", "/bytes", Style::Bytes),
                Column("encoding", "/encoding", Style::Text),
                Column("uploaded (UTC)", "/created_at", Style::Instant),
            ];
            output::list(&versions, &columns, json)
        }
        GraphCommand::List { name: None } => {
            let graphs = client.list("/api/v1/graphs", None).await?;
            let columns = [
                Column("graph", "/graph", Style::Text),
                Column("versions", "/versions", Style::Number),
                Column("newest", "/newest", Style::Text),
                Column("uploaded (UTC)", "/uploaded_at", Style::Instant),
            ];
            output::list(&graphs, &columns, json)
        }
    }
}
