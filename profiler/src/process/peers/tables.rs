//! The kernel's tables of sockets: /proc/PID/net/{tcp,tcp6,udp,udp6,unix}, which are those of a network namespace.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

/// Bytes of a table that are read: a busy host has ten thousand connections of 150 each.
const MOST_BYTES: u64 = 16 << 20;

/// `TCP_LISTEN`.
const LISTEN: u8 = 0x0a;
/// `__SO_ACCEPTCON`: a Unix socket that listens.
const ACCEPTS: u32 = 0x1_0000;

/// A table of a process's network; empty if it cannot be had.
pub fn read(pid: u32, table: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/net/{table}")) {
        let _ = file.take(MOST_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

/// The internet's sockets of a process's network.
pub fn internet(pid: u32, tables: &[&str]) -> Vec<Internet> {
    let mut found = Vec::new();
    for table in tables {
        let lines = read(pid, table);
        found.extend(lines.split(|&byte| byte == b'\n').filter_map(Internet::parse));
    }
    found
}

/// A line of tcp, tcp6, udp or udp6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Internet {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: u8,
    /// 0 of one that no process has (any more, or yet).
    pub inode: u64,
}

impl Internet {
    /// `  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 12345 …`
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = str::from_utf8(line).ok()?.split_ascii_whitespace();
        let (_, local, remote, state) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Self {
            local: address(local)?,
            remote: address(remote)?,
            state: u8::from_str_radix(state, 16).ok()?,
            inode: fields.nth(5)?.parse().ok()?,
        })
    }

    pub fn listens(&self) -> bool {
        self.state == LISTEN
    }
}

/// As it is told: the other end, or where it listens; nothing of one that does neither.
impl fmt::Display for Internet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.local.port(), self.remote.port()) {
            (0, 0) => Ok(()),
            (_, 0) => write!(f, "listening on {}", self.local),
            _ => write!(f, "{}", self.remote),
        }
    }
}

/// Words of 32 bits in the machine's order, each written as a number, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(words.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match words.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                part.copy_from_slice(&word(at)?);
            }
            // Of an IPv4 connection through an IPv6 socket.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// A line of unix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unix<'a> {
    pub inode: u64,
    pub listens: bool,
    /// Empty if it has none.
    pub path: &'a str,
}

impl<'a> Unix<'a> {
    /// `0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/x`. Small numbers have spaces before them, and a
    /// path may have any in it.
    pub fn parse(line: &'a str) -> Option<Self> {
        const FLAGS: usize = 3;
        const INODE: usize = 6;
        let (mut flags, mut inode, mut rest) = ("", "", line);
        for at in 0..=INODE {
            let (word, after) = rest
                .trim_start_matches(' ')
                .split_once(' ')
                .unwrap_or((rest.trim(), ""));
            match at {
                FLAGS => flags = word,
                INODE => inode = word,
                _ => {}
            }
            rest = after;
        }
        Some(Self {
            inode: inode.parse().ok()?,
            listens: u32::from_str_radix(flags, 16).ok()? & ACCEPTS != 0,
            path: rest,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_the_kernel_s_tables_are_read() {
        let line =
            b"   1: 0100007F:A3B2 0500000A:1538 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        let found = Internet::parse(line).expect("a line");
        assert_eq!(
            (found.local.to_string(), found.inode),
            ("127.0.0.1:41906".to_owned(), 4711)
        );
        assert_eq!(found.to_string(), "10.0.0.5:5432");
        let line = b"   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0";
        let found = Internet::parse(line).expect("a line");
        assert!(found.listens());
        assert_eq!(found.to_string(), "listening on 0.0.0.0:8080");
        let line =
            b"   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000001000000:0050 01 00000000:00000000 \
                     00:00000000 00000000     0        0 12 1 0";
        let found = Internet::parse(line).expect("a line");
        assert_eq!(
            (found.local.to_string(), found.to_string()),
            ("127.0.0.1:8080".to_owned(), "[::1]:80".to_owned())
        );
    }

    #[test]
    fn a_path_may_have_spaces_and_a_number_may_have_them_before_it() {
        let of = |line| Unix::parse(line).map(|found| (found.inode, found.listens, found.path));
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 22222 /run/pg/.s.PGSQL.5432";
        assert_eq!(of(line), Some((22222, true, "/run/pg/.s.PGSQL.5432")));
        let small = "0000000000000000: 00000002 00000000 00000000 0001 01   222 /run/my own  socket";
        assert_eq!(of(small), Some((222, false, "/run/my own  socket")));
        let none = "0000000000000000: 00000003 00000000 00000000 0001 03 22223";
        assert_eq!(of(none), Some((22223, false, "")));
        assert_eq!(of(""), None);
    }

    proptest! {
        #[test]
        fn no_line_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), words in "([0-9A-F:]{0,40} ?){0,14}", text in ".*") {
            Internet::parse(&bytes);
            Internet::parse(words.as_bytes());
            Unix::parse(&words);
            Unix::parse(&text);
        }
    }
}
