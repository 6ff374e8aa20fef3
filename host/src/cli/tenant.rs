//! `wattle tenant`

use clap::Subcommand;
use domain::Name;
use serde_json::json;

use super::client::Client;
use super::output::{self, Column, Style};

/// What to do with tenants; needs an admin key.
#[derive(Subcommand, Debug)]
pub enum TenantCommand {
    /// Make a tenant.
    Create {
        /// Its name.
        name: Name,
    },
    /// Tenants by name.
    List {
        /// Only those of this status: active, suspended or closed.
        #[arg(long)]
        status: Option<String>,
    },
}

/// Does it.
pub async fn run(command: TenantCommand, client: &Client, json: bool) -> anyhow::Result<()> {
    match command {
        TenantCommand::Create { name } => {
            let tenant = client.post("/api/v1/tenants", &json!({ "name": name })).await?;
            if json {
                return output::say_json(&tenant);
            }
            let id = tenant["id"].as_str().unwrap_or_default();
            output::say(format_args!("tenant {name} is {id}"))?;
            Ok(output::say(format_args!(
                "next: wattle key create {name}-manage --role tenant:manage --tenant {id}"
            ))?)
        }
        TenantCommand::List { status } => {
            let tenants = client
                .filtered("/api/v1/tenants", &[("status", status)], None)
                .await?;
            let columns = [
                Column("name", "/name", Style::Text),
                Column("id", "/id", Style::Text),
                Column("status", "/status", Style::Text),
                Column("created (UTC)", "/created_at", Style::Instant),
            ];
            output::list(&tenants, &columns, json)
        }
    }
}
