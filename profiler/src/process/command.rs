//! What a process runs, in a few words: `celery worker`, `gunicorn shop.wsgi`, `shop/manage.py runserver`.
//!
//! A command line tells processes apart that are all called `python3`. It can also hold what nobody else should read, and
//! profiles are passed on, so only what is known to be harmless is taken out of it:
//!
//! - the program; of an interpreter the script or the module (`-m`), with the folder above if every project has a script
//!   of that name; never a program text (`-c`);
//! - at most two words after a Python script or module, if they look like a subcommand, a module or a file, as far as the
//!   first that has something secret in its name;
//! - no option, and nothing behind one: whether it is the option's value cannot be told (`--password hunter`); but of some
//!   launchers what they run is told in options, whose values are taken (`celery -A shop worker -Q mail`).

use std::{fs::File, io::Read as _};

use super::comm;

/// Longer command lines are cut.
const MOST_BYTES: u64 = 16 << 10;
const MOST_ARGUMENTS: usize = 64;
/// Words behind a script, and characters of a word and of them all.
const MOST_WORDS: usize = 2;
const MOST_WORD: usize = 40;
const MOST_CHARACTERS: usize = 64;

/// Names of scripts that say nothing by themselves.
const EVERYWHERE: [&str; 14] = [
    "__main__.py",
    "app.py",
    "application.py",
    "asgi.py",
    "cli.py",
    "index.js",
    "main.py",
    "manage.py",
    "run.py",
    "server.js",
    "server.py",
    "start.py",
    "worker.py",
    "wsgi.py",
];

/// Launchers, and their options whose values say what they run: a module, a file, a queue.
const LAUNCHERS: [(&str, &[&str]); 2] = [
    ("celery", &["-A", "--app", "-Q", "--queues"]),
    (
        "uwsgi",
        &[
            "-w",
            "--module",
            "--wsgi",
            "--wsgi-file",
            "--file",
            "--ini",
            "--yaml",
            "--json",
            "--xml",
            "--emperor",
        ],
    ),
];

/// What a process runs; `None` if it is gone, or the kernel's own.
pub fn of(pid: u32) -> Option<Command> {
    let file = File::open(format!("/proc/{pid}/cmdline")).ok()?;
    let mut bytes = Vec::new();
    // A process that ends meanwhile gives what was read before.
    let _ = file.take(MOST_BYTES).read_to_end(&mut bytes);
    Command::parse(&bytes)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// `celery worker`.
    words: String,
    /// Names that the kernel gives such a process by itself: what it is called otherwise was chosen.
    expected: Vec<String>,
}

impl Command {
    /// Reads a command line as /proc has it: arguments that end in a NUL, or whatever the program has written over them.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        let arguments: Vec<String> = text
            .split(|&byte| byte == 0)
            .take(MOST_ARGUMENTS)
            .map(|argument| comm::clean(&String::from_utf8_lossy(argument)))
            .collect();
        let (program, rest) = arguments.split_first()?;
        if let Some(words) = title(program, rest) {
            return Some(Self {
                words,
                expected: Vec::new(),
            });
        }
        // `-bash`: a login shell.
        let program = base(program.trim_start_matches('-'));
        if program.is_empty() {
            return None;
        }
        let (words, script) = if is_python(program) {
            python(program, rest)
        } else if matches!(program, "bash" | "dash" | "node" | "perl" | "php" | "ruby" | "sh") {
            // Their options are their own affair: a script is only known where nothing stands before it.
            let script = rest
                .first()
                .filter(|first| !first.starts_with('-') && is_word(base(first)));
            (
                script.map_or_else(|| program.to_owned(), |script| told(script)),
                script.map(String::as_str),
            )
        } else if LAUNCHERS.iter().any(|(name, _)| *name == program) {
            (with_words(program.to_owned(), rest.iter().map(String::as_str)), None)
        } else {
            (program.to_owned(), None)
        };
        let cut = |name: &str| comm::shown(&name.as_bytes()[..name.len().min(15)]);
        let expected = [Some(program), script.map(base)]
            .into_iter()
            .flatten()
            .map(cut)
            .collect();
        Some(Self {
            words: words.chars().take(MOST_CHARACTERS).collect(),
            expected,
        })
    }

    /// Together with the kernel's name of the process, if that was chosen: `worker.py "mail-1"`.
    pub fn with_name(&self, comm: &str) -> String {
        let Self { words, expected } = self;
        // `python3` starts `python3.11`, and a virtual environment's `python`.
        let is_expected = comm.is_empty()
            || expected.iter().any(|name| name == comm)
            || is_python(comm) && !expected.is_empty()
            || words.starts_with(comm);
        match is_expected {
            true => words.clone(),
            false => format!("{words} \"{comm}\""),
        }
    }
}

/// What a program calls itself in place of its command line: `gunicorn: worker [shop]`, `nginx: worker process`. Of other
/// titles the part before the colon: behind it there are names of users and texts of queries.
fn title(program: &str, rest: &[String]) -> Option<String> {
    if rest.iter().any(|argument| !argument.is_empty()) {
        return None;
    }
    let (who, what) = program.split_once(": ")?;
    let who = base(who);
    if !is_word(who) {
        return None;
    }
    let mut words = vec![who];
    words.extend(
        what.split_ascii_whitespace()
            .take_while(|word| is_word(word.trim_matches(['[', ']'])) && !is_secretive(word))
            .take(MOST_WORDS),
    );
    Some(words.join(" "))
}

/// The words for a Python, and the script that it runs.
fn python<'a>(program: &str, arguments: &'a [String]) -> (String, Option<&'a str>) {
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        if let Some(long) = argument.strip_prefix("--") {
            if long == "check-hash-based-pycs" {
                arguments.next();
            }
            continue;
        }
        let Some(flags) = argument.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
            let words = match argument {
                "-" => program.to_owned(),
                script => told(script),
            };
            return (with_words(words, arguments), Some(argument));
        };
        for (at, flag) in flags.char_indices() {
            let value = &flags[at + flag.len_utf8()..];
            match flag {
                'c' => {
                    let text = if value.is_empty() {
                        arguments.next().unwrap_or("")
                    } else {
                        value
                    };
                    return (program_text(program, text), None);
                }
                'm' => {
                    let module = if value.is_empty() {
                        arguments.next().unwrap_or("")
                    } else {
                        value
                    };
                    if !is_word(module) {
                        return (program.to_owned(), None);
                    }
                    return (with_words(module.to_owned(), arguments), None);
                }
                'W' | 'X' | 'Q' => {
                    if value.is_empty() {
                        arguments.next();
                    }
                    break;
                }
                _ => {}
            }
        }
    }
    (program.to_owned(), None)
}

/// `python3 -c`; what multiprocessing starts is known by its beginning.
fn program_text(program: &str, text: &str) -> String {
    let known = [
        ("from multiprocessing.spawn import ", "multiprocessing child"),
        ("from multiprocessing.forkserver import ", "multiprocessing forkserver"),
        (
            "from multiprocessing.resource_tracker import ",
            "multiprocessing resource tracker",
        ),
    ];
    let known = known.into_iter().find(|(beginning, _)| text.starts_with(beginning));
    known.map_or_else(|| format!("{program} -c"), |(_, words)| words.to_owned())
}

/// The words behind a script that are harmless and telling.
fn with_words<'a>(mut words: String, mut arguments: impl Iterator<Item = &'a str>) -> String {
    let launcher = LAUNCHERS.iter().find(|(name, _)| *name == words);
    let telling = launcher.map_or(&[][..], |(_, options)| options);
    let (mut kept, mut kept_values) = (0, 0);
    let mut after_option = false;
    while let Some(argument) = arguments.next() {
        let (option, value) = match argument.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (argument, None),
        };
        let (argument, kept) = if telling.contains(&option) {
            (value.or_else(|| arguments.next()).unwrap_or_default(), &mut kept_values)
        } else if argument.starts_with('-') {
            if is_secretive(argument) {
                break;
            }
            after_option = value.is_none();
            continue;
        } else if std::mem::take(&mut after_option) {
            continue;
        } else {
            (argument, &mut kept)
        };
        let word = match argument.starts_with(['/', '.']) || EVERYWHERE.contains(&base(argument)) {
            true => told(argument),
            false => argument.to_owned(),
        };
        if *kept == MOST_WORDS || !is_word(&word) || is_secretive(&word) {
            break;
        }
        words.push(' ');
        words.push_str(&word);
        *kept += 1;
    }
    words
}

/// A script by its name, and the folder it is in where the name says nothing.
fn told(script: &str) -> String {
    let name = base(script);
    let folder = script
        .strip_suffix(name)
        .map_or("", |folder| base(folder.trim_end_matches('/')));
    if EVERYWHERE.contains(&name) && is_word(folder) && folder != ".." && folder != "." {
        return format!("{folder}/{name}");
    }
    name.to_owned()
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `python`, `python3`, `python3.12`, `pypy3`.
fn is_python(program: &str) -> bool {
    let version = program.strip_prefix("python").or_else(|| program.strip_prefix("pypy"));
    version.is_some_and(|version| {
        version
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b't' | b'd'))
    })
}

/// `runserver`, `shop.wsgi:app`, `tests/unit`, `mail.ini`: letters, and digits only in names of modules and files. Passwords
/// and tokens that consist of letters alone cannot be told from a subcommand; those with digits are left out.
fn is_word(word: &str) -> bool {
    let is_plain = |c: char| c.is_alphabetic() || matches!(c, '_' | '-' | '.' | ':' | '/');
    let has_form = word.contains(['.', ':', '/']) && word.len() < MOST_WORD / 2;
    !word.is_empty()
        && word.chars().count() <= MOST_WORD
        && !word.contains("://")
        && word.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && word.chars().all(|c| is_plain(c) || has_form && c.is_ascii_digit())
}

/// What comes behind such a word is nobody's affair.
fn is_secretive(word: &str) -> bool {
    let word = word.to_lowercase();
    ["pass", "pwd", "secret", "token", "key", "auth", "cred", "login"]
        .iter()
        .any(|part| word.contains(part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> String {
        let bytes = line.replace(' ', "\0") + "\0";
        Command::parse(bytes.as_bytes()).map_or_else(String::new, |command| command.words)
    }

    #[test]
    fn the_script_or_the_module_is_told_and_its_subcommand() {
        for (line, told) in [
            ("python3 -m celery worker -Q mail", "celery worker mail"),
            ("/usr/bin/python3 -Im celery -A shop worker", "celery shop worker"),
            (
                "/srv/venv/bin/python3 /srv/venv/bin/celery --app=shop.tasks -b redis worker -c 2 --queues=mail",
                "celery shop.tasks worker mail",
            ),
            ("celery -A shop2.tasks beat", "celery shop2.tasks beat"),
            (
                "/usr/bin/uwsgi --http-socket :8080 --wsgi-file /srv/shop/app.py --master",
                "uwsgi shop/app.py",
            ),
            ("uwsgi --ini /etc/uwsgi/mail.ini", "uwsgi mail.ini"),
            ("uwsgi /etc/uwsgi/mail.ini", "uwsgi mail.ini"),
            ("uwsgi --http :80 -w shop.wsgi:app -p 4", "uwsgi shop.wsgi:app"),
            (
                "/srv/venv/bin/python3 /srv/venv/bin/gunicorn shop.wsgi -w 4",
                "gunicorn shop.wsgi",
            ),
            (
                "python -X dev -W error -u -OO /srv/venv/bin/uvicorn shop2.asgi:app --port 8000",
                "uvicorn shop2.asgi:app",
            ),
            (
                "python3.12 /srv/shop/manage.py runserver 0.0.0.0:8000",
                "shop/manage.py runserver",
            ),
            ("python manage.py migrate", "manage.py migrate"),
            ("pypy3 -mhttp.server 8000", "http.server"),
            ("python3 --check-hash-based-pycs always ./../app.py", "app.py"),
            (
                "python3 /srv/worker/main.py /etc/shop/mail.ini",
                "worker/main.py mail.ini",
            ),
            ("python3 -", "python3"),
            ("python3", "python3"),
            ("/usr/sbin/nginx -g daemon", "nginx"),
            ("node /srv/front/server.js --port 80", "front/server.js"),
            ("-bash", "bash"),
            ("", ""),
        ] {
            assert_eq!(words(line), told, "{line}");
        }
        let child = b"python3\0-c\0from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5)\0--multiprocessing-fork\0";
        assert_eq!(Command::parse(child).expect("a command").words, "multiprocessing child");
    }

    #[test]
    fn nothing_secret_is_told() {
        for line in [
            "python3 app.py --password hunter",
            "python3 app.py --password=hunter",
            "python3 app.py -p hunter",
            "python3 app.py -phunter",
            "python3 app.py set-password hunter",
            "python3 app.py run --db postgres://shop:hunter@db/shop",
            "python3 app.py postgres://shop:hunter@db/shop",
            "python3 app.py hunter2",
            "python3 app.py --api-key -x hunter",
            "python3 -c print('hunter')",
            "python3 -chunter",
            "python3 -m -hunter",
            "bash -c hunter",
            "bash --init-file hunter",
            "mysql -phunter shop",
            "curl -u shop:hunter http://shop/",
            "celery -A shop -b hunter worker",
            "celery -b redis://:hunter@db/0 -A redis://:hunter@db worker",
            "celery worker -Q hunter2",
            "uwsgi --set hunter --module shop --env hunter",
            "java -Dpassword=hunter -jar shop.jar",
        ] {
            let told = words(line);
            assert!(!told.contains("hunter") && !told.is_empty(), "{line}: {told}");
        }
        let title = b"postgres: shop hunter2 10.0.0.1(4242) SELECT\0\0\0";
        assert_eq!(Command::parse(title).expect("a title").words, "postgres shop");
    }

    #[test]
    fn titles_that_programs_give_themselves_are_read() {
        for (title, told) in [
            ("gunicorn: worker [shop.wsgi]", "gunicorn worker [shop.wsgi]"),
            (
                "nginx: master process /usr/sbin/nginx -g daemon on;",
                "nginx master process",
            ),
        ] {
            assert_eq!(Command::parse(title.as_bytes()).expect("a title").words, told);
        }
    }

    #[test]
    fn a_name_that_was_chosen_is_told_as_well() {
        let command = |line: &str| Command::parse(line.replace(' ', "\0").as_bytes()).expect("a command");
        let script = command("/usr/bin/python3 /srv/prefork.py");
        assert_eq!(script.with_name("python3.11"), "prefork.py");
        assert_eq!(script.with_name("prefork.py"), "prefork.py");
        assert_eq!(script.with_name("mail-1"), "prefork.py \"mail-1\"");
        assert_eq!(
            command("/opt/a-very-long-name-of-a-program").with_name("a-very-long-nam"),
            "a-very-long-name-of-a-program"
        );
        assert_eq!(command("nginx").with_name("nginx"), "nginx");
    }

    proptest! {
        #[test]
        fn whatever_a_command_line_holds_its_words_are_short_and_clean(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(command) = Command::parse(&bytes) {
                let shown = command.with_name("x");
                prop_assert!(shown.chars().count() <= 255 + MOST_CHARACTERS && !shown.contains(|c: char| c.is_control()));
            }
        }

        #[test]
        fn a_value_of_an_option_is_never_told(option in "--?[a-z-]{1,12}", value in "[a-z]{8,20}", before in "(-u |-B )?") {
            let told = words(&format!("python3 {before}x.py {option} {value} --more {value}"));
            prop_assert!(!told.contains(&value));
        }
    }
}
