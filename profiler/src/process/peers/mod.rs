//! Which process is at the other end of a connection, if it is on this machine.
//!
//! A connection has a row for each end in the tables of the network namespaces that they are in. The row whose addresses are
//! the other way round is the other end's, and says its number; who has a descriptor of that number is the process. For that
//! the descriptors of all processes are gone through, so it is asked once about each peer that is shown, at the end, and
//! nothing goes on when the time for it is up: whoever is not found is not named.

mod diag;
mod owners;
pub mod tables;

use std::{
    fmt, fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;

pub use self::owners::socket;
use self::{
    owners::Owners,
    tables::{Internet, Unix},
};
use super::{ancestry, comm, command};

/// What one command takes for all peers together.
const PATIENCE: Duration = Duration::from_millis(300);
/// Networks of other processes that are looked into.
const MOST_NETWORKS: usize = 64;
const PROC: &str = "/proc";

/// The process at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    pub pid: u32,
    pub name: String,
}

/// `812 (postgres)`, as its name is.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.name {
            "" => write!(f, "{}", self.pid),
            name => write!(f, "{} ({name})", self.pid),
        }
    }
}

/// The number of a network namespace.
type Network = u64;

/// Finds processes. What was read of the kernel is kept, so it is of one moment, about.
#[derive(Debug, Default)]
pub struct Peers {
    /// When the first was asked about, and what is left.
    until: Option<Instant>,
    owners: Option<Owners>,
    networks: FxHashMap<Network, Table>,
    /// A process of each network there is; `None` before they were looked for.
    others: Option<Vec<(Network, u32)>>,
}

impl Peers {
    /// Who has the other end of a process's socket, by its number.
    pub fn of_socket(&mut self, pid: u32, inode: u64) -> Option<Peer> {
        let own = self.network(pid)?;
        let table = &self.networks[&own];
        let other = match table.by_inode.get(&inode) {
            // One that is not accepted yet is nobody's.
            Some(&(local, remote)) => match self.mirrored(own, local, remote) {
                Some(inode) => inode,
                None => self.networks[&own].at(remote)?,
            },
            // Numbers are the machine's, but the kernel answers for one network only.
            None if Some(own) == number(std::process::id()) => diag::peer(inode)?,
            None => return None,
        };
        self.owner(other)
    }

    /// Who is at an address that a process has connected to, as it is told: who has accepted such a connection, or else listens
    /// there. Of a connection that is over that is all there is to know.
    pub fn at(&mut self, pid: u32, address: &str) -> Option<Peer> {
        let own = self.network(pid)?;
        let table = &self.networks[&own];
        let inode = match address.parse() {
            Ok(address) => table.at(address)?,
            Err(_) => *table.paths.get(address)?,
        };
        self.owner(inode)
    }

    fn until(&mut self) -> Instant {
        *self.until.get_or_insert_with(|| Instant::now() + PATIENCE)
    }

    fn owner(&mut self, inode: u64) -> Option<Peer> {
        let until = self.until();
        let proc = Path::new(PROC);
        let owners = self.owners.get_or_insert_with(|| Owners::new(proc));
        let pid = owners.of(proc, inode, until)?;
        let comm = comm::of(proc, pid);
        // Half of them are called `python3`.
        let name = command::of(pid).map_or_else(|| comm.clone(), |command| command.with_name(&comm));
        Some(Peer { pid, name })
    }

    /// A process's network, whose tables are read.
    fn network(&mut self, pid: u32) -> Option<Network> {
        let network = number(pid)?;
        if !self.networks.contains_key(&network) {
            if Instant::now() >= self.until() {
                return None;
            }
            self.networks.insert(network, Table::of(pid));
        }
        Some(network)
    }

    /// The number of the socket whose addresses are these the other way round.
    fn mirrored(&mut self, own: Network, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
        if let Some(&inode) = self.networks[&own].by_ends.get(&(remote, local)) {
            return Some(inode);
        }
        if remote.ip().is_loopback() {
            return None;
        }
        // As between containers.
        let others = self.others.get_or_insert_with(networks).clone();
        others
            .into_iter()
            .filter(|(network, _)| *network != own)
            .find_map(|(_, pid)| {
                let network = self.network(pid)?;
                self.networks[&network].by_ends.get(&(remote, local)).copied()
            })
    }
}

/// A process of each network.
fn networks() -> Vec<(Network, u32)> {
    let mut seen = FxHashSet::default();
    let pids = ancestry::pids(Path::new(PROC)).unwrap_or_default();
    pids.into_iter()
        .filter_map(|pid| Some((number(pid)?, pid)))
        .filter(|(network, _)| seen.insert(*network))
        .take(MOST_NETWORKS)
        .collect()
}

fn number(pid: u32) -> Option<Network> {
    fs::metadata(format!("{PROC}/{pid}/ns/net"))
        .ok()
        .map(|found| found.ino())
}

/// The sockets of a network.
#[derive(Debug, Default)]
struct Table {
    /// Their ends: its own, and the other.
    by_inode: FxHashMap<u64, (SocketAddr, SocketAddr)>,
    by_ends: FxHashMap<(SocketAddr, SocketAddr), u64>,
    listening: Vec<(SocketAddr, u64)>,
    /// Unix sockets that listen.
    paths: FxHashMap<String, u64>,
}

impl Table {
    fn of(pid: u32) -> Self {
        let mut table = Self::default();
        table.take(&tables::internet(pid, &["tcp", "tcp6", "udp", "udp6"]));
        let text = tables::read(pid, "unix");
        let lines = text.split(|&byte| byte == b'\n').map(String::from_utf8_lossy);
        for line in lines {
            if let Some(socket) = Unix::parse(&line).filter(|socket| socket.listens && !socket.path.is_empty()) {
                table.paths.entry(socket.path.to_owned()).or_insert(socket.inode);
            }
        }
        table
    }

    fn take(&mut self, rows: &[Internet]) {
        for row in rows.iter().filter(|row| row.inode != 0) {
            if row.remote.port() != 0 {
                self.by_inode.insert(row.inode, (row.local, row.remote));
                self.by_ends.entry((row.local, row.remote)).or_insert(row.inode);
            } else if row.listens() {
                self.listening.push((row.local, row.inode));
            }
        }
    }

    /// Who listens at an address of this machine. Loopback's are; of others it is known if a connection is there that has it
    /// as its own end.
    fn at(&self, address: SocketAddr) -> Option<u64> {
        let accepted = self.by_ends.iter().filter(|((local, _), _)| *local == address);
        // Any, but the same each time.
        let accepted = accepted.map(|(_, &inode)| inode).min();
        let is_here = address.ip().is_loopback() || accepted.is_some();
        let listener = self.listening.iter().find(|(local, _)| {
            local.port() == address.port() && (local.ip() == address.ip() || local.ip().is_unspecified())
        });
        let listener = listener.filter(|(local, _)| is_here || local.ip() == address.ip());
        listener.map(|&(_, inode)| inode).or(accepted)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::{
            fd::{AsRawFd, RawFd},
            unix::net::{UnixListener, UnixStream},
        },
    };

    use super::*;

    fn inode(descriptor: RawFd) -> u64 {
        let link = fs::read_link(format!("/proc/self/fd/{descriptor}")).expect("a link");
        socket(link.to_str().expect("text")).expect("a socket")
    }

    /// Tests run at idle priority beside others, too.
    fn patient() -> Peers {
        Peers {
            until: Some(Instant::now() + Duration::from_secs(60)),
            ..Peers::default()
        }
    }

    #[test]
    fn the_other_end_of_a_connection_is_whose_socket_has_its_addresses_the_other_way_round() {
        let own = std::process::id();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).expect("a connection");
        let (_server, _) = listener.accept().expect("a connection");
        let mut peers = patient();
        let found = peers.of_socket(own, inode(client.as_raw_fd()));
        assert_eq!(found.map(|peer| peer.pid), Some(own));
        let found = peers.at(own, &address.to_string());
        assert_eq!(found.map(|peer| peer.pid), Some(own));
        assert_eq!(peers.of_socket(own, inode(listener.as_raw_fd())), None);
        assert_eq!(peers.at(own, "nobody"), None);
    }

    #[test]
    fn the_other_end_of_a_unix_socket_is_asked_of_the_kernel() {
        let own = std::process::id();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let client = UnixStream::connect(&path).expect("a connection");
        let (_server, _) = listener.accept().expect("a connection");
        let mut peers = patient();
        let found = peers.at(own, path.to_str().expect("text"));
        assert_eq!(found.map(|peer| peer.pid), Some(own));
        if let Some(found) = peers.of_socket(own, inode(client.as_raw_fd())) {
            assert_eq!(found.pid, own);
        }
    }

    #[test]
    fn an_address_that_is_not_known_to_be_here_has_nobody_behind_it() {
        let row = |local: &str, remote: &str, state, inode| Internet {
            local: local.parse().expect("an address"),
            remote: remote.parse().expect("an address"),
            state,
            inode,
        };
        let mut table = Table::default();
        table.take(&[
            row("0.0.0.0:5432", "0.0.0.0:0", 0x0a, 1),
            row("127.0.0.1:6379", "0.0.0.0:0", 0x0a, 2),
            row("10.0.0.9:80", "10.0.0.9:40000", 1, 3),
            row("[::]:443", "[::]:0", 0x0a, 4),
        ]);
        let at = |address: &str| table.at(address.parse().expect("an address"));
        assert_eq!((at("127.0.0.1:5432"), at("127.0.0.1:6379")), (Some(1), Some(2)));
        assert_eq!((at("[::1]:443"), at("10.0.0.9:80")), (Some(4), Some(3)));
        // Another machine's port is as likely.
        assert_eq!((at("10.0.0.7:5432"), at("127.0.0.1:81")), (None, None));
    }

    #[test]
    fn nothing_goes_on_when_the_time_is_up() {
        let mut peers = Peers {
            until: Some(Instant::now()),
            ..Peers::default()
        };
        assert_eq!(peers.at(std::process::id(), "127.0.0.1:80"), None);
    }
}
