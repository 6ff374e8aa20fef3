//! The body of a call, as `invoke` and `bench` take it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, typed};
use super::error::usage;
use super::input::{Input, TensorMeta};

/// What is sent to a deployment.
#[derive(Args, Debug)]
pub struct BodyArgs {
    /// An input: `x=[1,2,3]`, `x:FP32[1,3]=[1,2,3]`, or `file=@PATH` (BYTES or UINT8). Type and shape
    /// that are left out come from the deployment.
    #[arg(long = "input", value_name = "NAME[:DTYPE][[SHAPE]]=JSON|@FILE")]
    inputs: Vec<Input>,
    /// A whole V2 request instead, from a file or from standard input (-).
    #[arg(long, value_name = "FILE", conflicts_with = "inputs")]
    json_body: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Metadata {
    inputs: Vec<TensorMeta>,
}

impl BodyArgs {
    /// The body itself. `deployment` is the path of the deployment's metadata.
    pub async fn read(&self, client: &Client, deployment: &str) -> anyhow::Result<Vec<u8>> {
        if let Some(path) = &self.json_body {
            return read_body(path);
        }
        let metadata: Metadata = typed(deployment, client.get(deployment).await?)?;
        let tensors: Result<Vec<_>, _> = self
            .inputs
            .iter()
            .map(|input| input.to_v2(&metadata.inputs, read_file))
            .collect();
        let body = json!({ "inputs": tensors.map_err(usage)? });
        Ok(body.to_string().into_bytes())
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn read_body(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path != Path::new("-") {
        return read_file(path).map_err(usage);
    }
    let mut body = Vec::new();
    std::io::stdin().lock().read_to_end(&mut body)?;
    Ok(body)
}
