//! Names of code that was generated at run time: `/tmp/perf-PID.map`, as JIT compilers write it for perf.
//!
//! A line is `START SIZE name`, both numbers in hexadecimal (tools/perf/Documentation/jit-interface.txt). The file
//! grows while the program runs, and what a later line says of an address holds: JIT compilers reuse memory.
//!
//! The program writes it into its own `/tmp` under its own idea of its pid, so that is where it is looked for; once the
//! program is gone, a file in another mount namespace is out of reach. So [`PerfMap::open`] is called while it lives,
//! and what it has opened stays readable.
//!
//! Anybody may create such a file for somebody else's pid. As in perf, only one of the program's own user or of root is
//! believed; and it must not be older than the program, which would make it that of another with the same pid.

mod held;

use std::{
    collections::BTreeMap,
    fmt, fs,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    rc::Rc,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use thiserror::Error;

use self::held::Held;
use super::root::{LastLink, Root, open_regular};

/// A program that generates code for days writes hundreds of megabytes, nearly all of it about code that is gone. At
/// 125 MB/s (measured, 1 million lines) that would hold up the recording for seconds. Of more than this only the end is
/// read: what is missing then is nameless, while without the end names would be wrong.
const MOST_BYTES: u64 = 128 << 20;
/// What one user can have us read once more, in all: a map that is written anew is, and so is the parent's for each child
/// that is recorded. A second of work for them, and two of ours.
const MOST_AGAIN_BYTES: u64 = 256 << 20;
/// Pieces of code that have a name at one time, and what their names may take together. A large node program has
/// 100,000.
const MOST_ENTRIES: usize = 500_000;
const MOST_NAME_BYTES: usize = 64 << 20;
/// Longer names are cut. Real ones are a function and a path.
const MOST_NAME: usize = 1024;
/// How much is read at once; a line that is longer than this is none.
const CHUNK_BYTES: usize = 256 << 10;

/// The perf map of one process, as far as it has been read.
pub struct PerfMap {
    file: File,
    /// What was read so far, up to a line's end.
    read_bytes: u64,
    /// We are in the middle of a line that is dropped: its beginning was left out, or it is longer than a chunk.
    inside_dropped_line: bool,
    /// By address, none overlapping another.
    entries: BTreeMap<u64, Entry>,
    name_bytes: usize,
    held: Held,
    is_truncated: bool,
    /// It was read before, by us or for the parent.
    is_again: bool,
}

/// What was read again, by the user whose it is.
#[derive(Debug)]
struct Again(BTreeMap<u32, u64>);

static AGAIN: Mutex<Again> = Mutex::new(Again(BTreeMap::new()));

impl Again {
    fn may_read(&mut self, owner: u32, bytes: u64) -> bool {
        let read = self.0.entry(owner).or_default();
        let sum = read.saturating_add(bytes);
        if sum > MOST_AGAIN_BYTES {
            return false;
        }
        *read = sum;
        true
    }
}

#[derive(Clone, Debug)]
struct Entry {
    /// First address after it.
    end: u64,
    name: Rc<str>,
}

/// Why a process has no perf map.
#[derive(Debug, Error)]
pub enum PerfMapError {
    /// There is none, which is the rule. Or the process is gone.
    #[error("no perf map")]
    None,
    #[error("{path:?} of process {pid} is not believed: it belongs to user {owner}, not to the process's user {user}")]
    Owner {
        pid: u32,
        path: PathBuf,
        owner: u32,
        user: u32,
    },
    #[error("{path:?} of process {pid} is not believed: it is older than the process")]
    Stale { pid: u32, path: PathBuf },
    #[error("{path:?} of process {pid} cannot be read: {source}")]
    Unreadable { pid: u32, path: PathBuf, source: io::Error },
}

impl PerfMap {
    /// Opens the perf map of a process that lives, and reads nothing yet. A zombie's is found if it has our own `/tmp`.
    ///
    /// # Errors
    /// If there is none, or none that is to be believed.
    pub fn open(pid: u32) -> Result<Self, PerfMapError> {
        let status = fs::read(format!("/proc/{pid}/status")).map_err(|_| PerfMapError::None)?;
        let status = Status::parse(&status).ok_or(PerfMapError::None)?;
        let path = PathBuf::from(format!("/tmp/perf-{}.map", status.pid_inside.unwrap_or(pid)));
        // perf follows a link here. A link made by another user could lead to any file of root's.
        let opened = match Root::of(pid) {
            Ok(root) => root.open(&path, LastLink::Refuse),
            Err(_) if status.pid_inside.is_none_or(|inside| inside == pid) => open_regular(&path, LastLink::Refuse),
            Err(error) => Err(error),
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(PerfMapError::None),
            Err(source) => return Err(PerfMapError::Unreadable { pid, path, source }),
        };
        let unreadable = |source| PerfMapError::Unreadable {
            pid,
            path: path.clone(),
            source,
        };
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.uid() != 0 && metadata.uid() != status.user {
            return Err(PerfMapError::Owner {
                pid,
                path,
                owner: metadata.uid(),
                user: status.user,
            });
        }
        let modified = metadata.modified().map_err(unreadable)?;
        if started_at(pid).is_some_and(|started| modified + CLOCK_SLACK < started) {
            return Err(PerfMapError::Stale { pid, path });
        }
        Ok(Self::new(file, metadata.uid()))
    }

    pub(crate) fn new(file: File, owner: u32) -> Self {
        Self {
            file,
            read_bytes: 0,
            inside_dropped_line: false,
            entries: BTreeMap::new(),
            name_bytes: 0,
            held: Held::new(owner),
            is_truncated: false,
            is_again: false,
        }
    }

    /// The same file for a child made by `fork`: it runs the code its parent generated, and has a map of its own only
    /// if it goes on generating.
    ///
    /// # Errors
    /// If we have no descriptor left.
    pub fn for_child(&self) -> io::Result<Self> {
        let mut child = Self::new(self.file.try_clone()?, self.held.owner());
        child.is_again = true;
        Ok(child)
    }

    /// Reads what was written since the last time.
    ///
    /// # Errors
    /// As reading a file. What was read before stays.
    pub fn refresh(&mut self) -> io::Result<()> {
        self.refresh_up_to(MOST_BYTES)
    }

    fn refresh_up_to(&mut self, most_bytes: u64) -> io::Result<()> {
        // It may grow faster than we read.
        let metadata = self.file.metadata()?;
        let end = metadata.len();
        if end < self.read_bytes {
            // Written anew from its beginning.
            self.start_over(0);
            self.is_again = true;
        }
        if self.is_again {
            let bytes = (end - self.read_bytes).min(most_bytes);
            let mut again = AGAIN.lock().unwrap_or_else(PoisonError::into_inner);
            if !again.may_read(metadata.uid(), bytes) {
                self.is_truncated = true;
                return Ok(());
            }
        }
        if end - self.read_bytes > most_bytes {
            self.start_over(end - most_bytes);
            self.inside_dropped_line = true;
            self.is_truncated = true;
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        while self.read_bytes < end {
            let wanted = usize::try_from(end - self.read_bytes).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let bytes = self.file.read_at(&mut chunk[..wanted], self.read_bytes)?;
            if bytes == 0 {
                break;
            }
            let chunk = &chunk[..bytes];
            let Some(last) = chunk.iter().rposition(|&byte| byte == b'\n') else {
                if bytes < CHUNK_BYTES {
                    break; // The last line is being written.
                }
                self.inside_dropped_line = true;
                self.read_bytes += bytes as u64;
                continue;
            };
            for line in chunk[..last].split(|&byte| byte == b'\n') {
                if !std::mem::take(&mut self.inside_dropped_line) {
                    self.add(line);
                }
            }
            self.read_bytes += last as u64 + 1;
        }
        Ok(())
    }

    /// The name of the code at an address.
    pub fn find(&self, address: u64) -> Option<&str> {
        let (_, entry) = self.entries.range(..=address).next_back()?;
        (address < entry.end).then_some(&*entry.name)
    }

    /// Whether lines were left out because there are too many: then not all code has its name.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    fn start_over(&mut self, at: u64) {
        self.entries.clear();
        self.held.give_all();
        self.name_bytes = 0;
        self.read_bytes = at;
        self.inside_dropped_line = false;
    }

    fn add(&mut self, line: &[u8]) {
        let Some((start, end, name)) = parse_line(line) else {
            return;
        };
        // What is no longer true must not be shown, even if there is no room for what is.
        self.clear(start, end);
        self.put(start, end, name.into());
    }

    /// Forgets what is known of `start..end`, and nothing else: the rest of an entry keeps its name.
    fn clear(&mut self, start: u64, end: u64) {
        if let Some((_, before)) = self.entries.range_mut(..start).next_back()
            && before.end > start
        {
            let rest = before.clone();
            before.end = start;
            if rest.end > end {
                self.put(end, rest.end, rest.name);
            }
        }
        while let Some((&inside, _)) = self.entries.range(start..end).next()
            && let Some(entry) = self.entries.remove(&inside)
        {
            self.name_bytes -= entry.name.len();
            self.held.give(entry.name.len());
            if entry.end > end {
                self.put(end, entry.end, entry.name);
            }
        }
    }

    fn put(&mut self, start: u64, end: u64, name: Rc<str>) {
        // Halves of one entry share their name, and it counts twice.
        let name_bytes = self.name_bytes.saturating_add(name.len());
        if self.entries.len() >= MOST_ENTRIES || name_bytes > MOST_NAME_BYTES || !self.held.take(name.len()) {
            self.is_truncated = true;
            return;
        }
        self.name_bytes = name_bytes;
        self.entries.insert(start, Entry { end, name });
    }
}

impl fmt::Debug for PerfMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerfMap")
            .field("read_bytes", &self.read_bytes)
            .field("entries", &self.entries.len())
            .field("is_truncated", &self.is_truncated)
            .finish_non_exhaustive()
    }
}

/// Whether a name stands for the trampoline that CPython (3.12 on, `-X perf`) generates for each Python function:
/// `py::fib:/srv/app.py` (Python/perf_trampoline.c, `perf_map_write_entry`). Where Python frames are shown it says the
/// same once more.
pub fn is_python_trampoline(name: &str) -> bool {
    name.starts_with("py::")
}

/// Start, end and name.
fn parse_line(line: &[u8]) -> Option<(u64, u64, String)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (start, rest) = split(line)?;
    let (size, name) = split(rest)?;
    let (start, size) = (number(start)?, number(size)?);
    let end = start.checked_add(size).filter(|&end| end > start)?;
    let name = name.trim_ascii();
    if name.is_empty() {
        return None;
    }
    let cut = &name[..name.len().min(MOST_NAME)];
    let mut name = String::from_utf8_lossy(cut).into_owned();
    if cut.len() == MOST_NAME {
        name.push('…');
    }
    Some((start, end, name))
}

fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii_start();
    let at = line.iter().position(|&byte| byte == b' ')?;
    Some((&line[..at], &line[at + 1..]))
}

/// perf takes no `0x`, but some programs write it.
fn number(digits: &[u8]) -> Option<u64> {
    let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
    // `from_str_radix` accepts a sign.
    if !digits.first()?.is_ascii_hexdigit() {
        return None;
    }
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// What `/proc/PID/status` says of a process that is needed here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// Its effective user, in our user namespace.
    pub(super) user: u32,
    /// Its pid in its own pid namespace; not said by kernels built without pid namespaces.
    pub(super) pid_inside: Option<u32>,
}

impl Status {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let field = |name: &[u8], at: fn(&mut dyn DoubleEndedIterator<Item = &str>) -> Option<u32>| {
            let line = bytes
                .split(|&byte| byte == b'\n')
                .find_map(|line| line.strip_prefix(name))?;
            let text = str::from_utf8(line).ok()?;
            at(&mut text.split_ascii_whitespace())
        };
        Some(Self {
            // Real, effective, saved, file system.
            user: field(b"Uid:", |words| words.nth(1)?.parse().ok())?,
            // From our pid namespace inwards.
            pid_inside: field(b"NSpid:", |words| words.next_back()?.parse().ok()),
        })
    }
}

/// The two clocks compared are read at different times and with different precision; a step of the clock larger than
/// this makes a good map look stale, and the reverse is what pids come back after.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// When a process (not its program) was started.
fn started_at(pid: u32) -> Option<SystemTime> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let ticks = start_ticks(&stat)?;
    // SAFETY: a plain query.
    let ticks_per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?;
    let after_boot = Duration::from_millis(ticks.checked_mul(1000)?.checked_div(ticks_per_second)?);
    // SAFETY: plain integers, for which zero is a value.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `now` outlives the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) } != 0 {
        return None;
    }
    let uptime = Duration::new(u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    UNIX_EPOCH.checked_add(now.checked_sub(uptime.checked_sub(after_boot)?)?)
}

/// Field 22 of `/proc/PID/stat`. The second is a name in parentheses, which may hold anything.
fn start_ticks(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = str::from_utf8(&stat[after_name + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::ffi::OsStrExt as _, path::Path};

    use proptest::prelude::*;

    use super::*;

    fn read(text: impl AsRef<[u8]>) -> PerfMap {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(text.as_ref()).expect("write");
        let mut map = PerfMap::new(file, 0);
        map.refresh().expect("read");
        map
    }

    #[test]
    fn what_one_user_writes_anew_is_read_up_to_a_limit_which_is_not_that_of_others() {
        let mut again = Again(BTreeMap::new());
        let third = MOST_AGAIN_BYTES / 3;
        assert_eq!(
            [(); 5].map(|()| again.may_read(1000, third)),
            [true, true, true, false, false]
        );
        assert!(again.may_read(1001, third));
        assert!(!again.may_read(1001, u64::MAX));
        assert!(again.may_read(1000, 0));
    }

    #[test]
    fn names_are_kept_as_they_are() {
        let map = read("7f0000001000 40 LazyCompile:*fib /srv/a b.js:3:14\n0x7f0000001040 0x10 py::<module>:/x.py\n");
        assert_eq!(map.find(0x7f00_0000_1000), Some("LazyCompile:*fib /srv/a b.js:3:14"));
        assert_eq!(map.find(0x7f00_0000_103f), Some("LazyCompile:*fib /srv/a b.js:3:14"));
        assert_eq!(map.find(0x7f00_0000_1040), Some("py::<module>:/x.py"));
        assert_eq!(map.find(0x7f00_0000_1050), None);
        assert_eq!(map.find(0x7f00_0000_0fff), None);
        assert!(is_python_trampoline("py::<module>:/x.py"));
        assert!(!is_python_trampoline("python"));
    }

    #[test]
    fn what_is_written_later_holds_and_the_rest_of_the_old_stays() {
        let map = read("1000 100 old\n1040 20 new\n2000 10 a\n2010 10 b\n2008 10 c\n");
        let names = [0x1000, 0x103f, 0x1040, 0x105f, 0x1060, 0x10ff, 0x1100].map(|address| map.find(address));
        assert_eq!(
            names,
            [
                Some("old"),
                Some("old"),
                Some("new"),
                Some("new"),
                Some("old"),
                Some("old"),
                None
            ]
        );
        assert_eq!(
            [0x2007, 0x2008, 0x2017, 0x2018].map(|address| map.find(address)),
            [Some("a"), Some("c"), Some("c"), Some("b")]
        );
    }

    #[test]
    fn lines_that_are_none_are_left_out() {
        let map = read("\nnonsense\n10\n10 20\n10 20 \n+10 20 f\n-1 1 f\n30 0 f\nffffffffffffffff 10 f\n10 20 f\r\n");
        assert_eq!(map.entries.len(), 1);
        assert_eq!(map.find(0x10), Some("f"));
    }

    #[test]
    fn a_growing_file_is_read_on_and_a_line_only_when_it_is_whole() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let mut map = PerfMap::new(file.reopen().expect("open"), 0);
        let mut writer = file.reopen().expect("open");
        writer.write_all(b"1000 10 f\n2000 10 g").expect("write");
        map.refresh().expect("read");
        assert_eq!((map.find(0x1000), map.find(0x2000)), (Some("f"), None));
        writer.write_all(b"g\n1000 8 h\n").expect("write");
        map.refresh().expect("read");
        assert_eq!((map.find(0x1000), map.find(0x1008)), (Some("h"), Some("f")));
        assert_eq!(map.find(0x2000), Some("gg"));
        // jcmd Compiler.perfmap writes the file anew.
        writer.set_len(0).expect("truncate");
        writer.write_all_at(b"3000 10 k\n", 0).expect("write");
        map.refresh().expect("read");
        assert_eq!((map.find(0x1000), map.find(0x3000)), (None, Some("k")));
    }

    #[test]
    fn a_line_longer_than_a_chunk_is_dropped_and_the_next_is_read() {
        let long = "x".repeat(3 * CHUNK_BYTES);
        let map = read(format!("1000 10 f\n2000 10 {long}\n3000 10 g\n"));
        assert_eq!(
            [0x1000, 0x2000, 0x3000].map(|address| map.find(address)),
            [Some("f"), None, Some("g")]
        );
        let map = read(format!("2000 10 {}\n3000 10 g\n", &long[..2 * MOST_NAME]));
        assert_eq!(map.find(0x2000).map(|name| name.chars().count()), Some(MOST_NAME + 1));
    }

    #[test]
    fn without_room_for_a_new_name_the_old_one_goes_all_the_same() {
        let mut text = String::new();
        for at in 0..=MOST_ENTRIES {
            text.push_str(&format!("{:x} 10 f\n", 0x1000 + at * 0x10));
        }
        text.push_str("1000 1000 g\n");
        let map = read(&text);
        assert!(map.is_truncated());
        assert_eq!(
            (map.find(0x1000), map.find(0x1ff0), map.find(0x2000)),
            (Some("g"), Some("g"), Some("f"))
        );
        let before = text.len() - "1000 1000 g\n".len();
        let map = read(text[..before].to_owned() + "1008 8 g\n");
        assert!(map.is_truncated());
        assert_eq!((map.find(0x1000), map.find(0x1008)), (Some("f"), None));
    }

    #[test]
    fn of_a_file_that_is_too_large_the_end_is_read() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let mut writer = file.reopen().expect("open");
        writer
            .write_all(b"1000 10 old\n2000 10 between\n3000 10 new\n")
            .expect("write");
        let mut map = PerfMap::new(file.reopen().expect("open"), 0);
        map.refresh_up_to(20).expect("read");
        assert!(map.is_truncated());
        let names = |map: &PerfMap| [0x1000, 0x2000, 0x3000].map(|address| map.find(address).map(str::to_owned));
        assert_eq!(names(&map), [None, None, Some("new".to_owned())]);
        writer.write_all(b"1000 10 newer\n").expect("write");
        map.refresh_up_to(20).expect("read");
        assert_eq!(names(&map), [Some("newer".to_owned()), None, Some("new".to_owned())]);
    }

    #[test]
    fn the_map_of_a_process_is_found_under_its_pid() {
        let pid = std::process::id();
        let path = format!("/tmp/perf-{pid}.map");
        assert!(matches!(PerfMap::open(pid), Err(PerfMapError::None)));
        assert!(matches!(PerfMap::open(u32::MAX), Err(PerfMapError::None)));
        fs::write(&path, "1000 10 f\n").expect("write");
        let opened = PerfMap::open(pid);
        let file = File::options().write(true).open(&path).expect("open");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1)).expect("touch");
        let stale = PerfMap::open(pid);
        fs::remove_file(&path).expect("remove");
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("link");
        let link = PerfMap::open(pid);
        fs::remove_file(&path).expect("remove");
        let name = std::ffi::CString::new(Path::new(&path).as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: a valid path.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let pipe = PerfMap::open(pid);
        fs::remove_file(&path).expect("remove");

        let mut opened = opened.expect("a map");
        // It stays readable when its name is gone.
        opened.refresh().expect("read");
        assert_eq!(opened.find(0x1008), Some("f"));
        let mut inherited = opened.for_child().expect("a descriptor");
        inherited.refresh().expect("read");
        assert_eq!(inherited.find(0x1008), Some("f"));
        assert!(matches!(stale, Err(PerfMapError::Stale { .. })), "{stale:?}");
        assert!(matches!(link, Err(PerfMapError::Unreadable { .. })), "{link:?}");
        assert!(matches!(pipe, Err(PerfMapError::Unreadable { .. })), "{pipe:?}");
    }

    #[test]
    fn a_map_of_another_user_is_not_believed() {
        // SAFETY: a plain query.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        // A process without our help: its own file is the only one of that name.
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("a process");
        let path = format!("/tmp/perf-{}.map", child.id());
        fs::write(&path, "1000 10 f\n").expect("write");
        std::os::unix::fs::chown(&path, Some(12_345), None).expect("chown");
        let opened = PerfMap::open(child.id());
        fs::remove_file(&path).expect("remove");
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(
            matches!(
                opened,
                Err(PerfMapError::Owner {
                    owner: 12_345,
                    user: 0,
                    ..
                })
            ),
            "{opened:?}"
        );
    }

    #[test]
    fn the_map_of_a_process_in_a_container_is_found_under_its_pid_in_there() {
        use std::{
            io::{BufRead as _, BufReader},
            process::{Command, Stdio},
        };

        let script = "mount -t tmpfs none /tmp && echo 1000 10 f > /tmp/perf-$$.map && echo $$ && read -r end";
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: there is no unshare");
            return;
        };
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        output.read_line(&mut line).expect("a line");
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
        let shell = children.trim().parse();
        let opened = shell.map(PerfMap::open);
        drop(child.stdin.take());
        child.wait().expect("wait");
        if line.is_empty() {
            eprintln!("skipped: only root can make namespaces");
            return;
        }
        assert_eq!(line, "1\n");
        // Process and file system are gone by now.
        let mut map = opened.expect("a pid").expect("a map");
        map.refresh().expect("read");
        assert_eq!(map.find(0x1000), Some("f"));
    }

    #[test]
    fn status_says_the_user_and_the_pid_inside() {
        let status = Status::parse(b"Name:\tUid:\nUmask:\t0022\nUid:\t1000\t1001\t0\t0\nNSpid:\t4242\t17\t1\n");
        assert_eq!(
            status,
            Some(Status {
                user: 1001,
                pid_inside: Some(1)
            })
        );
        assert_eq!(Status::parse(b"Name:\tx\n"), None);
        let own = Status::parse(&fs::read("/proc/self/status").expect("status")).expect("fields");
        // SAFETY: a plain query.
        assert_eq!(own.user, unsafe { libc::geteuid() });
    }

    #[test]
    fn a_start_is_read_past_any_name() {
        let stat = b"7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 9 10";
        assert_eq!(start_ticks(stat), Some(987_654));
        assert_eq!(start_ticks(b"7 (a"), None);
        let started = started_at(std::process::id()).expect("a time");
        let age = SystemTime::now().duration_since(started).unwrap_or_default();
        assert!(age < Duration::from_secs(24 * 3600), "{age:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), address: u64) {
            read(&bytes).find(address);
        }

        #[test]
        fn every_address_has_the_name_it_was_given_last(
            lines in prop::collection::vec((0u64..64, 1u64..40), 0..40),
        ) {
            let mut truth = vec![None; 128];
            let mut text = String::new();
            for (number, &(start, size)) in lines.iter().enumerate() {
                text.push_str(&format!("{start:x} {size:x} f{number}\n"));
                for at in start..start + size {
                    truth[at as usize] = Some(format!("f{number}"));
                }
            }
            let map = read(&text);
            for (address, name) in truth.iter().enumerate() {
                prop_assert_eq!(map.find(address as u64), name.as_deref());
            }
            let bytes: usize = map.entries.values().map(|entry| entry.name.len()).sum();
            prop_assert_eq!(map.name_bytes, bytes);
        }
    }
}
