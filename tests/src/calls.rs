//! `profiler calls`, run as a user runs it; the functions it has counted, by place; and what cProfile counts.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    python::Python,
    recorder::{Recorder, Taken},
    workload::{self, Workload},
};

/// So much slower that no budget ends a recording which is to be complete.
pub const WITHOUT_END: [&str; 2] = ["--max-overhead", "1000"];

/// `profiler calls …`, about to be run.
#[derive(Debug)]
pub struct Calls;

impl Calls {
    /// With the functions as JSON, whatever else the arguments say.
    pub fn record(arguments: &[&str]) -> Result<Recorder> {
        Self::to("calls.json", arguments)
    }

    /// To a file of this name.
    pub fn to(name: &str, arguments: &[&str]) -> Result<Recorder> {
        Ok(Self::command(arguments)?.to(name))
    }

    /// With whatever the arguments ask for: without `-o` a table.
    pub fn command(arguments: &[&str]) -> Result<Recorder> {
        Recorder::new("calls", arguments)
    }
}

impl Taken {
    /// What [`Calls::record`] has written.
    pub fn report(&self) -> Result<Report> {
        let text = fs::read(self.file("calls.json")).context("it wrote no calls.json");
        let value = text.and_then(|text| serde_json::from_slice(&text).context("not JSON"));
        Report::of(value.with_context(|| self.outcome.stderr.clone())?)
    }
}

/// The rows of the table on standard output: what comes below the heading, to the first empty line.
pub fn rows(taken: &Taken) -> Result<Vec<&str>> {
    let lines = taken.below(|line| line.contains("ncalls") && line.contains("filename:lineno(function)"))?;
    Ok(lines.take_while(|line| !line.trim().is_empty()).collect())
}

/// The functions of a recording, and what is said of the whole.
#[derive(Clone, Debug)]
pub struct Report {
    pub whole: Value,
    pub functions: Vec<Function>,
}

/// A function as a report has it. What is unknown is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub place: Place,
    pub calls: Option<u64>,
    pub primitive: Option<u64>,
    pub is_exact: bool,
    /// `timed` of the JSON: times in nanoseconds.
    pub times: Option<Value>,
    /// The functions that called it, and how often; 0 if that is known from samples.
    pub callers: Vec<(Place, u64)>,
}

/// What a function is to cProfile. Of the name only the last part is, up to 3.10, what reports have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Without its directory: that is not the same in two runs.
    pub file: String,
    pub line: u64,
    pub name: String,
}

impl Place {
    pub fn new(file: &str, line: u64, name: &str) -> Self {
        Self {
            file: file.rsplit('/').next().unwrap_or(file).to_owned(),
            line,
            name: name.rsplit('.').next().unwrap_or(name).to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}({})", self.file, self.line, self.name)
    }
}

impl Report {
    fn of(whole: Value) -> Result<Self> {
        let rows = whole["functions"].as_array().context("no functions")?;
        let place = |row: &Value| -> Result<Place> {
            let (file, name) = (row["file"].as_str(), row["function"].as_str());
            let place = || Some(Place::new(file?, row["line"].as_u64()?, name?));
            place().with_context(|| format!("not a function: {row}"))
        };
        let places: Vec<Place> = rows.iter().map(place).collect::<Result<_>>()?;
        let caller = |row: &Value| {
            let index = usize::try_from(row["index"].as_u64()?).ok()?;
            Some((places.get(index)?.clone(), row["ncalls"].as_u64()?))
        };
        let function = |(row, place): (&Value, &Place)| -> Result<Function> {
            let callers = row["callers"].as_array().map_or(&[][..], Vec::as_slice);
            let callers: Option<Vec<_>> = callers.iter().map(caller).collect();
            Ok(Function {
                place: place.clone(),
                calls: row["ncalls"].as_u64(),
                primitive: row["primitive_calls"].as_u64(),
                is_exact: row["calls_exact"].as_bool().unwrap_or(false),
                times: row.get("timed").filter(|timed| timed.is_object()).cloned(),
                callers: callers.with_context(|| format!("callers that are not functions: {row}"))?,
            })
        };
        let functions = rows.iter().zip(&places).map(function).collect::<Result<_>>()?;
        Ok(Self { whole, functions })
    }

    /// The one function of a file that is called so.
    pub fn function(&self, file: &str, name: &str) -> Result<&Function> {
        let mut found = self
            .functions
            .iter()
            .filter(|function| (function.place.file.as_str(), function.place.name.as_str()) == (file, name));
        match (found.next(), found.next()) {
            (Some(function), None) => Ok(function),
            (None, _) => bail!("no {name} of {file} in:\n{}", self.shown()),
            _ => bail!("several {name} of {file} in:\n{}", self.shown()),
        }
    }

    /// How often the functions of these files were called. Of what is not exact there is nothing to compare.
    pub fn counts(&self, files: &[&str]) -> Result<Counts> {
        let mut counts = Counts::default();
        let of_files = |function: &&Function| files.contains(&function.place.file.as_str());
        for function in self.functions.iter().filter(of_files) {
            let Some(calls) = function.calls else { continue };
            ensure!(function.is_exact, "{} is an estimate", function.place);
            counts.add(function.place.clone(), calls, function.primitive);
        }
        Ok(counts)
    }

    pub fn number(&self, name: &str) -> Result<f64> {
        let number = self.whole[name].as_f64();
        number.with_context(|| format!("no {name} in the report"))
    }

    /// For messages.
    pub fn shown(&self) -> String {
        let functions = self.functions.iter().take(40);
        let lines = functions.map(|function| format!("  {:?} {}", function.calls, function.place));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Calls of functions: all, and the primitive ones where they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<Place, (u64, Option<u64>)>);

impl Counts {
    /// Of `[[file, line, name, calls, primitive calls], …]`.
    pub fn from_json(rows: &Value) -> Result<Self> {
        let mut counts = Self::default();
        for row in rows.as_array().context("no rows")? {
            let numbers = || {
                let place = Place::new(row[0].as_str()?, row[1].as_u64()?, row[2].as_str()?);
                Some((place, row[3].as_u64()?, row[4].as_u64()?))
            };
            let (place, calls, primitive) = numbers().with_context(|| format!("not a row: {row}"))?;
            counts.add(place, calls, Some(primitive));
        }
        Ok(counts)
    }

    /// What cProfile counts of `counted.py ROUNDS`.
    pub fn of_cprofile(python: &Python, rounds: u64) -> Result<Self> {
        let workload = run(python, "counted.py", &[&rounds.to_string(), "profile"])?;
        Self::from_json(workload.truth.first().context("no truth")?)
    }

    /// Two functions of one name at one place are one to cProfile's readers as well.
    fn add(&mut self, place: Place, calls: u64, primitive: Option<u64>) {
        let (all, of_primitive) = self.0.entry(place).or_insert((0, Some(0)));
        *all += calls;
        *of_primitive = of_primitive.zip(primitive).map(|(sum, calls)| sum + calls);
    }

    pub fn total(&self) -> u64 {
        self.0.values().map(|(calls, _)| calls).sum()
    }

    /// What is not equal: a line each. Primitive calls are compared where both know them.
    pub fn differences(&self, truth: &Self) -> Vec<String> {
        let places = self
            .0
            .keys()
            .chain(truth.0.keys().filter(|place| !self.0.contains_key(place)));
        let differs = |place: &Place| match (self.0.get(place), truth.0.get(place)) {
            (Some((found, primitive)), Some((known, known_primitive))) => {
                if found != known {
                    return Some(format!("{place}: {found} calls, not {known}"));
                }
                let (primitive, known) = primitive.zip(*known_primitive)?;
                (primitive != known).then(|| format!("{place}: {primitive} primitive calls, not {known}"))
            }
            (Some((found, _)), None) => Some(format!("{place}: {found} calls that nobody made")),
            (None, Some((known, _))) => Some(format!("{place}: no calls, not {known}")),
            (None, None) => None,
        };
        places.filter_map(differs).collect()
    }
}

/// Runs a script of `workloads/calls/`, from a copy that its interpreter can see.
pub fn run(python: &Python, script: &str, arguments: &[&str]) -> Result<Workload> {
    let directory = copy(python)?;
    let mut command = python.command();
    command.arg(python.seen(&directory.path().join(script))).args(arguments);
    Workload::command(command, Some(directory)).with_context(|| format!("{script} did not start"))
}

/// A directory with the workloads about calls that the interpreter can see.
pub fn copy(python: &Python) -> Result<TempDir> {
    let directory = python.directory()?;
    for entry in fs::read_dir(sources())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), directory.path().join(entry.file_name()))?;
        }
    }
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(directory)
}

/// Where their sources are.
pub fn sources() -> PathBuf {
    workload::sources().join("calls")
}

/// Has a script of `workloads/calls/` read a file of the profiler's, with that interpreter, and returns what it says.
pub fn read_with(python: &Python, script: &str, file: &Path) -> Result<Value> {
    let directory = copy(python)?;
    // Where an interpreter with a root of its own can see it.
    let name = file.file_name().context("a file without a name")?;
    let seen = directory.path().join(name);
    fs::copy(file, &seen).with_context(|| format!("no {}", file.display()))?;
    let mut command = python.command();
    command
        .arg(python.seen(&directory.path().join(script)))
        .arg(python.seen(&seen));
    let output = command.output().with_context(|| format!("cannot run {script}"))?;
    ensure!(
        output.status.success(),
        "{script} cannot read {}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("{script} did not print JSON"))
}

/// How many bytes of a process's code differ from the files it is mapped from. A uprobe is written into the page that the
/// process executes (uprobe_write_opcode, kernel/events/uprobes.c), and has no other trace that user space could see.
pub fn changed_code(pid: u32) -> Result<usize> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut changed = 0;
    for map in maps.lines() {
        let mut fields = map.split_whitespace();
        let (Some(range), Some(rights), Some(offset)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if !rights.contains('x') || !map.contains('/') {
            continue;
        }
        let (start, end) = range.split_once('-').context("no range")?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        let length = usize::try_from(end - start)?;
        // Not by its path: it may be gone, or of another root.
        let file = File::open(format!("/proc/{pid}/map_files/{start:x}-{end:x}"))?;
        let (mut executed, mut original) = (vec![0; length], vec![0; length]);
        memory.read_exact_at(&mut executed, start)?;
        // The last page may end before the mapping does.
        let read = file.read_at(&mut original, u64::from_str_radix(offset, 16)?)?;
        let pairs = executed[..read].iter().zip(&original[..read]);
        changed += pairs.filter(|(executed, original)| executed != original).count();
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn counts(rows: &Value) -> Counts {
        Counts::from_json(rows).unwrap()
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let truth = counts(&json!([
            ["/a/x.py", 1, "f", 3, 1],
            ["x.py", 2, "g", 5, 5],
            ["x.py", 3, "h", 2, 2]
        ]));
        assert_eq!(truth.differences(&truth), [""; 0]);
        let found = counts(&json!([
            ["x.py", 1, "f", 3, 2],
            ["x.py", 2, "A.g", 4, 4],
            ["x.py", 4, "i", 1, 1]
        ]));
        let expected = [
            "x.py:1(f): 2 primitive calls, not 1",
            "x.py:2(g): 4 calls, not 5",
            "x.py:4(i): 1 calls that nobody made",
            "x.py:3(h): no calls, not 2",
        ];
        assert_eq!(found.differences(&truth), expected);
    }

    #[test]
    fn a_report_is_read_and_unknown_is_not_zero() {
        let report = Report::of(json!({"functions": [
            {"file": "/t/a.py", "line": 3, "function": "A.f", "ncalls": 2, "primitive_calls": null, "calls_exact": true,
             "callers": [{"index": 1, "ncalls": 2, "own_samples": 0, "cumulative_samples": 0}]},
            {"file": "/t/a.py", "line": 9, "function": "g", "ncalls": null, "primitive_calls": null,
             "calls_exact": null},
        ]}));
        let report = report.unwrap();
        let function = report.function("a.py", "f").unwrap();
        assert_eq!((function.calls, function.primitive), (Some(2), None));
        assert_eq!(function.callers, [(Place::new("a.py", 9, "g"), 2)]);
        let counts = report.counts(&["a.py"]).unwrap();
        assert_eq!(
            counts.0.into_iter().collect::<Vec<_>>(),
            [(Place::new("a.py", 3, "f"), (2, None))]
        );
    }

    #[test]
    fn the_code_of_this_process_is_as_its_files_have_it() {
        assert_eq!(changed_code(std::process::id()).unwrap(), 0);
    }
}
