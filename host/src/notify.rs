//! Telling the service manager how it goes: systemd's `Type=notify`.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Calls are taken.
pub const READY: &str = "READY=1";
/// No more calls are taken.
pub const STOPPING: &str = "STOPPING=1";

/// Sends `state` to whoever started this process and wants to know; to nobody if nobody does.
pub fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(Path::new(&socket), state) {
        tracing::warn!(%error, state, "the service manager could not be told");
    }
}

fn send(socket: &Path, state: &str) -> std::io::Result<()> {
    UnixDatagram::unbound()?.send_to(state.as_bytes(), socket)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_gets_the_whole_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(&path, READY).unwrap();
        let mut state = [0; 64];
        let length = manager.recv(&mut state).unwrap();
        assert_eq!(&state[..length], b"READY=1");
        assert!(send(&folder.path().join("nobody"), READY).is_err());
    }
}
