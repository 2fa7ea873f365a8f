//! CPU time and waiting in one picture (`record --wall`): what two instruments measured, joined.

use std::io;

use super::{Joint, Picture, Tells, content::Content, cpu, measured::Measured};
use crate::{
    config::{Config, Verbosity},
    progress::stderr_columns,
    report::{Format, View, wall},
    summary::Summary,
    wall::{VALUE, WallReport},
};

pub struct Wall {
    format: Format,
    period_ns: u64,
    verbosity: Verbosity,
    /// How CPU time alone is shown.
    cpu: cpu::Cpu,
}

impl Wall {
    pub fn new(config: &Config) -> Self {
        Self {
            format: config.format,
            period_ns: config.period_ns,
            verbosity: config.verbosity,
            cpu: cpu::Cpu::new(config),
        }
    }
}

impl Joint for Wall {
    fn join(&self, contents: Vec<Content>) -> Option<Content> {
        let (mut cpu, mut waits) = (None, None);
        for content in contents {
            match content {
                Content::Profile(profile) => cpu = Some(profile),
                Content::Waits(report) => waits = Some(report),
                _ => {}
            }
        }
        let report = WallReport::new(&cpu?, *waits?, self.period_ns);
        Some(Content::Wall(Box::new(report)))
    }

    fn join_cuts(&self, cuts: Vec<Measured>) -> Option<Measured> {
        let (mut period, mut waits) = (None, None);
        for cut in cuts {
            match cut {
                Measured::Samples { period_ns } => period = Some(period_ns),
                Measured::Waits(cut) => waits = Some(cut),
                Measured::Memory(_) | Measured::Wall { .. } | Measured::Several(_) => {}
            }
        }
        Some(Measured::Wall {
            period_ns: period?,
            waits: waits?,
        })
    }
}

impl Tells for Wall {
    fn opening(&self, what: &str) -> String {
        format!("{}, and following its waits", self.cpu.opening(what))
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: "CPU time and waiting",
            value: VALUE,
            ..self.cpu.picture()
        }
    }

    /// How the time adds up, and the lines with most of it.
    fn screen(&self, summary: &Summary, content: &Content) -> Vec<String> {
        let Content::Wall(report) = content else {
            return summary.lines();
        };
        let (told, rest) = match self.verbosity {
            Verbosity::Verbose | Verbosity::Debug => (summary.lines(), Vec::new()),
            Verbosity::Quiet | Verbosity::Normal => summary.brief(),
        };
        if self.verbosity == Verbosity::Quiet {
            return told.into_iter().chain(rest).collect();
        }
        // The first line says in short what the head of the table does.
        let said = told.into_iter().skip(1).chain(rest);
        std::iter::once(wall::text(report, stderr_columns()))
            .chain(said)
            .collect()
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        match content {
            Content::Wall(report) => self.format.writer().write(&report.profile, view, out),
            _ => Ok(()),
        }
    }
}
