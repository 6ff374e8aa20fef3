//! `wattle config`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::output::{self, Column, Style};
use crate::config::{ConfigErrors, ConfigPath, Setting, settings};

/// What to do with the configuration of `serve`.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Say OK, or all that is wrong; exits with 2 if `serve` would refuse it.
    Check(ConfigPath),
    /// Each setting, its value, and whether the file, the environment or nobody set it; no secrets.
    Show(ConfigPath),
}

/// Does it.
pub fn run(command: &ConfigCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check(path) => {
            let (_, errors) = settings(path.config.as_deref());
            if json {
                let problems: Vec<_> = errors.iter().map(ToString::to_string).collect();
                output::say_json(&json!({ "ok": problems.is_empty(), "problems": problems }))?;
                return Ok(ExitCode::from(if problems.is_empty() { 0 } else { 2 }));
            }
            ConfigErrors::none(errors)?;
            output::say("OK")?;
        }
        ConfigCommand::Show(path) => {
            let (settings, errors) = settings(path.config.as_deref());
            ConfigErrors::none(errors)?;
            let rows: Vec<_> = settings.into_iter().map(row).collect();
            let columns = [
                Column("setting", "/setting", Style::Text),
                Column("value", "/value", Style::Text),
                Column("from", "/from", Style::Text),
            ];
            output::list(&rows, &columns, json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(setting: Setting) -> serde_json::Value {
    let Setting { key, value, origin } = setting;
    json!({ "setting": key, "value": value, "from": origin })
}
