//! Configuration: a file behind the environment behind flags, and what is refused.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use clap::{Args as _, Command};
use serde_json::Value;
use tests::guests;
use wattle::config::{ConfigError, ConfigFile, ServeArgs, settings};

/// `wattle` with only these variables.
fn wattle(args: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Output> {
    let mut command = std::process::Command::new(guests::wattle()?);
    Ok(command
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .output()?)
}

/// What `config show` says of `setting`: its value and who set it.
fn shown(file: &Path, environment: &[(&str, &str)], setting: &str) -> anyhow::Result<(Value, String)> {
    let file = file.display().to_string();
    let output = wattle(&["config", "show", "--json", "--config", &file], environment)?;
    let settings: Value = serde_json::from_slice(&output.stdout)?;
    let items = settings["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["setting"] == setting).unwrap();
    Ok((item["value"].clone(), item["from"].as_str().unwrap().to_owned()))
}

fn file(folder: &tempfile::TempDir, content: &str) -> std::path::PathBuf {
    let path = folder.path().join("wattle.toml");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    path
}

#[test]
fn a_flag_is_stronger_than_the_environment_and_that_than_the_file() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = file(
        &folder,
        "connections = 300\ninsecure = true\nmeter_idle_w = 40.5\nmeter_max_w = 120\nnode = \"ash\"\n",
    );
    let of = |environment: &[(&str, &str)], setting| shown(&path, environment, setting);
    assert_eq!(of(&[], "connections")?, ("300".into(), "file".to_owned()));
    assert_eq!(of(&[], "meter_idle_w")?, ("40.5".into(), "file".to_owned()));
    assert_eq!(of(&[], "drain_s")?, ("30".into(), "default".to_owned()));
    assert_eq!(
        of(&[("WATTLE_CONNECTIONS", "200")], "connections")?,
        ("200".into(), "WATTLE_CONNECTIONS".to_owned())
    );
    assert_eq!(
        of(&[("WATTLE_INSECURE", "false")], "insecure")?,
        ("false".into(), "WATTLE_INSECURE".to_owned())
    );

    // Flags: `serve` stops at what they say, whatever is behind them.
    let path = path.display().to_string();
    let serve = ["serve", "--config", &path, "--connections", "100"];
    let output = wattle(&serve, &[("WATTLE_CONNECTIONS", "200")])?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--connections 100"), "{said}");
    let open = [
        "serve",
        "--insecure=false",
        "--listen",
        "0.0.0.0:0",
        "--config",
        &path,
    ];
    let output = wattle(&open, &[])?;
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains("can be reached from other machines"), "{said}");
    Ok(())
}

/// Settings that are numbers: the least and the most that each takes.
const BOUNDS: [(&str, u64, u64); 9] = [
    ("checkpoint_s", 1, 86_400),
    ("receipts_hot_s", 1, 3_155_760_000),
    ("slice_ms", 50, 10_000),
    ("window_slices", 1, 600),
    ("window_claims", 1, 50_000),
    ("graph_memory_mib", 256, 1_048_576),
    ("concurrency", 1, 1_000),
    ("tenant_concurrency", 1, 1_000),
    ("connections", 1, 100_000),
];

#[test]
fn numbers_have_a_least_and_a_most() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let refused = |number: fn(u64, u64) -> u64| -> anyhow::Result<usize> {
        let lines = BOUNDS.map(|(key, least, most)| format!("{key} = {}\n", number(least, most)));
        let path = file(&folder, &lines.concat()).display().to_string();
        let said = String::from_utf8(wattle(&["config", "check", "--config", &path], &[])?.stderr)?;
        let refused = |(key, least, most): &(&str, u64, u64)| {
            said.contains(&format!("{key}: '{}' is not taken", number(*least, *most)))
        };
        Ok(BOUNDS.iter().filter(|bounds| refused(bounds)).count())
    };
    assert_eq!(refused(|least, _| least - 1)?, BOUNDS.len());
    assert_eq!(refused(|least, _| least)?, 0);
    assert_eq!(refused(|_, most| most)?, 0);
    assert_eq!(refused(|_, most| most + 1)?, BOUNDS.len());
    Ok(())
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_its_file_and_key() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = file(
        &folder,
        "slise_ms = 1000\nslice-ms = 1000\nhelp = true\nconfig = \"x\"\nwindow_slices = 0\nreceipts_hot_s = 0\njournal = \"lax\"\n\
         node = [\"a\"]\nconcurrency = 200\nconnections = 100\nmeter_idle_w = 40\n",
    );
    let path = path.display().to_string();
    let check = ["config", "check", "--config", &path];
    let output = wattle(&check, &[("WATTLE_DRAIN_S", "soon")])?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{said}");
    for expected in [
        &format!("{path}: there is no key 'slise_ms': did you mean 'slice_ms'?"),
        &format!("{path}: there is no key 'slice-ms': did you mean 'slice_ms'?"),
        &format!("{path}: there is no key 'help'"),
        &format!("{path}: there is no key 'config'"),
        &format!("{path}: window_slices: '0' is not taken: 0 is not in 1..=600"),
        &format!("{path}: receipts_hot_s: '0' is not taken: 0 is not in 1..=3155760000"),
        &format!("{path}: journal: 'lax' is not taken: choose one of standard, strict"),
        &format!("{path}: node: write one text, number or true or false"),
        "environment: WATTLE_DRAIN_S: 'soon' is not taken: invalid digit found in string",
        "--connections 100 is below --concurrency 200",
        "--meter-idle-w needs --meter-max-w beside it",
    ] {
        assert!(said.contains(expected), "{expected}\nis not in\n{said}");
    }
    assert_eq!(said.lines().count(), 11, "{said}");

    let output = wattle(&[&check[..], &["--json"]].concat(), &[])?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        (
            answer["ok"].as_bool(),
            answer["problems"].as_array().unwrap().len()
        ),
        (Some(false), 10)
    );

    // What `check` refuses, `serve` and `doctor` refuse too.
    for command in ["serve", "doctor"] {
        let output = wattle(&[command, "--config", &path], &[])?;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("slise_ms"), "{said}");
    }
    Ok(())
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_its_lines_are_kept_back() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let missing = folder.path().join("none.toml").display().to_string();
    let output = wattle(&["config", "check"], &[("WATTLE_CONFIG", &missing)])?;
    assert!(String::from_utf8(output.stderr)?.contains(&missing));
    let path = file(
        &folder,
        "node = \"a\"\ndatabase_url = \"postgres://u:hunter2@h/d\n",
    )
    .display()
    .to_string();
    let output = wattle(&["config", "check", "--config", &path], &[])?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains(&format!("{path} line 2")) && !said.contains("hunter2"),
        "{said}"
    );
    Ok(())
}

#[test]
fn secrets_are_not_shown_and_a_file_with_them_is_closed_to_others() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = file(
        &folder,
        "database_url = \"postgres://u:hunter2@h/d\"\ndatabase_owner_url = \"postgres://o:hunter3@h/d\"\n",
    );
    assert_eq!(
        shown(&path, &[], "database_url")?,
        ("(hidden)".into(), "file".to_owned())
    );
    let of_environment = shown(
        &path,
        &[("DATABASE_URL", "postgres://u:hunter4@h/d")],
        "database_url",
    )?;
    assert_eq!(of_environment, ("(hidden)".into(), "DATABASE_URL".to_owned()));
    std::fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    let path = path.display().to_string();
    let output = wattle(&["config", "check", "--config", &path], &[])?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("chmod o=") && !said.contains("hunter"), "{said}");
    Ok(())
}

/// The example documents what there is, and says the defaults right.
#[test]
fn the_example_has_every_key_with_its_default() -> anyhow::Result<()> {
    let example = std::fs::read_to_string(guests::workspace().join("deploy/wattle.toml"))?;
    let setting = |line: &str| {
        line.starts_with('#') && line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let settings_only: String = example
        .lines()
        .filter(|line| setting(line))
        .map(|line| format!("{}\n", line.trim_start_matches('#')))
        .collect();
    let said: toml::Table = settings_only.parse()?;

    let serve = ServeArgs::augment_args(Command::new("serve"));
    // What is hidden is for benches and no setting.
    let shown = serve.get_arguments().filter(|flag| !flag.is_hide_set());
    let keys: BTreeSet<_> = shown.map(|flag| flag.get_id().to_string()).collect();
    assert_eq!(
        said.keys().cloned().collect::<BTreeSet<_>>(),
        keys,
        "deploy/wattle.toml lacks or invents keys"
    );
    for flag in serve
        .get_arguments()
        .filter(|flag| flag.get_id() != "data" && !flag.is_hide_set())
    {
        if let [default] = flag.get_default_values() {
            let value = match &said[flag.get_id().as_str()] {
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(*default, *value, "{}", flag.get_id());
        }
    }

    let folder = tempfile::tempdir()?;
    let path = file(&folder, &settings_only);
    ConfigFile::read(&path)?;
    let (_, errors) = settings(Some(&path));
    // It shows what each provider of carbon intensities wants, of which a host has one.
    let of_other_providers = |error: &&ConfigError| matches!(error, ConfigError::Alone { missing, .. } if missing.starts_with("carbon-provider "));
    assert_eq!(errors.iter().filter(of_other_providers).count(), 2, "{errors:?}");
    let rest: Vec<_> = errors.iter().filter(|error| !of_other_providers(error)).collect();
    // The certificate of the example is not on this machine.
    assert!(matches!(rest[..], [ConfigError::Tls(_)]), "{errors:?}");
    Ok(())
}
