//! Bearer keys: minting, hashing, and a cache that forgets within a second.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use db::TenantStatus;
use domain::{KeyId, Role};
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

/// Keys that were seen valid.
pub struct Keys {
    seen: Fresh<[u8; 32], db::Key>,
    bootstrap_hash: [u8; 32],
}

impl Keys {
    /// Reads the bootstrap key of a data directory, or makes it (mode 0600).
    pub fn open(data: &Path) -> Result<Self, std::io::Error> {
        let path = data.join("bootstrap-admin-key");
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
        Ok(Self {
            seen: Fresh::default(),
            bootstrap_hash: hash(&secret),
        })
    }

    /// The holder of `secret`.
    pub async fn principal(&self, app: &App, secret: &str) -> Result<Principal, Error> {
        let hash = hash(secret);
        // Hashes are compared, so that timing tells nothing of the secret.
        if hash == self.bootstrap_hash {
            return self.bootstrap(app).await;
        }
        let lookup = async || app.db.key_lookup(hash).await?.ok_or(Error::Unauthorised);
        let key = self.seen.get(hash, lookup).await?;
        let now = app.clock.now();
        if key.revoked_at.is_some() || key.expires_at.is_some_and(|at| at <= now) {
            return Err(Error::Unauthorised);
        }
        match key.tenant_status {
            Some(status) if status != TenantStatus::Active => {
                Err(Error::TenantInactive(status.as_str().to_owned()))
            }
            _ => Ok(Principal {
                key: key.id,
                role: key.role,
                tenant: key.tenant,
            }),
        }
    }

    async fn bootstrap(&self, app: &App) -> Result<Principal, Error> {
        let mut tx = app.db.admin_tx().await?;
        if tx.admin_keys_count(None, app.clock.now()).await? > 0 {
            return Err(Error::BootstrapSpent);
        }
        Ok(Principal {
            key: KeyId(uuid::Uuid::nil()),
            role: Role::Admin,
            tenant: None,
        })
    }

    /// Asks again for every key at its next use.
    pub fn ask_again(&self) {
        self.seen.ask_again();
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
            Some(events) => events.next().await.map(|_event| app.keys.ask_again()),
        };
        if let Err(error) = next {
            tracing::debug!(%error, "no news of revocations");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
