//! What all benchmarks do alike: they build, become root, wait for a machine that does nothing else, measure section by
//! section, and leave a table and a file of figures.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::machine::{self, Machine};
use super::scratch::Scratch;
use super::table::Table;
use crate::{build, command, root, setup, workspace};

/// What every benchmark can be asked.
#[derive(Args)]
pub struct Common {
    /// How often everything is measured; fewer than 5 give no result worth quoting
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,

    /// Where the figures go as JSON, with each single measurement [default: target/bench/NAME.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Measure although the machine is busy
    #[arg(long)]
    anyway: bool,

    /// Measure this binary: build nothing
    #[arg(long, value_name = "FILE")]
    profiler: Option<PathBuf>,
}

/// How often something is measured, with and without.
#[derive(Clone, Copy)]
pub struct Pairs(usize);

impl Pairs {
    /// Counts them, aloud.
    pub fn each(self) -> impl Iterator<Item = usize> {
        (0..self.0).inspect(move |pair| eprintln!("xtask:   pair {} of {}", pair + 1, self.0))
    }
}

/// What a benchmark is made of.
pub struct Site<'a> {
    pub binary: PathBuf,
    pub scratch: &'a Path,
    pub pairs: Pairs,
    /// Where targets are pinned, the last CPU: the first takes most of the interrupts. The profilers run where they like.
    pub cpu: usize,
    pub cpus: usize,
    pub table: &'a mut Table,
}

pub type Measure<B> = fn(&B, &mut Table) -> Result<()>;

/// One benchmark: a setting that is made once, and its sections.
pub struct Benchmark<'a, B, S> {
    /// Also its file's.
    pub name: &'a str,
    /// Gets what is compared with, as the user, before root takes over.
    pub install: fn(),
    pub make: &'a dyn Fn(Site<'_>) -> Result<B>,
    pub sections: &'a [(S, &'a str, Measure<B>)],
    /// Those that are wanted; none is all.
    pub only: &'a [S],
    /// What else goes into its file.
    pub also: &'a [(&'a str, Value)],
}

impl<B, S: PartialEq> Benchmark<'_, B, S> {
    pub fn run(&self, common: &Common) -> Result<()> {
        let binary = binary(common.profiler.as_deref())?;
        (self.install)();
        // Before root takes over: the file is then the user's, and not being able to write it is told at once.
        let json = match &common.json {
            Some(file) => file.clone(),
            None => workspace::root().join(format!("target/bench/{}.json", self.name)),
        };
        check_writable(&json)?;
        if !root::is_root() {
            return again_as_root(&binary);
        }
        let machine = Machine::of_this()?;
        eprintln!("xtask: {}", machine.description);
        let mut table = Table::default();
        note_machine(&mut table, &machine, common.anyway)?;
        if common.pairs < 5 {
            table.note(format!("{} of at least 5 pairs: this run is no result", common.pairs));
        }

        let scratch = Scratch::new()?;
        let bench = (self.make)(Site {
            binary,
            scratch: scratch.path(),
            pairs: Pairs(common.pairs as usize),
            cpu: machine.cpus - 1,
            cpus: machine.cpus,
            table: &mut table,
        })?;
        let before = machine::CpuTimes::now()?;
        let started = Instant::now();
        let failed = self.measure(&bench, &mut table);
        let stolen = machine::CpuTimes::now()?.stolen_since(&before);
        let took_s = started.elapsed().as_secs_f64();
        table.note(format!(
            "took {took_s:.0} s, of whose CPU time the host took {:.1} % for others",
            stolen * 100.0
        ));
        let (goals, missed) = table.goals();
        table.note(format!("{missed} of {goals} goals missed"));
        print!("{}", table.text());

        let mut result = Map::from_iter([
            ("bench".to_owned(), json!(self.name)),
            ("machine".to_owned(), machine.json()),
            ("pairs".to_owned(), json!(common.pairs)),
            ("took_s".to_owned(), json!(took_s)),
            ("stolen_share".to_owned(), json!(stolen)),
            ("goals".to_owned(), json!(goals)),
            ("missed".to_owned(), json!(missed)),
            ("table".to_owned(), table.json()),
        ]);
        result.extend(
            self.also
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        fs::write(&json, format!("{:#}\n", Value::Object(result)))
            .with_context(|| format!("cannot write {}", json.display()))?;
        eprintln!("xtask: wrote {}", json.display());
        if failed.is_empty() {
            Ok(())
        } else {
            bail!("not everything could be measured: {}", failed.join("; "))
        }
    }

    /// Runs the sections that are wanted, and returns what failed: one failure does not take the others' figures away.
    fn measure(&self, bench: &B, table: &mut Table) -> Vec<String> {
        let mut failed = Vec::new();
        for (section, name, measure) in self.sections {
            if !self.only.is_empty() && !self.only.contains(section) {
                continue;
            }
            eprintln!("xtask: measuring {name}");
            if let Err(error) = measure(bench, table) {
                let why = format!("{error:#}");
                table.absent(format!("the rest of {name}"), why.clone());
                failed.push(format!("{name}: {why}"));
            }
        }
        failed
    }
}

/// The binary to measure: one that is there, or what is built now.
pub fn binary(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(binary) => fs::canonicalize(binary).with_context(|| format!("there is no {}", binary.display())),
        None => {
            setup::ensure()?;
            build::profiler(true)
        }
    }
}

/// Notes where it is measured; an error if others use the machine, unless that is no matter.
pub fn note_machine(table: &mut Table, machine: &Machine, anyway: bool) -> Result<()> {
    table.note(machine.description.clone());
    match machine::disturbance()? {
        Some(disturbance) if !anyway => bail!("{disturbance}: wait until it is done, or measure with --anyway"),
        Some(disturbance) => table.note(format!("measured --anyway: {disturbance}")),
        None => {}
    }
    Ok(())
}

/// The same again through sudo, with nothing left to build or to install.
fn again_as_root(binary: &Path) -> Result<()> {
    let this = std::env::current_exe().context("cannot tell where this xtask is")?;
    // sudo changes it, and pyenv's interpreters are below it.
    let names = ["HOME", "PYENV_ROOT"];
    let variables: Vec<(&str, OsString)> = names
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
        .collect();
    let mut again = root::command(this, &variables);
    again.args(std::env::args_os().skip(1));
    if !std::env::args_os().any(|argument| argument.to_string_lossy().starts_with("--profiler")) {
        again.arg("--profiler").arg(binary);
    }
    command::run(&mut again)
}

/// Makes sure that the file can be written, without destroying what is in it before there is something better.
fn check_writable(file: &Path) -> Result<()> {
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}
