//! What the kernel says of processes and of where they run, before and after: nothing of the kernel side is needed.

use std::{collections::BTreeMap, io, time::Duration};

use super::{Change, Instrument, Needs, Picture, Tells, Told, Turn, content::Content};
use crate::{
    config::{Config, Target},
    exceptions::handling::Handling,
    name::Namer,
    orders::Orders,
    python::{
        collector::{Collector, Whereabouts},
        image::Image,
        memory::ProcessMemory,
    },
    recording::Recording,
    report::{Interpreter, View},
    summary::Summary,
    waits::gil,
    why::{evidence::Python, surroundings},
    window::Window,
};

pub struct Surroundings {
    found: surroundings::Surroundings,
    /// Collectors of garbage, and what they said when it began.
    collectors: BTreeMap<u32, (Whereabouts, Option<Collector>)>,
    /// How often an exception is being handled.
    handling: Handling,
}

impl Surroundings {
    pub fn new(config: &Config, command_pid: Option<u32>) -> Self {
        let named = match &config.target {
            Target::Pids(pids) => pids.clone(),
            Target::Command(_) => command_pid.into_iter().collect(),
            Target::All => Vec::new(),
        };
        Self {
            found: surroundings::Surroundings::of(named),
            collectors: BTreeMap::new(),
            handling: Handling::new(),
        }
    }

    fn learn(&mut self, host: &Recording, pid: u32) {
        let python = match host.python(pid) {
            Some((python, file)) => Python::Known {
                version: python.binary.version.to_string(),
                gil: gil::waits_are_known(python),
                symbols: (file.opened.as_ref())
                    .and_then(|opened| opened.map().ok())
                    .is_some_and(|bytes| Image::parse(&bytes).is_some_and(|image| image.has_local_names())),
            },
            None => match host.refusal_of(pid) {
                Some(refusal) => Python::Refused(refusal.to_string()),
                None => return,
            },
        };
        self.found.set_python(pid, python);
        if let Some((python, _)) = host.python(pid) {
            let memory = ProcessMemory { pid };
            let runtime = python.binary.runtime.wrapping_add(python.bias);
            let head = python.binary.layout.interpreter.head;
            let collector = Whereabouts::new(&memory, python.binary.version, runtime, head);
            // An interpreter that begins has collected nothing.
            let before = match host.began_ns(pid) {
                Some(_) => Some(Collector::default()),
                None => collector.read(&memory),
            };
            self.collectors.entry(pid).or_insert((collector, before));
            self.handling.follow(pid, python);
        }
    }

    fn collected(&mut self) {
        for (&pid, (collector, before)) in &self.collectors {
            let after = collector.read(&ProcessMemory { pid });
            if let Some((before, after)) = before.zip(after) {
                self.found.set_collections(pid, &before, &after);
            }
            self.found.set_handling(pid, self.handling.looks_of(pid));
        }
    }
}

impl Instrument for Surroundings {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn start(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.found.begin_all();
        let pids: Vec<u32> = host.pids().collect();
        for pid in pids {
            self.learn(host, pid);
            self.found.begin(pid);
        }
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, _kernel: &mut dyn Orders) {
        match change {
            Change::Python { pid } => self.learn(host, pid),
            Change::NotPython { pid } => self.handling.forget(pid),
            Change::Mapped { .. } | Change::Joined { .. } => {}
        }
    }

    fn turn(&mut self, _host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.handling.look();
        Ok(Turn::Goes)
    }

    fn look_soon(&self) -> Option<Duration> {
        self.handling.due_in()
    }

    fn stop(&mut self, _host: &mut Recording, _kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        self.found.end();
        self.collected();
        Ok(())
    }

    fn content(&mut self, _namer: &mut Namer, _window: &Window, _length: Duration) -> (Content, Vec<String>) {
        (
            Content::Surroundings(Box::new(std::mem::take(&mut self.found))),
            Vec::new(),
        )
    }

    fn tell(&self, _summary: &mut Summary, _content: &Content, _told: &Told<'_>) {}
}

/// It is only told with others.
impl Tells for Surroundings {
    fn opening(&self, what: &str) -> String {
        format!("reading what the kernel says of {what}")
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: "Surroundings",
            value: 0,
            interpreter: Interpreter::Full,
        }
    }

    fn write(&self, _content: &Content, _view: &View, _out: &mut dyn io::Write) -> anyhow::Result<()> {
        Ok(())
    }
}
