//! A disk that is small enough to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// A file system in memory, unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many bytes on a folder; none where this process may not, unless `WATTLE_REQUIRE_MOUNT` is set.
    pub fn mount(folder: &Path, bytes: u64) -> anyhow::Result<Option<Self>> {
        let options = format!("size={bytes},mode=0700");
        let mounted = mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], folder);
        match mounted {
            Ok(()) => Ok(Some(Self(folder.to_owned()))),
            Err(error) if std::env::var_os("WATTLE_REQUIRE_MOUNT").is_some() => Err(error),
            Err(error) => {
                eprintln!("not tested: {error:#}");
                Ok(None)
            }
        }
    }

    /// Mounts it again, with `ro` or `rw`.
    pub fn remount(&self, how: &str) -> anyhow::Result<()> {
        mount(&["-o", &format!("remount,{how}")], &self.0)
    }

    /// Takes all the room that is left, until what is given back is removed.
    pub fn fill(&self) -> anyhow::Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path)?;
        let endless = &mut std::io::repeat(0);
        let error = std::io::copy(endless, &mut file)
            .err()
            .context("the disk has no end")?;
        ensure!(error.kind() == std::io::ErrorKind::StorageFull, "{error}");
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also while a host has files open there.
        let done = Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

fn mount(args: &[&str], folder: &Path) -> anyhow::Result<()> {
    let output = Command::new("mount").args(args).arg(folder).output();
    let output = output.context("mount did not start")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "cannot mount: {said}");
    Ok(())
}
