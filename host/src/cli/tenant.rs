//! `wattle tenant`

use clap::Subcommand;
use domain::{Name, TenantId};
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
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this status: active, suspended or closed.
        #[arg(long)]
        status: Option<String>,
    },
    /// Set how much a tenant may store; what is stored already stays.
    Storage {
        /// The tenant's id.
        id: TenantId,
        /// MiB of components and graphs; the host's default without.
        #[arg(long)]
        max_mib: Option<u64>,
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
        TenantCommand::Storage { id, max_mib } => {
            let max_bytes = max_mib.map(|mib| mib.saturating_mul(1 << 20));
            let body = json!({ "max_bytes": max_bytes });
            let tenant = client
                .put(&format!("/api/v1/tenants/{id}/storage"), &body)
                .await?;
            if json {
                return output::say_json(&tenant);
            }
            let most = max_bytes.map_or_else(|| "the host's default".to_owned(), output::bytes);
            Ok(output::say(format_args!("tenant {id} may store {most}"))?)
        }
    }
}
