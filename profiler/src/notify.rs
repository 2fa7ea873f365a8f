//! Tells whoever started the profiler that it looks now: a service manager that put an address into `NOTIFY_SOCKET`
//! (sd_notify(3): `Type=notify` of a systemd unit), or a script that did the same.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// A line for people if that was asked for and could not be done.
pub fn ready() -> Option<String> {
    let address = std::env::var_os("NOTIFY_SOCKET").filter(|address: &OsString| !address.is_empty())?;
    let error = tell(&address, "READY=1").err()?;
    Some(format!(
        "warning: NOTIFY_SOCKET ({}) could not be told: {error}",
        address.display()
    ))
}

/// Sends a state, in one datagram. `address`: a path, or a name in the abstract namespace with `@` in front.
fn tell(address: &OsStr, state: &str) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no path, and no @name",
            ));
        }
    };
    let sent = UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    match sent == state.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reaches_a_path_and_an_abstract_name_and_nothing_else_is_an_address() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let name = format!("profiler-notify-{}", std::process::id());
        let abstract_one = SocketAddr::from_abstract_name(&name).expect("an address");
        let named = UnixDatagram::bind_addr(&abstract_one).expect("a socket");
        let at_path = UnixDatagram::bind(&path).expect("a socket");
        for (address, socket) in [(path.into_os_string(), at_path), (format!("@{name}").into(), named)] {
            tell(&address, "READY=1").expect("told");
            let mut received = [0; 64];
            let bytes = socket.recv(&mut received).expect("received");
            assert_eq!(&received[..bytes], b"READY=1");
        }
        for address in ["vsock:2:1234", "notify", "/there/is/none"] {
            assert!(tell(OsStr::new(address), "READY=1").is_err(), "{address}");
        }
    }
}
