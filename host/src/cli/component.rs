//! `wattle component`

use std::path::PathBuf;

use clap::Subcommand;
use domain::{Digest, Name};
use serde_json::json;

use super::client::Client;
use super::output::{self, Column, Style};

/// What to do with components; needs a key of the tenant.
#[derive(Subcommand, Debug)]
pub enum ComponentCommand {
    /// Upload a revision: the host checks and compiles it. The same bytes are the same revision.
    Push {
        /// The component's name.
        name: Name,
        /// The WebAssembly file.
        file: PathBuf,
    },
    /// The tenant's components, or the revisions of one.
    #[command(visible_alias = "ls")]
    List {
        /// Only this one.
        name: Option<Name>,
    },
    /// Hide a component, or one revision of it. What is deployed goes on.
    Rm {
        /// The component's name.
        name: Name,
        /// Only this revision.
        #[arg(long)]
        revision: Option<Digest>,
    },
}

/// Does it.
pub async fn run(command: ComponentCommand, client: &Client, json: bool) -> anyhow::Result<()> {
    match command {
        ComponentCommand::Rm { name, revision } => {
            let whole = format!("/api/v1/components/{name}");
            let path = match revision {
                Some(revision) => format!("{whole}/revisions/{revision}"),
                None => whole,
            };
            client.delete(&path).await?;
            if json {
                return output::say_json(&json!({ "deleted": name, "revision": revision }));
            }
            Ok(output::say(format_args!(
                "{name} is deleted; what is deployed goes on"
            ))?)
        }
        ComponentCommand::Push { name, file } => {
            let path = format!("/api/v1/components/{name}/revisions");
            let (revision, created) = client.upload(&path, &file).await?;
            if json {
                return output::say_json(&revision);
            }
            let digest = revision["revision"].as_str().unwrap_or_default();
            let news = if created { "published" } else { "was there already" };
            Ok(output::say(format_args!("{name}@{digest} {news}"))?)
        }
        ComponentCommand::List { name: Some(name) } => {
            let revisions = client
                .list(&format!("/api/v1/components/{name}/revisions"), None)
                .await?;
            let columns = [
                Column("revision", "/revision", Style::Text),
                Column("size", "/bytes", Style::Bytes),
                Column("uploaded (UTC)", "/created_at", Style::Instant),
            ];
            output::list(&revisions, &columns, json)
        }
        ComponentCommand::List { name: None } => {
            let components = client.list("/api/v1/components", None).await?;
            let columns = [
                Column("component", "/component", Style::Text),
                Column("revisions", "/revisions", Style::Number),
                Column("newest", "/newest", Style::Text),
                Column("uploaded (UTC)", "/uploaded_at", Style::Instant),
            ];
            output::list(&components, &columns, json)
        }
    }
}
