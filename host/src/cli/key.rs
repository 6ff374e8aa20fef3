//! `wattle key`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use domain::{KeyId, Name, Role, TenantId};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::Client;
use super::output::{self, Column, Style};
use super::spec;
use crate::config::default_data_dir;
use crate::keys::write_recovery;

/// What to do with keys; needs an admin key, or for a tenant's own a key with the role tenant:manage.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Make a key and show its secret, this once.
    Create {
        /// A name to know it by.
        name: Name,
        /// admin, billing, auditor, tenant:manage, tenant:invoke or tenant:read.
        #[arg(long)]
        role: Role,
        /// The tenant's id, for the three tenant roles.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// When it ends to be valid, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
        expires_at: Option<OffsetDateTime>,
    },
    /// Keys, without their secrets.
    #[command(visible_alias = "ls")]
    List {
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Only those of this role.
        #[arg(long)]
        role: Option<Role>,
        /// Only those that are revoked, or only those that are not.
        #[arg(long, value_name = "true|false")]
        revoked: Option<bool>,
    },
    /// On the host's machine, when every admin key is lost: write a key that makes one new admin key.
    Recover {
        /// The host's data directory [default: /var/lib/wattle as root, else ./.wattle].
        #[arg(long, env = "WATTLE_DATA")]
        data: Option<PathBuf>,
    },
    /// Make a key in another one's place and show its secret, this once.
    Rotate {
        /// The id of the key to replace.
        id: KeyId,
        /// Seconds for which the old secret works beside the new one, a week at most.
        #[arg(long, default_value_t = 0)]
        overlap_s: u32,
    },
    /// Refuse a key from now on.
    Revoke {
        /// The key's id.
        id: KeyId,
    },
}

/// Does it.
pub async fn run(command: KeyCommand, client: &Client, json: bool) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create {
            name,
            role,
            tenant,
            expires_at,
        } => {
            let expires_at = expires_at.map(|at| at.format(&Rfc3339)).transpose()?;
            let body = json!({ "name": name, "role": role, "tenant": tenant, "expires_at": expires_at });
            show_minted(&client.post("/api/v1/keys", &body).await?, json)
        }
        KeyCommand::Rotate { id, overlap_s } => {
            let body = json!({ "overlap_s": overlap_s });
            show_minted(
                &client.post(&format!("/api/v1/keys/{id}/rotate"), &body).await?,
                json,
            )
        }
        KeyCommand::List {
            tenant,
            role,
            revoked,
        } => {
            let filters = [
                ("tenant", tenant.map(|tenant| tenant.to_string())),
                ("role", role.map(|role| role.to_string())),
                ("revoked", revoked.map(|revoked| revoked.to_string())),
            ];
            let keys = client.filtered("/api/v1/keys", &filters, None).await?;
            let columns = [
                Column("name", "/name", Style::Text),
                Column("role", "/role", Style::Text),
                Column("id", "/id", Style::Text),
                Column("tenant", "/tenant", Style::Text),
                Column("expires (UTC)", "/expires_at", Style::Instant),
                Column("revoked (UTC)", "/revoked_at", Style::Instant),
            ];
            output::list(&keys, &columns, json)
        }
        KeyCommand::Recover { data } => {
            let data = data.unwrap_or_else(default_data_dir);
            let path = write_recovery(&data)
                .with_context(|| format!("no recovery key could be written into {}", data.display()))?;
            if json {
                return output::say_json(&json!({ "path": path }));
            }
            output::say(path.display())?;
            eprintln!(
                "restart the host, then: wattle key create <name> --role admin --key $(cat {})",
                path.display()
            );
            Ok(())
        }
        KeyCommand::Revoke { id } => {
            client.delete(&format!("/api/v1/keys/{id}")).await?;
            if json {
                return output::say_json(&json!({ "revoked": id }));
            }
            Ok(output::say(format_args!("key {id} is refused from now on"))?)
        }
    }
}

fn show_minted(key: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return output::say_json(key);
    }
    let text = |member: &str| key[member].as_str().unwrap_or_default();
    output::say(text("secret"))?;
    let (name, role, id) = (text("name"), text("role"), text("id"));
    eprintln!("key {name} ({role}) is {id}; its secret is shown only now");
    Ok(())
}
