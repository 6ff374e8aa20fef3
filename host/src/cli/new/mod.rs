//! `wattle new`: a folder with a pipeline that builds and deploys as it is.
//!
//! The SDKs are in no registry, so the project gets the one it needs, and the contract, as they were when this
//! binary was built.

use std::io;
use std::path::Path;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::error::usage;
use super::output;

/// Starts a pipeline in a new folder.
#[derive(Args, Debug)]
pub struct NewArgs {
    /// What to write it in.
    language: Language,
    /// The name of the folder, and of the component that it becomes.
    name: ProjectName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Language {
    Rust,
    Python,
    Js,
}

/// A name that folders, components and all three package managers take.
#[derive(Clone, Debug)]
struct ProjectName(String);

impl FromStr for ProjectName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letter = |byte: u8| byte.is_ascii_lowercase();
        let fits = |byte: u8| letter(byte) || byte.is_ascii_digit() || byte == b'-';
        if !text.bytes().next().is_some_and(letter) || !text.bytes().all(fits) || text.len() > 63 {
            return Err("a name has up to 63 lower-case letters, digits and hyphens, a letter first");
        }
        if matches!(text, "wattle-sdk" | "node-modules") {
            return Err("that name is taken by what a project brings with it");
        }
        Ok(Self(text.to_owned()))
    }
}

/// A file of a project: its path, and its text with `{{name}}` where the project's name goes.
type File = (&'static str, &'static str);

/// Files of the SDKs, under the paths that they have there.
macro_rules! sdk {
    ($($path:literal),* $(,)?) => {
        &[$((concat!("wattle-sdk/", $path), include_str!(concat!("../../../../sdk/", $path)))),*]
    };
}

const CONTRACT: &[File] = sdk!["wit/pipeline.wit", "wit/deps/wasi-nn/wasi-nn.wit"];

const RUST_SDK: &[File] = sdk![
    "Cargo.toml",
    "README.md",
    "src/config.rs",
    "src/failure.rs",
    "src/graph.rs",
    "src/lib.rs",
    "src/log.rs",
    "src/parameter.rs",
    "src/request.rs",
    "src/tensor.rs",
];

const PYTHON_SDK: &[File] = sdk![
    "python/README.md",
    "python/requirements.txt",
    "python/wattle_sdk/__init__.py",
    "python/wattle_sdk/config.py",
    "python/wattle_sdk/failures.py",
    "python/wattle_sdk/graphs.py",
    "python/wattle_sdk/log.py",
    "python/wattle_sdk/parameters.py",
    "python/wattle_sdk/pipelines.py",
    "python/wattle_sdk/py.typed",
    "python/wattle_sdk/tensors.py",
];

const JS_SDK: &[File] = sdk![
    "js/README.md",
    "js/config.js",
    "js/failure.js",
    "js/graph.js",
    "js/index.d.ts",
    "js/index.js",
    "js/log.js",
    "js/package-lock.json",
    "js/package.json",
    "js/parameters.js",
    "js/pipeline.js",
    "js/tensor.js",
];

const RUST: &[File] = &[
    ("Cargo.toml", include_str!("rust/Cargo.toml.template")),
    ("Cargo.lock", include_str!("rust/Cargo.lock")),
    ("src/lib.rs", include_str!("rust/lib.rs")),
    (".cargo/config.toml", include_str!("rust/config.toml")),
    (".gitignore", "/target/\n"),
];

const PYTHON: &[File] = &[
    ("app.py", include_str!("python/app.py")),
    (".gitignore", "/.venv/\n/*.wasm\n__pycache__/\n"),
];

const JS: &[File] = &[
    ("app.js", include_str!("js/app.js")),
    ("package.json", include_str!("js/package.json")),
    (
        "package-lock.json",
        include_str!("../../../../sdk/js/package-lock.json"),
    ),
    (".gitignore", "/node_modules/\n/*.wasm\n"),
];

impl Language {
    /// All files of a project, and its SDK.
    fn files(self) -> impl Iterator<Item = &'static File> {
        let (template, sdk) = match self {
            Self::Rust => (RUST, RUST_SDK),
            Self::Python => (PYTHON, PYTHON_SDK),
            Self::Js => (JS, JS_SDK),
        };
        template.iter().chain(sdk).chain(CONTRACT)
    }

    /// What brings the tools, what builds, and what comes of it.
    fn build(self) -> [&'static str; 3] {
        match self {
            Self::Rust => [
                "rustup target add wasm32-unknown-unknown",
                "cargo build --release --target wasm32-unknown-unknown",
                "target/wasm32-unknown-unknown/release/pipeline.wasm",
            ],
            Self::Python => [
                "python3 -m venv .venv && \
                 .venv/bin/pip install --require-hashes -r wattle-sdk/python/requirements.txt",
                ".venv/bin/componentize-py --wit-path wattle-sdk/wit --world pipeline componentize app \
                 --python-path . --python-path wattle-sdk/python --output {{name}}.wasm",
                "{{name}}.wasm",
            ],
            Self::Js => ["npm ci --ignore-scripts", "npm run build", "{{name}}.wasm"],
        }
    }

    /// Where the SDK speaks for itself.
    fn readme(self) -> &'static str {
        match self {
            Self::Rust => "wattle-sdk/README.md",
            Self::Python => "wattle-sdk/python/README.md",
            Self::Js => "wattle-sdk/js/README.md",
        }
    }
}

/// Does it, in the working directory. Whatever is there stays as it is.
pub fn run(args: &NewArgs, json: bool) -> anyhow::Result<()> {
    let NewArgs { language, name } = args;
    let folder = Path::new(&name.0);
    let commands = commands(*language, name);
    std::fs::create_dir(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => usage(format!("{} is there already; choose another name", name.0)),
        _ => anyhow::Error::new(error).context(format!("cannot make the folder {}", name.0)),
    })?;
    for (path, text) in language.files() {
        write(&folder.join(path), &text.replace("{{name}}", &name.0))?;
    }
    let readme = format!(
        "# {}\n\nA pipeline for Wattle. From this folder, with a host running and a key in `WATTLE_KEY`:\n\n\
         ```sh\n{}\n```\n\n[{}]({2}) says what there is to build with.\n",
        name.0,
        commands.join("\n"),
        language.readme()
    );
    write(&folder.join("README.md"), &readme)?;
    if json {
        return output::say_json(&json!({ "folder": name.0, "commands": commands }));
    }
    output::say(format_args!("made {}; go on with\n\n  cd {0}", name.0))?;
    for command in commands {
        output::say(format_args!("  {command}"))?;
    }
    Ok(output::say(format_args!(
        "\n{}/{} says more",
        name.0,
        language.readme()
    ))?)
}

/// What to type, in the project's folder.
fn commands(language: Language, name: &ProjectName) -> Vec<String> {
    let [install, build, component] = language.build();
    let commands = [
        install.to_owned(),
        build.to_owned(),
        format!("wattle component push {{{{name}}}} {component}"),
        "wattle deploy {{name}} --component {{name}}".to_owned(),
        "wattle invoke {{name}} --input 'x=[1,2,3]'".to_owned(),
    ];
    commands
        .map(|command| command.replace("{{name}}", &name.0))
        .to_vec()
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let written = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(path, text));
    written.map_err(|error| anyhow::Error::new(error).context(format!("cannot write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn names_suit_every_package_manager() {
        for good in ["a", "rank-2", &"a".repeat(63)] {
            assert!(good.parse::<ProjectName>().is_ok(), "{good:?}");
        }
        let bad = [
            "",
            "-a",
            "2a",
            "A",
            "a_b",
            "a.b",
            "a b",
            "a/b",
            "../a",
            "ä",
            "wattle-sdk",
            &"a".repeat(64),
        ];
        for bad in bad {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_project_gets_the_whole_sdk() {
        let mut files = BTreeSet::new();
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk"), &mut files);
        let embedded = [CONTRACT, RUST_SDK, PYTHON_SDK, JS_SDK].concat();
        let embedded: BTreeSet<_> = embedded
            .iter()
            .map(|(path, _)| PathBuf::from(path.trim_start_matches("wattle-")))
            .collect();
        assert_eq!(files, embedded);
    }

    /// The files below the SDKs' folder, from its name on.
    fn walk(folder: &Path, files: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let generated = path.ends_with("__pycache__") || path.ends_with("node_modules");
            if path.is_dir() && !generated {
                walk(&path, files);
            } else if path.is_file() {
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
                files.insert(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
}
