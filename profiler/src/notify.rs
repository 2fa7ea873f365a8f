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
    time::{Duration, Instant},
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

/// Tells a service manager that asked for it (`WatchdogSec=`) that we are not stuck. To be asked for in each turn of a loop:
/// one that hangs tells nothing.
#[derive(Debug)]
pub struct Watchdog {
    address: OsString,
    every: Duration,
    told: Option<Instant>,
}

impl Watchdog {
    /// `None` if nobody asked for it, or it is meant for another process.
    pub fn of_this_process() -> Option<Self> {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())?;
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
            return None;
        }
        let limit = Duration::from_micros(number("WATCHDOG_USEC").filter(|limit| *limit > 0)?);
        // Twice as often as is needed (sd_watchdog_enabled(3)).
        Some(Self {
            address,
            every: limit / 2,
            told: None,
        })
    }

    pub fn turn(&mut self, now: Instant) {
        if self.told.is_none_or(|told| now.duration_since(told) >= self.every) {
            // Who does not listen any more will not miss it.
            let _ = tell(&self.address, "WATCHDOG=1");
            self.told = Some(now);
        }
    }
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
