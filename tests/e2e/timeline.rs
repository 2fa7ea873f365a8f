//! Time in a recording, and the page's timeline by what headless Chromium shows of it.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use profiler::{
    profile::{FrameKind, Labels, Profile, SampleKey, ValueType},
    report::View,
};
use profiler_tests::{browser::Screen, pprof, profiler::Profiler, python, serial::serial, workload::Workload};

use crate::{
    RATE,
    page::{DESK, Shown, VIEWS, intern, shop, view},
};

/// 29 November 2026, 11:44:00 in UTC.
const BEGAN_NS: i64 = 1_795_952_640_000_000_000;

/// Ten seconds in slices of 100 ms: the main thread loads in the first half, a worker renders in the second, and something
/// else goes on all the time.
fn phases() -> Profile {
    let types = ["samples/count", "cpu/nanoseconds"].map(|text| match text.split_once('/') {
        Some((kind, unit)) => ValueType { kind, unit },
        None => ValueType { kind: text, unit: "" },
    });
    let mut profile = Profile::new(types.to_vec(), None);
    profile.begin_timeline(100_000_000);
    (profile.started_at_ns, profile.duration_ns) = (BEGAN_NS, 10_000_000_000);
    let mut frame = |function: &str, line| intern(&mut profile, FrameKind::Python, function, VIEWS, line);
    let [main, load, render, beat] = [
        frame("<module>", 5),
        frame("load", 20),
        frame("render", 40),
        frame("beat", 60),
    ];
    for (tid, thread, leaf, slices) in [
        (1, "MainThread", load, 0..50),
        (2, "worker", render, 50..100),
        (1, "MainThread", beat, 0..100),
    ] {
        let key = SampleKey {
            stack: profile.intern_stack(&[leaf, main]),
            labels: Labels {
                pid: 1,
                tid,
                comm: Profile::EMPTY,
                command: profile.intern_string("shop.py"),
                thread: profile.intern_string(thread),
                cgroup: Profile::EMPTY,
                container: Profile::EMPTY,
                task: Profile::EMPTY,
            },
        };
        let weights: Vec<(u32, u32)> = slices.map(|slice| (slice, if leaf == beat { 1 } else { 8 })).collect();
        let count = weights.iter().map(|(_, weight)| i64::from(*weight)).sum();
        profile.add_in(key, &[count, count * 10_000_000], &weights);
    }
    profile
}

impl Shown {
    /// Drags from one moment to another, which are shares of the recording.
    fn drag(&mut self, from: f64, to: f64) -> Result<()> {
        let place = self
            .browser
            .eval("[profile.page.timeline.left, profile.page.timeline.width]")?;
        let [left, width]: [f64; 2] = serde_json::from_value(place)?;
        let at = |share: f64| ((left + share * (width - left)) / width, 0.1);
        self.browser.drag("#time", at(from), at(to))
    }

    /// What is told of the time that is chosen.
    fn told(&mut self) -> Result<String> {
        self.browser.text("#time-told")
    }

    /// What all of the flame graph comes to.
    fn all(&mut self) -> Result<f64> {
        let all = self.browser.eval("profile.page.tree().total[0]")?;
        all.as_f64().context("a number")
    }
}

#[test]
fn everything_is_of_the_time_that_was_dragged_over() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&phases(), &view(), DESK)?;
    let answer = shown.browser.text("#answer")?;
    ensure!(
        answer.contains("load (srv/shop/views.py:20)") && answer.contains("44.4 %"),
        "{answer}"
    );
    ensure!(shown.all()? == 900.0);

    shown.drag(0.5005, 0.9995)?;
    ensure!(
        shown.told()? == "Only 11:44:05.0 to 11:44:10.0: 5.0 s of 10.0 s, with 50.0 % of the CPU time.",
        "{}",
        shown.told()?
    );
    let answer = shown.browser.text("#answer")?;
    ensure!(
        answer
            == "The hottest line of your code is render (srv/shop/views.py:40) with 88.9 % of the CPU time: 88.9 % in \
                itself."
            || answer.contains("render (srv/shop/views.py:40) with 88.9 %"),
        "{answer}"
    );
    let boxes: BTreeMap<String, f64> = shown.boxes()?;
    ensure!(
        boxes.keys().all(|path| !path.contains("load")) && boxes.keys().any(|path| path.ends_with("render")),
        "{boxes:?}"
    );
    shown.browser.click("#tab-table")?;
    let rows = shown.rows("#view-table")?;
    ensure!(rows.len() == 3 && rows[0][..1] == ["88.9 %"], "{rows:?}");
    shown.browser.click("#tab-source")?;
    let source = shown.browser.text("#view-source")?;
    ensure!(source.contains("render") && !source.contains("load"), "{source}");
    shown.browser.click("#tab-threads")?;
    let threads = shown.rows("#threads-table")?;
    ensure!(
        threads[0][..2] == ["88.9 %", "worker (thread 2)"] && threads[1][..2] == ["11.1 %", "MainThread (thread 1)"],
        "{threads:?}"
    );
    shown.browser.click("#tab-callers")?;
    ensure!(shown.browser.text("#callers-of")?.starts_with("render"));

    // The other half and this one come to the whole, of each value.
    let half = shown.all()?;
    shown.drag(0.0005, 0.4995)?;
    ensure!(shown.all()? + half == 900.0, "{half} and {}", shown.all()?);
    shown.set("value", "1")?;
    ensure!(shown.all()? == 4_500_000_000.0);
    shown.browser.click("#time-whole")?;
    ensure!(shown.all()? == 9_000_000_000.0);
    ensure!(shown.told()?.starts_with("Drag over the time"), "{}", shown.told()?);
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    Ok(())
}

#[test]
fn a_time_is_chosen_from_the_keyboard_as_well() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&phases(), &view(), DESK)?;
    shown.browser.eval("document.getElementById('time').focus()")?;
    shown.browser.key("Home")?;
    shown.browser.key("ArrowRight")?;
    ensure!(
        shown
            .told()?
            .starts_with("Only 11:44:00.1 to 11:44:00.2: 100.0 ms of 10.0 s"),
        "{}",
        shown.told()?
    );
    for _ in 0..2 {
        shown.browser.shift_key("PageDown")?;
    }
    ensure!(
        shown.told()?.starts_with("Only 11:44:00.1 to 11:44:02.2"),
        "{}",
        shown.told()?
    );
    shown.followed(21.0 * 9.0)?;
    shown.browser.key("Escape")?;
    ensure!(shown.all()? == 900.0);
    // What is chosen otherwise stays chosen.
    shown.browser.key("End")?;
    shown.followed(9.0)?;
    shown.set("whose", "t1")?;
    ensure!(shown.all()? == 8.0, "{}", shown.all()?);
    ensure!(
        shown.told()?.contains("with 2.0 % of the CPU time"),
        "{}",
        shown.told()?
    );
    Ok(())
}

impl Shown {
    /// Waits until the views have followed the keys.
    fn followed(&mut self, all: f64) -> Result<()> {
        let reached = self.browser.eval(&format!(
            "new Promise((ended) => {{
                const begun = performance.now();
                const look = () => {{
                    const all = profile.page.tree().total[0];
                    if (all === {all} || performance.now() - begun > 10000) ended(all);
                    else setTimeout(look, 10);
                }};
                look();
            }})"
        ))?;
        ensure!(reached.as_f64() == Some(all), "{reached} instead of {all}");
        Ok(())
    }
}

#[test]
fn a_recording_that_does_not_say_when_has_no_timeline_and_that_is_said() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    ensure!(shown.browser.eval("document.getElementById('timeline').hidden")? == true);
    shown.browser.click("#tab-about")?;
    let about = shown.browser.text("#view-about")?;
    ensure!(about.contains("does not say when its samples were"), "{about}");
    // Of a part it is told how much.
    let mut profile = phases();
    let (key, _) = profile.samples().next().context("a sample")?;
    profile.add(key.clone(), &[100, 1_000_000_000]);
    shown.open(&profile, &view(), DESK)?;
    ensure!(
        shown
            .told()?
            .ends_with("Of 10.0 % of the CPU time it is not known when it was."),
        "{}",
        shown.told()?
    );
    Ok(())
}

/// What is in use came in the first half, and some of it later; what was allocated besides is gone.
fn heap() -> Profile {
    let types = ["alloc_space", "inuse_space", "peak_space"].map(|kind| ValueType { kind, unit: "bytes" });
    let mut profile = Profile::new(types.to_vec(), None);
    profile.default_type = 1;
    profile.begin_timeline(100_000_000);
    (profile.started_at_ns, profile.duration_ns) = (BEGAN_NS, 10_000_000_000);
    for (function, live, slices) in [("load", 3 << 20, 0..50), ("render", 1 << 20, 50..100)] {
        let frame = intern(&mut profile, FrameKind::Python, function, VIEWS, 20);
        let key = SampleKey {
            stack: profile.intern_stack(&[frame]),
            labels: Labels {
                pid: 1,
                tid: 1,
                comm: Profile::EMPTY,
                command: profile.intern_string("shop.py"),
                thread: profile.intern_string("MainThread"),
                cgroup: Profile::EMPTY,
                container: Profile::EMPTY,
                task: Profile::EMPTY,
            },
        };
        let weights: Vec<(u32, u32)> = slices.map(|slice| (slice, 1)).collect();
        profile.add_in(key, &[8 << 20, live, 2 * live], &weights);
    }
    profile
}

#[test]
fn what_is_in_use_is_told_by_when_it_came_and_of_nothing_else_that_is_said() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let heap_view = View { value: 1, ..view() };
    shown.open(&heap(), &heap_view, DESK)?;
    ensure!(
        shown
            .told()?
            .starts_with("When the memory that is in use at the end came: the oldest at the left."),
        "{}",
        shown.told()?
    );
    shown.drag(0.5005, 0.9995)?;
    ensure!(
        shown.told()? == "Only what came 11:44:05.0 to 11:44:10.0: 5.0 s of 10.0 s, with 25.0 % of the memory.",
        "{}",
        shown.told()?
    );
    let boxes = shown.boxes()?;
    ensure!(
        boxes.keys().any(|path| path.ends_with("render")) && !boxes.keys().any(|path| path.ends_with("load")),
        "{boxes:?}"
    );
    // Of what was allocated no time is known: it is shown whole, and there is no line of time.
    let hidden = "document.getElementById('timeline').hidden";
    for (value, all) in [("0", 16 << 20), ("2", 8 << 20)] {
        shown.set("value", value)?;
        ensure!(shown.browser.eval(hidden)? == true, "{value}");
        ensure!(shown.all()? == f64::from(all), "{}", shown.all()?);
    }
    shown.set("value", "1")?;
    ensure!(shown.browser.eval(hidden)? == false && shown.all()? == f64::from(4 << 20));
    shown.browser.click("#tab-about")?;
    let about = shown.browser.text("#view-about")?;
    ensure!(about.contains("when it was allocated; of nothing else"), "{about}");
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    Ok(())
}

#[test]
fn the_timeline_fits_a_telephone_and_threads_have_lanes_of_their_own() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let lanes = "profile.page.timeline.open ? profile.page.timeline.listed.length : 0";
    let mut inks = Vec::new();
    for dark in [false, true] {
        for (width, expected) in [(390, 0), (1280, 2)] {
            shown.open(&phases(), &view(), Screen { width, dark })?;
            let wide = shown.browser.eval("document.documentElement.scrollWidth")?;
            ensure!(wide == width, "{wide} pixels wide on {width}");
            ensure!(shown.browser.eval(lanes)? == expected, "lanes on {width}");
            let before = shown.browser.eval("document.getElementById('time').clientHeight")?;
            shown.browser.click("#time-threads")?;
            let after = shown.browser.eval("document.getElementById('time').clientHeight")?;
            ensure!(
                (before.as_i64() < after.as_i64()) == (expected == 0),
                "{before} and {after}"
            );
        }
        // The first slice of all, at its foot.
        inks.push(
            shown
                .browser
                .eval("[...profile.page.timeline.context.getImageData(3, 40, 1, 1).data]")?,
        );
    }
    ensure!(inks[0] != inks[1], "{inks:?}");
    Ok(())
}

/// How much of a function, or of all without a name, there was by slice.
fn by_slice(profile: &Profile, function: &str) -> Result<BTreeMap<u32, i64>> {
    let timeline = profile.timeline().context("no timeline")?;
    let is_in: Vec<bool> = (profile.samples())
        .map(|(key, _)| {
            let mut frames = profile.stack(key.stack).iter();
            function.is_empty() || frames.any(|id| profile.string(profile.frame(*id).function) == function)
        })
        .collect();
    let mut slices = BTreeMap::new();
    for part in timeline.parts().iter().filter(|part| is_in[part.sample as usize]) {
        *slices.entry(part.slice).or_default() += part.value;
    }
    Ok(slices)
}

/// Of two moments of a recording, in shares of its length.
fn shares(profile: &Profile, moments: &[f64]) -> Vec<f64> {
    let began_s = profile.started_at_ns as f64 / 1e9;
    let length_s = profile.duration_ns as f64 / 1e9;
    moments.iter().map(|moment| (moment - began_s) / length_s).collect()
}

/// When the phases of the program began and ended.
fn record(path: &Path, more: &[&str]) -> Result<Vec<f64>> {
    let mut workload = Workload::python(&python::any()?, "two_phases.py", &[])?;
    let recording = Profiler::record(&["-p", &workload.pid.to_string(), "-r", RATE, "-o"])
        .arg(path)
        .args(more)
        .start()?;
    workload.tell("go")?;
    let moments = serde_json::from_value(workload.value()?)?;
    recording.stop()?.success()?;
    Ok(moments)
}

#[test]
fn the_phases_of_a_program_are_when_they_were_in_the_file_and_on_its_page() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let path = shown.directory.path().join("phases.pb.gz");
    let moments = record(&path, &[])?;
    let profile = pprof::load(&path)?;
    let slice_s = profile.timeline().context("no timeline")?.slice_ns as f64 / 1e9;
    for (function, from, to) in [("opening", moments[0], moments[1]), ("closing", moments[1], moments[2])] {
        let slices = by_slice(&profile, function)?;
        let first = slices.keys().next().context("no sample")?;
        let last = slices.keys().last().context("no sample")?;
        let began_s = profile.started_at_ns as f64 / 1e9;
        let (first, end) = (
            began_s + f64::from(*first) * slice_s,
            began_s + f64::from(*last + 1) * slice_s,
        );
        // A slice and a sample either way; and the two clocks of the recording are read one after the other.
        let slack = slice_s + 0.03;
        ensure!(
            (first - from).abs() < slack && (end - to).abs() < slack,
            "{function} was from {from} to {to}, and is from {first} to {end}"
        );
    }
    // Time is a part of what there is without it.
    let timed: i64 = profile
        .timeline()
        .context("no timeline")?
        .parts()
        .iter()
        .map(|part| part.value)
        .sum();
    ensure!(timed == profile.total(0), "{timed} of {}", profile.total(0));
    ensure!(pprof::stacks(&profile)? == pprof::independent_stacks(&path)?);

    let page = shown.directory.path().join("phases.html");
    Profiler::bare()
        .args(["report", "-o"])
        .arg(&page)
        .arg(&path)
        .succeed()?;
    shown.browser.open(&page, DESK)?;
    let shares = shares(&profile, &moments);
    // Off the edge by more than a slice.
    shown.drag(shares[1] + 0.03, shares[2] - 0.01)?;
    let boxes = shown.boxes()?;
    ensure!(
        boxes.keys().any(|path| path.contains(";closing")) && !boxes.keys().any(|path| path.contains(";opening")),
        "{} {boxes:?}",
        shown.told()?
    );
    Ok(())
}

#[test]
fn running_and_waiting_fill_the_time_of_a_thread_slice_by_slice() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("wall.pb.gz");
    record(&path, &["--wall"])?;
    let profile = pprof::load(&path)?;
    let slice_ns = profile.timeline().context("no timeline")?.slice_ns as f64;
    let slices = by_slice(&profile, "")?;
    // The first and the last are no whole ones. Of others the CPU time is that of some ten samples.
    let whole: Vec<f64> = slices.values().map(|value| *value as f64 / slice_ns).collect();
    let whole = whole.get(1..whole.len() - 1).context("no slices")?;
    let filled = whole.iter().filter(|share| (0.7..1.3).contains(*share)).count();
    ensure!(
        whole.len() > 50 && filled as f64 > 0.9 * whole.len() as f64,
        "{filled} of {}: {whole:.2?}",
        whole.len()
    );
    Ok(())
}
