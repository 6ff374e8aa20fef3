//! The configuration file: each key is a long flag of `serve` with `_` for `-`, each value goes through that
//! flag's own parser, and what the file says becomes the flag's default. So there is one list of settings.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches as _};
use toml::Value;

use super::{ConfigError, ConfigErrors, ServeArgs};

/// Where the configuration file is.
#[derive(Args, Clone, Debug)]
pub struct ConfigPath {
    /// TOML file behind the flags and the environment; deploy/wattle.toml has every key.
    #[arg(long, env = "WATTLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What a configuration file says.
#[derive(Debug, Default)]
pub struct ConfigFile {
    values: BTreeMap<String, String>,
}

/// A setting of `serve` as it takes effect.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the file.
    pub key: String,
    /// Its value, if it has one; `(hidden)` for a secret.
    pub value: Option<String>,
    /// Who set it: `default`, `file`, or the environment's variable.
    pub origin: String,
}

impl ConfigFile {
    /// Reads a file whose every key and value is right.
    pub fn read(path: &Path) -> Result<Self, ConfigErrors> {
        let (file, errors) = Self::read_what_is_right(path);
        ConfigErrors::none(errors).map(|()| file)
    }

    /// What is right in a file, and all that is wrong with it.
    fn read_what_is_right(path: &Path) -> (Self, Vec<ConfigError>) {
        let table = match table(path) {
            Ok(table) => table,
            Err(error) => return (Self::default(), vec![error]),
        };
        let (flags, mut file, mut errors) = (flags(), Self::default(), Vec::new());
        for (key, value) in table {
            let Some(flag) = flags.get_arguments().find(|flag| flag.get_id() == key.as_str()) else {
                errors.push(ConfigError::UnknownKey {
                    path: path.to_owned(),
                    nearest: nearest(&flags, &key),
                    key,
                });
                continue;
            };
            match text(value).and_then(|text| refused(&flags, flag, &text).map_or(Ok(text), Err)) {
                Ok(text) => {
                    file.values.insert(key, text);
                }
                Err(reason) => errors.push(ConfigError::Value {
                    origin: path.display().to_string(),
                    key,
                    reason,
                }),
            }
        }
        let mut secrets = flags.get_arguments().filter(|flag| is_secret(flag));
        if let Some(secret) = secrets.find(|flag| file.values.contains_key(flag.get_id().as_str()))
            && std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o004 != 0)
        {
            errors.push(ConfigError::Exposed {
                path: path.to_owned(),
                key: secret.get_id().to_string(),
            });
        }
        (file, errors)
    }

    /// `command`, which takes the flags of `serve`, with the file's values as their defaults.
    pub fn behind(&self, command: Command) -> Command {
        self.values.iter().fold(command, |command, (key, value)| {
            command.mut_arg(key, |flag| {
                flag.default_value(value.clone()).hide_default_value(true)
            })
        })
    }
}

/// What `serve` would be told without flags, each setting with who set it; and all that is wrong.
pub fn settings(path: Option<&Path>) -> (Vec<Setting>, Vec<ConfigError>) {
    let (file, mut errors) = path.map(ConfigFile::read_what_is_right).unwrap_or_default();
    let flags = flags();
    let mut command = file.behind(ServeArgs::augment_args(Command::new("serve")));
    for flag in ServeArgs::augment_args(Command::new("serve")).get_arguments() {
        let Some((variable, value)) = variable(flag) else {
            continue;
        };
        if let Some(reason) = refused(&flags, flag, &value) {
            errors.push(ConfigError::Value {
                origin: "environment".to_owned(),
                key: variable,
                reason,
            });
            command = command.mut_arg(flag.get_id(), |flag| flag.env(None::<&'static str>));
        }
    }
    let matches = command.clone().try_get_matches_from(["serve"]);
    let Ok(matches) = matches else {
        // Every value has been through its parser: what is left to refuse is nothing.
        return (Vec::new(), errors);
    };
    if let Ok(Err(ConfigErrors(crossed))) = ServeArgs::from_arg_matches(&matches).map(|serve| serve.check()) {
        errors.extend(crossed);
    }
    let settings = command.get_arguments().map(|flag| setting(flag, &matches, &file));
    (settings.collect(), errors)
}

fn setting(flag: &Arg, matches: &ArgMatches, file: &ConfigFile) -> Setting {
    let key = flag.get_id().to_string();
    let raw = matches.get_raw(&key).and_then(|mut values| values.next());
    let origin = match matches.value_source(&key) {
        Some(ValueSource::EnvVariable) => variable(flag).unwrap_or_default().0,
        Some(_) if file.values.contains_key(&key) => "file".to_owned(),
        _ => "default".to_owned(),
    };
    let shown = |text: &OsStr| match is_secret(flag) {
        true => "(hidden)".to_owned(),
        false => text.to_string_lossy().into_owned(),
    };
    Setting {
        key,
        value: raw.map(shown),
        origin,
    }
}

/// The flags of `serve` with nothing behind them.
fn flags() -> Command {
    ServeArgs::augment_args(Command::new("serve"))
        .disable_help_flag(true)
        .mut_args(|flag| flag.env(None::<&'static str>))
}

/// Whoever's value the help must not show has one that nothing may show.
fn is_secret(flag: &Arg) -> bool {
    flag.is_hide_env_values_set()
}

/// The environment's variable for `flag` and its value, if it is set.
fn variable(flag: &Arg) -> Option<(String, String)> {
    let name = flag.get_env()?;
    let value = std::env::var_os(name)?;
    let text = |text: &OsStr| text.to_string_lossy().into_owned();
    Some((text(name), text(&value)))
}

fn table(path: &Path) -> Result<toml::Table, ConfigError> {
    let content = std::fs::read_to_string(path).map_err(|cause| ConfigError::Unreadable {
        path: path.to_owned(),
        cause,
    })?;
    content.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        ConfigError::Syntax {
            path: path.to_owned(),
            line: 1 + content.bytes().take(start).filter(|&byte| byte == b'\n').count(),
            cause: error.message().to_owned(),
        }
    })
}

/// A value as one would write it behind a flag.
fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(choice) => Ok(choice.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            Err("write one text, number or true or false".to_owned())
        }
    }
}

/// Why `flag` does not take `text`.
fn refused(flags: &Command, flag: &Arg, text: &str) -> Option<String> {
    let argument = format!("--{}={text}", flag.get_long()?);
    let error = flags.clone().try_get_matches_from(["serve", &argument]).err()?;
    let choices = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(choices)) if !choices.is_empty() => {
            Some(format!("choose one of {}", choices.join(", ")))
        }
        _ => None,
    };
    let reason = std::error::Error::source(&error).map(ToString::to_string);
    let reason = reason.or(choices).unwrap_or_else(|| error.kind().to_string());
    Some(match is_secret(flag) {
        true => reason,
        false => format!("'{text}' is not taken: {reason}"),
    })
}

/// The key that looks most like `key`: by the parser's own idea of what a flag may have been meant to be.
fn nearest(flags: &Command, key: &str) -> Option<String> {
    let spelt = key.replace('-', "_").to_lowercase();
    if flags.get_arguments().any(|flag| flag.get_id() == spelt.as_str()) {
        return Some(spelt);
    }
    let argument = format!("--{}", spelt.replace('_', "-"));
    let error = flags.clone().try_get_matches_from(["serve", &argument]).err()?;
    let suggested = match (error.kind(), error.get(ContextKind::SuggestedArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(flag))) => flag.as_str(),
        _ => return None,
    };
    Some(suggested.trim_start_matches('-').replace('-', "_"))
}
