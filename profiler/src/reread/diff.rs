//! `profiler diff`, from its first check to its last line.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::{WIDTH, options::Named, read};
use crate::{
    cli,
    config::{ConfigError, OutputTarget},
    diff::{
        self, Asked,
        gate::{self, Condition, Held},
        verdict,
    },
    exit,
    invoker::{Invoker, acting},
    output::{self, Output},
    profile::Profile,
    report, rights, shown,
};

/// A directory may be a flight recorder's of a day.
const MOST_RECORDINGS: usize = 1024;

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub before: Vec<PathBuf>,
    pub after: Vec<PathBuf>,
    pub asked: Asked,
    pub fail_on: Vec<Condition>,
    pub top: usize,
    pub output: OutputTarget,
    pub format: Format,
}

/// What `diff` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// To be read in a terminal.
    #[value(alias = "table")]
    Text,
    /// For programs (docs/diff.md).
    Json,
    /// Flame graph of what came after; red has become more, blue less.
    #[value(alias = "flamegraph")]
    Svg,
    /// SARIF 2.1.0, for CI: what became more, and conditions of --fail-on that are met.
    Sarif,
    /// A page for a browser: the sentence, the list, flame graph, table and callers of both sides.
    #[value(alias = "page")]
    Html,
}

impl Format {
    const NAMED: Named<Self> = Named {
        default: Self::Text,
        known: "text, json, sarif, svg or html",
        endings: &[
            ("txt", Self::Text),
            ("json", Self::Json),
            ("sarif", Self::Sarif),
            ("svg", Self::Svg),
            ("html", Self::Html),
            ("htm", Self::Html),
        ],
    };
}

impl Options {
    pub fn from_cli(typed: cli::diff::Diff) -> Result<Self, ConfigError> {
        let normal = typed.normal();
        let mut sides = [typed.before, typed.after];
        for (side, path) in typed.sides.into_iter().enumerate().map(|(at, path)| (at.min(1), path)) {
            sides[side].push(path);
        }
        let [before, after] = sides.map(|side| {
            let names = side.iter().flat_map(|name| split(name));
            names.collect::<Vec<_>>()
        });
        let output = OutputTarget::of(typed.output, typed.force);
        let format = match typed.format {
            Some(format) => format,
            None => Format::NAMED.format(&output)?,
        };
        Ok(Self {
            before,
            after,
            asked: Asked {
                by: typed.by,
                native: typed.native,
                value: typed.value,
                normal,
                over: typed.over,
                noise: typed.noise,
            },
            fail_on: typed.fail_on,
            top: typed.top,
            output,
            format,
        })
    }
}

/// `a.pb.gz,b.pb.gz` are two, unless there is a file of that name.
fn split(path: &Path) -> Vec<PathBuf> {
    match path.to_str() {
        Some(names) if names.contains(',') && !path.exists() => {
            let names = names.split(',').filter(|name| !name.is_empty());
            names.map(PathBuf::from).collect()
        }
        _ => vec![path.to_owned()],
    }
}

/// Compares; returns the program's exit status.
pub fn run(options: &Options) -> anyhow::Result<u8> {
    output::survive_limit();
    let invoker = Invoker::of_this_process()?;
    rights::give_up().context("failed to give up capabilities")?;
    let output = Output::prepare(&options.output, invoker.as_ref(), "-o")?;
    let before = read_all(&options.before, invoker.as_ref())?;
    let after = read_all(&options.after, invoker.as_ref())?;
    let mut diffs = vec![diff::compare(&before, &after, &options.asked)?];
    for condition in &options.fail_on {
        let Some(by) = condition.by() else { continue };
        if diffs.iter().all(|diff| diff.by != by) {
            let asked = Asked {
                by,
                ..options.asked.clone()
            };
            diffs.push(diff::compare(&before, &after, &asked)?);
        }
    }
    let held = gate::hold(&options.fail_on, &diffs)?;
    let Some(diff) = diffs.first() else {
        bail!("nothing was compared")
    };
    let verdict = verdict::verdict(diff);
    let output = output.connect(|_| {})?;
    let written = output.write(|out| match options.format {
        Format::Text => {
            let text = report::diff::text(diff, &verdict, &held, options.top, WIDTH);
            Ok(out.write_all(text.as_bytes())?)
        }
        Format::Json => report::diff::write_json(diff, &verdict, &held, out),
        Format::Sarif => report::diff::write_sarif(diff, &verdict, &held, out),
        Format::Svg => {
            let (before, after) = (diff::merge(&before)?, diff::merge(&after)?);
            report::diff::write_svg(diff, &verdict, [&before, &after], out)
        }
        Format::Html => {
            let names = [&options.before, &options.after].map(|paths| side_name(paths));
            let asked = Asked {
                native: true,
                ..options.asked.clone()
            };
            let tables = diff::compare(&before, &after, &asked)?;
            let (before, after) = (diff::merge(&before)?, diff::merge(&after)?);
            let names = [&*names[0], &*names[1]];
            report::diff::write_page(diff, &verdict, &held, &tables, [&before, &after], names, out)
        }
    })?;
    if written.path.is_some() {
        let _ = writeln!(io::stderr(), "{}", shown::lines(&verdict.sentence));
    }
    tell(&held, options.format == Format::Text && written.path.is_none());
    Ok(match held.iter().any(|held| held.met) {
        true => exit::FOUND,
        false => exit::SUCCESS,
    })
}

/// `before.pb.gz`, `a1.pb.gz and 2 more`.
pub(super) fn side_name(paths: &[PathBuf]) -> String {
    let Some(first) = paths.first() else {
        return String::new();
    };
    let name = first.file_name().unwrap_or(first.as_os_str()).to_string_lossy();
    match paths.len() {
        1 => name.into_owned(),
        several => format!("{name} and {} more", several - 1),
    }
}

/// What `--fail-on` came to, where the report does not say it or a job's log shows standard error only.
fn tell(held: &[Held], in_report: bool) {
    for held in held {
        if held.difference.is_none() {
            let line = format!("warning: --fail-on {}: neither side has it", held.condition);
            let _ = writeln!(io::stderr(), "{}", shown::lines(&line));
        } else if held.met && !in_report {
            let _ = writeln!(io::stderr(), "{}", shown::lines(&format!("failed: {}", held.condition)));
        }
    }
}

/// Reads recordings, and all of a directory.
pub(super) fn read_all(paths: &[PathBuf], invoker: Option<&Invoker>) -> anyhow::Result<Vec<Profile>> {
    let mut profiles = Vec::new();
    for path in paths {
        if acting(invoker, || path.is_dir())? {
            for file in acting(invoker, || windows(path))?? {
                profiles.push(read(&file, invoker)?);
            }
        } else {
            profiles.push(read(path, invoker)?);
        }
        if profiles.len() > MOST_RECORDINGS {
            bail!(
                "{} has more than {MOST_RECORDINGS} recordings; name those to compare",
                path.display()
            );
        }
    }
    Ok(profiles)
}

/// The recordings in a directory, in order of their names, which is that of time.
fn windows(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read the directory {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with('.') && (name.ends_with(".pb.gz") || name.ends_with(".pprof") || name.ends_with(".pb")) {
            files.push(path);
        }
        if files.len() > MOST_RECORDINGS {
            bail!(
                "{} has more than {MOST_RECORDINGS} recordings; name those to compare",
                directory.display()
            );
        }
    }
    if files.is_empty() {
        bail!("there is no recording (.pb.gz) in {}", directory.display());
    }
    files.sort_unstable();
    Ok(files)
}
