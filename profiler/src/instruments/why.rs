//! Everything at once, for an answer (`profiler why`): CPU time, waits, growth and surroundings, joined to findings.

use std::io;

use super::{
    Instrument, Joint, Picture, Plan, Tells, content::Content, cpu, measured::Measured, memory, surroundings, waits,
};
use crate::{
    config::{Config, Verbosity},
    exit, humanize,
    progress::{stderr_columns, stdout_columns},
    report::{View, why as written},
    summary::{Summary, many},
    wall::{VALUE, WallReport},
    why::{
        WhyConfig, WhyFormat, WhyReport, findings,
        gather::{self, Waited},
        options,
    },
};

pub struct Why {
    wanted: WhyConfig,
    period_ns: u64,
    verbosity: Verbosity,
    cpu: cpu::Cpu,
}

/// The instruments, and what makes an answer of what they measure.
pub fn plan(config: &Config, wanted: &WhyConfig, command_pid: Option<u32>, in_namespace: bool) -> anyhow::Result<Plan> {
    let instruments: Vec<Box<dyn Instrument>> = vec![
        Box::new(cpu::Cpu::new(config)),
        Box::new(waits::Waits::new(config, &options::waits(), in_namespace)),
        memory::instrument(config, &options::memory(config.duration), command_pid)?,
        Box::new(surroundings::Surroundings::new(config, command_pid)),
    ];
    Ok(Plan {
        instruments,
        joint: Some(Box::new(Why {
            wanted: wanted.clone(),
            period_ns: config.period_ns,
            verbosity: config.verbosity,
            cpu: cpu::Cpu::new(config),
        })),
    })
}

impl Joint for Why {
    fn join(&self, contents: Vec<Content>) -> Option<Content> {
        let (mut cpu, mut waits, mut memory, mut surroundings) = (None, None, None, None);
        for content in contents {
            match content {
                Content::Profile(profile) => cpu = Some(profile),
                Content::Waits(report) => waits = Some(report),
                Content::Memory(report, _) => memory = Some(report),
                Content::Surroundings(found) => surroundings = Some(found),
                _ => {}
            }
        }
        let (waits, surroundings) = (*waits?, surroundings?);
        let waited = Waited::of(&waits, &surroundings);
        let wall = WallReport::new(&cpu?, waits, self.period_ns);
        let evidence = gather::gather(gather::Measured {
            wall: &wall,
            waits: waited,
            memory: memory.as_deref(),
            surroundings: &surroundings,
        });
        let report = findings::report(&evidence, &self.wanted.thresholds);
        let mut profile = wall.profile;
        // Names in it are text, which JSON can hold, and numbers are finite.
        profile.findings = written::stored::comment(&report).ok();
        Some(Content::Why(Box::new(report), profile))
    }

    fn join_cuts(&self, _cuts: Vec<Measured>) -> Option<Measured> {
        None
    }
}

impl Why {
    fn report(content: &Content) -> Option<&WhyReport> {
        match content {
            Content::Why(report, _) => Some(report),
            _ => None,
        }
    }
}

impl Tells for Why {
    fn opening(&self, what: &str) -> String {
        format!("looking at CPU time, waits and memory of {what}")
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: "Findings",
            value: VALUE,
            ..self.cpu.picture()
        }
    }

    /// The answer is on standard output, or is told here if that, or a file, has a recording. What was lost is said, and
    /// with `-v` everything.
    fn screen(&self, summary: &Summary, content: &Content) -> Vec<String> {
        let lines = match self.verbosity {
            Verbosity::Verbose | Verbosity::Debug => summary.lines(),
            Verbosity::Quiet | Verbosity::Normal => summary.warnings.clone(),
        };
        let told = match (self.wanted.format, Self::report(content)) {
            (WhyFormat::Recording(_), Some(report)) if self.verbosity != Verbosity::Quiet => {
                Some(written::text::text(report, self.wanted.top, stderr_columns()))
            }
            _ => None,
        };
        told.into_iter().chain(lines).collect()
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Content::Why(report, profile) = content else {
            return Ok(());
        };
        match self.wanted.format {
            WhyFormat::Json => written::json::write(report, out),
            WhyFormat::Text => {
                Ok(out.write_all(written::text::text(report, self.wanted.top, stdout_columns()).as_bytes())?)
            }
            WhyFormat::Recording(format) => {
                let subject = match &*report.processes {
                    [one] => format!("{} ({})", one.command, one.pid),
                    several => many(several.len() as u64, "process"),
                };
                let view = View {
                    process: report.processes.len() > 1,
                    title: format!("{} of {subject}", self.picture().headline),
                    subtitle: format!("CPU time and waiting of {}", humanize::duration(report.length)),
                    ..view.clone()
                };
                format.writer().write(profile, &view, out)
            }
        }
    }

    fn status(&self, content: &Content) -> u8 {
        let worst = Self::report(content).and_then(WhyReport::worst);
        match (worst, self.wanted.fail_on) {
            (Some(worst), Some(limit)) if worst <= limit => exit::FOUND,
            _ => exit::SUCCESS,
        }
    }
}
