//! `wattle new`: what it writes builds and deploys with the very commands that it prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tests::host::Tenant;
use tests::{TestHost, guests};

/// Runs `wattle new` in `folder`.
fn new(folder: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut wattle = Command::new(guests::wattle()?);
    Ok(wattle.current_dir(folder).arg("new").args(arguments).output()?)
}

/// A project called `double`, and the commands that it should be built and called with.
fn project(folder: &Path, language: &str) -> anyhow::Result<(PathBuf, Vec<String>)> {
    let output = new(folder, &[language, "double", "--json"])?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let made: Value = serde_json::from_slice(&output.stdout)?;
    let project = folder.join("double");
    let commands: Vec<String> = serde_json::from_value(made["commands"].clone())?;
    let readme = std::fs::read_to_string(project.join("README.md"))?;
    ensure!(readme.contains(&commands.join("\n")), "{readme}");
    Ok((project, commands))
}

/// Runs a command as a person would who has `programs` before all others; gives what it prints.
fn type_in(
    project: &Path,
    command: &str,
    programs: &[&Path],
    environment: &[(&str, &str)],
) -> anyhow::Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = programs.iter().map(|program| program.to_path_buf());
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path)))?;
    let mut shell = Command::new("sh");
    shell
        .current_dir(project)
        .args(["-c", command])
        .env("PATH", path)
        .envs(environment.iter().copied());
    let output = shell.output()?;
    ensure!(
        output.status.success(),
        "{command}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Types in what follows the build, as a tenant.
async fn deploy_and_invoke(tenant: &Tenant, project: &Path, commands: &[String]) -> anyhow::Result<()> {
    let (url, key) = (
        tenant.manage.url(""),
        tenant.manage.key().context("a key")?.to_owned(),
    );
    let (project, commands) = (project.to_owned(), commands.to_vec());
    let said = tokio::task::spawn_blocking(move || {
        let wattle = guests::wattle()?;
        let programs = [wattle.parent().context("a folder")?];
        let environment = [("WATTLE_URL", url.as_str()), ("WATTLE_KEY", key.as_str())];
        let run = |command: &String| type_in(&project, command, &programs, &environment);
        commands.iter().map(run).collect::<anyhow::Result<Vec<_>>>()
    });
    let said = said.await??;
    let last = said.last().context("an answer")?;
    ensure!(last.contains("y FP32 [3]: 2.0 4.0 6.0"), "{last}");
    Ok(())
}

/// Starts a project, brings the tools by `tools` in place of its first command, builds it by its second, deploys
/// it and calls it.
async fn from_nothing_to_an_answer(
    language: &str,
    install: &str,
    tools: impl FnOnce(&Path) -> anyhow::Result<()>,
    programs: &[&Path],
    environment: &[(&str, &str)],
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (project, commands) = project(folder.path(), language)?;
    let [first, build, rest @ ..] = commands.as_slice() else {
        anyhow::bail!("{commands:?}");
    };
    ensure!(first.starts_with(install), "{first}");
    tools(&project)?;
    type_in(&project, build, programs, environment)?;

    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    deploy_and_invoke(&tenant, &project, rest).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_project_goes_the_whole_way() -> anyhow::Result<()> {
    let target = guests::workspace().join("target/guests");
    let tools = |project: &Path| Ok(std::os::unix::fs::symlink(target, project.join("target"))?);
    // Without the target, the compiler that built the other guests builds the target too.
    let (programs, environment): (&[&Path], &[_]) = if guests::rust_has_wasm() {
        (&[], &[])
    } else {
        (
            &[Path::new("/usr/bin")],
            &[
                ("RUSTC", "/usr/bin/rustc"),
                ("RUSTC_BOOTSTRAP", "1"),
                ("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort"),
                (
                    "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER",
                    "/usr/bin/wasm-ld-22",
                ),
            ],
        )
    };
    let install = "rustup target add wasm32-unknown-unknown";
    from_nothing_to_an_answer("rust", install, tools, programs, environment).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_project_goes_the_whole_way() -> anyhow::Result<()> {
    // The environment that the project would make, of what is fetched already.
    let tools = |project: &Path| {
        let folder = project.join(".venv/bin");
        std::fs::create_dir_all(&folder)?;
        let program = folder.join("componentize-py");
        let packages = guests::workspace().join(".tools/python");
        let script = format!(
            "#!/usr/bin/env python3\nimport sys\nsys.path.insert(0, {packages:?})\n\
             from componentize_py import script\nsys.exit(script())\n"
        );
        std::fs::write(&program, script)?;
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(())
    };
    let install = "python3 -m venv .venv && .venv/bin/pip install --require-hashes -r";
    from_nothing_to_an_answer("python", install, tools, &[], &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_javascript_project_goes_the_whole_way() -> anyhow::Result<()> {
    let modules = guests::workspace().join(".tools/npm/node_modules");
    let tools = |project: &Path| Ok(std::os::unix::fs::symlink(modules, project.join("node_modules"))?);
    from_nothing_to_an_answer("js", "npm ci", tools, &[], &[]).await
}

#[test]
fn nothing_is_overwritten() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("file"), "kept")?;
    std::fs::create_dir(folder.path().join("folder"))?;
    for (language, name, complaint) in [
        ("rust", "file", "file is there already"),
        ("js", "folder", "folder is there already"),
        ("python", "../up", "lower-case letters"),
        ("python", "Upper", "lower-case letters"),
        ("rust", "wattle-sdk", "that name is taken"),
        ("cobol", "fine", "possible values: rust, python, js"),
    ] {
        let output = new(folder.path(), &[language, name])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(complaint), "{name}: {said}");
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("file"))?, "kept");
    assert_eq!(folder.path().join("folder").read_dir()?.count(), 0);
    assert_eq!(folder.path().read_dir()?.count(), 2);
    Ok(())
}
