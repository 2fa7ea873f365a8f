//! Where the agent answers: an address of this machine, which any of its users can ask, or a socket in the file system,
//! which only root can.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de::Error as _};

const UNIX: &str = "unix:";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Whether nobody from another machine gets there.
    pub fn is_own(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix(UNIX).map(PathBuf::from);
        match path {
            Some(path) if path.is_absolute() => Ok(Self::Unix(path)),
            Some(_) => Err("the path of a socket begins with /: unix:/run/profiler-agent/socket".to_owned()),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                "expected an address such as 127.0.0.1:9464, or a socket such as unix:/run/profiler-agent/socket"
                    .to_owned()
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}/"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Takes away the socket of somebody who was killed: one that is there and that nobody answers at. Nothing else.
pub fn take_away_stale(path: &Path) -> io::Result<()> {
    let is_socket = path.symlink_metadata().is_ok_and(|there| there.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn an_address_is_a_port_or_a_socket_and_a_socket_is_of_this_machine() {
        let parsed = |text: &str| text.parse::<Address>();
        assert!(parsed("127.0.0.1:9464").is_ok_and(|address| address.is_own()));
        assert!(parsed("[::1]:9464").is_ok_and(|address| address.is_own()));
        assert!(parsed("0.0.0.0:9464").is_ok_and(|address| !address.is_own()));
        let socket = parsed("unix:/run/profiler-agent/socket").expect("a socket");
        assert!(socket.is_own());
        assert_eq!(socket.to_string(), "unix:/run/profiler-agent/socket");
        for text in ["unix:agent.sock", "unix:", "localhost:9464", "9464", ""] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_socket_that_nobody_answers_at_is_taken_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, socket) = (directory.path().join("file"), directory.path().join("socket"));
        std::fs::write(&file, "mine").expect("a file");
        take_away_stale(&file).expect("left");
        assert!(file.exists());
        let listener = UnixListener::bind(&socket).expect("a socket");
        take_away_stale(&socket).expect("left");
        assert!(socket.exists());
        drop(listener);
        take_away_stale(&socket).expect("taken away");
        assert!(!socket.exists());
        take_away_stale(&socket).expect("nothing is there");
    }
}
