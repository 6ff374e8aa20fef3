//! `wattle ledger verify`: the whole ledger recomputed, its checkpoints against keys and anchors that one brings along.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use domain::PublicKey;
use domain::checkpoint::SignedCheckpoint;
use domain::signature::{Signature, Signer, Succession};
use futures::StreamExt as _;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;

use super::api::LedgerCheck;
use super::client::{Client, typed};
use super::output::{self, grouped, say};
use super::proof::public_keys;
use super::{ledger, spec};
use crate::anchors::Anchors;
use crate::config::AnchorsAt;

/// Recomputes everything, from receipt lines up to checkpoints; exits with 1 and names the first row that does not fit.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Only windows that ended then or later, such as 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    from: Option<OffsetDateTime>,
    /// Only windows that ended before.
    #[arg(long, value_name = "RFC3339", value_parser = spec::instant)]
    to: Option<OffsetDateTime>,
    /// Directory of anchors, or a copy of it, or their bucket as s3://BUCKET/PREFIX: each must be in the ledger as it
    /// is.
    #[arg(long, value_name = "DIR|URL")]
    anchors: Option<AnchorsAt>,
    /// Who may have signed, as in `wattle receipt verify --key`; without it the keys that the ledger itself lists.
    #[arg(long, value_name = "PUB")]
    signed_by: Option<String>,
}

/// A row that does not fit.
#[derive(Debug, Serialize, Deserialize)]
struct Fault {
    row: String,
    what: String,
    /// The stable code, where it is an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
}

impl Fault {
    fn new(row: String, what: String) -> Self {
        let code = None;
        Self { row, what, code }
    }
}

/// What came of a part of the ledger.
#[derive(Deserialize)]
struct Part {
    checked: u64,
    fault: Option<Fault>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    signed: SignedCheckpoint,
    hash: domain::Digest,
}

#[derive(Deserialize)]
struct Key {
    key: PublicKey,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    follows: Option<PublicKey>,
    endorsement: Option<Signature>,
}

impl From<Key> for Signer {
    fn from(listed: Key) -> Self {
        let succession = listed.follows.zip(listed.endorsement);
        Self {
            key: listed.key,
            since: listed.since,
            succession: succession.map(|(follows, endorsement)| Succession { follows, endorsement }),
        }
    }
}

/// What was looked at, and the first fault.
#[derive(Debug, Default, Serialize)]
struct Report {
    verified: bool,
    postings: u64,
    checkpoints: u64,
    /// Postings under checkpoints, in the whole ledger.
    covered: u64,
    anchors: u64,
    fault: Option<Fault>,
}

/// Does it.
pub async fn run(args: &VerifyArgs, client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    report.fault = look(args, client, &mut report).await?;
    report.verified = report.fault.is_none();
    match json {
        true => output::say_json(&json!(report))?,
        false => show(args, &report)?,
    }
    Ok(match report.verified {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Looks at everything in its order, until something does not fit.
async fn look(args: &VerifyArgs, client: &Client, report: &mut Report) -> anyhow::Result<Option<Fault>> {
    let fault = part(args, client, "postings", &mut report.postings).await?;
    if fault.is_some() {
        return Ok(fault);
    }
    let fault = part(args, client, "checkpoints", &mut report.checkpoints).await?;
    if fault.is_some() {
        return Ok(fault);
    }
    // Asked first: what is anchored by now is in the ledger when it is asked next.
    let anchors = args.anchors.as_ref().map(Anchors::open);
    let anchors = anchors.transpose().context("--anchors")?;
    let numbers = match &anchors {
        Some(anchors) => anchors.numbers().await.context("--anchors")?,
        None => BTreeSet::new(),
    };
    let listed = checkpoints(client).await?;
    report.covered = listed.iter().map(|of| of.signed.checkpoint.postings).sum();
    let signers = signers(args, client).await?;
    if let Some(fault) = chain(&listed, &signers) {
        return Ok(Some(fault));
    }
    if let Some(anchors) = &anchors
        && let Some(fault) = anchored(anchors, &numbers, &listed, &mut report.anchors).await
    {
        return Ok(Some(fault));
    }
    let fault = part(args, client, "rest", &mut 0).await?;
    if fault.is_some() || args.from.is_some() || args.to.is_some() {
        return Ok(fault);
    }
    let path = "/api/v1/ledger/check";
    let check: LedgerCheck = typed(path, client.get(path).await?)?;
    let what = ledger::faults(&check).into_iter().next();
    Ok(what.map(|what| Fault::new("the books".to_owned(), what)))
}

/// Has the host recompute a part of the ledger, piece by piece.
async fn part(
    args: &VerifyArgs,
    client: &Client,
    name: &str,
    checked: &mut u64,
) -> anyhow::Result<Option<Fault>> {
    let path = format!("/api/v1/ledger/verify/{name}");
    let mut cursor = None;
    loop {
        let mut query = vec![
            ("from", args.from.map(spec::rfc3339).transpose()?),
            ("to", args.to.map(spec::rfc3339).transpose()?),
        ];
        if name != "rest" {
            query.push(("limit", Some("100".to_owned())));
            query.push(("cursor", cursor));
        }
        let part: Part = typed(&path, client.ask(&path, &query).await?)?;
        *checked += part.checked;
        if part.fault.is_some() || part.next.is_none() {
            return Ok(part.fault);
        }
        cursor = part.next;
    }
}

async fn checkpoints(client: &Client) -> anyhow::Result<Vec<Listed>> {
    let path = "/api/v1/ledger/checkpoints";
    let items = client.list(path, None).await?;
    let typed = |item| typed(path, item).map_err(anyhow::Error::from);
    items.into_iter().map(typed).collect()
}

/// Who may have signed: the keys that were given, with what the ledger knows of them; without any, those it lists.
async fn signers(args: &VerifyArgs, client: &Client) -> anyhow::Result<Vec<Signer>> {
    let path = "/api/v1/ledger/keys";
    #[derive(Deserialize)]
    struct Keys {
        items: Vec<Key>,
    }
    let keys: Keys = typed(path, client.get(path).await?)?;
    let listed = keys.items.into_iter().map(Signer::from);
    let Some(given) = &args.signed_by else {
        return Ok(listed.collect());
    };
    let given = public_keys(given)?;
    let mut signers: Vec<_> = listed.filter(|signer| given.contains(&signer.key)).collect();
    for key in given {
        if signers.iter().all(|signer| signer.key != key) {
            signers.push(Signer {
                key,
                since: OffsetDateTime::UNIX_EPOCH,
                succession: None,
            });
        }
    }
    Ok(signers)
}

/// Each checkpoint follows the one before it and is signed by one of `signers`: recomputed here, whatever the host says.
fn chain(listed: &[Listed], signers: &[Signer]) -> Option<Fault> {
    let mut before = None;
    for Listed { signed, hash } in listed {
        let checkpoint = &signed.checkpoint;
        let begins = match before {
            None => signed.begins(),
            Some(_) => Ok(()),
        };
        let mut fault = begins
            .and_then(|()| signed.verify(before, signers))
            .err()
            .map(|fault| fault.to_string());
        if fault.is_none() && checkpoint.hash() != *hash {
            fault = Some(format!(
                "it is kept under {hash}, and its hash is {}",
                checkpoint.hash()
            ));
        }
        if let Some(what) = fault {
            let row = format!("checkpoint {}", checkpoint.number);
            return Some(Fault::new(row, what));
        }
        before = Some(checkpoint);
    }
    None
}

/// Anchors that are read at once: a bucket takes its time for each.
const AT_ONCE: usize = 16;

/// Every anchor is in the ledger as it is.
async fn anchored(
    anchors: &Anchors,
    numbers: &BTreeSet<u64>,
    listed: &[Listed],
    checked: &mut u64,
) -> Option<Fault> {
    let reads = stream::iter(numbers).map(|&number| async move { (number, anchors.read(number).await) });
    let mut reads = std::pin::pin!(reads.buffered(AT_ONCE));
    while let Some((number, read)) = reads.next().await {
        let what = match read {
            Err(error) => Some(error.to_string()),
            Ok(anchored) => {
                let mut found = listed.iter().map(|listed| &listed.signed);
                match found.find(|signed| signed.checkpoint.number == number) {
                    Some(signed) if *signed == anchored => None,
                    Some(_) => Some(format!(
                        "it is another one than {} holds: the ledger was rewritten or rolled back",
                        anchors.name(number)
                    )),
                    None => Some(format!(
                        "it is missing, and {} holds it: the ledger was rolled back",
                        anchors.name(number)
                    )),
                }
            }
        };
        if let Some(what) = what {
            let row = format!("checkpoint {number}");
            return Some(Fault::new(row, what));
        }
        *checked += 1;
    }
    None
}

fn show(args: &VerifyArgs, report: &Report) -> anyhow::Result<()> {
    if let Some(fault) = &report.fault {
        return Ok(say(format_args!("{} does NOT fit: {}.", fault.row, fault.what))?);
    }
    let mut facts = vec![
        ("postings", grouped(report.postings)),
        ("checkpoints", grouped(report.checkpoints)),
    ];
    if args.from.is_none() && args.to.is_none() {
        let uncovered = report.postings.saturating_sub(report.covered);
        facts.push(("not covered yet", grouped(uncovered)));
    }
    if args.anchors.is_some() {
        facts.push(("anchors", grouped(report.anchors)));
    }
    output::facts(&facts)?;
    if args.signed_by.is_none() {
        say("The keys are those that the ledger itself lists: give your own copy with --signed-by.")?;
    }
    Ok(say("Everything fits.")?)
}

#[cfg(test)]
mod tests {
    use domain::SigningKey;
    use domain::checkpoint::Record;

    use super::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&[n; 32]).unwrap()
    }

    fn signer(n: u8) -> Signer {
        Signer {
            key: key(n).public(),
            since: OffsetDateTime::UNIX_EPOCH,
            succession: None,
        }
    }

    fn three(by: u8) -> Vec<Listed> {
        let mut before = None;
        let mut listed = Vec::new();
        for hour in 0..3 {
            let at = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(hour);
            let record = Record::make(before.as_ref(), &[], at, &key(by));
            listed.push(Listed {
                signed: record.signed.clone(),
                hash: record.signed.checkpoint.hash(),
            });
            before = Some(record);
        }
        listed
    }

    fn row(fault: Option<Fault>) -> Option<String> {
        fault.map(|fault| fault.row)
    }

    #[test]
    fn a_chain_is_believed_by_its_own_signatures_alone() {
        assert!(chain(&three(1), &[signer(1)]).is_none());
        assert_eq!(row(chain(&three(1), &[signer(2)])).unwrap(), "checkpoint 1");
        let mut listed = three(1);
        listed.remove(1);
        assert_eq!(row(chain(&listed, &[signer(1)])).unwrap(), "checkpoint 3");
        let mut listed = three(1);
        listed.remove(0);
        assert_eq!(row(chain(&listed, &[signer(1)])).unwrap(), "checkpoint 2");
        let mut listed = three(1);
        listed[2].hash = domain::Digest::ZERO;
        assert_eq!(row(chain(&listed, &[signer(1)])).unwrap(), "checkpoint 3");
        // A break between two hands of the same number.
        let mut listed = three(1);
        listed[1] = three(2).remove(1);
        let both = [signer(1), signer(2)];
        assert_eq!(row(chain(&listed, &both)).unwrap(), "checkpoint 2");
    }

    #[tokio::test]
    async fn what_is_anchored_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let anchors = Anchors::directory(folder.path());
        for listed in three(1) {
            anchors.write(&listed.signed).await.unwrap();
        }
        let found = async |listed: &[Listed]| {
            let mut checked = 0;
            let numbers = anchors.numbers().await.unwrap();
            let fault = anchored(&anchors, &numbers, listed, &mut checked).await;
            (row(fault), checked)
        };
        assert_eq!(found(&three(1)).await, (None, 3));
        assert_eq!(found(&three(1)[..2]).await, (Some("checkpoint 3".to_owned()), 2));
        assert_eq!(found(&three(2)).await, (Some("checkpoint 1".to_owned()), 0));
    }
}
