//! Imports: a probe where a module is about to be imported, and one where it is.

use std::{io, time::Duration};

use profiler_common::{
    mark::{MARK_IMPORT, MARK_IMPORTED},
    stats::Counter,
};

use super::{
    Change, Instrument, Needs, Picture, Tells, Told, Turn,
    content::Content,
    mark_probes::{MarkProbes, hits, tell_hits},
};
use crate::{
    config::{Config, ImportsConfig, ImportsFormat},
    governor::{Governor, SlowDown, TrapCost},
    imports::Account,
    name::Namer,
    orders::Orders,
    process::files::FileId,
    progress::stdout_columns,
    python::marks,
    recording::Recording,
    report::{
        Interpreter, View,
        imports::{ImportsReport, export, table},
    },
    summary::Summary,
    window::Window,
};

/// Nobody ends it for what it costs: there are a few thousand hits at most.
const NO_LIMIT: f64 = 1e9;

pub struct Imports {
    wanted: ImportsConfig,
    probes: MarkProbes,
    governor: Option<Governor>,
    account: Account,
    /// What each process runs, as far as that was seen.
    commands: Vec<(u32, String)>,
    lost: u64,
}

impl Imports {
    pub fn new(config: &Config, wanted: &ImportsConfig) -> Self {
        Self {
            wanted: wanted.clone(),
            probes: MarkProbes::new(config, marks::imports, "its imports are not seen"),
            governor: None,
            account: Account::default(),
            commands: Vec::new(),
            lost: 0,
        }
    }

    fn take_in(&mut self, host: &mut Recording) {
        for marked in host.drain_marks(&[MARK_IMPORT, MARK_IMPORTED]) {
            let pid = marked.header.pid;
            if !self.commands.iter().any(|(known, _)| *known == pid) {
                self.commands.push((pid, host.command(pid)));
            }
            self.account.take(&marked);
        }
    }

    fn measure(&mut self, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        if self.governor.is_none() {
            self.governor = Some(Governor::new(TrapCost::measure(kernel)?, NO_LIMIT, 0));
        }
        if let (Some(governor), true) = (&mut self.governor, self.probes.has_stepped()) {
            governor.expect_stepped(kernel)?;
        }
        Ok(())
    }
}

impl Instrument for Imports {
    fn needs(&self) -> Needs {
        Needs {
            marks: true,
            ..Needs::default()
        }
    }

    fn expect(&mut self, host: &Recording, kernel: &mut dyn Orders, file: FileId) {
        self.probes.probe_file(host, kernel, file);
    }

    fn start(&mut self, _host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.measure(kernel)
    }

    fn follow(&mut self, change: Change, host: &Recording, kernel: &mut dyn Orders) {
        if let Change::Python { pid } = change {
            self.probes.probe(host, kernel, pid, true);
        }
    }

    fn turn(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.take_in(host);
        Ok(Turn::Goes)
    }

    fn stop(&mut self, _host: &mut Recording, kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        self.probes.detach_all();
        self.measure(kernel)?;
        let hits = hits(kernel)?;
        if let Some(governor) = &mut self.governor {
            governor.look(hits, 0);
        }
        Ok(())
    }

    fn finish(&mut self, host: &mut Recording, kernel: &dyn Orders) {
        self.take_in(host);
        self.account.finish();
        self.lost = kernel.counter(Counter::LostMarks).unwrap_or_default();
    }

    fn refusal(&self, window: &Window) -> Option<String> {
        self.probes.refusal(window, "imports")
    }

    fn content(&mut self, _namer: &mut Namer, _window: &Window, length: Duration) -> (Content, Vec<String>) {
        let imports = std::mem::take(&mut self.account.imports);
        // Both hits of each: what those within it cost is in the time of the one around them.
        let spent_ns = self
            .governor
            .as_ref()
            .map_or(0.0, |governor| governor.spent().as_nanos() as f64);
        let each_ns = spent_ns / imports.len().max(1) as f64;
        let report = ImportsReport::new(
            imports,
            &self.commands,
            each_ns,
            length,
            self.lost + self.account.forgotten,
        );
        (Content::Imports(Box::new(report)), Vec::new())
    }

    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>) {
        if let Content::Imports(report) = content {
            let lines = match self.wanted.format {
                ImportsFormat::Text => Vec::new(),
                _ => table::heading(report),
            };
            tell_hits(summary, lines, told, self.governor.as_ref(), SlowDown::NONE);
        }
        summary.warnings.extend(self.probes.warnings.iter().cloned());
    }
}

impl Tells for Imports {
    fn opening(&self, what: &str) -> String {
        format!("following the imports of {what}")
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: "Imports",
            value: 0,
            interpreter: Interpreter::Full,
        }
    }

    fn write(&self, content: &Content, _view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Content::Imports(report) = content else {
            return Ok(());
        };
        match self.wanted.format {
            ImportsFormat::Csv => export::write_csv(report, out),
            ImportsFormat::Json => export::write_json(report, out),
            ImportsFormat::Importtime => export::write_importtime(report, out),
            ImportsFormat::Text => {
                Ok(out.write_all(table::text(report, self.wanted.top, stdout_columns()).as_bytes())?)
            }
        }
    }
}
