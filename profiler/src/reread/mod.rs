//! What is made of recordings that are in files: `profiler report` and `profiler convert`, from the first check to the
//! last line.
//!
//! Nothing here needs root, nor a kernel: files in, a report out.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use self::options::{Chosen, Conversion, Format, Options};
use crate::{
    config::NativeFrames,
    exit,
    invoker::{Invoker, acting},
    output::{self, Output},
    profile::{Labels, Profile, ValueType},
    report::{
        self, Interpreter, View,
        overview::{self, Asked},
        select,
    },
    rights, shown, stored,
};

pub mod diff;
pub mod merge;
pub mod options;
pub(crate) mod view;

/// Columns of a report that does not go to a terminal.
const WIDTH: usize = 80;

/// Shows what is in a recording; returns the program's exit status.
pub fn report(options: &Options) -> anyhow::Result<u8> {
    output::survive_limit();
    let invoker = Invoker::of_this_process()?;
    rights::give_up().context("failed to give up capabilities")?;
    let output = Output::prepare(&options.output, invoker.as_ref(), "-o")?;
    let name = PathBuf::from(diff::side_name(&options.files));
    let profile = match &*options.files {
        [file] if !options.merge => read(file, invoker.as_ref())?,
        files => crate::diff::merge(&diff::read_all(files, invoker.as_ref())?)?,
    };
    let part = chosen(profile, &options.chosen)?;
    let asked = Asked {
        value: part.value,
        before: part.before,
        interpreter: interpreter(
            options.chosen.native,
            view::view(&part.profile, part.value, &name).interpreter,
        ),
        merge_workers: options.chosen.merge_workers,
        ..options.asked.clone()
    };
    let profile = &part.profile;
    let mut content = Vec::new();
    // Source files are read meanwhile: those that who asks may read.
    acting(invoker.as_ref(), || -> anyhow::Result<()> {
        match options.format {
            Format::Html => {
                let view = View {
                    merge_workers: asked.merge_workers,
                    ..view::view(profile, asked.value, &name)
                };
                report::Format::Html.writer().write(profile, &view, &mut content)?;
            }
            Format::Text => content = overview::text(profile, &asked, WIDTH)?.into_bytes(),
            Format::Json => overview::json::write(profile, &asked, &mut content)?,
            Format::Quickfix => overview::quickfix::write(profile, &asked, &mut content)?,
            Format::Sarif => overview::sarif::write(profile, &asked, &mut content)?,
        }
        Ok(())
    })??;
    output.connect(|_| {})?.write(|out| Ok(out.write_all(&content)?))?;
    Ok(exit::SUCCESS)
}

/// Writes a recording in another format; returns the program's exit status.
pub fn convert(options: &Conversion) -> anyhow::Result<u8> {
    output::survive_limit();
    let invoker = Invoker::of_this_process()?;
    rights::give_up().context("failed to give up capabilities")?;
    let output = Output::prepare(&options.output, invoker.as_ref(), "-o")?;
    let Part { profile, value, .. } = chosen(read(&options.file, invoker.as_ref())?, &options.chosen)?;
    let view = View {
        // As `record` does where several were seen.
        process: several(&profile, |labels| labels.pid),
        thread: options.threads,
        merge_workers: options.chosen.merge_workers,
        ..view::view(&profile, value, &options.file)
    };
    let view = View {
        interpreter: interpreter(options.chosen.native, view.interpreter),
        ..view
    };
    let writer = options.format.writer();
    output
        .connect(|_| {})?
        .write(|out| writer.write(&profile, &view, out))?;
    Ok(exit::SUCCESS)
}

fn several(profile: &Profile, of: impl Fn(&Labels) -> u32) -> bool {
    let mut numbers = profile.samples().map(|(key, _)| of(&key.labels));
    let first = numbers.next();
    numbers.any(|number| Some(number) != first)
}

/// Reads a recording, with the rights of who asked for it.
pub fn read(path: &Path, invoker: Option<&Invoker>) -> anyhow::Result<Profile> {
    Ok(acting(invoker, || stored::read(path))??)
}

/// What was chosen of a recording.
pub struct Part {
    pub profile: Profile,
    /// Index of the sample type that is shown.
    pub value: usize,
    /// What the whole recording has of it, if this is less.
    pub before: Option<i64>,
}

/// Chooses a part of a recording.
pub fn chosen(profile: Profile, chosen: &Chosen) -> anyhow::Result<Part> {
    let value = value(&profile, chosen.value.as_deref())?;
    let mut part = Part {
        profile,
        value,
        before: None,
    };
    if !chosen.filters.is_empty() {
        part.before = Some(part.profile.total(value));
        part.profile = select::filtered(&part.profile, &chosen.filters)?;
    }
    if chosen.fold_libraries {
        part.profile = select::with_libraries_folded(&part.profile);
    }
    Ok(part)
}

/// Which of a profile's values is meant by a word: its own, if none is given.
pub fn value(profile: &Profile, wanted: Option<&str>) -> anyhow::Result<usize> {
    let Some(wanted) = wanted else {
        return Ok(profile.default_type);
    };
    let types = &profile.sample_types;
    let by = |is: &dyn Fn(&ValueType) -> bool| types.iter().position(is);
    by(&|value| value.kind == wanted)
        // `bytes` of a heap are those that the recording shows by itself, if it does.
        .or_else(|| {
            types
                .get(profile.default_type)
                .filter(|own| own.unit == wanted)
                .map(|_| profile.default_type)
        })
        .or_else(|| by(&|value| value.unit == wanted))
        .with_context(|| {
            let known: Vec<_> = (profile.shown_types())
                .map(|(_, value)| shown::line(&format!("{} ({})", value.kind, value.unit)))
                .collect();
            format!("the recording has no value {wanted}; it has {}", known.join(", "))
        })
}

/// `work` is what a recording's own pictures show.
fn interpreter(native: NativeFrames, work: Interpreter) -> Interpreter {
    match native {
        NativeFrames::Full => Interpreter::Full,
        NativeFrames::Work => work,
    }
}
