//! The one line on standard error that shows a recording is alive.
//!
//! It is drawn only where somebody looks (a terminal, no `-q`), rewritten in place a few times a second, and gone when
//! the recording ends. A pipe or a log file gets nothing: there a progress line is noise.

use std::{
    io::{self, IsTerminal as _, Write},
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use crate::{
    config::{Target, Verbosity},
    humanize,
};

/// Four times a second looks alive and costs nothing.
const REDRAW_EVERY: Duration = Duration::from_millis(250);

/// Where the terminal does not tell its width.
const USUAL_COLUMNS: usize = 80;

/// Back to the first column, and erase to the end of the line (ECMA-48 EL).
const ERASE: &str = "\r\x1b[K";

#[derive(Debug)]
pub struct Progress<W: Write = io::Stderr> {
    /// `None`: nobody looks.
    terminal: Option<W>,
    columns: fn() -> usize,
    drawn_at: Option<Instant>,
}

impl Progress {
    /// A line on standard error, if that is a terminal. With a command there is none: its output shares the terminal,
    /// and a line that is rewritten in place would tear it.
    pub fn on_stderr(verbosity: Verbosity, target: &Target) -> Self {
        let stderr = io::stderr();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let shared = matches!(target, Target::Command(_));
        let wanted = verbosity != Verbosity::Quiet && stderr.is_terminal() && !dumb && !shared;
        Self {
            terminal: wanted.then_some(stderr),
            columns: stderr_columns,
            drawn_at: None,
        }
    }
}

impl<W: Write> Progress<W> {
    /// Redraws the line, unless it was drawn a moment ago. Cheap enough to call with every batch of samples.
    pub fn update(&mut self, elapsed: Duration, samples: u64, processes: usize) {
        let now = Instant::now();
        let Some(terminal) = &mut self.terminal else { return };
        if self
            .drawn_at
            .is_some_and(|drawn_at| now.duration_since(drawn_at) < REDRAW_EVERY)
        {
            return;
        }
        // A line that wraps cannot be erased, so it ends one column before the edge.
        let line: String = line(elapsed, samples, processes)
            .chars()
            .take((self.columns)().saturating_sub(1))
            .collect();
        // Nobody is told when a terminal goes away: the recording matters more than its progress line.
        let _ = write!(terminal, "{ERASE}{line}");
        let _ = terminal.flush();
        self.drawn_at = Some(now);
    }

    /// Erases the line. To be called before anything else is written to the terminal; the next update draws it again.
    pub fn erase(&mut self) {
        if let Some(terminal) = &mut self.terminal
            && self.drawn_at.take().is_some()
        {
            let _ = terminal.write_all(ERASE.as_bytes());
            let _ = terminal.flush();
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.erase();
    }
}

fn line(elapsed: Duration, samples: u64, processes: usize) -> String {
    // Tenths of a second at least: `humanize` would show the first moments in milli- and microseconds.
    let elapsed = if elapsed < Duration::from_secs(1) {
        format!("{:.1} s", elapsed.as_secs_f64())
    } else {
        humanize::duration(elapsed)
    };
    let (sample_s, process_es) = (
        if samples == 1 { "" } else { "s" },
        if processes == 1 { "" } else { "es" },
    );
    format!(
        "recording {elapsed} · {} sample{sample_s} · {} process{process_es} · Ctrl-C to stop",
        humanize::count(samples),
        humanize::count(processes as u64),
    )
}

/// How wide standard error is.
pub fn stderr_columns() -> usize {
    columns(io::stderr().as_fd()).unwrap_or(USUAL_COLUMNS)
}

/// The width of the terminal that standard output is, or one that a file's reader has.
pub fn stdout_columns() -> usize {
    /// Wider than a terminal: nothing is cut in a file, and nobody's lines wrap.
    const OF_FILES: usize = 120;
    columns(io::stdout().as_fd()).unwrap_or(OF_FILES)
}

fn columns(terminal: BorrowedFd<'_>) -> Option<usize> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: TIOCGWINSZ writes one `winsize`, which `size` has room for; the descriptor outlives the call.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
    // SAFETY: `winsize` is made of integers, so the zeroes it started with are a value even if nothing was written.
    let size = unsafe { size.assume_init() };
    // A serial line answers with zero columns.
    (answer == 0 && size.ws_col > 0).then(|| usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(terminal: Option<&mut Vec<u8>>, columns: fn() -> usize) -> Progress<&mut Vec<u8>> {
        Progress {
            terminal,
            columns,
            drawn_at: None,
        }
    }

    #[test]
    fn the_line_says_how_long_how_much_and_how_to_stop() {
        assert_eq!(
            line(Duration::from_millis(12_345), 1_204, 3),
            "recording 12.3 s · 1,204 samples · 3 processes · Ctrl-C to stop"
        );
        assert_eq!(
            line(Duration::from_millis(300), 1, 1),
            "recording 0.3 s · 1 sample · 1 process · Ctrl-C to stop"
        );
    }

    #[test]
    fn the_line_is_erased_when_the_recording_ends() {
        let mut screen = Vec::new();
        on(Some(&mut screen), || 80).update(Duration::from_secs(1), 5, 1);
        let text = String::from_utf8(screen).unwrap();
        assert!(text.starts_with("\r\x1b[Krecording 1.0 s"), "{text:?}");
        assert!(text.ends_with("Ctrl-C to stop\r\x1b[K"), "{text:?}");
    }

    #[test]
    fn updates_in_quick_succession_draw_once() {
        let mut screen = Vec::new();
        let mut progress = on(Some(&mut screen), || 80);
        for samples in 0..1000 {
            progress.update(Duration::from_secs(1), samples, 1);
        }
        drop(progress);
        assert_eq!(String::from_utf8(screen).unwrap().matches("recording").count(), 1);
    }

    #[test]
    fn a_narrow_terminal_never_wraps() {
        let mut screen = Vec::new();
        on(Some(&mut screen), || 20).update(Duration::from_secs(1), 5, 1);
        let text = String::from_utf8(screen).unwrap().replace(ERASE, "");
        assert_eq!(text.chars().count(), 19);
    }

    #[test]
    fn where_nobody_looks_nothing_is_written() {
        on(None, || 80).update(Duration::from_secs(1), 5, 1);
        let mut screen = Vec::new();
        drop(on(Some(&mut screen), || 80));
        assert!(screen.is_empty(), "an unused line needs no erasing");
    }
}
