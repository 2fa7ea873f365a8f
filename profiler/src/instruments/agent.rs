//! What an agent measures, window after window: CPU time and waits as one picture, growth beside it.

use std::io;

use super::{Instrument, Joint, Picture, Plan, Tells, content::Content, cpu, measured::Measured, memory, waits, wall};
use crate::{config::Config, report::View, summary::Summary, wall::VALUE};

/// Nothing of it is told or written here: windows go to where the agent sends them.
pub struct Agent {
    config: Config,
    what: String,
    wall: wall::Wall,
}

/// The instruments that `config` has something of.
pub fn plan(config: &Config, in_namespace: bool) -> anyhow::Result<Plan> {
    let mut instruments: Vec<Box<dyn Instrument>> = Vec::new();
    let mut what = Vec::new();
    if config.agent.is_some_and(|wanted| wanted.cpu) {
        instruments.push(Box::new(cpu::Cpu::new(config)));
        what.push("CPU time");
    }
    if let Some(wanted) = &config.waits {
        instruments.push(Box::new(waits::Waits::new(config, wanted, in_namespace)));
        what.push("waits");
    }
    if let Some(wanted) = &config.memory {
        instruments.push(memory::instrument(config, wanted, None)?);
        what.push("growth");
    }
    let what = match &*what {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => what.concat(),
    };
    Ok(Plan {
        instruments,
        joint: Some(Box::new(Agent {
            config: config.clone(),
            what,
            wall: wall::Wall::new(config),
        })),
    })
}

impl Joint for Agent {
    fn join(&self, contents: Vec<Content>) -> Option<Content> {
        contents.into_iter().next()
    }

    /// CPU time and waits become one where there are both.
    fn join_cuts(&self, cuts: Vec<Measured>) -> Option<Measured> {
        let (of_time, mut several): (Vec<_>, Vec<_>) =
            (cuts.into_iter()).partition(|cut| matches!(cut, Measured::Samples { .. } | Measured::Waits(_)));
        match of_time.len() {
            2 => several.insert(0, self.wall.join_cuts(of_time)?),
            _ => several.splice(0..0, of_time).for_each(drop),
        }
        Some(Measured::Several(several))
    }
}

impl Tells for Agent {
    fn opening(&self, what: &str) -> String {
        format!(
            "watching {} of {what}, {} samples a second and CPU",
            self.what, self.config.rate_hz
        )
    }

    fn picture(&self) -> Picture {
        Picture {
            value: VALUE,
            ..self.wall.picture()
        }
    }

    fn screen(&self, summary: &Summary, _content: &Content) -> Vec<String> {
        summary.lines()
    }

    fn write(&self, _content: &Content, _view: &View, _out: &mut dyn io::Write) -> anyhow::Result<()> {
        Ok(())
    }
}
