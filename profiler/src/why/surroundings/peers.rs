//! Who is at the other end of a process's connections: /proc/PID/net/tcp, and the process's own sockets.

use std::fs;

use rustc_hash::FxHashSet;

use crate::{
    process::peers::{
        socket,
        tables::{self, Internet},
    },
    waits::{cause::Target, targets::FIRST_GIVEN_OUT},
};

fn port(peer: &str) -> Option<u16> {
    peer.rsplit_once(':')?.1.parse().ok()
}

/// Who is at the other end of a process's connections.
#[derive(Debug, Default)]
pub struct Peers {
    /// They have connected to it, as peers are told.
    clients: FxHashSet<String>,
    /// It listens itself.
    listens: bool,
    /// Ports of its network on which somebody listens.
    listening: FxHashSet<u16>,
}

impl Peers {
    pub fn of(pid: u32) -> Self {
        let own = sockets(pid);
        let mut peers = Self::default();
        for table in ["tcp", "tcp6"] {
            peers.take(&tables::internet(pid, &[table]), &own);
        }
        peers
    }

    /// `own`: the inodes of its sockets.
    fn take(&mut self, rows: &[Internet], own: &FxHashSet<u64>) {
        let listening = || rows.iter().filter(|row| row.listens());
        let ports: FxHashSet<u16> = listening()
            .filter(|row| own.contains(&row.inode))
            .map(|row| row.local.port())
            .collect();
        self.listens |= !ports.is_empty();
        self.listening.extend(listening().map(|row| row.local.port()));
        let accepted = rows
            .iter()
            .filter(|row| !row.listens() && ports.contains(&row.local.port()));
        self.clients.extend(accepted.map(|row| row.remote.to_string()));
    }

    /// Connections that are over by the end are judged by the port: a client's is one of those that the kernel gives out, and
    /// nobody listens there.
    pub fn is_client(&self, peer: &str) -> bool {
        let is_given_out = |port: u16| port >= FIRST_GIVEN_OUT && !self.listening.contains(&port);
        self.clients.contains(peer)
            || Target::is_of_clients(peer, self.listens)
            || (self.listens && port(peer).is_some_and(is_given_out))
    }
}

/// The inodes of a process's sockets.
fn sockets(pid: u32) -> FxHashSet<u64> {
    const MOST: usize = 16 * 1024;
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return FxHashSet::default();
    };
    let links = descriptors
        .flatten()
        .take(MOST)
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter_map(|link| socket(link.to_str()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &[u8] =
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F40 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 0100007F:8CA0 0700000A:1538 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
   3: 00000000:8D00 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 9999 1 0 100 0 0 10 0
";

    fn peers(own: &[u64]) -> Peers {
        let rows: Vec<Internet> = TCP.split(|&byte| byte == b'\n').filter_map(Internet::parse).collect();
        assert_eq!(rows.len(), 4);
        let mut peers = Peers::default();
        peers.take(&rows, &own.iter().copied().collect());
        peers
    }

    #[test]
    fn who_has_connected_is_a_client_and_whom_it_asks_is_none() {
        let server = peers(&[4711, 4712, 4713]);
        assert!(server.is_client("127.0.0.1:40000"));
        assert!(!server.is_client("10.0.0.7:5432"));
        // It is gone, and its port was one that is given out.
        assert!(server.is_client("127.0.0.1:45678"));
        // Several, of whose connections the server's port is known, and those that are closed.
        assert!(server.is_client("10.0.0.9, clients of port 8000") && server.is_client("10.0.0.9, closed connections"));
        assert!(!peers(&[4713]).is_client("10.0.0.9, closed connections"));
        // Somebody listens there.
        assert!(!server.is_client("127.0.0.1:36096"));
        // What does not listen has no clients.
        assert!(!peers(&[4713]).is_client("127.0.0.1:45678"));
    }
}
