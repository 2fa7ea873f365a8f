//! The four formats, each read by somebody else than its writer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{Folded, is},
    pprof,
    profiler::{Outcome, Profiler, number},
    python,
    serial::serial,
    workload::{self, Workload},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::RATE;

/// One recording has one output, so each format is held against the summary of its own recording.
struct Recorded {
    _workload: Workload,
    directory: TempDir,
    pid: String,
}

impl Recorded {
    fn new() -> Result<Self> {
        let workload = Workload::python(&python::any()?, "spin.py", &[])?;
        Ok(Self {
            pid: workload.pid.to_string(),
            directory: tempfile::tempdir()?,
            _workload: workload,
        })
    }

    fn write(&self, name: &str) -> Result<(PathBuf, Outcome)> {
        let file = self.directory.path().join(name);
        let outcome = Profiler::record(&["-p", &self.pid, "-d", "1", "-r", RATE, "-t", "-o"])
            .arg(&file)
            .succeed()?;
        let left: Vec<_> = fs::read_dir(self.directory.path())?
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        ensure!(
            left.iter().all(|name| !name.to_string_lossy().contains("partial")),
            "left behind: {left:?}"
        );
        ensure!(outcome.stdout.is_empty(), "something on standard output");
        outcome.line(&format!("wrote {}", file.display()))?;
        ensure!(outcome.samples()? > 100, "{}", outcome.stderr);
        Ok((file, outcome))
    }
}

#[test]
fn folded_text_has_every_sample() -> Result<()> {
    let _serial = serial();
    let recorded = Recorded::new()?;
    let (file, outcome) = recorded.write("out.folded")?;
    let folded = Folded::parse(&fs::read_to_string(file)?)?;
    ensure!(
        folded.total() == outcome.samples()?,
        "{} of {} samples",
        folded.total(),
        outcome.samples()?
    );
    ensure!(folded.share_of("inner") > 0.99, "{folded}");
    Ok(())
}

#[test]
fn pprof_has_every_sample_for_our_reader_and_for_another() -> Result<()> {
    let _serial = serial();
    let recorded = Recorded::new()?;
    let (file, outcome) = recorded.write("out.pb.gz")?;
    let ours = pprof::stacks(&pprof::load(&file)?)?;
    let independent = pprof::independent_stacks(&file)?;
    ensure!(
        ours == independent,
        "two readers find two things: {ours:#?}\n{independent:#?}"
    );
    ensure!(
        ours.values().sum::<u64>() == outcome.samples()?,
        "not all samples: {}",
        outcome.stderr
    );
    let chain: u64 = ours
        .iter()
        .filter(|(stack, _)| {
            let names: Vec<&str> = stack
                .iter()
                .filter(|frame| frame.file.ends_with("spin.py"))
                .map(|frame| frame.name.as_str())
                .collect();
            names == ["<module>", "outer", "middle", "inner"]
        })
        .map(|(_, count)| count)
        .sum();
    ensure!(
        chain as f64 >= 0.99 * outcome.samples()? as f64,
        "{chain} of {} have their chain",
        outcome.samples()?
    );

    // A workload whose leaf is often a function in C.
    let workload = Workload::python(&python::any()?, "two.py", &[])?;
    let file = recorded.directory.path().join("native.pb.gz");
    Profiler::record(&["-p", &workload.pid.to_string(), "-d", "1", "-r", RATE, "-o"])
        .arg(&file)
        .succeed()?;
    let read = Command::new("python3.11")
        .arg(workload::sources().join("read_pprof.py"))
        .arg(&file)
        .output()?;
    let read: Value = serde_json::from_slice(&read.stdout)?;
    ensure!(
        read["kinds"] == serde_json::json!(["samples", "cpu"]),
        "{}",
        read["kinds"]
    );
    let labels = read["labels"].as_array().context("no labels")?;
    for label in ["pid", "tid", "comm", "thread"] {
        ensure!(
            labels.iter().any(|found| found == label),
            "no label {label}: {labels:?}"
        );
    }
    let mappings = read["mappings"].as_array().context("no mappings")?;
    let libpython = mappings
        .iter()
        .find(|mapping| mapping[0].as_str().is_some_and(|path| path.contains("libpython")));
    let libpython = libpython.with_context(|| format!("no mapping of libpython: {mappings:?}"))?;
    let build_id = libpython[1].as_str().unwrap_or_default();
    let expected = build_id_of(libpython[0].as_str().unwrap_or_default())?;
    ensure!(build_id == expected, "build id {build_id:?}, not {expected:?}");
    // What the others show must not be missing here: the summary is in it.
    let comments = read["comments"].to_string();
    ensure!(
        comments.contains("cost:") && comments.contains("profiler"),
        "{comments}"
    );
    Ok(())
}

#[test]
fn speedscope_has_every_sample() -> Result<()> {
    let _serial = serial();
    let recorded = Recorded::new()?;
    let (file, outcome) = recorded.write("out.speedscope.json")?;
    let document: Value = serde_json::from_slice(&fs::read(file)?)?;
    ensure!(document["$schema"] == "https://www.speedscope.app/file-format-schema.json");
    let frames = document["shared"]["frames"].as_array().context("no frames")?;
    ensure!(
        frames
            .iter()
            .all(|frame| frame["name"].as_str().is_some_and(|name| !name.is_empty())),
        "{frames:?}"
    );
    let (mut total, mut cpu_ns) = (0, 0);
    let profiles = document["profiles"].as_array().context("no profiles")?;
    ensure!(!profiles.is_empty(), "no profiles");
    for profile in profiles {
        ensure!(profile["type"] == "sampled" && profile["name"].is_string() && profile["unit"].is_string());
        let samples = profile["samples"].as_array().context("no samples")?;
        let weights = profile["weights"].as_array().context("no weights")?;
        ensure!(
            samples.len() == weights.len(),
            "{} samples, {} weights",
            samples.len(),
            weights.len()
        );
        for sample in samples {
            let stack = sample.as_array().context("no stack")?;
            ensure!(
                stack
                    .iter()
                    .all(|frame| frame.as_u64().is_some_and(|frame| frame < frames.len() as u64))
            );
        }
        let sum: u64 = weights.iter().filter_map(Value::as_u64).sum();
        let span = profile["endValue"]
            .as_u64()
            .zip(profile["startValue"].as_u64())
            .map(|(end, start)| end - start);
        ensure!(span == Some(sum), "the values span {span:?}, the weights {sum}");
        let name = profile["name"].as_str().unwrap_or_default();
        match (name.ends_with(" · samples"), name.ends_with(" · cpu")) {
            (true, _) => total += sum,
            (_, true) => cpu_ns += sum,
            _ => anyhow::bail!("a profile of nothing that there is: {name}"),
        }
    }
    ensure!(total == outcome.samples()?, "{total} of {} samples", outcome.samples()?);
    let period_ns = 1e9 / RATE.parse::<f64>()?;
    ensure!(
        (cpu_ns as f64 / total as f64 / period_ns - 1.0).abs() < 0.01,
        "{cpu_ns} ns of {total} samples"
    );
    ensure!(
        frames
            .iter()
            .any(|frame| frame["name"].as_str().is_some_and(|name| name.starts_with("inner"))),
        "{frames:?}"
    );
    Ok(())
}

#[test]
fn svg_is_xml_and_has_every_sample() -> Result<()> {
    let _serial = serial();
    let recorded = Recorded::new()?;
    let (file, outcome) = recorded.write("out.svg")?;
    let titles = svg_titles(&file)?;
    let all = titles
        .iter()
        .find(|title| title.starts_with("all ("))
        .context("no root")?;
    let count = all.strip_prefix("all (").unwrap_or_default();
    ensure!(
        number(count)? == outcome.samples()?,
        "{all}, not {}",
        outcome.samples()?
    );
    for function in ["<module>", "outer", "middle", "inner"] {
        ensure!(
            titles
                .iter()
                .any(|title| is(title, function) && title.contains("spin.py:")),
            "no {function}: {titles:?}"
        );
    }
    Ok(())
}

#[test]
fn the_default_name_is_that_of_the_process() -> Result<()> {
    let _serial = serial();
    let workload = Workload::python(&python::any()?, "spin.py", &[])?;
    let pid = workload.pid.to_string();
    let comm = fs::read_to_string(format!("/proc/{pid}/comm"))?;
    let directory = tempfile::tempdir()?;
    Profiler::record(&["-p", &pid, "-d", "300ms"])
        .current_dir(directory.path())
        .succeed()?;
    Profiler::record(&["-a", "-d", "300ms", "-f", "pprof"])
        .current_dir(directory.path())
        .succeed()?;
    let mut names: Vec<String> = fs::read_dir(directory.path())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let [first, second] = &names[..] else {
        anyhow::bail!("not two files: {names:?}")
    };
    ensure!(
        first.starts_with(&format!("{}-{pid}-", comm.trim())) && first.ends_with(".svg"),
        "{first}"
    );
    ensure!(second.starts_with("system-") && second.ends_with(".pb.gz"), "{second}");
    svg_titles(&directory.path().join(first))?;
    Ok(())
}

fn svg_titles(file: &Path) -> Result<Vec<String>> {
    let output = Command::new("python3.11")
        .arg(workload::sources().join("read_svg.py"))
        .arg(file)
        .output()?;
    ensure!(
        output.status.success(),
        "not XML: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let titles: Vec<Option<String>> = serde_json::from_slice(&output.stdout)?;
    Ok(titles.into_iter().flatten().collect())
}

fn build_id_of(path: &str) -> Result<String> {
    let output = Command::new("readelf").args(["--notes", path]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = text.lines().find_map(|line| line.trim().strip_prefix("Build ID: "));
    Ok(id.unwrap_or_default().to_owned())
}
