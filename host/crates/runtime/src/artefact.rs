//! Compiled code on disk. It is native code, so nothing is loaded that this node did not write: each file
//! begins with a MAC over the engine's settings, the component's digest and the code.

use std::collections::HashSet;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use domain::Digest;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

const MAC_BYTES: usize = 32;

/// The folder of compiled code.
pub(crate) struct Artefacts {
    folder: PathBuf,
    key: [u8; 32],
    compatibility: [u8; 32],
}

/// Code whose MAC was checked, held in memory: what was checked is what gets loaded, whatever happens to
/// the file meanwhile.
pub(crate) struct Verified(Vec<u8>);

impl Artefacts {
    pub(crate) fn open(folder: PathBuf, key: [u8; 32], engine: &Engine) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            folder,
            key,
            compatibility: hasher.0.finalize().into(),
        })
    }

    /// The code for `digest`, or `None` if there is none or its MAC does not fit: then compile again.
    pub(crate) fn read(&self, digest: Digest) -> io::Result<Option<Verified>> {
        let bytes = match fs::read(self.path(digest)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some((tag, code)) = bytes.split_at_checked(MAC_BYTES) else {
            return Ok(None);
        };
        if self.mac(digest, code)?.verify_slice(tag).is_err() {
            tracing::warn!(%digest, "compiled code does not carry this node's MAC: it is not used");
            return Ok(None);
        }
        Ok(Some(Verified(bytes)))
    }

    /// Stores the code for `digest`; readers see the old file or the new one, whole.
    pub(crate) fn write(&self, digest: Digest, code: &[u8]) -> io::Result<()> {
        let tag = self.mac(digest, code)?.finalize().into_bytes();
        // Compiles take turns, so nobody else writes this name.
        let draft = self.folder.join(format!("{}.draft", digest.hex()));
        let mut file = fs::File::create(&draft)?;
        file.write_all(&tag)?;
        file.write_all(code)?;
        file.sync_all()?;
        fs::rename(&draft, self.path(digest))
    }

    /// Removes what was written before `before` and is no code of `keep`: code, and drafts that a crash left.
    /// How many files.
    pub(crate) fn sweep(&self, keep: &HashSet<Digest>, before: SystemTime) -> io::Result<u64> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let hex = name.to_str().and_then(|name| name.strip_suffix(".code"));
            let digest = hex.and_then(|hex| format!("sha256:{hex}").parse().ok());
            let is_old = entry.metadata()?.modified()? < before;
            if is_old && !digest.is_some_and(|digest| keep.contains(&digest)) {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{}.code", digest.hex()))
    }

    fn mac(&self, digest: Digest, code: &[u8]) -> io::Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).map_err(io::Error::other)?;
        mac.update(&self.compatibility);
        mac.update(&digest.0);
        mac.update(code);
        Ok(mac)
    }
}

impl Verified {
    /// How much code it is, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    /// Makes the code runnable.
    pub(crate) fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        trusted(engine, self.0.get(MAC_BYTES..).unwrap_or_default())
    }
}

#[expect(unsafe_code, reason = "native code is loaded here and nowhere else")]
pub(crate) fn trusted(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are unchanged output of `Component::serialize` of this wasmtime. `Verified` says
    // so by a MAC under a key that only this node holds, taken over these very bytes in memory, and over
    // the compatibility hash of the engine that loads them. The other caller is a test.
    unsafe { Component::deserialize(engine, code) }
}

/// SHA-256 as a `Hasher`: wasmtime gives its compatibility hash only in this form.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn code_is_read_back_only_untouched_and_under_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let engine = crate::engine::compiling_engine().unwrap();
        let open = |key| Artefacts::open(folder.path().to_owned(), key, &engine).unwrap();
        let artefacts = open([7; 32]);
        let (digest, other) = (Digest::of(b"a"), Digest::of(b"b"));
        assert!(artefacts.read(digest).unwrap().is_none());
        artefacts.write(digest, b"code").unwrap();
        assert_eq!(&artefacts.read(digest).unwrap().unwrap().0[MAC_BYTES..], b"code");

        fs::copy(artefacts.path(digest), artefacts.path(other)).unwrap();
        assert!(
            artefacts.read(other).unwrap().is_none(),
            "the code of another component"
        );
        assert!(
            open([8; 32]).read(digest).unwrap().is_none(),
            "another node's key"
        );
        let engine_with_other_settings = Engine::new(&wasmtime::Config::new()).unwrap();
        let elsewhere = Artefacts::open(folder.path().to_owned(), [7; 32], &engine_with_other_settings);
        assert!(
            elsewhere.unwrap().read(digest).unwrap().is_none(),
            "another engine's code"
        );

        let files = || fs::read_dir(folder.path()).unwrap().count();
        fs::write(folder.path().join("crash.draft"), b"half").unwrap();
        let (keep, written) = (
            HashSet::from([digest]),
            artefacts.path(digest).metadata().unwrap(),
        );
        let written = written.modified().unwrap();
        assert_eq!(
            artefacts
                .sweep(&HashSet::new(), written - Duration::from_secs(1))
                .unwrap(),
            0
        );
        assert_eq!(
            (
                artefacts.sweep(&keep, written + Duration::from_secs(60)).unwrap(),
                files()
            ),
            (2, 1)
        );

        let whole = fs::read(artefacts.path(digest)).unwrap();
        for index in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[index] ^= 1;
            fs::write(artefacts.path(digest), &bytes).unwrap();
            assert!(artefacts.read(digest).unwrap().is_none(), "byte {index}");
            fs::write(artefacts.path(digest), &whole[..index]).unwrap();
            assert!(artefacts.read(digest).unwrap().is_none(), "cut at {index}");
        }
    }
}
