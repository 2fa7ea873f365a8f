//! Whom and which files threads wait for, or move data to and from, as numbers.

use std::{fs, net::IpAddr, os::unix::fs::MetadataExt as _, path::PathBuf};

use indexmap::{IndexMap, IndexSet};
use profiler_common::wait::WaitEvent;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use super::cause::{Target, remote};

/// Different ones that are told apart.
const MOST: usize = 1 << 14;
/// Ports of clients that are counted, all together.
const MOST_PORTS: usize = 1 << 18;
/// `net.ipv4.ip_local_port_range` begins here by default, and that of other systems later.
pub const FIRST_GIVEN_OUT: u16 = 32_768;
/// Numbers from here on are those of clients.
const CLIENTS: u32 = 1 << 31;

#[derive(Debug)]
pub struct Targets {
    known: IndexSet<Target, FxBuildHasher>,
    /// Paths of files by process and inode.
    paths: FxHashMap<(u32, u64), Option<String>>,
    clients: IndexMap<Connected, Clients, FxBuildHasher>,
    /// Of a process, what was told as one connection, and turned out to be one of several to clients.
    alike: FxHashMap<(u32, u32), u32>,
    ports: usize,
    /// What has no number of its own.
    pub forgotten: u64,
}

/// A process, its port, and the address that has connected to it.
type Connected = (u32, u16, IpAddr);

/// Connections of one port of a process with one address. A port that several ports of an address are connected with is one
/// that the process listens on, and those ports were given out by the kernel at the other end: each is another with each
/// connection, and says nothing to anybody. Nor could so many be told apart.
#[derive(Debug)]
struct Clients {
    ports: FxHashSet<u16>,
    /// Of the first one.
    number: u32,
    target: Target,
}

impl Default for Targets {
    fn default() -> Self {
        let mut known = IndexSet::default();
        known.insert(Target::default());
        Self {
            known,
            paths: FxHashMap::default(),
            clients: IndexMap::default(),
            alike: FxHashMap::default(),
            ports: 0,
            forgotten: 0,
        }
    }
}

impl Targets {
    /// That of a descriptor that was looked up in a process; 0 is none.
    pub fn number(&mut self, pid: u32, event: &WaitEvent) -> u32 {
        self.client(pid, event).unwrap_or_else(|| self.one(pid, event))
    }

    /// That of a connection that the other end may have made: one of its own, until there are several.
    fn client(&mut self, pid: u32, event: &WaitEvent) -> Option<u32> {
        let remote = remote(event).filter(|remote| remote.port() >= FIRST_GIVEN_OUT)?;
        let port = event.descriptor.local_port;
        let key = (pid, port, remote.ip());
        let Some((index, _, clients)) = self.clients.get_full_mut(&key) else {
            if self.clients.len() >= MOST {
                return None;
            }
            let number = self.one(pid, event);
            let clients = Clients {
                ports: FxHashSet::from_iter([remote.port()]),
                number,
                target: Target::clients(remote.ip(), port),
            };
            self.clients.insert(key, clients);
            return Some(number);
        };
        if clients.ports.len() == 1 && clients.ports.contains(&remote.port()) {
            return Some(clients.number);
        }
        let number = CLIENTS | index as u32;
        if self.ports < MOST_PORTS && clients.ports.insert(remote.port()) {
            self.ports += 1;
        }
        clients.target.ports = clients.ports.len() as u32;
        if clients.number != 0 {
            self.alike.insert((pid, clients.number), number);
        }
        Some(number)
    }

    /// That of what is told by itself.
    fn one(&mut self, pid: u32, event: &WaitEvent) -> u32 {
        let mut target = Target::of(event);
        if !target.path.is_empty() && Target::has_path(event) {
            let descriptor = &event.descriptor;
            let path = self
                .paths
                .entry((pid, descriptor.inode))
                .or_insert_with(|| path(pid, descriptor.number, descriptor.inode));
            if let Some(path) = path {
                target.path.clone_from(path);
            }
            if self.paths.len() > MOST {
                self.paths.clear();
            }
        }
        if let Some(index) = self.known.get_index_of(&target) {
            return index as u32;
        }
        if self.known.len() >= MOST {
            self.forgotten += 1;
            return 0;
        }
        self.known.insert_full(target).0 as u32
    }

    /// What has a number in a process.
    pub fn get(&self, pid: u32, number: u32) -> &Target {
        let number = self.alike.get(&(pid, number)).copied().unwrap_or(number);
        match number.checked_sub(CLIENTS) {
            Some(index) => &self.clients[index as usize].target,
            None => &self.known[number as usize],
        }
    }
}

/// The path of a file that a process has open, if it still is the one behind this descriptor.
fn path(pid: u32, descriptor: u32, inode: u64) -> Option<String> {
    let link = PathBuf::from(format!("/proc/{pid}/fd/{descriptor}"));
    let path = fs::read_link(&link).ok()?;
    // `stat` of the link is of the file itself; it opens nothing.
    (fs::metadata(&link).ok()?.ino() == inode).then(|| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use profiler_common::wait::Descriptor;

    use super::*;

    fn connection(local_port: u16, remote: [u8; 4], remote_port: u16) -> WaitEvent {
        let mut descriptor = Descriptor {
            mode: 0xc000,
            family: 2,
            local_port,
            remote_port,
            ..WaitEvent::default().descriptor
        };
        descriptor.remote[..4].copy_from_slice(&remote);
        WaitEvent {
            descriptor,
            ..WaitEvent::default()
        }
    }

    #[test]
    fn who_connects_again_and_again_is_one_by_its_address() {
        let mut targets = Targets::default();
        let mut numbers: Vec<u32> = (40_000..40_300)
            .map(|port| targets.number(7, &connection(8000, [10, 0, 0, 9], port)))
            .collect();
        // And what was told of the first of them is theirs.
        let told = targets.get(7, numbers[0]);
        assert_eq!((told.text(), told.ports), ("10.0.0.9, clients of port 8000", 300));
        assert!(Target::is_of_clients(&told.peer, false));
        assert!(
            numbers
                .iter()
                .all(|number| targets.get(7, *number) == targets.get(7, numbers[0]))
        );
        numbers.dedup();
        assert_eq!(numbers.len(), 2);
        // Others are others: another address, another port, another process.
        for (pid, event) in [
            (7, connection(8000, [10, 0, 0, 8], 40_000)),
            (7, connection(8001, [10, 0, 0, 7], 40_001)),
            (8, connection(8000, [10, 0, 0, 9], 40_000)),
        ] {
            let number = targets.number(pid, &event);
            assert_eq!(targets.get(pid, number), &Target::of(&event));
        }
        // Of closed connections it is not known who has connected to whom.
        let closed = [40_000, 40_001].map(|port| targets.number(7, &connection(0, [10, 0, 0, 6], port)));
        assert_eq!(targets.get(7, closed[1]).text(), "10.0.0.6, closed connections");
        assert_eq!(targets.forgotten, 0);
    }

    #[test]
    fn servers_that_a_process_asks_are_told_apart_by_their_ports() {
        let mut targets = Targets::default();
        for (local, port) in [
            (50_000, 5432),
            (50_000, 6379),
            (50_002, 5432),
            (50_002, 48_000),
            (50_004, 48_002),
        ] {
            let event = connection(local, [10, 0, 0, 9], port);
            let number = targets.number(7, &event);
            assert_eq!(targets.get(7, number).text(), format!("10.0.0.9:{port}"));
        }
    }
}
