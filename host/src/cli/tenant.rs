//! `wattle tenant`

use std::str::FromStr;

use clap::Subcommand;
use domain::{Name, TenantId};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::error::usage;
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
    /// Refuse its calls and changes; it can still read, and everything is kept.
    Suspend {
        /// Its id.
        id: TenantId,
    },
    /// Serve a suspended tenant again.
    Resume {
        /// Its id.
        id: TenantId,
    },
    /// End a tenant for good: its keys are refused and its uploads removed. Its name stays taken.
    Close {
        /// Its id.
        id: TenantId,
        /// Yes, for good.
        #[arg(long)]
        yes: bool,
    },
    /// Show its quotas and what of them is used, or set them.
    Quota {
        /// Its id.
        id: TenantId,
        /// MiB of components and graphs that it may store, or `default`. What is stored already stays.
        #[arg(long, value_name = "MIB")]
        storage_mib: Option<Quota<u64>>,
        /// Calls that may run at once on a node, or `default`.
        #[arg(long, value_name = "CALLS")]
        concurrency: Option<Quota<u32>>,
        /// Components and graphs that it may upload in an hour, or `default`.
        #[arg(long, value_name = "UPLOADS")]
        uploads_per_hour: Option<Quota<u32>>,
    },
}

/// A quota of the tenant's own, or the host's default.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
pub struct Quota<T>(Option<T>);

impl<T: FromStr> FromStr for Quota<T> {
    type Err = T::Err;
    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "default" => Ok(Self(None)),
            number => number.parse().map(|number| Self(Some(number))),
        }
    }
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
        TenantCommand::Suspend { id } => set_status(client, id, "suspended", json).await,
        TenantCommand::Resume { id } => set_status(client, id, "active", json).await,
        TenantCommand::Close { yes: false, .. } => Err(usage("closing is for good: say --yes")),
        TenantCommand::Close { id, yes: true } => set_status(client, id, "closed", json).await,
        TenantCommand::Quota {
            id,
            storage_mib,
            concurrency,
            uploads_per_hour,
        } => {
            let bytes = |mib: u64| mib.saturating_mul(1 << 20);
            let quotas = [
                (
                    "storage_max_bytes",
                    storage_mib.map(|Quota(mib)| json!(mib.map(bytes))),
                ),
                ("concurrency_max", concurrency.map(|quota| json!(quota))),
                ("uploads_max_per_hour", uploads_per_hour.map(|quota| json!(quota))),
            ];
            let change: Map<String, Value> = quotas
                .into_iter()
                .filter_map(|(name, quota)| Some((name.to_owned(), quota?)))
                .collect();
            let path = format!("/api/v1/tenants/{id}");
            let tenant = match change.is_empty() {
                true => client.get(&path).await?,
                false => client.patch(&path, &Value::Object(change)).await?,
            };
            show_quotas(&tenant, json)
        }
    }
}

async fn set_status(client: &Client, id: TenantId, status: &str, json: bool) -> anyhow::Result<()> {
    let change = json!({ "status": status });
    let tenant = client.patch(&format!("/api/v1/tenants/{id}"), &change).await?;
    if json {
        return output::say_json(&tenant);
    }
    let name = tenant["name"].as_str().unwrap_or_default();
    Ok(output::say(format_args!("tenant {name} is {status}"))?)
}

fn show_quotas(tenant: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return output::say_json(tenant);
    }
    let quotas = &tenant["quotas"];
    let line = |what: &str, used: &str, max: &str| {
        output::say(format_args!("{what}: {} of {}", quotas[used], quotas[max]))
    };
    line("bytes stored", "storage_used_bytes", "storage_max_bytes")?;
    line("uploads this hour", "uploads_used", "uploads_max_per_hour")?;
    Ok(output::say(format_args!(
        "calls at once: {}",
        quotas["concurrency_max"]
    ))?)
}
