//! Where the profile goes: checked before anything is recorded, and whole or not there at all.
//!
//! A file is written under another name in its directory and renamed when it is complete, so that a full disk or a
//! crash leaves what was there before. Standard output, pipes and devices are written as they come; when the reader of
//! a pipe leaves early (`| head`), that is its decision and no failure.
//!
//! Under sudo, all of this is done with the rights of the user who asked: who may run this program as root, and nothing
//! else, may not write as root.

mod directory;

use std::{
    ffi::{CString, OsString},
    fs::{self, File, FileType, Metadata, OpenOptions},
    io::{self, BufWriter, ErrorKind, Write},
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail};

use self::directory::Directory;
pub use self::directory::remove_partial;
use crate::{
    config::OutputTarget,
    invoker::{Invoker, acting},
    launch::is_ignored,
};

/// A place that has been found fit to be written to.
#[derive(Debug)]
pub struct Output {
    place: Place,
    /// Who asked for it, if that is somebody else than we are.
    invoker: Option<Invoker>,
    /// What names it on the command line.
    option: &'static str,
}

#[derive(Debug)]
enum Place {
    Stdout,
    /// A character device.
    Device {
        path: PathBuf,
        file: File,
    },
    /// Opening a pipe waits for its reader, so it is left for the end.
    Pipe {
        path: PathBuf,
    },
    /// A pipe that has a reader.
    Connected {
        path: PathBuf,
        pipe: File,
    },
    File(Replacement),
}

/// A file that will be replaced, or made.
#[derive(Debug)]
struct Replacement {
    /// As the user calls it, for messages.
    shown: PathBuf,
    directory: Arc<Directory>,
    /// In the directory, behind symbolic links, so that renaming replaces the file and not the link to it.
    name: OsString,
    force: bool,
    /// Of the file that is replaced. A new one has the mode that the umask leaves, and is its maker's.
    former: Option<Former>,
    option: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Former {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// From here on, a file that may not become larger (`ulimit -f`) is an error, as a full disk is, and not the end of the
/// program, which would leave half of it behind.
pub fn survive_limit() {
    extern "C" fn nothing(_: libc::c_int) {}
    // A handler, and not SIG_IGN, which a command that is started would inherit.
    if !is_ignored(libc::SIGXFSZ) {
        // SAFETY: the handler does nothing. Nobody else handles this signal.
        unsafe { libc::signal(libc::SIGXFSZ, nothing as *const () as libc::sighandler_t) };
    }
}

/// What became of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// `None` is standard output.
    pub path: Option<PathBuf>,
    pub bytes: u64,
    /// The reader of a pipe left before the end. No failure, but not everything was read.
    pub reader_left: bool,
}

impl Output {
    /// Checks that `target`, which is named with `option`, can be written, by `invoker` if there is one.
    pub fn prepare(target: &OutputTarget, invoker: Option<&Invoker>, option: &'static str) -> Result<Self> {
        let place = match target {
            OutputTarget::Stdout => Place::Stdout,
            OutputTarget::File { path, force } => {
                // One place for all: whatever is looked at or opened there is the invoker's affair.
                let found = acting(invoker, || Place::of_path(path, *force, invoker, option))?;
                found.map_err(|error| on_behalf(error, invoker))?
            }
        };
        Ok(Self {
            place,
            invoker: invoker.cloned(),
            option,
        })
    }

    /// Opens a pipe, which waits until somebody reads it; `waits` is called before, if nobody does yet.
    pub fn connect(self, waits: impl FnOnce(&Path)) -> Result<Self> {
        let place = match self.place {
            Place::Pipe { path } => {
                let pipe = acting(self.invoker.as_ref(), || open_pipe(&path, waits))?
                    .with_context(|| format!("cannot open the pipe {}", path.display()))?;
                Place::Connected { path, pipe }
            }
            other => other,
        };
        Ok(Self { place, ..self })
    }

    /// Where the profile will be; `None` is standard output.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Stdout => None,
            Place::Device { path, .. } | Place::Pipe { path } | Place::Connected { path, .. } => Some(path),
            Place::File(replacement) => Some(&replacement.shown),
        }
    }

    /// Lets `content` write, and puts what it wrote in its place.
    pub fn write(self, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Written> {
        let Self { place, option, .. } = self.connect(|_| {})?;
        let (path, (bytes, reader_left)) = match place {
            Place::Stdout => {
                // Locked for the whole profile, so that nothing else gets in between.
                let written = stream(io::stdout().lock(), content, option).context("standard output")?;
                (None, written)
            }
            Place::Device { path, file: sink } | Place::Connected { path, pipe: sink } => {
                let written = stream(sink, content, option).with_context(|| path.display().to_string())?;
                (Some(path), written)
            }
            Place::Pipe { path } => bail!("the pipe {} was not opened", path.display()),
            Place::File(replacement) => {
                let shown = replacement.shown.clone();
                let bytes = replacement.write(content)?;
                (Some(shown), (bytes, false))
            }
        };
        Ok(Written {
            path,
            bytes,
            reader_left,
        })
    }
}

/// Opens a pipe with a name for writing.
fn open_pipe(path: &Path, waits: impl FnOnce(&Path)) -> io::Result<File> {
    let now = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
    let opened = match now {
        // From here on it waits where the reader is slow.
        Ok(pipe) => {
            // SAFETY: the descriptor is open, and a flag is all that changes. O_NONBLOCK is the one that was asked for,
            // the others are ignored or cannot be set on a pipe.
            match unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, 0) } {
                0 => Ok(pipe),
                _ => Err(io::Error::last_os_error()),
            }
        }
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            waits(path);
            OpenOptions::new().write(true).open(path)
        }
        Err(error) => Err(error),
    };
    still(opened?, FileType::is_fifo)
}

/// Passes on what was opened by its name if it is what was seen there before: somebody may have put something else there.
fn still(opened: File, kind: impl FnOnce(&FileType) -> bool) -> io::Result<File> {
    if kind(&opened.metadata()?.file_type()) {
        Ok(opened)
    } else {
        Err(io::Error::other("something else was put there meanwhile"))
    }
}

/// Adds to an error whose rights have not sufficed.
fn on_behalf(error: anyhow::Error, invoker: Option<&Invoker>) -> anyhow::Error {
    let mut kinds = error
        .chain()
        .filter_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
    match kinds.find(|&kind| kind == ErrorKind::PermissionDenied) {
        Some(kind) => anyhow!("{error:#}{}", whose_rights(kind, invoker)),
        None => error,
    }
}

fn whose_rights(kind: ErrorKind, invoker: Option<&Invoker>) -> String {
    match invoker {
        Some(invoker) if kind == ErrorKind::PermissionDenied => {
            format!("; sudo was run by {invoker}, whose rights decide (as root: `env -u SUDO_UID profiler …`)")
        }
        _ => String::new(),
    }
}

impl Place {
    fn of_path(path: &Path, force: bool, invoker: Option<&Invoker>, option: &'static str) -> Result<Self> {
        let shown = path.display();
        if path.as_os_str().is_empty() {
            bail!(
                "the name of the output is empty; name a file with {option}, or use `{option} -` for standard output"
            );
        }
        let existing = match fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot look at {shown}; name another file with {option}"));
            }
        };
        let Some(metadata) = existing else {
            // A link to nowhere is found by its own name only.
            if fs::symlink_metadata(path).is_ok() && !force {
                return Err(exists(path, option));
            }
            return Ok(Self::File(Replacement::new(path, path, force, None, invoker, option)?));
        };

        let kind = metadata.file_type();
        if kind.is_dir() {
            bail!("{shown} is a directory; name a file in it with {option}");
        } else if kind.is_fifo() {
            may_write(path)
                .with_context(|| format!("the pipe {shown} cannot be written; name another with {option}"))?;
            Ok(Self::Pipe { path: path.to_owned() })
        } else if kind.is_char_device() {
            let file = OpenOptions::new().write(true).open(path);
            let file = file.and_then(|file| still(file, FileType::is_char_device));
            let file = file.with_context(|| format!("cannot write to {shown}; name another file with {option}"))?;
            Ok(Self::Device {
                path: path.to_owned(),
                file,
            })
        } else if !kind.is_file() {
            bail!("{shown} is neither a file nor a pipe; name another with {option}");
        } else if !force {
            Err(exists(path, option))
        } else {
            let real = fs::canonicalize(path).with_context(|| format!("cannot look at {shown}"))?;
            let replacement = Replacement::new(path, &real, force, Some(&metadata), invoker, option)?;
            Ok(Self::File(replacement))
        }
    }
}

impl Replacement {
    fn new(
        shown: &Path,
        path: &Path,
        force: bool,
        existing: Option<&Metadata>,
        invoker: Option<&Invoker>,
        option: &'static str,
    ) -> Result<Self> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = match path.file_name() {
            Some(name) if !path.as_os_str().as_bytes().ends_with(b"/") => name,
            _ => bail!("{} does not name a file; name one with {option}", shown.display()),
        };
        let former = existing.map(|metadata| Former {
            mode: metadata.mode() & 0o777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        });
        let tried = Directory::open(parent, invoker).and_then(|directory| {
            let directory = Arc::new(directory);
            // Only trying tells whether a file can be made: permissions, read-only mounts and quotas all have their say.
            // It is removed at once, so that nothing is left behind if the recording is killed.
            directory.make(mode(former))?;
            Ok(directory)
        });
        let directory = parent.display();
        match tried {
            Ok(directory) => Ok(Self {
                shown: shown.to_owned(),
                directory,
                name: name.to_owned(),
                force,
                former,
                option,
            }),
            Err(error) if error.kind() == ErrorKind::NotFound && !parent.exists() => {
                bail!("there is no directory {directory}; make it with mkdir -p, or name another file with {option}")
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                bail!("{directory} is not a directory; name another file with {option}")
            }
            Err(error) => bail!(
                "cannot write in {directory}: {}; name another file with {option}{}",
                error.kind(),
                whose_rights(error.kind(), invoker)
            ),
        }
    }

    fn write(self, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<u64> {
        let shown = self.shown.display();
        let mut partial = self
            .directory
            .make(mode(self.former))
            .with_context(|| format!("cannot write in {}", self.directory.shown.display()))?;
        let _announced = partial.announce();
        let (bytes, _) = stream(partial.file(), content, self.option).with_context(|| shown.to_string())?;
        if let Some(Former { mode, uid, gid }) = self.former {
            // Whoever chose the old file's mode chose it with or without the umask.
            partial
                .set_mode(mode)
                .with_context(|| format!("cannot set the mode of {shown}"))?;
            partial.give_to(uid, gid);
        }
        // A rename may reach the disk before the data does; after a power failure the file would be empty.
        partial
            .file()
            .sync_all()
            .map_err(|error| {
                let why = refused(error.kind(), self.option);
                anyhow::Error::new(error).context(why)
            })
            .with_context(|| shown.to_string())?;
        // The recording is not lost because somebody took its name in the meantime.
        partial.rename(&self.name, self.force).map_err(|(error, kept)| {
            anyhow!(
                "cannot rename the profile to {shown}: {}; it was kept as {}",
                error.kind(),
                kept.display()
            )
        })?;
        Ok(bytes)
    }
}

fn mode(former: Option<Former>) -> u32 {
    former.map_or(0o666, |former| former.mode)
}

fn exists(path: &Path, option: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{} exists; use --force to overwrite it or {option} to name another file",
        path.display()
    )
}

/// Whether this thread may write to `path`. By its rights to files, which are what `AT_EACCESS` asks for.
fn may_write(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` is NUL-terminated and outlives the call, which only reads it.
    match unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes `content` into `sink`, buffered. Answers with the bytes the sink took and whether its reader left.
fn stream(sink: impl Write, content: impl FnOnce(&mut dyn Write) -> Result<()>, option: &str) -> Result<(u64, bool)> {
    let mut buffered = BufWriter::with_capacity(
        64 << 10,
        Sink {
            inner: sink,
            bytes: 0,
            failure: None,
        },
    );
    let outcome = content(&mut buffered).and_then(|()| Ok(buffered.flush()?));
    // Without this, dropping the buffer would try to write once more.
    let (sink, _) = buffered.into_parts();
    match (outcome, sink.failure) {
        (Ok(()), _) => Ok((sink.bytes, false)),
        // Between `content` and us there may be a library that wraps errors its own way, so what counts is what the
        // sink itself met.
        (Err(_), Some(ErrorKind::BrokenPipe)) => Ok((sink.bytes, true)),
        (Err(error), Some(kind)) => Err(error.context(refused(kind, option))),
        (Err(error), None) => Err(error),
    }
}

/// Why something could not be written, and what to do.
fn refused(kind: ErrorKind, option: &str) -> String {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("the disk is full; make room or name a file on another disk with {option}")
        }
        ErrorKind::FileTooLarge => {
            format!("the file became larger than it may; raise the limit (ulimit -f), or name another with {option}")
        }
        _ => "it cannot be written".to_owned(),
    }
}

/// Counts what goes through, and remembers what went wrong.
struct Sink<W> {
    inner: W,
    bytes: u64,
    failure: Option<ErrorKind>,
}

impl<W: Write> Sink<W> {
    fn remember<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                self.failure = Some(error.kind());
            }
        })
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let outcome = self.inner.write(bytes);
        let taken = self.remember(outcome)?;
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let outcome = self.inner.flush();
        self.remember(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        io::{BufRead as _, BufReader},
        os::unix::fs::{PermissionsExt as _, chown},
        thread,
    };

    use super::*;

    fn file(path: impl Into<PathBuf>) -> OutputTarget {
        OutputTarget::File {
            path: path.into(),
            force: false,
        }
    }

    fn forced(path: impl Into<PathBuf>) -> OutputTarget {
        OutputTarget::File {
            path: path.into(),
            force: true,
        }
    }

    fn refusal(target: &OutputTarget) -> String {
        let text = format!(
            "{:#}",
            Output::prepare(target, None, "-o").expect_err("this place is not fit")
        );
        assert!(!text.contains('\n') && !text.ends_with('.'), "{text:?}");
        text
    }

    fn hello(out: &mut dyn Write) -> Result<()> {
        Ok(out.write_all(b"hello")?)
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_new_file_appears_whole_with_an_ordinary_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flame.svg");
        let output = Output::prepare(&file(&path), None, "-o").unwrap();
        assert!(names(directory.path()).is_empty(), "preparing leaves nothing behind");
        let written = output
            .write(|out| {
                assert!(!path.exists(), "nothing has its name before it is whole");
                hello(out)
            })
            .unwrap();
        assert_eq!(
            written,
            Written {
                path: Some(path.clone()),
                bytes: 5,
                reader_left: false
            }
        );
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        assert_eq!(names(directory.path()), ["flame.svg"]);
        // A file made the ordinary way has the mode to compare with, whatever the umask.
        let ordinary = directory.path().join("ordinary");
        File::create(&ordinary).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().mode(),
            fs::metadata(&ordinary).unwrap().mode()
        );
    }

    #[test]
    fn an_existing_file_is_kept_without_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flame.svg");
        fs::write(&path, "old").unwrap();
        let text = refusal(&file(&path));
        assert!(
            text.ends_with("flame.svg exists; use --force to overwrite it or -o to name another file"),
            "{text}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn force_replaces_a_file_and_keeps_who_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flame.svg");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o606)).unwrap();
        Output::prepare(&forced(&path), None, "-o")
            .unwrap()
            .write(hello)
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o606);
    }

    #[test]
    fn force_replaces_the_file_behind_a_link_and_not_the_link() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real.svg"), directory.path().join("link.svg"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        Output::prepare(&forced(&link), None, "-o")
            .unwrap()
            .write(hello)
            .unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"hello");
    }

    #[test]
    fn a_failure_half_way_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flame.svg");
        fs::write(&path, "old").unwrap();
        let output = Output::prepare(&forced(&path), None, "-o").unwrap();
        let error = output
            .write(|out| hello(out).and_then(|()| bail!("no more")))
            .unwrap_err();
        assert!(format!("{error:#}").ends_with("flame.svg: no more"), "{error:#}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["flame.svg"]);
    }

    #[test]
    fn a_name_taken_during_the_recording_costs_neither_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flame.svg");
        let output = Output::prepare(&file(&path), None, "-o").unwrap();
        fs::write(&path, "somebody else's").unwrap();
        let error = format!("{:#}", output.write(hello).unwrap_err());
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
        let kept = error
            .split("it was kept as ")
            .nth(1)
            .expect("the message says where the profile is");
        assert_eq!(fs::read(kept).unwrap(), b"hello", "{error}");
    }

    #[test]
    fn a_directory_a_missing_one_and_a_file_as_one_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let text = refusal(&file(directory.path()));
        assert!(text.contains("is a directory; name a file in it"), "{text}");
        let text = refusal(&file(directory.path().join("missing/flame.svg")));
        assert!(
            text.contains("there is no directory") && text.contains("mkdir -p"),
            "{text}"
        );
        fs::write(directory.path().join("plain"), "").unwrap();
        let text = refusal(&file(directory.path().join("plain/flame.svg")));
        assert!(text.contains("-o"), "{text}");
        let text = refusal(&file(directory.path().join("missing/")));
        assert!(text.contains("does not name a file"), "{text}");
        refusal(&file(""));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_refused_before_recording() {
        // Root may write anywhere but in a file system that knows no files.
        let text = refusal(&file("/proc/flame.svg"));
        assert!(text.starts_with("cannot write in /proc: "), "{text}");
        assert!(text.contains("-o") && !text.contains(".partial"), "{text}");
    }

    #[test]
    fn a_full_device_is_named() {
        let output = Output::prepare(&file("/dev/full"), None, "-o").unwrap();
        let error = format!("{:#}", output.write(hello).unwrap_err());
        assert!(
            error.contains("/dev/full") && error.contains("the disk is full; make room"),
            "{error}"
        );
    }

    #[test]
    fn devices_are_written_directly() {
        let written = Output::prepare(&file("/dev/null"), None, "-o")
            .unwrap()
            .write(hello)
            .unwrap();
        assert_eq!(written.bytes, 5);
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    fn make_pipe(path: &Path) {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: `path` is NUL-terminated and outlives the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }

    #[test]
    fn a_pipe_is_written_directly_and_preparing_does_not_wait_for_its_reader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        make_pipe(&path);
        let output = Output::prepare(&file(&path), None, "-o").unwrap();
        let reader = thread::spawn({
            let path = path.clone();
            move || fs::read(path).unwrap()
        });
        output.write(hello).unwrap();
        assert_eq!(reader.join().unwrap(), b"hello");
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_reader_that_leaves_early_is_no_failure() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        make_pipe(&path);
        let output = Output::prepare(&file(&path), None, "-o").unwrap();
        let reader = thread::spawn({
            let path = path.clone();
            move || {
                BufReader::new(File::open(path).unwrap())
                    .lines()
                    .next()
                    .unwrap()
                    .unwrap()
            }
        });
        let written = output
            .write(|out| {
                for _ in 0..1_000_000 {
                    // A library in between may hide what happened.
                    out.write_all(b"a line of some length\n")
                        .map_err(|_| anyhow::anyhow!("hidden"))?;
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(reader.join().unwrap(), "a line of some length");
        assert!(written.reader_left);
    }

    /// Another user, if we may act for one, and a directory of theirs.
    fn somebody() -> Option<(Invoker, tempfile::TempDir)> {
        let invoker = Invoker {
            uid: 65534,
            gid: 65533,
            groups: vec![65533],
            account: None,
        };
        let directory = tempfile::tempdir().unwrap();
        // SAFETY: geteuid(2) has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipping: only root can act for others");
            return None;
        }
        chown(directory.path(), Some(invoker.uid), Some(invoker.gid)).unwrap();
        Some((invoker, directory))
    }

    #[test]
    fn under_sudo_an_output_is_written_by_the_user_where_they_may() {
        let Some((invoker, directory)) = somebody() else { return };
        let path = directory.path().join("flame.svg");
        Output::prepare(&file(&path), Some(&invoker), "-o")
            .unwrap()
            .write(hello)
            .unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (65534, 65533));
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        // They may put another in the place of what root left there, which is then theirs, as with mv.
        let old = directory.path().join("old.svg");
        fs::write(&old, "old").unwrap();
        Output::prepare(&forced(&old), Some(&invoker), "-o")
            .unwrap()
            .write(hello)
            .unwrap();
        assert_eq!(fs::metadata(&old).unwrap().uid(), 65534);
        assert_eq!(fs::read(&old).unwrap(), b"hello");
    }

    #[test]
    fn without_sudo_what_is_replaced_keeps_its_owner() {
        let Some((invoker, directory)) = somebody() else { return };
        let path = directory.path().join("old.svg");
        fs::write(&path, "old").unwrap();
        chown(&path, Some(invoker.uid), Some(invoker.gid)).unwrap();
        Output::prepare(&forced(&path), None, "-o")
            .unwrap()
            .write(hello)
            .unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (65534, 65533));
    }

    #[test]
    fn under_sudo_an_output_is_refused_where_the_user_may_not_write() {
        let Some((invoker, roots)) = somebody() else { return };
        chown(roots.path(), Some(0), Some(0)).unwrap();
        fs::set_permissions(roots.path(), Permissions::from_mode(0o755)).unwrap();
        let (new, old) = (roots.path().join("new.sh"), roots.path().join("old.sh"));
        fs::write(&old, "root's").unwrap();
        for target in [file(&new), forced(&new), forced(&old)] {
            let error = format!("{:#}", Output::prepare(&target, Some(&invoker), "-o").unwrap_err());
            assert!(error.starts_with("cannot write in "), "{error}");
            assert!(
                error.contains("sudo was run by user 65534, whose rights decide"),
                "{error}"
            );
        }
        assert_eq!(names(roots.path()), ["old.sh"]);
        assert_eq!(fs::read(&old).unwrap(), b"root's");
        // Nor may a pipe or a device be written that is not theirs.
        let pipe = roots.path().join("pipe");
        make_pipe(&pipe);
        assert!(Output::prepare(&file(&pipe), Some(&invoker), "-o").is_err());
        assert!(Output::prepare(&file("/dev/mem"), Some(&invoker), "-o").is_err());
        // What they may not even look into tells them nothing.
        fs::set_permissions(roots.path(), Permissions::from_mode(0o700)).unwrap();
        for name in ["old.sh", "none.sh"] {
            let error = Output::prepare(&file(roots.path().join(name)), Some(&invoker), "-o").unwrap_err();
            assert!(format!("{error:#}").contains("cannot look at"), "{error:#}");
        }
    }

    #[test]
    fn a_directory_that_is_swapped_for_a_link_leads_nowhere_else() {
        let Some((invoker, home)) = somebody() else { return };
        for invoker in [None, Some(&invoker)] {
            let (theirs, moved) = (home.path().join("theirs"), home.path().join("moved"));
            let elsewhere = tempfile::tempdir().unwrap();
            fs::create_dir(&theirs).unwrap();
            chown(&theirs, Some(65534), Some(65533)).unwrap();
            let output = Output::prepare(&forced(theirs.join("x.svg")), invoker, "-o").unwrap();
            fs::rename(&theirs, &moved).unwrap();
            std::os::unix::fs::symlink(elsewhere.path(), &theirs).unwrap();
            output.write(hello).unwrap();
            assert!(names(elsewhere.path()).is_empty());
            assert_eq!(names(&moved), ["x.svg"]);
            fs::remove_dir_all(&moved).unwrap();
            fs::remove_file(&theirs).unwrap();
        }
    }

    #[test]
    fn what_takes_a_pipes_place_is_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let (path, passwd) = (directory.path().join("pipe"), directory.path().join("passwd"));
        make_pipe(&path);
        fs::write(&passwd, "root").unwrap();
        let output = Output::prepare(&file(&path), None, "-o").unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&passwd, &path).unwrap();
        assert!(output.write(hello).is_err());
        assert_eq!(fs::read(&passwd).unwrap(), b"root");
    }
}
