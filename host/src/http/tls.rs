//! TLS for the listeners: a certificate and its key, replaced while connections live.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What a listener serves TLS with: always the last pair that was good.
#[derive(Clone)]
pub struct Tls {
    config: watch::Receiver<Arc<ServerConfig>>,
}

/// Replaces the certificate of a [`Tls`] when its files change.
pub struct Reloader {
    files: Files,
    /// The state of the files that was tried last, good or not.
    tried: Stamp,
    config: watch::Sender<Arc<ServerConfig>>,
}

/// A certificate that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is not there or is no PEM of the right kind.
    #[error("{path}: {cause}: name a PEM file with a {what}")]
    File {
        /// Which.
        path: String,
        /// Why.
        cause: pem::Error,
        /// What should be in it.
        what: &'static str,
    },
    /// A pair that does not belong together, or a key of an unknown kind.
    #[error("the certificate {cert} cannot be served with the key {key}: {cause}")]
    Pair {
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
        /// Why.
        cause: rustls::Error,
    },
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
}

/// What tells one state of both files from another.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

impl Tls {
    /// Reads a certificate chain and its key, and fails if they cannot be served.
    pub fn open(cert: PathBuf, key: PathBuf) -> Result<(Self, Reloader), TlsError> {
        let files = Files { cert, key };
        let tried = files.stamp();
        let (send, receive) = watch::channel(files.load()?);
        let reloader = Reloader {
            files,
            tried,
            config: send,
        };
        Ok((Self { config: receive }, reloader))
    }

    /// What greets the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.config.borrow().clone().into()
    }
}

impl Reloader {
    /// Looks at the files for ever, and at once when `asked`. A bad new pair is logged; the old one stays.
    pub async fn run(mut self, asked: &Notify) {
        let mut seen = self.tried;
        loop {
            let asked = tokio::select! {
                () = asked.notified() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let now = self.files.stamp();
            // The two files are written one after the other: a change counts once it has lasted for a look.
            let settled = now == seen;
            seen = now;
            if asked || (settled && now != self.tried) {
                match self.reload() {
                    Ok(()) => {
                        tracing::info!(cert = %self.files.cert.display(), "the certificate was read again")
                    }
                    Err(error) => tracing::error!(%error, "the old certificate goes on being served"),
                }
            }
        }
    }

    /// Reads the files and serves what is in them to those who connect from now on, or fails and changes nothing.
    pub fn reload(&mut self) -> Result<(), TlsError> {
        self.tried = self.files.stamp();
        self.config.send_replace(self.files.load()?);
        Ok(())
    }
}

impl Files {
    fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = chain(&self.cert).map_err(|cause| failed(&self.cert, cause, "certificate"))?;
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|cause| failed(&self.key, cause, "private key"))?;
        if std::fs::metadata(&self.key).is_ok_and(|about| about.mode() & 0o007 != 0) {
            tracing::warn!(key = %self.key.display(), "everyone on this machine may use the TLS key: chmod o= it");
        }
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        let mut config = config.map_err(|cause| TlsError::Pair {
            cert: shown(&self.cert),
            key: shown(&self.key),
            cause,
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn stamp(&self) -> Stamp {
        [&self.cert, &self.key].map(|path| {
            let about = std::fs::metadata(path).ok()?;
            Some((about.ino(), about.size(), about.ctime(), about.ctime_nsec()))
        })
    }
}

/// The certificate first, then those that vouch for it.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
    match chain.is_empty() {
        true => Err(pem::Error::NoItemsFound),
        false => Ok(chain),
    }
}

fn failed(path: &Path, cause: pem::Error, what: &'static str) -> TlsError {
    let path = shown(path);
    TlsError::File { path, cause, what }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
