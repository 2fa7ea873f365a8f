//! What `profiler report …` and `profiler convert …` mean.

use std::path::PathBuf;

use crate::{
    cli::{
        convert::Convert,
        report::{Choice, Report},
    },
    config::{ConfigError, NativeFrames, OutputTarget},
    report::{export, overview::Asked, select::Filter},
};

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// One, or several that are to be merged.
    pub files: Vec<PathBuf>,
    pub merge: bool,
    pub chosen: Chosen,
    /// Without what depends on the recording.
    pub asked: Asked,
    pub output: OutputTarget,
    pub format: Format,
}

/// Which part of a recording is looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    pub value: Option<String>,
    pub filters: Vec<Filter>,
    pub fold_libraries: bool,
    pub merge_workers: bool,
    pub native: NativeFrames,
}

/// What `report` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// To be read in a terminal
    #[value(alias = "table")]
    Text,
    /// A page for a browser: flame graph, tables, callers, lines, threads
    #[value(alias = "page")]
    Html,
    /// For programs; docs/report.md has the schema
    Json,
    /// `file:line:column: message`, for editors
    Quickfix,
    /// SARIF 2.1.0, for editors and CI: the hottest lines, or what `why` found
    Sarif,
}

impl Format {
    const NAMED: Named<Self> = Named {
        default: Self::Text,
        known: "text, html, json, quickfix or sarif",
        endings: &[
            ("txt", Self::Text),
            ("html", Self::Html),
            ("htm", Self::Html),
            ("json", Self::Json),
            ("sarif", Self::Sarif),
        ],
    };
}

/// How a report's format is chosen where none is typed: by what the file is called.
pub struct Named<F: 'static> {
    /// On standard output, and of a device, which has no ending.
    pub default: F,
    /// All there are, for messages.
    pub known: &'static str,
    pub endings: &'static [(&'static str, F)],
}

impl<F: Copy> Named<F> {
    pub fn format(&self, output: &OutputTarget) -> Result<F, ConfigError> {
        let OutputTarget::File { path, .. } = output else {
            return Ok(self.default);
        };
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_none() && path.starts_with("/dev") {
            return Ok(self.default);
        }
        let ending = ending.map(str::to_ascii_lowercase);
        let found = self.endings.iter().find(|(known, _)| ending.as_deref() == Some(known));
        found
            .map(|(_, format)| *format)
            .ok_or_else(|| ConfigError::UnknownEndingOfReport {
                path: path.clone(),
                known: self.known,
            })
    }
}

impl Options {
    pub fn from_cli(typed: Report) -> Result<Self, ConfigError> {
        // Every field is named, so that a new option cannot be forgotten here.
        let Report {
            files,
            merge,
            by,
            tree,
            callers,
            callees,
            source,
            top,
            choice,
            output,
            format,
            quickfix,
            force,
        } = typed;
        let output = OutputTarget::of(output, force);
        let format = match format {
            Some(format) => format,
            None if quickfix => Format::Quickfix,
            None => Format::NAMED.format(&output)?,
        };
        if files.len() > 1 && !merge {
            return Err(ConfigError::SeveralRecordings { number: files.len() });
        }
        Ok(Self {
            files,
            merge,
            chosen: Chosen::from_cli(choice),
            asked: Asked {
                by,
                tree,
                callers,
                callees,
                source,
                top,
                ..Asked::default()
            },
            output,
            format,
        })
    }
}

/// What `profiler convert …` means.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    pub file: PathBuf,
    pub chosen: Chosen,
    pub threads: bool,
    pub output: OutputTarget,
    pub format: export::Format,
}

impl Conversion {
    pub fn from_cli(typed: Convert) -> Result<Self, ConfigError> {
        let Convert {
            file,
            choice,
            threads,
            output,
            format,
            force,
        } = typed;
        let output = OutputTarget::of(output, force);
        let format = match (format, &output) {
            (Some(format), _) => format,
            (None, OutputTarget::File { path, .. }) => {
                export::Format::from_path(path).ok_or_else(|| ConfigError::UnknownEndingOfReport {
                    path: path.clone(),
                    known: &export::KNOWN,
                })?
            }
            (None, OutputTarget::Stdout) => return Err(ConfigError::NoFormat { known: &export::KNOWN }),
        };
        Ok(Self {
            file,
            chosen: Chosen::from_cli(choice),
            threads,
            output,
            format,
        })
    }
}

impl Chosen {
    pub fn from_cli(typed: Choice) -> Self {
        let Choice {
            value,
            filters,
            fold_libraries,
            merge_workers,
            native,
        } = typed;
        Self {
            value,
            filters,
            fold_libraries,
            merge_workers,
            native,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn options(arguments: &[&str]) -> Result<Options, ConfigError> {
        let typed = Cli::try_parse_from([&["profiler", "report"], arguments].concat());
        match typed.map(|typed| typed.command) {
            Ok(Command::Report(typed)) => Options::from_cli(typed),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn several_recordings_are_merged_if_that_is_said() {
        let refused = options(&["a.pb.gz", "b.pb.gz"]).unwrap_err().to_string();
        assert!(refused.contains("--merge") && refused.contains("diff"), "{refused}");
        let merged = options(&["a.pb.gz", "b.pb.gz", "--merge"]).unwrap();
        assert_eq!((merged.files.len(), merged.merge), (2, true));
    }

    #[test]
    fn a_format_is_chosen_by_what_the_file_is_called() {
        let format = |name: &str| options(&["a.pb.gz", "-o", name]).map(|options| options.format);
        assert_eq!(format("x.sarif").unwrap(), Format::Sarif);
        assert_eq!(format("x.HTM").unwrap(), Format::Html);
        assert_eq!(format("/dev/stdout").unwrap(), Format::Text);
        let refused = format("x.exe").unwrap_err().to_string();
        assert!(refused.contains("quickfix or sarif"), "{refused}");
        assert!(export::KNOWN.ends_with("csv or json"), "{}", *export::KNOWN);
    }
}
