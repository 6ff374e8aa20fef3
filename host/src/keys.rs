//! Bearer keys: minting, hashing, and a cache that forgets within a second.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use db::{Actor, KeyEvent, TenantStatus};
use sha2::{Digest as _, Sha256};

use crate::app::App;
use crate::flow::Error;
use crate::fresh::Fresh;
use crate::http::Principal;

/// A key's secret: shown once, then only its hash is known.
pub struct Secret(String);

impl Secret {
    /// 256 random bits behind a prefix that scanners of leaked secrets can look for.
    pub fn mint() -> Result<Self, std::io::Error> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits).map_err(std::io::Error::from)?;
        Ok(Self(format!("wattle_{}", hex::encode(bits))))
    }

    /// The secret, for the one reply that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored. The secret has full entropy, so a plain digest is enough.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The key that makes the first admin key, in the data directory.
const BOOTSTRAP: &str = "bootstrap-admin-key";

/// The key that makes another one when every admin key is lost, in the data directory.
const RECOVERY: &str = "recovery-admin-key";

/// Keys that were seen valid.
pub struct Keys {
    seen: Fresh<[u8; 32], db::Key>,
    bootstrap_hash: [u8; 32],
    recovery: Mutex<Option<Recovery>>,
}

/// A recovery key that no admin key has been made with yet.
struct Recovery {
    hash: [u8; 32],
    path: PathBuf,
}

/// Writes a fresh recovery key (mode 0600, of the directory's owner) into a data directory, for its host to read
/// at the next start. Whoever can do both has the host in hand anyway.
pub fn write_recovery(data: &Path) -> Result<PathBuf, std::io::Error> {
    let path = data.join(RECOVERY);
    let secret = Secret::mint()?;
    crate::secret_file::write(&path, format!("{}\n", secret.reveal()).as_bytes())?;
    // Root may write it for a host that runs as somebody else.
    let owner = std::fs::metadata(data)?;
    std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))?;
    Ok(path)
}

impl Keys {
    /// Reads the bootstrap key of a data directory, or makes it (mode 0600), and the recovery key if there
    /// is one.
    pub fn open(data: &Path) -> Result<Self, std::io::Error> {
        let path = data.join(BOOTSTRAP);
        let secret = match std::fs::read_to_string(&path) {
            Ok(secret) => secret.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let secret = Secret::mint()?;
                crate::secret_file::write(&path, format!("{}\n", secret.reveal()).as_bytes())?;
                tracing::info!(path = %path.display(), "wrote the bootstrap admin key");
                secret.reveal().to_owned()
            }
            Err(error) => return Err(error),
        };
        let path = data.join(RECOVERY);
        let recovery = match std::fs::read_to_string(&path) {
            Ok(secret) => {
                tracing::warn!(path = %path.display(), "a recovery key may make an admin key");
                let hash = hash(secret.trim());
                Some(Recovery { hash, path })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            seen: Fresh::default(),
            bootstrap_hash: hash(&secret),
            recovery: Mutex::new(recovery),
        })
    }

    /// The holder of `secret`.
    pub async fn principal(&self, app: &App, secret: &str) -> Result<Principal, Error> {
        let hash = hash(secret);
        // Hashes are compared, so that timing tells nothing of the secret.
        if hash == self.bootstrap_hash {
            return bootstrap(app).await;
        }
        if self.recovery().as_ref().is_some_and(|key| key.hash == hash) {
            return Ok(first_admin(Actor::Recovery));
        }
        let lookup = async || {
            let key = app.db.key_lookup(hash).await?.ok_or(Error::Unauthorised)?;
            if let Some(tenant) = key.tenant {
                app.admission.share(tenant, key.concurrency_max);
            }
            Ok(key)
        };
        let key = self.seen.get(hash, lookup).await?;
        let now = app.clock.now();
        if key.revoked_at.is_some() || key.expires_at.is_some_and(|at| at <= now) {
            return Err(Error::Unauthorised);
        }
        if key.tenant_status == Some(TenantStatus::Closed) {
            return Err(Error::TenantClosed);
        }
        Ok(Principal {
            actor: Actor::Key {
                id: key.id,
                role: key.role,
            },
            tenant: key.tenant,
            expires_at: key.expires_at,
            suspended: key.tenant_status == Some(TenantStatus::Suspended),
        })
    }

    fn recovery(&self) -> MutexGuard<'_, Option<Recovery>> {
        self.recovery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the recovery key, as an admin key is about to be there; whether there was one.
    pub fn recovered(&self) -> Result<bool, std::io::Error> {
        let mut recovery = self.recovery();
        let Some(spent) = recovery.as_ref() else {
            return Ok(false);
        };
        std::fs::remove_file(&spent.path)?;
        *recovery = None;
        Ok(true)
    }

    /// Asks again for every key at its next use.
    pub fn ask_again(&self) {
        self.seen.ask_again();
    }
}

/// Who holds a secret that makes one admin key and nothing else.
fn first_admin(actor: Actor) -> Principal {
    Principal {
        actor,
        tenant: None,
        expires_at: None,
        suspended: false,
    }
}

/// The bootstrap key is spent by the first admin key, also when that one has ended: otherwise a secret that
/// lies in a file since the first start would come back to life with the last revocation.
async fn bootstrap(app: &App) -> Result<Principal, Error> {
    match app.db.admin_tx().await?.admin_key_exists().await? {
        true => Err(Error::BootstrapSpent),
        false => Ok(first_admin(Actor::Bootstrap)),
    }
}

fn heed(app: &App, event: KeyEvent) {
    app.keys.ask_again();
    if let KeyEvent::Tenant(tenant) = event {
        // It may be suspended or closed; if it is not, what it needs is loaded again.
        app.releases.forget_all(tenant);
    }
}

/// Asks again for what was seen valid as soon as Postgres says that a key or a tenant has changed, until the
/// task is aborted. Rows are asked again after a second anyhow, so nothing hangs on the news arriving.
pub async fn heed_revocations(app: Arc<App>) {
    let mut events = None;
    loop {
        let next = match &mut events {
            None => app
                .db
                .listen_keys()
                .await
                .map(|listening| events = Some(listening)),
            Some(events) => events.next().await.map(|event| heed(&app, event)),
        };
        if let Err(error) = next {
            tracing::debug!(%error, "no news of revocations");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_key_belongs_to_whom_the_directory_does() {
        use std::os::unix::fs::PermissionsExt as _;
        let data = tempfile::tempdir().unwrap();
        // Root may give it away; others may not, and then both are theirs.
        let _ = std::os::unix::fs::chown(data.path(), Some(65_534), Some(65_534));
        let (key, folder) = (
            write_recovery(data.path()).unwrap(),
            data.path().metadata().unwrap(),
        );
        let key = key.metadata().unwrap();
        assert_eq!((key.uid(), key.gid()), (folder.uid(), folder.gid()));
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }
}
