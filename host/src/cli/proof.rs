//! `wattle receipt proof` and `verify`: the second needs no host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use domain::checkpoint::Checkpoint;
use domain::proof::{Proven, ReceiptProof};
use domain::{InvocationId, PublicKey};
use serde_json::{Value, json};

use super::client::Client;
use super::error::usage;
use super::output::{self, energy, grouped, say};
use crate::config::Secret;

/// The proof of which receipt, and where to.
#[derive(Args, Debug)]
pub struct ProofArgs {
    /// The receipt's id.
    id: InvocationId,
    /// Where to write it [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Which proof.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The proof, as `wattle receipt proof` wrote it.
    file: PathBuf,
}

/// Brings a proof from the host.
pub async fn bring(args: &ProofArgs, client: &Client) -> anyhow::Result<()> {
    let proof = client.get(&format!("/api/v1/receipts/{}/proof", args.id)).await?;
    let Some(path) = &args.out else {
        return output::say_json(&proof);
    };
    let text = serde_json::to_string_pretty(&proof)?;
    std::fs::write(path, format!("{text}\n"))
        .map_err(|cause| usage(format!("{}: {cause}", path.display())))?;
    eprintln!(
        "wrote {}; next: wattle receipt verify {} --key PUB",
        path.display(),
        path.display()
    );
    Ok(())
}

/// Verifies a proof against the keys that stand behind `--key`.
pub fn verify(args: &VerifyArgs, key: Option<&Secret>, json: bool) -> anyhow::Result<ExitCode> {
    let Some(key) = key else {
        return Err(usage(format!("--key is missing: {KEYS}")));
    };
    let keys = public_keys(key.reveal())?;
    let content =
        std::fs::read(&args.file).map_err(|cause| usage(format!("{}: {cause}", args.file.display())))?;
    let verified = serde_json::from_slice(&content)
        .map_err(|cause| format!("it is no proof: {cause}"))
        .and_then(|proof: ReceiptProof| {
            let proven = proof.verify(&keys).map_err(|fault| fault.to_string())?;
            Ok((proof, proven))
        });
    match verified {
        Ok((proof, proven)) => {
            match json {
                true => output::say_json(&told(&proof, &proven))?,
                false => show(&proof, &proven)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(fault) => {
            match json {
                true => output::say_json(&json!({ "proven": false, "fault": fault }))?,
                false => say(format_args!("NOT proven: {fault}."))?,
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

const KEYS: &str = "give the signer's public key, ed25519:<64 hex digits>, several with commas between, or a file \
    that names them, such as what `wattle ledger keys` wrote";

/// The public keys that `text` is: keys with commas between, or the name of a file with keys in it. The text is never
/// shown: it may be a bearer key from the environment.
pub fn public_keys(text: &str) -> anyhow::Result<Vec<PublicKey>> {
    let written = match text.starts_with(PREFIX) {
        true => text.to_owned(),
        false => std::fs::read_to_string(Path::new(text)).map_err(|_| usage(format!("--key: {KEYS}")))?,
    };
    let words = written.split(|c: char| c.is_whitespace() || matches!(c, ',' | '"'));
    let keys: Result<Vec<PublicKey>, _> = words
        .filter(|word| word.starts_with(PREFIX))
        .map(str::parse)
        .collect();
    match keys {
        Ok(keys) if !keys.is_empty() => Ok(keys),
        _ => Err(usage(format!("--key: {KEYS}"))),
    }
}

const PREFIX: &str = "ed25519:";

fn told(proof: &ReceiptProof, proven: &Proven) -> Value {
    let checkpoints = proof.checkpoints.iter().map(|signed| &signed.checkpoint);
    let checkpoints: Vec<_> = checkpoints
        .map(|of| json!({ "number": of.number, "signer": of.signer }))
        .collect();
    json!({
        "proven": true, "receipt": proof.receipt, "tenant": proof.tenant, "outcome": proven.outcome,
        "lines": proof.lines.len(), "energy_uj": proven.energy_uj, "fuel": proven.usage.fuel,
        "checkpoints": checkpoints,
    })
}

fn show(proof: &ReceiptProof, proven: &Proven) -> anyhow::Result<()> {
    let mut what = proof.kind.as_str().to_owned();
    if let (Some(deployment), Some(release)) = (&proof.deployment, proof.release) {
        what = format!("{what} of {deployment}, release {release}");
    }
    let joules = proven
        .energy_uj
        .map_or_else(|| "not known: no reading covers it".to_owned(), energy);
    let mut facts = vec![
        ("receipt", proof.receipt.to_string()),
        ("tenant", proof.tenant.to_string()),
        ("what", what),
        ("outcome", proven.outcome.to_string()),
        ("lines", proof.lines.len().to_string()),
        ("energy", joules),
        ("fuel", grouped(proven.usage.fuel)),
    ];
    for signed in &proof.checkpoints {
        let Checkpoint {
            number, at, signer, ..
        } = &signed.checkpoint;
        facts.push(("signed", format!("checkpoint {number} at {at} by {signer}")));
    }
    output::facts(&facts)?;
    Ok(say(
        "Proven: no line is missing, each is in the posting and each posting in the checkpoint that were signed.",
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_given_as_they_are_or_in_a_file() {
        let (a, b) = (PublicKey([1; 32]), PublicKey([2; 32]));
        assert_eq!(public_keys(&a.to_string()).unwrap(), [a]);
        assert_eq!(public_keys(&format!("{a},{b}")).unwrap(), [a, b]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let name = file.display().to_string();
        std::fs::write(&file, format!("key   since\n────\n{a}  2027-01-01\n\"{b}\",\n")).unwrap();
        assert_eq!(public_keys(&name).unwrap(), [a, b]);
        for (content, key) in [
            ("", name.as_str()),
            ("ed25519:00", &name),
            ("", "wattle_0123"),
            ("", "ed25519:zz"),
        ] {
            std::fs::write(&file, content).unwrap();
            let error = public_keys(key).unwrap_err().to_string();
            assert!(!error.contains(key), "{error}");
        }
    }
}
