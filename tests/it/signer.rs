//! The signing key over starts, and over a replacement that was cut off.

use std::os::unix::fs::PermissionsExt as _;

use db::{Db, SignerRow};
use domain::PublicKey;
use domain::signature;
use time::OffsetDateTime;
use wattle::signer::Signer;

use crate::tamper::{Ledger, NODE};

async fn listed(db: &Db) -> anyhow::Result<Vec<SignerRow>> {
    Ok(db.billing_tx().await?.signers().await?)
}

async fn lists(db: &Db, key: PublicKey) -> anyhow::Result<bool> {
    Ok(listed(db).await?.iter().any(|row| row.signer.key == key))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_key_stays_until_another_is_listed() -> anyhow::Result<()> {
    let ledger = Ledger::new().await?;
    let (db, now, folder) = (&ledger.db, OffsetDateTime::now_utc(), tempfile::tempdir()?);
    let file = folder.path().join("ledger-signing");
    let open = async || Signer::open(folder.path(), db, NODE, now).await;
    let first = open().await?;
    let first_key = first.key().public();
    assert!(lists(db, first_key).await?);
    assert_eq!(file.metadata()?.permissions().mode() & 0o777, 0o600);
    let count = listed(db).await?.len();
    assert_eq!(open().await?.key().public(), first_key, "the same over a start");
    assert_eq!(listed(db).await?.len(), count, "and listed once");

    // Cut off before the ledger knew of it: it never began.
    let lost = first.prepare()?.public();
    let again = open().await?;
    assert_eq!(again.key().public(), first_key);
    assert!(!lists(db, lost).await? && !file.with_extension("next").exists());

    // Cut off afterwards: it is completed.
    let old_seed = std::fs::read(&file)?;
    let next = again.prepare()?.public();
    let row = signature::Signer {
        key: next,
        since: wattle::signer::whole_us(now),
        succession: Some(again.key().hand_over(next, wattle::signer::whole_us(now))),
    };
    let mut tx = db.admin_tx().await?;
    tx.signer_insert(NODE, &row).await?;
    tx.commit().await?;
    assert_eq!(open().await?.key().public(), next);
    assert_eq!(open().await?.key().public(), next);
    assert_ne!(std::fs::read(&file)?, old_seed);

    // A key that was replaced signs no more, also where an older copy of the directory was put back.
    std::fs::write(&file, &old_seed)?;
    let fresh = open().await?.key().public();
    assert!(fresh != first_key && fresh != next && lists(db, fresh).await?);

    // What is no key keeps the host from starting, and is not shown.
    std::fs::write(file.with_extension("next"), "short")?;
    let refused = open().await.err().expect("no key").to_string();
    assert!(
        refused.contains("32 bytes") && !refused.contains("short"),
        "{refused}"
    );
    ledger.finish().await
}
