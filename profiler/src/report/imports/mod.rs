//! Reports of imports: as `-X importtime` has them.

pub mod export;
pub mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::{imports::Import, shown};

/// A module, with what our probes cost taken off.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    pub pid: u32,
    pub name: String,
    /// Index of the one that imported it.
    pub parent: Option<usize>,
    pub depth: u32,
    pub own_ns: u64,
    pub cumulative_ns: u64,
    /// Of the cumulative time, on a CPU.
    pub cpu_ns: u64,
    pub is_unfinished: bool,
}

#[derive(Debug)]
pub struct ImportsReport {
    /// In the order in which they began.
    pub modules: Vec<Module>,
    /// What each process runs.
    pub commands: Vec<(u32, String)>,
    pub length: Duration,
    pub lost: u64,
}

impl ImportsReport {
    /// `each_ns`: what our probes cost for each import.
    pub fn new(imports: Vec<Import>, commands: &[(u32, String)], each_ns: f64, length: Duration, lost: u64) -> Self {
        let modules = imports
            .into_iter()
            .map(|import| {
                let less = |ns: u64, times: u64| ns.saturating_sub((each_ns * times as f64) as u64);
                let cumulative_ns = less(import.wall_ns, import.nested);
                // About half of each hit is outside of what it bounds.
                let own_ns = less(import.own_ns(), import.direct).min(cumulative_ns);
                let mut name = match &*import.name {
                    "" => "[name not readable]".to_owned(),
                    name => shown::line(name),
                };
                if import.is_cut {
                    name.push('…');
                }
                Module {
                    pid: import.pid,
                    parent: import.parent,
                    depth: import.depth,
                    own_ns,
                    cumulative_ns,
                    cpu_ns: less(import.cpu_ns, import.nested),
                    is_unfinished: import.is_unfinished,
                    name,
                }
            })
            .collect();
        Self {
            modules,
            commands: commands.to_vec(),
            length,
            lost,
        }
    }

    /// All imports that were not within another.
    pub fn total_ns(&self) -> u64 {
        let outermost = self.modules.iter().filter(|module| module.parent.is_none());
        outermost.map(|module| module.cumulative_ns).sum()
    }

    pub fn command(&self, pid: u32) -> String {
        let known = self.commands.iter().find(|(known, _)| *known == pid);
        match known {
            Some((_, command)) if !command.is_empty() => format!("{} ({pid})", shown::line(command)),
            _ => format!("process {pid}"),
        }
    }
}
