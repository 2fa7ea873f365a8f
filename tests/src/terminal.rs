//! A terminal that a program draws on, and a test reads.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus, Stdio},
    ptr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::process::{self, die_with_parent};

const PATIENCE: Duration = Duration::from_secs(60);

/// A program on a terminal of its own. Dropping it ends it.
pub struct Terminal {
    child: Child,
    ours: File,
    /// Kept open, so that what the terminal was set to can be asked for when the program is gone.
    theirs: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
}

/// What a terminal is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub echoes: bool,
    pub edits_lines: bool,
}

impl Terminal {
    /// Runs it on a terminal of so many rows and columns.
    pub fn run(mut command: Command, rows: u16, columns: u16) -> Result<Self> {
        let size = size(rows, columns);
        let (mut ours, mut theirs) = (-1, -1);
        // SAFETY: both numbers are written, the size is read, and neither a name nor settings are given.
        let opened = unsafe {
            libc::openpty(
                &raw mut ours,
                &raw mut theirs,
                ptr::null_mut(),
                ptr::null(),
                &raw const size,
            )
        };
        if opened != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot open a terminal");
        }
        // SAFETY: the call has opened both, and nobody else has them.
        let (ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let stdio = || -> Result<Stdio> { Ok(theirs.try_clone()?.into()) };
        command.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
        let lead = || {
            // SAFETY: system calls, which may be made between fork and exec. 0 is its standard input by now.
            match unsafe { libc::setsid() != -1 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 } {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: as said there.
        unsafe { command.pre_exec(lead) };
        let child = die_with_parent(&mut command)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let mut from = ours.try_clone()?;
        let into = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                if let Ok(mut screen) = into.lock() {
                    screen.process(&bytes[..length]);
                }
            }
        });
        Ok(Self {
            child,
            ours,
            theirs,
            screen,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What is to be seen.
    pub fn text(&self) -> String {
        self.screen
            .lock()
            .map(|screen| screen.screen().contents())
            .unwrap_or_default()
    }

    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    /// Whether the program draws on a screen of its own, and hides the cursor.
    pub fn is_taken(&self) -> bool {
        self.screen
            .lock()
            .is_ok_and(|screen| screen.screen().alternate_screen() || screen.screen().hide_cursor())
    }

    /// Whether any cell has a colour.
    pub fn has_colours(&self) -> bool {
        let Ok(screen) = self.screen.lock() else { return false };
        let screen = screen.screen();
        let (rows, columns) = screen.size();
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        cells
            .filter_map(|(row, column)| screen.cell(row, column))
            .any(|cell| cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default)
    }

    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.ours
            .write_all(keys.as_bytes())
            .context("the terminal takes no keys")
    }

    /// Waits until the screen is so.
    pub fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> Result<String> {
        let found = process::until(PATIENCE, what, || is_so(&self.text()));
        match found {
            Ok(()) => Ok(self.text()),
            Err(error) => bail!("{error:#}; the screen is:\n{}", self.text()),
        }
    }

    /// Waits until the screen has this text.
    pub fn until_it_says(&self, words: &str) -> Result<String> {
        self.until(words, |text| text.contains(words))
    }

    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        if let Ok(mut screen) = self.screen.lock() {
            screen.screen_mut().set_size(rows, columns);
        }
        let size = size(rows, columns);
        // SAFETY: the size is live, and the call only reads it.
        match unsafe { libc::ioctl(self.ours.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()).context("the terminal takes no size"),
        }
    }

    /// As when its window is closed, or the connection ends. Nothing can be read from it or set on it afterwards.
    pub fn hang_up(&self) -> Result<()> {
        const TIOCVHANGUP: libc::Ioctl = 0x5437;
        // SAFETY: nothing is read or written.
        match unsafe { libc::ioctl(self.theirs.as_raw_fd(), TIOCVHANGUP) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()).context("the terminal cannot be hung up"),
        }
    }

    /// As by Ctrl-S: what is written on it waits.
    pub fn stop_output(&self) -> Result<()> {
        // SAFETY: nothing is read or written.
        match unsafe { libc::tcflow(self.theirs.as_raw_fd(), libc::TCOOFF) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()).context("the terminal cannot be stopped"),
        }
    }

    pub fn signal(&self, signal: i32) -> Result<()> {
        process::signal(self.pid(), signal)
    }

    /// Waits for its end.
    pub fn finish(&mut self) -> Result<ExitStatus> {
        process::wait(&mut self.child, PATIENCE)
    }

    pub fn settings(&self) -> Result<Settings> {
        let mut settings = std::mem::MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: there is room for the answer.
        if unsafe { libc::tcgetattr(self.theirs.as_raw_fd(), settings.as_mut_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error()).context("the terminal has no settings");
        }
        // SAFETY: the call has written it.
        let flags = unsafe { settings.assume_init() }.c_lflag;
        Ok(Settings {
            echoes: flags & libc::ECHO != 0,
            edits_lines: flags & libc::ICANON != 0,
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Usually it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> libc::winsize {
    libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
