//! When the profiler looks: it tells a socket, as a service tells systemd (`NOTIFY_SOCKET`).

use std::{
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);
/// How often to look whether it has ended instead.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Ready {
    socket: UnixDatagram,
    _directory: TempDir,
}

impl Ready {
    /// Of a command that is about to be run.
    pub fn of(command: &mut Command) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("profiler-e2e-").tempdir()?;
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).context("no socket")?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        command.env("NOTIFY_SOCKET", path);
        Ok(Self {
            socket,
            _directory: directory,
        })
    }

    /// Waits for it. `false` if the profiler has ended instead.
    pub fn wait(&self, child: &mut Child) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = [0; 64];
        while Instant::now() < deadline {
            match self.socket.recv(&mut state) {
                Ok(bytes) if &state[..bytes] == b"READY=1" => return Ok(true),
                Ok(bytes) => bail!("told {:?}", String::from_utf8_lossy(&state[..bytes])),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error).context("nothing can be told"),
            }
            if child.try_wait()?.is_some() {
                return Ok(false);
            }
        }
        bail!("it does not begin within {PATIENCE:?}")
    }
}
