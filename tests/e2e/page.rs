//! The page, by what headless Chromium shows of it. Most of it is made by hand, so that every number is known; what a
//! recording of a real interpreter shows is held against folded text.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use profiler::{
    profile::{Frame, FrameId, FrameKind, Labels, Mapping, Profile, SampleKey, ValueType},
    report::{Format, Interpreter, View, waits::WAITS},
};
use profiler_tests::{
    browser::{Browser, Screen},
    pprof,
    profiler::{Profiler, binary},
    python,
    serial::{Serial, serial},
    skip::skip,
    workload::Workload,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::RATE;

mod difference;
mod findings;

pub(crate) const DESK: Screen = Screen {
    width: 1280,
    dark: false,
};
const PYTHON: &str = "/usr/bin/python3.12";
const LIBRARY: &str = "/v/lib/python3.12/site-packages/orm/query.py";
pub(crate) const VIEWS: &str = "/srv/shop/views.py";

/// One browser for all of them: it takes seconds to start.
pub(crate) struct Shown {
    pub(crate) browser: MutexGuard<'static, Browser>,
    pub(crate) directory: TempDir,
    _serial: Serial,
}

impl Shown {
    /// `None`, aloud, if there is no browser.
    pub(crate) fn new() -> Result<Option<Self>> {
        static BROWSER: OnceLock<Option<Mutex<Browser>>> = OnceLock::new();
        let serial = serial();
        if BROWSER.get().is_none() {
            let started = Browser::start()?.map(Mutex::new);
            let _ = BROWSER.set(started);
        }
        let Some(Some(browser)) = BROWSER.get() else {
            skip("there is no chromium (cargo xtask setup --browser installs it)");
            return Ok(None);
        };
        Ok(Some(Self {
            browser: browser.lock().unwrap_or_else(PoisonError::into_inner),
            directory: tempfile::tempdir()?,
            _serial: serial,
        }))
    }

    pub(crate) fn open(&mut self, profile: &Profile, view: &View, screen: Screen) -> Result<()> {
        let path = self.written(profile, view)?;
        self.browser.open(&path, screen)
    }

    fn written(&self, profile: &Profile, view: &View) -> Result<PathBuf> {
        let path = self.directory.path().join("page.html");
        Format::Html.writer().write(profile, view, &mut File::create(&path)?)?;
        Ok(path)
    }

    /// Sets a control and tells the page, as a user would.
    pub(crate) fn set(&mut self, id: &str, value: &str) -> Result<()> {
        self.browser.eval(&format!(
            "(() => {{
                const control = document.getElementById('{id}');
                if (control.type === 'checkbox') control.checked = {value:?} === 'on';
                else control.value = {value:?};
                control.dispatchEvent(new Event(control.type === 'search' ? 'input' : 'change'));
                return 1;
            }})()"
        ))?;
        Ok(())
    }

    /// The cells of the rows of a table, the first ones.
    pub(crate) fn rows(&mut self, selector: &str) -> Result<Vec<Vec<String>>> {
        let rows = self.browser.eval(&format!(
            "[...document.querySelectorAll('{selector} tbody tr')].slice(0, 50).map((row) =>
                [...row.cells].map((cell) => cell.innerText.replace(/\\s+/g, ' ').trim()))"
        ))?;
        Ok(serde_json::from_value(rows)?)
    }

    /// What boxes say, and their share of the whole, by path.
    pub(crate) fn boxes(&mut self) -> Result<BTreeMap<String, f64>> {
        let boxes = self.browser.eval(
            "(() => {
                const { tree, units } = profile.page.flame;
                const paths = [''];
                for (let node = 1; node < tree.count; node += 1) {
                    paths.push(`${paths[tree.parent[node]]};${units.name(tree.unit[node])}`);
                }
                const shares = {};
                paths.forEach((path, node) => {
                    if (node) shares[path.slice(1)] = (shares[path.slice(1)] ?? 0) + tree.total[node] / tree.total[0];
                });
                return shares;
            })()",
        )?;
        Ok(serde_json::from_value(boxes)?)
    }
}

pub(crate) fn intern(profile: &mut Profile, kind: FrameKind, function: &str, file: &str, line: u32) -> FrameId {
    let path = profile.intern_string(file);
    let python = kind == FrameKind::Python;
    let mapping = (kind == FrameKind::Native).then(|| {
        profile.intern_mapping(Mapping {
            path,
            build_id: Profile::EMPTY,
        })
    });
    let frame = Frame {
        kind,
        function: profile.intern_string(function),
        file: if python { path } else { Profile::EMPTY },
        line,
        first_line: if python { line / 20 * 20 } else { 0 },
        mapping,
        address: 0,
        inlined: false,
    };
    profile.intern_frame(frame)
}

fn add(profile: &mut Profile, (pid, tid, name): (u32, u32, &str), root_first: &[FrameId], values: &[i64]) {
    let leaf_first: Vec<FrameId> = root_first.iter().rev().copied().collect();
    let key = SampleKey {
        stack: profile.intern_stack(&leaf_first),
        labels: Labels {
            pid,
            tid,
            comm: Profile::EMPTY,
            command: profile.intern_string(if pid == 1 { "shop.py" } else { "other.py" }),
            thread: profile.intern_string(name),
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: Profile::EMPTY,
        },
    };
    profile.add(key, values);
}

/// A hundred samples of two processes.
pub(crate) fn shop() -> Profile {
    use FrameKind::{Kernel, Native, Python};
    let types = vec![
        ValueType {
            kind: "samples",
            unit: "count",
        },
        ValueType {
            kind: "cpu",
            unit: "nanoseconds",
        },
    ];
    let mut profile = Profile::new(types, None);
    profile.comments = vec!["profiler record -p 1,2".to_owned(), "cost: 0.7 % of a CPU".to_owned()];
    let mut frame = |kind, function: &str, file: &str, line| intern(&mut profile, kind, function, file, line);
    let start = frame(Native, "_start", PYTHON, 0);
    let main = frame(Python, "<module>", "/srv/shop/main.py", 40);
    let orders = frame(Python, "orders", VIEWS, 29);
    let sorted = frame(Python, "orders", VIEWS, 31);
    let walk = frame(Python, "walk", VIEWS, 50);
    let fetch = frame(Python, "fetch", LIBRARY, 7);
    let load = frame(Python, "load", LIBRARY, 90);
    let call = frame(Native, "_PyObject_Call", PYTHON, 0);
    let step = frame(Native, "sqlite3_step", "/lib/libsqlite3.so.0", 0);
    let sort = frame(Native, "list_sort_impl", PYTHON, 0);
    let read = frame(Kernel, "ksys_read", "", 0);
    let first = (1, 1, "MainThread");
    let second = (1, 2, "worker-1");
    for (who, stack, count) in [
        (first, vec![start, main, call, orders, fetch, load, step], 60),
        (first, vec![start, main, orders, fetch], 5),
        (second, vec![start, main, call, sorted, sort], 15),
        (second, vec![start, main, walk, walk, fetch, walk], 10),
        (second, vec![start, main, orders, read], 5),
        ((2, 3, "MainThread"), vec![start, main, walk], 5),
    ] {
        add(&mut profile, who, &stack, &[count, count * 10_000_000]);
    }
    profile
}

pub(crate) fn view() -> View {
    View {
        process: true,
        title: "CPU time of 2 processes".to_owned(),
        subtitle: "100 samples in 1.0 s".to_owned(),
        interpreter: Interpreter::Work,
        ..View::default()
    }
}

#[test]
fn the_page_begins_with_who_used_the_time_and_the_hottest_own_line() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    let answer = shown.browser.text("#answer")?;
    ensure!(
        answer
            == "shop.py (process 1) has 95.0 % of the CPU time. The hottest line of your code is orders (srv/shop/views.py:29) \
                with 70.0 % of the CPU time: 5.0 % in itself, the rest in libraries that it calls.",
        "{answer}"
    );
    let rows = shown.rows("#own-lines")?;
    ensure!(
        rows[0] == ["5.0 %", "70.0 %", "orders srv/shop/views.py:29"],
        "{rows:?}"
    );
    ensure!(
        rows[1] == ["15.0 %", "15.0 %", "orders srv/shop/views.py:31"],
        "{rows:?}"
    );
    let rows = shown.rows("#library-lines")?;
    ensure!(rows[0] == ["60.0 %", "load orm/query.py:90"], "{rows:?}");
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    Ok(())
}

#[test]
fn the_flame_graph_leaves_machinery_out_until_it_is_asked_for() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    let boxes = shown.boxes()?;
    let share = |boxes: &BTreeMap<String, f64>, path: &str| boxes.get(path).copied().unwrap_or(0.0);
    let orders = "shop.py (process 1);<module>;orders";
    ensure!((share(&boxes, orders) - 0.85).abs() < 1e-9, "{boxes:?}");
    ensure!(
        !boxes
            .keys()
            .any(|path| path.contains("_PyObject_Call") || path.contains("_start")),
        "{boxes:?}"
    );
    shown.set("interpreter", "0")?;
    let all = "shop.py (process 1);_start;<module>;_PyObject_Call;orders";
    let boxes = shown.boxes()?;
    ensure!((share(&boxes, all) - 0.75).abs() < 1e-9, "{boxes:?}");
    shown.set("interpreter", "2")?;
    ensure!(!shown.boxes()?.keys().any(|path| path.contains("list_sort_impl")));
    Ok(())
}

#[test]
fn a_click_and_the_keyboard_zoom_and_escape_shows_the_whole() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    let settled = "new Promise((ended) => {
        const look = () => {
            const { flame } = profile.page;
            const [from, to] = flame.window;
            const { start, total } = flame.tree;
            if (from === start[flame.focus] && to === start[flame.focus] + total[flame.focus]) ended([to - from, document.getElementById('details').innerText]);
            else requestAnimationFrame(look);
        };
        look();
    })";
    let at = |row: u32| {
        format!(
            "(() => {{
                const canvas = document.getElementById('flame');
                const box = canvas.getBoundingClientRect();
                canvas.dispatchEvent(new MouseEvent('click', {{ clientX: box.left + 9, clientY: box.top + {row} * 19 + 9 }}));
                return 1;
            }})()"
        )
    };
    // All, the process, `<module>`, `orders`.
    shown.browser.eval(&at(3))?;
    let zoomed = shown.browser.eval(settled)?;
    ensure!(zoomed[0] == 85.0, "{zoomed}");
    let text = zoomed[1].as_str().unwrap_or_default();
    ensure!(
        text.starts_with("orders (srv/shop/views.py:20): 85, 85.0 % (76.7 % to 90.7 %)"),
        "{text}"
    );
    shown.browser.key("ArrowDown")?;
    shown.browser.key("Enter")?;
    let zoomed = shown.browser.eval(settled)?;
    ensure!(zoomed[0] == 65.0, "{zoomed}");
    ensure!(
        zoomed[1].as_str().is_some_and(|text| text.starts_with("fetch (")),
        "{zoomed}"
    );
    shown.browser.key("Escape")?;
    ensure!(shown.browser.eval(settled)?[0] == 100.0);
    Ok(())
}

#[test]
fn a_search_says_what_share_it_matched_and_nothing_twice() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    for (text, share) in [
        ("fetch|sqlite", "matched 75.0 %"),
        ("^walk", "matched 15.0 %"),
        ("VIEWS", "matched 0.0 %"),
        // No expression: the text itself.
        ("(orm", "matched 75.0 %"),
        ("", ""),
    ] {
        shown.set("search", text)?;
        let matched = shown.browser.text("#matched")?;
        ensure!(matched == share, "{text}: {matched}");
    }
    Ok(())
}

/// Of the flame graph as SVG, which is taller than the window here.
#[test]
fn a_search_in_the_picture_goes_to_its_first_match_and_names_stay_in_sight() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let mut profile = Profile::new(
        vec![ValueType {
            kind: "samples",
            unit: "count",
        }],
        None,
    );
    for (function, count) in [("needle_a", 3), ("needle_b", 2)] {
        let mut stack: Vec<FrameId> = (0..120)
            .map(|depth| intern(&mut profile, FrameKind::Python, &format!("level_{depth}"), VIEWS, 1))
            .collect();
        stack.push(intern(&mut profile, FrameKind::Python, function, VIEWS, 7));
        add(&mut profile, (1, 1, "MainThread"), &stack, &[count]);
    }
    let path = shown.directory.path().join("picture.svg");
    Format::Svg
        .writer()
        .write(&profile, &View::default(), &mut File::create(&path)?)?;
    shown.browser.open_picture(&path, DESK)?;
    let says = "[document.getElementById('details').textContent, document.querySelector('#bar text').textContent,
        document.getElementById('bar').getAttribute('display'), window.scrollY, document.getElementById('matched').textContent]";
    shown.browser.eval("search('needle')")?;
    let found = shown.browser.eval(says)?;
    let text = |value: &Value, place: usize| value[place].as_str().unwrap_or_default().to_owned();
    ensure!(
        text(&found, 0).starts_with("match 1 of 2") && text(&found, 0).contains("needle_a"),
        "{found}"
    );
    ensure!(
        found[3].as_f64().is_some_and(|scrolled| scrolled > 500.0),
        "not in sight: {found}"
    );
    ensure!(
        text(&found, 1).starts_with("match 1 of 2") && found[2] == "inline",
        "{found}"
    );
    ensure!(text(&found, 4).contains("in 2 frames"), "{found}");
    shown.browser.key("n")?;
    let next = shown.browser.eval(says)?;
    ensure!(
        text(&next, 0).starts_with("match 2 of 2") && text(&next, 0).contains("needle_b"),
        "{next}"
    );
    // The pointer comes upon another frame.
    shown.browser.eval(
        "[...document.querySelectorAll('#frames g')].find((frame) => frame.textContent.includes('level_7 '))
            .querySelector('rect').dispatchEvent(new MouseEvent('mouseover', { bubbles: true }))",
    )?;
    let hovered = shown.browser.eval(says)?;
    ensure!(
        text(&hovered, 1).contains("level_7 ") && hovered[2] == "inline",
        "{hovered}"
    );
    Ok(())
}

#[test]
fn stacks_can_be_inverted_folded_by_library_and_merged_where_they_recur() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    shown.set("roots", "0")?;
    ensure!(shown.boxes()?.contains_key("<module>;walk;walk;fetch;walk"));
    shown.set("recursion", "on")?;
    let boxes = shown.boxes()?;
    ensure!(
        boxes.contains_key("<module>;walk") && !boxes.keys().any(|path| path.contains("walk;walk")),
        "{boxes:?}"
    );
    ensure!((boxes["<module>;walk"] - 0.15).abs() < 1e-9, "{boxes:?}");
    shown.set("libraries", "on")?;
    let boxes = shown.boxes()?;
    ensure!(boxes.contains_key("<module>;orders;orm;sqlite3_step"), "{boxes:?}");
    shown.set("libraries", "off")?;
    shown.set("inverted", "on")?;
    let boxes = shown.boxes()?;
    ensure!(
        (boxes["sqlite3_step;load;fetch;orders;<module>"] - 0.6).abs() < 1e-9,
        "{boxes:?}"
    );
    Ok(())
}

#[test]
fn the_table_has_self_and_total_and_can_be_sorted_filtered_and_counted_by_other_things() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    shown.browser.click("#tab-table")?;
    let rows = shown.rows("#view-table")?;
    ensure!(
        rows[0] == ["60.0 %", "60.0 %", "sqlite3_step libsqlite3.so.0"],
        "{rows:?}"
    );
    shown.browser.click("#view-table th:nth-child(2) button")?;
    let rows = shown.rows("#view-table")?;
    ensure!(
        rows[0] == ["0.0 %", "100.0 %", "<module> srv/shop/main.py:40"],
        "{rows:?}"
    );
    // `walk` is three times in a stack and counts once.
    let walk = rows.iter().find(|row| row[2].starts_with("walk")).context("no walk")?;
    ensure!(walk[..2] == ["15.0 %", "15.0 %"], "{walk:?}");
    shown.set("by", "line")?;
    let rows = shown.rows("#view-table")?;
    ensure!(
        rows.contains(&vec![
            "0.0 %".to_owned(),
            "70.0 %".to_owned(),
            "orders srv/shop/views.py:29".to_owned()
        ]),
        "{rows:?}"
    );
    shown.set("by", "package")?;
    let rows = shown.rows("#view-table")?;
    ensure!(
        rows.contains(&vec!["5.0 %".to_owned(), "75.0 %".to_owned(), "orm".to_owned()]),
        "{rows:?}"
    );
    shown.set("by", "function")?;
    shown.browser.eval(
        "(() => { const filter = document.querySelector('#view-table input'); filter.value = 'SORT';
            filter.dispatchEvent(new Event('input')); return 1; })()",
    )?;
    let rows = shown.rows("#view-table")?;
    ensure!(rows == [["15.0 %", "15.0 %", "list_sort_impl python3.12"]], "{rows:?}");
    Ok(())
}

#[test]
fn a_function_is_shown_between_its_callers_and_what_it_calls() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    shown.browser.click("#tab-table")?;
    shown.browser.eval(
        "(() => { [...document.querySelectorAll('#view-table tbody tr')].find((row) => row.innerText.includes('fetch')).click();
            return 1; })()",
    )?;
    let head = shown.browser.text("#callers-of")?;
    ensure!(head.starts_with("fetch"), "{head}");
    let numbers = shown.browser.text("#callers-numbers")?;
    ensure!(
        numbers.starts_with("total 75, 75.0 %") && numbers.contains("self 5, 5.0 %"),
        "{numbers}"
    );
    let callers = shown.rows("#callers-table")?;
    ensure!(
        callers
            == [
                ["86.7 %", "orders srv/shop/views.py:20"],
                ["13.3 %", "walk srv/shop/views.py:40"]
            ],
        "{callers:?}"
    );
    let callees = shown.rows("#callees-table")?;
    ensure!(
        callees
            == [
                ["80.0 %", "load orm/query.py:80"],
                ["13.3 %", "walk srv/shop/views.py:40"],
                ["6.7 %", "(itself)"]
            ],
        "{callees:?}"
    );
    let graphs = shown.browser.eval(
        "[profile.page.views.callers.above, profile.page.views.callers.below].map(({ tree }) => [tree.total[0], tree.count])",
    )?;
    ensure!(graphs[0][0] == 75.0 && graphs[1][0] == 75.0, "{graphs}");
    Ok(())
}

#[test]
fn lines_of_a_file_say_what_ran_in_them_python_native_and_kernel_apart() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    // The hottest line of the panel beside the flame graph leads there.
    shown.browser.click("#own-lines button")?;
    let head = shown
        .browser
        .eval("[...document.querySelectorAll('#view-source th')].map((head) => head.innerText)")?;
    ensure!(
        head == serde_json::json!(["self", "Python", "kernel", "total", "line", "function"]),
        "{head}"
    );
    let rows = shown.rows("#view-source")?;
    ensure!(
        rows == [
            ["5.0 %", "", "5.0 %", "70.0 %", "29", "orders"],
            ["15.0 %", "15.0 %", "", "15.0 %", "31", "orders"],
            ["15.0 %", "15.0 %", "", "15.0 %", "50", "walk"],
        ],
        "{rows:?}"
    );
    ensure!(shown.browser.text("#marked-line")?.contains("29"));
    let files = shown
        .browser
        .eval("[...document.getElementById('source-file').options].map((option) => option.text)")?;
    ensure!(
        files[0]
            .as_str()
            .is_some_and(|file| file.starts_with("srv/shop/views.py")),
        "{files}"
    );
    Ok(())
}

#[test]
fn a_thread_that_is_chosen_is_all_that_the_views_show() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    shown.browser.click("#tab-threads")?;
    let processes = shown.rows("#processes-table")?;
    ensure!(
        processes == [["95.0 %", "shop.py (process 1)"], ["5.0 %", "other.py (process 2)"]],
        "{processes:?}"
    );
    let threads = shown.rows("#threads-table")?;
    ensure!(
        threads[1] == ["30.0 %", "worker-1 (thread 2)", "shop.py (process 1)"],
        "{threads:?}"
    );
    shown.browser.click("#threads-table tbody tr:nth-child(2)")?;
    shown.browser.click("#tab-flame")?;
    let details = shown.browser.text("#details")?;
    ensure!(details == "all: 30 samples", "{details}");
    let answer = shown.browser.text("#answer")?;
    ensure!(
        answer.starts_with("The hottest line of your code is orders (srv/shop/views.py:31) with 50.0 %"),
        "{answer}"
    );
    let caution = shown.browser.text("#caution")?;
    ensure!(
        caution.starts_with("Only 30 samples: shares are ± 18 % at most."),
        "{caution}"
    );
    shown.set("whose", "")?;
    ensure!(shown.browser.text("#details")? == "all: 100 samples");
    ensure!(shown.browser.eval("document.getElementById('caution').hidden")? == true);
    Ok(())
}

#[test]
fn a_task_that_is_chosen_is_all_that_the_views_show() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let mut profile = Profile::new(shop().sample_types, None);
    let main = intern(&mut profile, FrameKind::Python, "<module>", "/srv/shop/main.py", 40);
    for (task, function, count) in [
        ("serve (srv/shop/api.py:31)", "orders", 70),
        ("", "load", 10),
        ("[event loop]", "select", 20),
    ] {
        let leaf = intern(&mut profile, FrameKind::Python, function, VIEWS, 29);
        let labels = Labels {
            pid: 1,
            tid: 1,
            comm: Profile::EMPTY,
            command: profile.intern_string("shop.py"),
            thread: profile.intern_string("MainThread"),
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: profile.intern_string(task),
        };
        let stack = profile.intern_stack(&[leaf, main]);
        profile.add(SampleKey { stack, labels }, &[count, count * 10_000_000]);
    }
    shown.open(&profile, &view(), DESK)?;
    shown.browser.click("#tab-threads")?;
    let tasks = shown.rows("#tasks-table")?;
    let expected = [
        ["70.0 %", "serve (srv/shop/api.py:31)"],
        ["20.0 %", "[event loop]"],
        ["10.0 %", "(no task)"],
    ];
    ensure!(tasks == expected, "{tasks:?}");
    shown.browser.click("#tasks-table tbody tr")?;
    shown.browser.click("#tab-flame")?;
    let boxes = shown.boxes()?;
    ensure!(
        boxes.keys().any(|path| path.ends_with("<module>;orders")) && !boxes.keys().any(|path| path.ends_with("load")),
        "{boxes:?}"
    );
    let chosen = shown
        .browser
        .eval("document.getElementById('whose').selectedOptions[0].textContent")?;
    ensure!(chosen == "task serve (srv/shop/api.py:31)", "{chosen}");
    // Of a program without tasks nothing is said of them.
    shown.open(&shop(), &view(), DESK)?;
    shown.browser.click("#tab-threads")?;
    ensure!(!shown.browser.text("#view-threads")?.contains("asyncio"));
    Ok(())
}

#[test]
fn every_value_of_the_recording_can_be_shown() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&shop(), &view(), DESK)?;
    shown.set("value", "1")?;
    let details = shown.browser.text("#details")?;
    ensure!(details == "all: 1.0 s in 100 samples", "{details}");
    shown.browser.click("#tab-about")?;
    let about = shown.browser.text("#view-about")?;
    ensure!(
        about.contains("cost: 0.7 % of a CPU") && about.contains("profiler record -p 1,2"),
        "{about}"
    );
    Ok(())
}

#[test]
fn waits_are_told_by_cause_and_by_the_line_that_waited() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let mut profile = Profile::new(WAITS.to_vec(), None);
    let mut frame = |kind, function: &str, file: &str, line| intern(&mut profile, kind, function, file, line);
    let main = frame(FrameKind::Python, "orders", VIEWS, 29);
    let idle = frame(FrameKind::Python, "idle", VIEWS, 70);
    let socket = frame(FrameKind::Marker, "[socket 10.0.0.7:5432]", "", 0);
    let poll = frame(FrameKind::Marker, "[poll]", "", 0);
    add(
        &mut profile,
        (1, 1, "MainThread"),
        &[main, socket],
        &[60, 6_000_000_000],
    );
    add(&mut profile, (1, 2, "worker"), &[idle, poll], &[10, 2_000_000_000]);
    let view = View { value: 1, ..view() };
    shown.open(&profile, &view, DESK)?;
    shown.browser.click("#tab-waits")?;
    let causes = shown.rows("#causes-table")?;
    ensure!(causes == [["75.0 %", "socket"], ["25.0 %", "poll"]], "{causes:?}");
    let rows = shown.rows("#waits-table")?;
    ensure!(
        rows[0] == ["75.0 %", "[socket 10.0.0.7:5432]", "orders srv/shop/views.py:29"],
        "{rows:?}"
    );
    shown.browser.click("#causes-table tbody tr:nth-child(2)")?;
    let rows = shown.rows("#waits-table")?;
    ensure!(rows == [["25.0 %", "[poll]", "idle srv/shop/views.py:70"]], "{rows:?}");
    // Pages of other recordings have no such view.
    shown.open(&shop(), &view, DESK)?;
    ensure!(shown.browser.eval("document.getElementById('tab-waits')")?.is_null());
    Ok(())
}

#[test]
fn a_name_of_a_target_is_text_in_every_view() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let hostile = "</script><img src=x onerror=\"window.owned=1\"><script>window.owned=1</script>";
    let mut profile = Profile::new(shop().sample_types, None);
    let mut frame = |function: &str, file: &str| intern(&mut profile, FrameKind::Python, function, file, 3);
    let first = frame(hostile, &format!("/srv/{hostile}.py"));
    let proto = frame("__proto__", "/srv/constructor");
    let turned = frame("a\u{202e}b\u{2028}c\u{0}d", "/srv/x.py");
    add(&mut profile, (1, 1, hostile), &[first, proto, turned], &[50, 500]);
    profile.comments.push(hostile.to_owned());
    let view = View {
        title: hostile.to_owned(),
        subtitle: hostile.to_owned(),
        ..view()
    };
    shown.open(&profile, &view, DESK)?;
    for tab in ["flame", "table", "callers", "source", "threads", "about"] {
        shown.browser.click(&format!("#tab-{tab}"))?;
        let text = shown.browser.text("body")?;
        ensure!(text.contains("<img src=x onerror="), "{tab}: {text}");
        ensure!(!text.contains(['\u{202e}', '\u{2028}', '\u{0}']), "{tab}");
    }
    shown.browser.click("#tab-table")?;
    ensure!(
        shown.browser.text("#view-table")?.contains("a\u{fffd}b c\u{fffd}d"),
        "{}",
        shown.browser.text("#view-table")?
    );
    let harm = shown
        .browser
        .eval("[typeof window.owned, document.images.length, document.scripts.length, document.title]")?;
    ensure!(harm == serde_json::json!(["undefined", 0, 2, hostile]), "{harm}");
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    Ok(())
}

#[test]
fn nothing_but_the_pages_own_script_runs_and_nothing_is_loaded() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let path = shown.written(&shop(), &view())?;
    // Somebody has put something into the file.
    let page = std::fs::read_to_string(&path)?;
    let more = "<script>window.owned=1</script><img src=\"file:///etc/hostname\" onerror=\"window.owned=1\"></body>";
    std::fs::write(&path, page.replace("</body>", more))?;
    shown.browser.open(&path, DESK)?;
    ensure!(shown.browser.eval("typeof window.owned")? == "undefined");
    ensure!(
        shown
            .browser
            .complaints()
            .iter()
            .any(|complaint| complaint.contains("Content Security Policy"))
    );
    Ok(())
}

#[test]
fn a_telephone_and_the_dark_are_served_as_well() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let mut papers = Vec::new();
    for dark in [false, true] {
        for width in [390, 1280] {
            shown.open(&shop(), &view(), Screen { width, dark })?;
            for tab in ["flame", "table", "callers", "source", "threads", "about"] {
                shown.browser.click(&format!("#tab-{tab}"))?;
                let wide = shown.browser.eval("document.documentElement.scrollWidth")?;
                ensure!(wide == width, "{tab} is {wide} pixels wide on {width}");
            }
            shown.browser.click("#tab-flame")?;
            // The row of all, and beside it nothing.
            let pixel = "[...profile.page.flame.context.getImageData(3, 3, 1, 1).data]";
            papers.push((
                dark,
                shown.browser.eval(pixel)?,
                shown
                    .browser
                    .eval("getComputedStyle(document.documentElement).backgroundColor")?,
            ));
        }
    }
    ensure!(papers[0] == papers[1] && papers[2] == papers[3], "{papers:?}");
    ensure!(papers[0].1 != papers[2].1 && papers[0].2 != papers[2].2, "{papers:?}");
    Ok(())
}

#[test]
fn a_recording_without_samples_says_so() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    shown.open(&Profile::new(shop().sample_types, None), &view(), DESK)?;
    ensure!(shown.browser.text("#answer")? == "No samples were taken.");
    for tab in ["table", "callers", "source", "threads", "about"] {
        shown.browser.click(&format!("#tab-{tab}"))?;
    }
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    Ok(())
}

#[test]
fn what_is_shown_of_real_stacks_is_what_folded_text_shows() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let workload = Workload::python(&python::any()?, "reading.py", &[])?;
    let recording = shown.directory.path().join("rec.pb.gz");
    let pid = workload.pid.to_string();
    Profiler::record(&["-p", &pid, "-d", "1", "-r", RATE, "-t", "-o"])
        .arg(&recording)
        .succeed()?;
    drop(workload);
    let profile = pprof::load(&recording)?;
    ensure!(profile.total(0) > 50, "{} samples", profile.total(0));
    for (number, interpreter) in [Interpreter::Full, Interpreter::Work, Interpreter::Hidden]
        .into_iter()
        .enumerate()
    {
        let view = View {
            thread: true,
            interpreter,
            ..view()
        };
        let mut folded = Vec::new();
        Format::Folded.writer().write(&profile, &view, &mut folded)?;
        let expected = names(&String::from_utf8(folded)?)?;
        shown.open(&profile, &view, DESK)?;
        let found = shown.browser.eval(
            "(() => {
                const { tree, units } = profile.page.flame;
                const paths = [''];
                const selves = {};
                for (let node = 1; node < tree.count; node += 1) {
                    paths.push(`${paths[tree.parent[node]]};${units.name(tree.unit[node])}`);
                    const path = paths[node].slice(1);
                    if (tree.self[node]) selves[path] = (selves[path] ?? 0) + tree.self[node];
                }
                return selves;
            })()",
        )?;
        let found: BTreeMap<String, f64> = serde_json::from_value(found)?;
        let found: BTreeMap<String, i64> = found.into_iter().map(|(path, value)| (path, value as i64)).collect();
        ensure!(
            found == expected,
            "{interpreter:?} ({number}):\n{found:#?}\n{expected:#?}"
        );
    }

    // The same file gives the same page by the command.
    let page = shown.directory.path().join("reported.html");
    let report = Profiler::bare()
        .arg("report")
        .arg(&recording)
        .arg("-o")
        .arg(&page)
        .run()?;
    ensure!(report.code() == 0, "{} {}", binary().display(), report.stderr);
    shown.browser.open(&page, DESK)?;
    let all = shown.browser.text("#details")?;
    let samples = profile.total(0);
    ensure!(all == format!("all: {samples} samples"), "{all}");
    Ok(())
}

/// Folded stacks by names alone: files, lines and the kernel's mark are the labels'.
fn names(folded: &str) -> Result<BTreeMap<String, i64>> {
    let mut stacks = BTreeMap::new();
    for line in folded.lines() {
        let (stack, value) = line.rsplit_once(' ').context("no value")?;
        let names: Vec<&str> = (stack.split(';').enumerate())
            .map(|(at, label)| {
                let label = label.strip_suffix("_[k]").unwrap_or(label);
                match label.rsplit_once(" (") {
                    // Roots are a process and a thread.
                    Some((name, _)) if at > 1 => name,
                    _ => label,
                }
            })
            .collect();
        *stacks.entry(names.join(";")).or_insert(0) += value.parse::<i64>()?;
    }
    Ok(stacks)
}

#[test]
fn a_recording_is_written_as_a_page() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let workload = Workload::python(&python::any()?, "shares.py", &[])?;
    let page = shown.directory.path().join("shares.html");
    let pid = workload.pid.to_string();
    let outcome = Profiler::record(&["-p", &pid, "-d", "1", "-r", RATE, "-o"])
        .arg(&page)
        .succeed()?;
    outcome.line(&format!("wrote {}", page.display()))?;
    shown.browser.open(&page, DESK)?;
    let samples = outcome.samples()?;
    let details = shown.browser.text("#details")?;
    ensure!(details == format!("all: {} samples", thousands(samples)), "{details}");
    let notes = shown
        .browser
        .eval("document.getElementById('notes')?.textContent ?? profile.page.data.comments.join('')")?;
    ensure!(notes.as_str().is_some_and(|notes| notes.contains("cost:")), "{notes}");
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    let answer: Value = shown.browser.eval("document.getElementById('answer').innerText")?;
    ensure!(
        answer
            .as_str()
            .is_some_and(|answer| answer.contains("The hottest line of your code is ")),
        "{answer}"
    );
    Ok(())
}

#[test]
fn the_text_of_the_programs_lines_is_in_the_page_if_it_is_asked_for() -> Result<()> {
    let Some(mut shown) = Shown::new()? else {
        return Ok(());
    };
    let workload = Workload::python(&python::any()?, "shares.py", &[])?;
    let pid = workload.pid.to_string();
    for with in [true, false] {
        let page = shown.directory.path().join(format!("source-{with}.html"));
        let record = |file: &Path| Profiler::record(&["-p", &pid, "-d", "1", "-r", RATE, "-o"]).arg(file);
        if with {
            // By way of a recording, which has it as well.
            let recording = page.with_extension("pb.gz");
            record(&recording).arg("--with-source").succeed()?;
            let report = Profiler::bare().args(["report"]).arg(&recording);
            report.arg("-o").arg(&page).succeed()?;
        } else {
            record(&page).succeed()?;
        }
        shown.browser.open(&page, DESK)?;
        shown.browser.click("#own-lines button")?;
        let line = shown.browser.text("#marked-line")?;
        ensure!(line.contains("while thread_time() < end:") == with, "{line}");
        let rows = shown.browser.text("#view-source")?;
        ensure!(rows.contains("its text is not in this page") != with, "{rows}");
    }
    // Where nothing could show it.
    let refused = Profiler::record(&["-p", &pid, "-d", "1", "--with-source", "-o"])
        .arg(shown.directory.path().join("x.svg"))
        .run()?;
    ensure!(refused.code() == 2, "{}", refused.stderr);
    ensure!(
        refused.stderr.contains("name one with -o page.html"),
        "{}",
        refused.stderr
    );
    Ok(())
}

#[test]
fn calls_are_on_a_page_with_the_cpu_time_beside_them() -> Result<()> {
    let Some(mut shown) = Shown::new()? else {
        return Ok(());
    };
    let workload = Workload::python(&python::any()?, "shares.py", &[])?;
    let page = shown.directory.path().join("calls.html");
    let pid = workload.pid.to_string();
    let calls = Profiler::bare().args(["calls", "-p", &pid, "-d", "1", "-o"]);
    calls.arg(&page).succeed()?;
    shown.browser.open(&page, DESK)?;
    let answer = shown.browser.text("#answer")?;
    ensure!(answer.starts_with("Most calls are of "), "{answer}");
    let values = shown
        .browser
        .eval("[...document.querySelectorAll('#value option')].map((option) => option.text)")?;
    let values = values.to_string();
    ensure!(values.contains("calls") && values.contains("CPU time"), "{values}");
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    Ok(())
}

fn thousands(number: u64) -> String {
    profiler::humanize::count(number)
}
