//! Tells a service manager how the process is, if one has started it and wants to know (systemd's
//! `Type=notify`: a datagram to the socket that `NOTIFY_SOCKET` names).
//!
//! Never: fails because nobody listens. Children do not inherit the socket; they are not the service.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Which socket it is. Children are started without it.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// It serves.
pub fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"));
}

/// It was told to stop, and does.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(words: &str) {
    let Some(socket) = std::env::var_os(VARIABLE) else { return };
    if let Err(error) = send(&socket, words) {
        tracing::warn!(%error, ?socket, "the service manager is not told ({VARIABLE})");
    }
}

fn send(socket: &OsStr, words: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        // A name that is no file's.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_it_by_a_file_and_by_a_name_that_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("kontiki-test-{}", std::process::id());
        let listens = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (manager, socket) in &listens {
            send(socket, "READY=1\nSTATUS=it serves").unwrap();
            let mut heard = [0; 64];
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1\nSTATUS=it serves");
        }
        assert!(send(OsStr::new("/nowhere/at/all"), "READY=1").is_err());
    }
}
