//! The terminal: taken over, drawn on, read from, and given back as it was, however this ends.

use std::{
    io::{self, IsTerminal as _, Write as _, stdout},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use crossterm::{
    cursor,
    event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    execute, terminal,
};
use ratatui::{Terminal, backend::CrosstermBackend};

use super::{
    faults,
    snapshot::Snapshot,
    state::{Key, State},
    view::{self, Look},
};
use crate::session::live::Wishes;

/// How soon a refresh, or the end, is noticed. A key is at once.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the end waits for a terminal that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What this terminal can show, by what its environment says.
pub fn look() -> Look {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    // https://no-color.org; of colours, a dumb terminal has none.
    let dumb = variable("TERM").is_none_or(|term| term == "dumb");
    // POSIX: the first of these that is set.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
    let locale = locale
        .map(|locale| locale.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    Look {
        colours: variable("NO_COLOR").is_none() && !dumb,
        unicode: locale.contains("utf-8") || locale.contains("utf8"),
    }
}

/// Whether there is a terminal to draw on; if not, what to do.
pub fn check() -> anyhow::Result<()> {
    if !stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("top draws on a terminal, and this is none; use --once for one refresh as text, or --once -j as JSON");
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        bail!("TERM=dumb has no screen to draw on; use --once, or set TERM to what the terminal is");
    }
    Ok(())
}

/// The screen on a thread of its own.
pub struct Screen {
    thread: Option<thread::JoinHandle<anyhow::Result<()>>>,
    ends: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal. Whoever ends it there ends the session by `wishes`.
    pub fn start(snapshots: Receiver<Snapshot>, state: State, wishes: Wishes) -> anyhow::Result<Self> {
        Self::with(wishes, move |ends| show(&snapshots, state, ends))
    }

    /// `show` draws on the terminal that was taken, until it is told to end.
    fn with(
        wishes: Wishes,
        show: impl FnOnce(&AtomicBool) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        faults::keep_while(|| TAKEN.load(Ordering::Acquire));
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let work = move || {
            /// Also if it panics.
            struct End(Wishes);
            impl Drop for End {
                fn drop(&mut self) {
                    self.0.end();
                }
            }
            let _end = End(wishes);
            let _taken = Taken::take()?;
            show(&told)
        };
        let thread = thread::Builder::new()
            .name("screen".to_owned())
            .spawn(work)
            .context("failed to start the thread that draws")?;
        Ok(Self {
            thread: Some(thread),
            ends,
        })
    }

    /// Gives the terminal back.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.ends.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            if Instant::now() > until {
                // What it has not taken so far (Ctrl-S was pressed there) need not be waited for. Nothing can be drawn.
                let _ = terminal::disable_raw_mode();
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        match thread.join() {
            Ok(result) => result,
            Err(_) => {
                bail!("the screen could not be drawn because of a fault of the profiler, which is worth a report")
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What it has to say was asked for, or an error is on its way already.
        let _ = self.end();
    }
}

/// The terminal while it is ours.
struct Taken;

impl Taken {
    fn take() -> anyhow::Result<Self> {
        terminal::enable_raw_mode().context("failed to switch the terminal to raw mode")?;
        TAKEN.store(true, Ordering::Release);
        let taken = Self;
        execute!(stdout(), terminal::EnterAlternateScreen, cursor::Hide).context("failed to draw on the terminal")?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Once.
fn give_back() {
    if TAKEN.swap(false, Ordering::AcqRel) {
        let _ = execute!(stdout(), terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
        let _ = stdout().flush();
        faults::tell();
    }
}

/// Draws what comes until it is over.
fn show(snapshots: &Receiver<Snapshot>, mut state: State, ends: &AtomicBool) -> anyhow::Result<()> {
    let look = look();
    let backend = CrosstermBackend::new(stdout());
    let mut terminal = Terminal::new(backend).context("failed to draw on the terminal")?;
    let mut shown: Option<Snapshot> = None;
    let mut changed = true;
    while !state.quits && !ends.load(Ordering::Acquire) {
        match snapshots.try_recv() {
            // One that is paused goes on with what it shows.
            Ok(_) if state.paused => {}
            Ok(snapshot) => {
                state.take(&snapshot);
                shown = Some(snapshot);
                changed = true;
            }
            Err(TryRecvError::Empty) => {}
            // It ends after us, unless it panics.
            Err(TryRecvError::Disconnected) => {
                bail!(
                    "what was measured could not be named because of a fault of the profiler, which is worth a report"
                )
            }
        }
        if changed {
            terminal
                .draw(|frame| view::draw(frame.buffer_mut(), look, shown.as_ref(), &state))
                .context("failed to draw on the terminal")?;
            changed = false;
        }
        if is_gone(&io::stdin(), LOOK_EVERY)? {
            // Nobody is there to be told. Dropped, it would say by `eprintln!`, which panics then, that the cursor stays hidden
            // (ratatui 0.30).
            std::mem::forget(terminal);
            return Ok(());
        }
        // All that waits: keys that were held down are drawn once.
        while event::poll(Duration::ZERO).context("failed to read from the terminal")? {
            match event::read().context("failed to read from the terminal")? {
                Event::Key(pressed) => {
                    if let Some(key) = key(pressed) {
                        let page = view::page(terminal.size().map_or(24, |size| size.height));
                        state.press(key, shown.as_ref(), page);
                    }
                }
                Event::Resize(..) => {}
                _ => continue,
            }
            changed = true;
        }
    }
    Ok(())
}

/// Waits for a key, or so long, and says whether the terminal was hung up meanwhile: its window was closed, or the connection
/// has ended. crossterm (0.29) reads one that is gone again and again, for ever.
fn is_gone(terminal: &impl AsRawFd, within: Duration) -> anyhow::Result<bool> {
    let mut poll = libc::pollfd {
        fd: terminal.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let within = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the one entry is live, and written to.
    if unsafe { libc::poll(&raw mut poll, 1, within) } < 0 {
        let error = io::Error::last_os_error();
        // By a signal: of a new size, for one.
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok(false),
            _ => Err(error).context("failed to read from the terminal"),
        };
    }
    Ok(poll.revents & !libc::POLLIN != 0)
}

fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return (event.code == KeyCode::Char('c')).then_some(Key::Interrupt);
    }
    Some(match event.code {
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter | KeyCode::Right => Key::Enter,
        KeyCode::Esc | KeyCode::Left => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab | KeyCode::BackTab => Key::Tab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        fs::File,
        io::Read as _,
        mem::MaybeUninit,
        os::fd::{FromRawFd as _, OwnedFd},
        process::Command,
        ptr,
    };

    use super::*;

    /// In a process of its own, on a terminal of its own: another test's screen, if this one is run as such.
    const ON_A_TERMINAL: &str = "PROFILER_TEST_ON_A_TERMINAL";

    fn echoes(terminal: &OwnedFd) -> bool {
        let mut settings = MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: there is room for the answer, and zeroes are one.
        let settings = unsafe {
            assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), settings.as_mut_ptr()), 0);
            settings.assume_init()
        };
        settings.c_lflag & libc::ECHO != 0
    }

    /// What is written on a terminal by one of these tests, run alone in a process of its own, which must go well; and whether
    /// what is typed is seen there afterwards.
    fn on_a_terminal(test: &str) -> (String, bool) {
        let (mut ours, mut theirs) = (-1, -1);
        let none = ptr::null_mut();
        // SAFETY: both numbers are written, and neither a name, settings nor a size are given.
        let opened = unsafe { libc::openpty(&raw mut ours, &raw mut theirs, none, ptr::null(), ptr::null()) };
        assert_eq!(opened, 0, "{}", io::Error::last_os_error());
        // SAFETY: the call has opened both, and nobody else has them.
        let (mut ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let stdio = || theirs.try_clone().expect("a descriptor");
        let mut child = Command::new(env::current_exe().expect("a test"))
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(ON_A_TERMINAL, "1")
            .env_remove("RUST_BACKTRACE")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .expect("the test itself");
        let reading = thread::spawn(move || {
            let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = ours.read(&mut bytes) {
                text.extend_from_slice(&bytes[..length]);
                if text.ends_with(END.as_bytes()) {
                    break;
                }
            }
            (String::from_utf8_lossy(&text).into_owned(), ours)
        });
        let status = child.wait().expect("it ends");
        // SAFETY: the buffer is live for the length of the call.
        let written = unsafe { libc::write(theirs.as_raw_fd(), END.as_ptr().cast(), END.len()) };
        assert_eq!(usize::try_from(written), Ok(END.len()));
        // Open for as long as the other end is asked.
        let (text, _ours) = reading.join().expect("it reads");
        assert!(status.success(), "{status}: {text}");
        (text, echoes(&theirs))
    }

    /// What we write there when it is over.
    const END: &str = "<the end>";

    #[test]
    fn what_a_panic_has_to_say_is_on_the_terminal_that_was_given_back() {
        if env::var_os(ON_A_TERMINAL).is_some() {
            let wishes = Wishes::default();
            let screen =
                Screen::with(wishes.clone(), |_| panic!("a fault \u{1b}[2J of the screen's")).expect("a thread");
            let error = screen.finish().expect_err("it has died");
            assert!(error.to_string().contains("which is worth a report"), "{error}");
            assert!(wishes.is_over(), "nobody looks any more");
            // Of another thread, while it is drawn.
            let screen = Screen::with(wishes, |_| {
                let other = thread::spawn(|| panic!("a fault of another's"));
                assert!(other.join().is_err());
                execute!(stdout(), crossterm::style::Print("drawn after it")).context("a terminal")
            });
            screen.expect("a thread").finish().expect("it has ended");
            return;
        }
        let own = "top::screen::tests::what_a_panic_has_to_say_is_on_the_terminal_that_was_given_back";
        let (text, echoes) = on_a_terminal(own);
        assert!(echoes, "what is typed is seen again");
        let (taken, given_back) = ("\u{1b}[?1049h", "\u{1b}[?1049l");
        let screens: Vec<&str> = text.split(taken).collect();
        let [_, first, second] = screens[..] else {
            panic!("two screens: {text:?}")
        };
        let (on_it, after) = first.split_once(given_back).expect("it was given back");
        assert!(!on_it.contains("a fault"), "{on_it:?}");
        assert!(
            after.contains("thread 'screen' panicked at ") && after.contains("a fault "),
            "{after:?}"
        );
        assert!(
            !after.contains("\u{1b}[2J"),
            "nothing gets to the terminal as it is: {after:?}"
        );
        let (on_it, after) = second.split_once(given_back).expect("it was given back");
        assert!(
            on_it.contains("drawn after it") && !on_it.contains("a fault"),
            "{on_it:?}"
        );
        assert!(after.contains("a fault of another's"), "{after:?}");
    }
}
