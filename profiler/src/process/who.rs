//! Processes as people know them: by what they are called, and by what was typed.
//!
//! What was typed is any bytes at all, and goes to a terminal: what would move its cursor, or turn its text around, is
//! replaced.

use std::{borrow::Cow, fs, path::Path};

use super::{ancestry, comm, stat::Stat};

/// So many are listed.
const MOST_LISTED: usize = 8;
/// A line of the list fits a terminal.
const COLUMNS: usize = 80;

/// `4242 (gunicorn)`.
pub fn process(proc: &Path, pid: u32) -> String {
    match comm::of(proc, pid) {
        name if name.is_empty() => pid.to_string(),
        name => format!("{pid} ({name})"),
    }
}

/// The names of the threads of a process.
pub fn threads(proc: &Path, pid: u32) -> Vec<String> {
    let tasks = proc.join(pid.to_string()).join("task");
    let tids = ancestry::pids(&tasks).unwrap_or_default();
    tids.into_iter().map(|tid| comm::of(&tasks, tid)).collect()
}

/// What to say to who has typed a name where a pid belongs: which processes have that name. `proc` is /proc.
pub fn offer(proc: &Path, typed: &str) -> String {
    let mut found = named(proc, typed, |part, typed| part == typed);
    let exact = !found.is_empty();
    // Fewer letters are in everything.
    if !exact && typed.chars().count() >= 3 {
        found = named(proc, typed, |part, typed| part.contains(typed));
    }
    if found.is_empty() {
        return format!(
            "`{typed}` is no pid, and no process is called so: expected a number such as 4242 or 0x1092; a command \
             goes after `--`, as in `profiler record -- python3 app.py`"
        );
    }
    let mut words = match (exact, found.len()) {
        (false, _) => format!("`{typed}` is no pid, and no process is called so; what comes close:"),
        (true, 1) => format!("`{typed}` is a name; the process that has it:"),
        (true, number) => format!("`{typed}` is a name; the {number} processes that have it:"),
    };
    // Those that others of the name have started are in their line.
    let pids: Vec<u32> = found.iter().map(|process| process.pid).collect();
    let (below, roots): (Vec<_>, Vec<_>) = found.iter().partition(|process| pids.contains(&process.parent));
    for process in roots.iter().take(MOST_LISTED) {
        let children = below.iter().filter(|child| child.parent == process.pid).count();
        words.push_str(&format!("\n  {}", process.line(children)));
    }
    if roots.len() > MOST_LISTED {
        words.push_str(&format!("\n  and {} more", roots.len() - MOST_LISTED));
    }
    words
}

struct Process {
    pid: u32,
    parent: u32,
    command: String,
}

impl Process {
    fn line(&self, children: usize) -> String {
        let with = match children {
            0 => String::new(),
            1 => "-s with its child  ".to_owned(),
            number => format!("-s with its {number} children  "),
        };
        let start = format!("-p {:<8} {with}", self.pid);
        let room = COLUMNS.saturating_sub(start.chars().count() + 2);
        match self.command.char_indices().nth(room) {
            None => format!("{start}{}", self.command),
            Some(_) => {
                let cut: String = self.command.chars().take(room.saturating_sub(1)).collect();
                format!("{start}{}…", cut.trim_end())
            }
        }
    }
}

/// Other processes that go by a name: the kernel's, or that of a program, script or module they were started as.
fn named(proc: &Path, typed: &str, fits: impl Fn(&str, &str) -> bool) -> Vec<Process> {
    let typed = typed.to_lowercase();
    let own = std::process::id();
    let pids = ancestry::pids(proc).unwrap_or_default();
    let found = pids.into_iter().filter(|&pid| pid != own).filter_map(|pid| {
        let folder = proc.join(pid.to_string());
        let typed_as = fs::read(folder.join("cmdline")).unwrap_or_default();
        let words: Vec<Cow<'_, str>> = typed_as.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        let name = comm::of(proc, pid);
        let mut parts = names(&words).chain([name.as_str()]);
        if !parts.any(|part| fits(&part.to_lowercase(), &typed)) {
            return None;
        }
        Some(Process {
            pid,
            parent: Stat::read(proc, pid)?.parent,
            command: match shown(without_folder(&typed_as)) {
                // A thread of the kernel.
                nothing if nothing.is_empty() => format!("[{name}]"),
                command => command,
            },
        })
    });
    found.collect()
}

/// The program, and the script or module if it is an interpreter.
fn names<'a>(words: &'a [Cow<'a, str>]) -> impl Iterator<Item = &'a str> {
    let program = words.first().map(|word| file_name(word));
    let mut rest = words.iter().skip(1);
    let mut second = None;
    while let Some(word) = rest.next() {
        // Options of CPython that take a word.
        if *word == "-X" || *word == "-W" {
            rest.next();
        } else if *word == "-m" {
            second = rest.next().map(|module| module.as_ref());
            break;
        } else if !word.starts_with('-') {
            second = Some(file_name(word));
            break;
        }
    }
    let stem = second.and_then(|name| name.strip_suffix(".py"));
    [program, second, stem].into_iter().flatten()
}

/// A command line whose program has its name only: the rest tells more.
fn without_folder(typed: &[u8]) -> &[u8] {
    let end = typed.iter().position(|&byte| byte == 0).unwrap_or(typed.len());
    let program = &typed[..end];
    // Some write something else there, as `gunicorn: worker [a/b]`.
    let is_path = program.starts_with(b"/") || program.starts_with(b".");
    let folder = program.iter().rposition(|&byte| is_path && byte == b'/');
    folder.map_or(typed, |slash| &typed[slash + 1..])
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Text for a terminal. The zeroes between words are spaces.
fn shown(bytes: &[u8]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect();
    comm::clean(&String::from_utf8_lossy(&bytes).trim().replace('\t', " "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Proc(tempfile::TempDir);

    impl Proc {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn put(&self, pid: u32, parent: u32, name: &[u8], words: &[&str]) {
            let folder = self.0.path().join(pid.to_string());
            fs::create_dir_all(&folder).expect("a folder");
            let stat = format!("{pid} (x) S {parent} 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 0 0 1");
            fs::write(folder.join("stat"), stat).expect("a file");
            fs::write(folder.join("comm"), [name, b"\n"].concat()).expect("a file");
            fs::write(folder.join("cmdline"), words.join("\0") + "\0").expect("a file");
        }

        fn offer(&self, typed: &str) -> String {
            offer(self.0.path(), typed)
        }
    }

    #[test]
    fn the_pids_of_a_name_are_offered_with_what_those_have_started() {
        let proc = Proc::new();
        let words = ["/srv/venv/bin/python", "/srv/venv/bin/gunicorn", "-w", "4"];
        proc.put(41, 42, b"gunicorn", &words);
        proc.put(42, 1, b"gunicorn", &words);
        proc.put(60, 1, b"gunicorn", &words);
        proc.put(50, 1, b"bash", &["bash"]);
        assert_eq!(
            proc.offer("gunicorn"),
            "`gunicorn` is a name; the 3 processes that have it:\n  \
             -p 42       -s with its child  python /srv/venv/bin/gunicorn -w 4\n  \
             -p 60       python /srv/venv/bin/gunicorn -w 4"
        );
    }

    #[test]
    fn a_process_goes_by_its_program_its_script_and_its_module() {
        let proc = Proc::new();
        proc.put(
            7,
            1,
            b"worker-1",
            &["/usr/bin/python3.11", "-X", "dev", "-m", "celery", "worker"],
        );
        proc.put(8, 1, b"python", &["python", "-u", "/srv/app.py"]);
        for (typed, pid) in [
            ("worker-1", 7),
            ("python3.11", 7),
            ("app.py", 8),
            ("app", 8),
            ("Python", 8),
        ] {
            let offer = proc.offer(typed);
            assert!(
                offer.contains(&format!("the process that has it:\n  -p {pid} ")),
                "{offer}"
            );
        }
        assert!(
            proc.offer("cel").contains("comes close:\n  -p 7 "),
            "{}",
            proc.offer("cel")
        );
        let nothing = proc.offer("nginx");
        assert!(
            nothing.contains("such as 4242") && nothing.contains("after `--`") && !nothing.contains('\n'),
            "{nothing}"
        );
    }

    #[test]
    fn a_list_is_bounded_and_its_lines_fit_a_terminal() {
        let proc = Proc::new();
        for pid in 100..150 {
            proc.put(pid, 1, b"x\x1b[2J\xff", &["x", &"long ".repeat(100)]);
        }
        let offer = proc.offer("x");
        assert!(offer.ends_with("\n  and 42 more"), "{offer}");
        assert!(offer.lines().all(|line| line.chars().count() <= COLUMNS), "{offer}");
    }

    proptest! {
        #[test]
        fn no_name_reaches_the_terminal_as_it_is(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(!shown(&bytes).chars().any(char::is_control));
        }
    }
}
