//! How frames, processes and threads read, in every format that is text.
//!
//! | frame | reads |
//! |---|---|
//! | Python | `Session.get (requests/sessions.py:12)`, its file as `path::short` has it |
//! | native | `PyObject_Call (libpython3.11.so.1.0)`, without a symbol `[libfoo.so+0x1234]` |
//! | generated code | `JS:*fib /x.js:3:14 ([JIT])` by its perf map, without one `[anonymous]` |
//! | kernel | `do_sys_open_[k]`, without a symbol `[0xffffffff81000000]_[k]` |
//! | marker | as it is: `[truncated]` |
//!
//! No label ends in a number, which some readers of folded text take for a second value. `_[k]` is what FlameGraph's
//! `stackcollapse-perf.pl --kernel` writes. Names come from other processes and files, so what would break a line of
//! folded text or an XML document is replaced (`clean`).

use std::borrow::Cow;

use super::{cython, path};
use crate::{
    profile::{Frame, FrameKind, Labels, Profile, StackId},
    shown::acts,
};

/// The text of one frame. Never empty, and free of `;` and control characters.
pub fn frame(profile: &Profile, frame: &Frame) -> String {
    let function = profile.string(frame.function);
    let label = match frame.kind {
        FrameKind::Python => python(function, profile.string(frame.file), frame.line),
        FrameKind::Native => native(function, mapping_path(profile, frame), frame.address),
        FrameKind::Kernel if function.is_empty() => format!("[{:#x}]_[k]", frame.address),
        FrameKind::Kernel => format!("{function}_[k]"),
        FrameKind::Marker if function.is_empty() => "[unknown]".to_owned(),
        FrameKind::Marker => function.to_owned(),
    };
    clean(label)
}

/// The name alone, without where it is.
pub(super) fn name(profile: &Profile, frame: &Frame) -> String {
    let function = profile.string(frame.function);
    clean(match frame.kind {
        FrameKind::Python if function.is_empty() => "<unknown>".to_owned(),
        FrameKind::Python => function.to_owned(),
        FrameKind::Native if function.is_empty() => native(function, mapping_path(profile, frame), frame.address),
        FrameKind::Native => mapping_path(profile, frame)
            .and_then(|path| cython::readable(function, path::extension(path)))
            .unwrap_or_else(|| function.to_owned()),
        FrameKind::Kernel if function.is_empty() => format!("[{:#x}]", frame.address),
        FrameKind::Kernel => function.to_owned(),
        FrameKind::Marker if function.is_empty() => "[unknown]".to_owned(),
        FrameKind::Marker => function.to_owned(),
    })
}

/// The same of a function as a whole: without the line that was executed.
pub(super) fn function(profile: &Profile, frame: &Frame) -> String {
    match frame.kind {
        FrameKind::Python => clean(python(
            profile.string(frame.function),
            profile.string(frame.file),
            frame.first_line,
        )),
        _ => self::frame(profile, frame),
    }
}

/// The text of a Python frame where there is little room: it keeps the function and the end of the path.
pub(super) fn shorter(profile: &Profile, frame: &Frame) -> String {
    let file = profile.string(frame.file);
    self::frame(profile, frame).replacen(path::short(file).as_ref(), last_two_parts(file), 1)
}

/// `handlers/base.py`: the name alone says too little.
fn last_two_parts(file: &str) -> &str {
    match file.rmatch_indices('/').nth(1) {
        Some((slash, _)) if !file.starts_with('<') => &file[slash + 1..],
        _ => file,
    }
}

/// A stack, leaf first.
pub fn stack(profile: &Profile, stack: Option<StackId>) -> Vec<String> {
    let frames = stack.map(|stack| profile.stack(stack)).unwrap_or_default();
    frames.iter().map(|&id| frame(profile, profile.frame(id))).collect()
}

/// The root of a process's stacks: `gunicorn shop.wsgi [shop.service] (process 4242)`.
pub fn process(profile: &Profile, labels: &Labels) -> String {
    clean(format!("{} (process {})", process_name(profile, labels), labels.pid))
}

/// The root of equal workers' stacks: `gunicorn shop.wsgi [shop.service] (12 processes)`.
pub fn processes(profile: &Profile, labels: &Labels, number: usize) -> String {
    clean(format!("{} ({number} processes)", process_name(profile, labels)))
}

/// The root of the stacks of their threads of one name: `worker-1 (threads)`.
pub fn threads(profile: &Profile, labels: &Labels) -> String {
    clean(format!("{} (threads)", thread_name(profile, labels)))
}

/// The root of a thread's stacks: `worker-1 (thread 4243)`.
pub fn thread(profile: &Profile, labels: &Labels) -> String {
    clean(format!("{} (thread {})", thread_name(profile, labels), labels.tid))
}

/// What tells a thread from others of its process, without its number.
pub fn thread_name(profile: &Profile, labels: &Labels) -> String {
    clean(match profile.string(labels.thread) {
        "" => "[unknown]".to_owned(),
        name => name.to_owned(),
    })
}

/// What tells a process from others, without its number: what it runs, and where.
pub fn process_name(profile: &Profile, labels: &Labels) -> String {
    let name = match (profile.string(labels.command), profile.string(labels.comm)) {
        ("", "") => "[unknown]",
        ("", comm) => comm,
        (command, _) => command,
    };
    match place(profile.string(labels.cgroup), profile.string(labels.container)) {
        Some(place) => format!("{name} [{place}]"),
        None => name.to_owned(),
    }
}

/// The container, by as much of its id as their managers show, or the service that a process belongs to.
pub(crate) fn place<'a>(cgroup: &'a str, container: &'a str) -> Option<&'a str> {
    const SHOWN_OF_ID: usize = 12;
    let is_id = container.len() >= 32 && container.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    match container {
        "" => cgroup.rsplit('/').find(|part| {
            // `user@1000.service` is a login.
            part.ends_with(".service") && !part.starts_with("user@")
        }),
        id if is_id => id.get(..SHOWN_OF_ID),
        name => Some(name),
    }
}

fn python(function: &str, file: &str, line: u32) -> String {
    let function = if function.is_empty() { "<unknown>" } else { function };
    match (file, line) {
        ("", _) => format!("{function} (<unknown>)"),
        (_, 0) => format!("{function} ({})", path::short(file)),
        _ => format!("{function} ({}:{line})", path::short(file)),
    }
}

fn native(function: &str, path: Option<&str>, address: u64) -> String {
    match (function, path.map(path::file_name)) {
        // `[vdso]` is already in brackets.
        ("", Some(file)) => format!("[{}+{address:#x}]", file.trim_start_matches('[').trim_end_matches(']')),
        ("", None) => format!("[{address:#x}]"),
        // A function that is only known by where it begins, `[libfoo.so+0x1230]`, or not at all, `[anonymous]`.
        _ if function.starts_with('[') && function.ends_with(']') => function.to_owned(),
        (_, Some(file)) => match cython::readable(function, path::extension(file)) {
            Some(readable) => format!("{readable} ({file})"),
            None => format!("{function} ({file})"),
        },
        // perf's word.
        (_, None) => format!("{function} ([unknown])"),
    }
}

fn mapping_path<'a>(profile: &'a Profile, frame: &Frame) -> Option<&'a str> {
    let path = profile.string(profile.mapping(frame.mapping?).path);
    (!path.is_empty()).then_some(path)
}

/// Makes a label safe wherever it goes: `;` separates frames of folded text and a newline ends its stack; spaces at its
/// ends do not survive its readers, which also take a line that starts with `# ` for a comment (inferno 0.12.8,
/// `flamegraph::from_lines`); and XML 1.0 has no way to write most control characters, nor U+FFFE and U+FFFF.
pub(crate) fn clean(label: String) -> String {
    let trimmed = label.trim();
    let mut clean = if trimmed.chars().any(|c| replacement(c).is_some()) {
        Cow::Owned(trimmed.chars().map(|c| replacement(c).unwrap_or(c)).collect())
    } else {
        Cow::Borrowed(trimmed)
    };
    while clean.starts_with("# ") {
        clean.to_mut().remove(1);
    }
    if clean.is_empty() {
        return "[unknown]".to_owned();
    }
    if clean.len() == label.len() && matches!(clean, Cow::Borrowed(_)) {
        label
    } else {
        clean.into_owned()
    }
}

fn replacement(c: char) -> Option<char> {
    match c {
        ';' => Some(':'),
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => Some(' '),
        '\u{fffe}' | '\u{ffff}' => Some(char::REPLACEMENT_CHARACTER),
        _ if acts(c) => Some(char::REPLACEMENT_CHARACTER),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_python_frame_names_function_file_and_line() {
        assert_eq!(
            python("App.run", "/srv/app/main.py", 12),
            "App.run (srv/app/main.py:12)"
        );
        assert_eq!(python("f", "main.py", 1), "f (main.py:1)");
        assert_eq!(
            python(
                "get",
                "/v/lib/python3.12/site-packages/django/core/handlers/base.py",
                142
            ),
            "get (django/core/handlers/base.py:142)"
        );
        assert_eq!(python("f", "/srv/a/größe.py", 1), "f (srv/a/größe.py:1)");
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        assert_eq!(python("f", "/srv/main.py", 0), "f (/srv/main.py)");
        assert_eq!(python("f", "", 7), "f (<unknown>)");
        assert_eq!(python("", "/srv/main.py", 7), "<unknown> (/srv/main.py:7)");
    }

    #[test]
    fn native_code_names_its_file_or_its_address() {
        assert_eq!(native("malloc", Some("/lib/libc.so.6"), 1), "malloc (libc.so.6)");
        assert_eq!(
            native(
                "__pyx_f_6uvloop_4loop_4Loop__run",
                Some("/x/loop.cpython-312-x86_64-linux-gnu.so"),
                1
            ),
            "uvloop.loop.Loop._run (loop.cpython-312-x86_64-linux-gnu.so)"
        );
        assert_eq!(native("jit 12", None, 1), "jit 12 ([unknown])");
        assert_eq!(
            native("JS:*fib /x.js:1:13", Some("[JIT]"), 0),
            "JS:*fib /x.js:1:13 ([JIT])"
        );
        assert_eq!(native("[anonymous]", None, 1), "[anonymous]");
        assert_eq!(native("", Some("/lib/libfoo.so"), 0x1234), "[libfoo.so+0x1234]");
        assert_eq!(
            native("[libfoo.so+0x1230]", Some("/lib/libfoo.so"), 0x1234),
            "[libfoo.so+0x1230]"
        );
        assert_eq!(native("", Some("[vdso]"), 0x12), "[vdso+0x12]");
        assert_eq!(native("", None, 0x7f00_0000_1000), "[0x7f0000001000]");
    }

    #[test]
    fn a_process_is_told_by_its_container_or_else_its_service() {
        let id = "3c2f1a0b9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a";
        let docker = format!("/system.slice/docker-{id}.scope");
        assert_eq!(place(&docker, id), Some("3c2f1a0b9d8e"));
        assert_eq!(place("/lxc/web", "web"), Some("web"));
        assert_eq!(place("/system.slice/shop.service/worker", ""), Some("shop.service"));
        assert_eq!(
            place("/user.slice/user@1000.service/app.slice/mail.service", ""),
            Some("mail.service")
        );
        for nowhere in [
            "",
            "/",
            "/user.slice/user@1000.service/init.scope",
            "/user.slice/session-3.scope",
        ] {
            assert_eq!(place(nowhere, ""), None, "{nowhere}");
        }
    }

    #[test]
    fn a_name_cannot_turn_the_rest_of_its_line_around() {
        assert_eq!(clean("f\u{202e}x (a.py:1)".to_owned()), "f\u{fffd}x (a.py:1)");
    }

    #[test]
    fn a_comment_sign_does_not_hide_a_stack() {
        assert_eq!(clean("# x".to_owned()), "#x");
    }

    proptest! {
        #[test]
        fn a_label_breaks_neither_a_line_nor_a_document(name in "\\PC*|.*|[;\n\r\0 #]*") {
            let label = clean(python(&name, &name, 1));
            prop_assert!(!label.is_empty());
            prop_assert_eq!(label.trim(), &label);
            let breaks = |c: char| acts(c) || matches!(c, ';' | '\u{ffff}');
            prop_assert!(!label.contains(breaks));
            prop_assert_eq!(clean(label.clone()), label);
        }
    }
}
