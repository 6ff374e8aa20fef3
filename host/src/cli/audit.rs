//! `wattle audit`

use std::path::PathBuf;

use clap::Args;
use domain::{KeyId, TenantId};
use time::OffsetDateTime;

use super::client::Client;
use super::output::{self, Column, Style};
use super::spec;

/// Lists who did what, the latest first; an admin's and an auditor's key sees all, a tenant's what concerns it.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// How many.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Only what concerns this tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Only what was done with the key of this id.
    #[arg(long, value_name = "KEY_ID")]
    by: Option<KeyId>,
    /// Only acts of this kind, such as key.revoke.
    #[arg(long)]
    action: Option<String>,
    /// Only from then on, such as 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    from: Option<OffsetDateTime>,
    /// Only before.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    to: Option<OffsetDateTime>,
    /// Write all of them instead, the earliest first: csv or json.
    #[arg(long, value_name = "FORMAT", value_parser = ["csv", "json"], conflicts_with = "limit")]
    export: Option<String>,
    /// Into which file an export goes; to standard output unless said.
    #[arg(long, short, requires = "export")]
    output: Option<PathBuf>,
}

/// Does it.
pub async fn run(args: AuditArgs, client: &Client, json: bool) -> anyhow::Result<()> {
    let mut filters = vec![
        ("tenant", args.tenant.map(|tenant| tenant.to_string())),
        ("key", args.by.map(|key| key.to_string())),
        ("action", args.action),
        ("from", args.from.map(spec::rfc3339).transpose()?),
        ("to", args.to.map(spec::rfc3339).transpose()?),
    ];
    if let Some(format) = args.export {
        filters.push(("format", Some(format)));
        let bytes = client.fetch("/api/v1/audit/export", &filters).await?;
        return output::keep(&bytes, args.output.as_deref()).await;
    }
    let events = client
        .filtered("/api/v1/audit", &filters, Some(args.limit))
        .await?;
    let columns = [
        Column("at (UTC)", "/at", Style::Instant),
        Column("action", "/action", Style::Text),
        Column("object", "/object", Style::Text),
        Column("tenant", "/tenant", Style::Text),
        Column("by", "/actor", Style::Text),
        Column("key", "/key", Style::Text),
        Column("role", "/role", Style::Text),
        Column("details", "/details", Style::Text),
    ];
    output::list(&events, &columns, json)
}
