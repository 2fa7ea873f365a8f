//! What /proc says of a thread at one moment.

use std::fs;

use profiler_common::wait::NO_CALL;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The state's letter, as in proc(5).
    pub letter: u8,
    /// The CPU it runs on, or ran on last.
    pub cpu: u32,
    /// The system call it is in; [`NO_CALL`] if it is in none, or if that cannot be known.
    pub call: u32,
    pub arguments: [u64; 6],
    /// Registers with which it left user space; 0 while it runs.
    pub sp: u64,
    pub pc: u64,
    /// How often it got a CPU: a thread that has not run in between has the same number.
    pub slices: u64,
}

impl Look {
    /// `None` if it is gone.
    pub fn of(pid: u32, tid: u32) -> Option<Self> {
        // First: what goes on in between has more slices afterwards.
        let slices = slices(pid, tid);
        let mut look = parse_stat(&fs::read(path(pid, tid, "stat")).ok()?)?;
        look.slices = slices.unwrap_or(0);
        if look.is_away() {
            look.set_call(&fs::read_to_string(path(pid, tid, "syscall")).unwrap_or_default());
        }
        Some(look)
    }

    /// Whether it waits, or is stopped: it does not run, and could not.
    pub fn is_away(&self) -> bool {
        !matches!(self.letter, b'R' | b'Z' | b'X')
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.letter, b'Z' | b'X')
    }

    /// The state as the kernel numbers it.
    pub fn task_state(&self) -> u32 {
        match self.letter {
            b'S' | b'P' | b'I' => 0x1,
            b'D' => 0x2,
            b'T' => 0x4,
            b't' => 0x8,
            _ => 0,
        }
    }

    /// `running`, or `202 0x7f… … 0xsp 0xpc`, or `-1 0xsp 0xpc` outside of calls.
    fn set_call(&mut self, text: &str) {
        let words: Vec<&str> = text.split_ascii_whitespace().take(10).collect();
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap_or(0);
        match words[..] {
            [call, ref arguments @ .., sp, pc] if arguments.len() == self.arguments.len() => {
                self.call = call.parse().unwrap_or(NO_CALL);
                for (into, word) in self.arguments.iter_mut().zip(arguments) {
                    *into = number(word);
                }
                (self.sp, self.pc) = (number(sp), number(pc));
            }
            [_, sp, pc] => (self.sp, self.pc) = (number(sp), number(pc)),
            // It goes on already.
            ["running"] => self.letter = b'R',
            _ => {}
        }
    }
}

/// How often a thread got a CPU; `None` if it is gone, or the kernel does not count (`CONFIG_SCHED_INFO`).
pub fn slices(pid: u32, tid: u32) -> Option<u64> {
    let text = fs::read_to_string(path(pid, tid, "schedstat")).ok()?;
    text.split_ascii_whitespace().nth(2)?.parse().ok()
}

fn path(pid: u32, tid: u32, file: &str) -> String {
    format!("/proc/{pid}/task/{tid}/{file}")
}

/// The name, in parentheses, may hold anything, and need not be UTF-8.
fn parse_stat(stat: &[u8]) -> Option<Look> {
    /// `processor`, counted as proc(5) does.
    const CPU: usize = 39;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    // The third field is the first behind the name.
    let letter = *fields.next()?.as_bytes().first()?;
    Some(Look {
        letter,
        cpu: fields.nth(CPU - 4).and_then(|field| field.parse().ok()).unwrap_or(0),
        call: NO_CALL,
        ..Look::default()
    })
}

/// For `fuzzed`.
#[doc(hidden)]
pub fn parse(bytes: &[u8]) {
    if let Some(mut look) = parse_stat(bytes) {
        look.set_call(&String::from_utf8_lossy(bytes));
        look.task_state();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &[u8] = b"7 (a) S 1 (\xff) D 42 7 7 0 -1 4194560 1 2 3 4 150 50 1000 500 20 0 1 0 9 8192 25 \
                          18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 5 0 0 0 0 0";

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let look = parse_stat(STAT).expect("a whole line");
        assert_eq!((look.letter, look.cpu, look.is_away()), (b'D', 5, true));
        assert_eq!(parse_stat(b"7 (a)"), None);
    }

    #[test]
    fn a_call_has_six_arguments_and_registers() {
        let mut look = parse_stat(STAT).unwrap();
        look.set_call("202 0x7f10 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd30 0x7f2040\n");
        assert_eq!(
            (look.call, look.arguments[5], look.sp, look.pc),
            (202, 0xffff_ffff, 0x7f_fd30, 0x7f_2040)
        );
        look.set_call("-1 0x10 0x20");
        assert_eq!((look.sp, look.pc), (0x10, 0x20));
        look.set_call("running\n");
        assert!(!look.is_away());
    }

    #[test]
    fn a_thread_of_ours_runs() {
        let pid = std::process::id();
        // SAFETY: gettid(2) has no preconditions.
        let tid = unsafe { libc::gettid() }.cast_unsigned();
        let look = Look::of(pid, tid).expect("own thread");
        assert!(!look.is_away() && !look.has_ended());
        assert!(slices(pid, tid) >= Some(look.slices));
        assert_eq!(Look::of(pid, 0x7fff_ffff), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), words in "(-?[0-9a-fx]{1,20} ?){0,12}") {
            parse(&bytes);
            parse(&[b"1 (x) S ", words.as_bytes()].concat());
        }
    }
}
