//! The page of a difference, by what headless Chromium shows of it. Both sides are made by hand.

use anyhow::{Context as _, Result, ensure};
use profiler::{
    diff::{self, Asked, verdict},
    profile::{Frame, FrameId, FrameKind, Profile, Sources, ValueType},
    report::{self, diff::text},
};

use super::{DESK, LIBRARY, Screen, Shown, VIEWS, add, intern, shop};

const PERIOD_NS: i64 = 10_000_000;
const SECONDS: i64 = 30;

/// Numbers of samples of functions that `<module>` calls; `fetch` is in a library.
fn side(pid: u32, names: &[(&str, i64)]) -> Profile {
    let types = shop().sample_types;
    let cpu = ValueType {
        kind: "cpu",
        unit: "nanoseconds",
    };
    let mut profile = Profile::new(types, Some((cpu, PERIOD_NS)));
    profile.default_type = 1;
    profile.duration_ns = SECONDS * 1_000_000_000;
    profile.comments = vec![format!("profiler record -p {pid}"), "cost: 0.7 % of a CPU".to_owned()];
    // The same program, started again, with lines added above.
    let moved = pid % 7;
    let main = intern(
        &mut profile,
        FrameKind::Python,
        "<module>",
        "/srv/shop/main.py",
        40 + moved,
    );
    for (name, count) in names {
        let file = if *name == "fetch" { LIBRARY } else { VIEWS };
        let leaf: FrameId = intern(&mut profile, FrameKind::Python, name, file, 29 + moved);
        let values = [*count, count * PERIOD_NS];
        add(&mut profile, (pid, pid, "MainThread"), &[main, leaf], &values);
    }
    profile
}

const BEFORE: [(&str, i64); 4] = [("render", 300), ("fetch", 600), ("sort", 450), ("old", 60)];
const AFTER: [(&str, i64); 4] = [("render", 900), ("fetch", 600), ("sort", 150), ("new", 90)];

/// Opens the page, and says what a terminal would.
fn open(shown: &mut Shown, before: &Profile, after: &Profile, screen: Screen) -> Result<(String, String)> {
    let asked = Asked {
        noise: 0.02,
        ..Asked::default()
    };
    let diff = diff::compare(std::slice::from_ref(before), std::slice::from_ref(after), &asked)?;
    let verdict = verdict::verdict(&diff);
    let text = text(&diff, &verdict, &[], 10, 200);
    let path = shown.directory.path().join("diff.html");
    let mut file = std::fs::File::create(&path)?;
    let names = ["before.pb.gz", "after.pb.gz"];
    report::diff::write_page(&diff, &verdict, &[], &diff, [before, after], names, &mut file)?;
    shown.browser.open(&path, screen)?;
    Ok((verdict.sentence, text))
}

fn page(shown: &mut Shown) -> Result<(String, String)> {
    open(shown, &side(7, &BEFORE), &side(15, &AFTER), DESK)
}

#[test]
fn a_difference_begins_with_its_verdict_and_lists_what_became_slower_with_intervals() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let (sentence, text) = page(&mut shown)?;
    let answer = shown.browser.text("#answer")?;
    ensure!(answer == sentence && answer.starts_with("slower by "), "{answer}");
    // As the terminal has it: 100 points are one CPU, and 30 seconds have 3,000 periods.
    let rows = shown.rows("#list-0")?;
    ensure!(rows[0][..3] == ["10.0", "30.0", "+20.0"], "{rows:?}");
    ensure!(rows[0][5].starts_with("render srv/shop/views.py"), "{rows:?}");
    ensure!(text.contains(&rows[0][3]), "{} is not in\n{text}", rows[0][3]);
    let titles = shown.browser.eval(
        "[...document.querySelectorAll('#view-difference th:last-child')].map((each) => each.innerText).join()",
    )?;
    ensure!(titles == "in all,slower,new,faster,gone", "{titles}");
    // What it rests on.
    let method = shown.browser.text("#method")?;
    for said in [
        "assumed: as much work in each second",
        "multinomial",
        "Benjamini-Hochberg",
    ] {
        ensure!(
            method.contains(said) && text.replace('\n', " ").contains(said),
            "{said}: {method}\n{text}"
        );
    }
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    Ok(())
}

/// Of a box: its number before and after, what it says, and whether the canvas is red, blue or neither.
fn drawn(shown: &mut Shown, name: &str) -> Result<(f64, f64, String, String)> {
    let drawn = shown.browser.eval(&format!(
        "(() => {{
            const {{ page }} = profile;
            const {{ flame, units }} = page;
            flame.draw();
            const {{ tree }} = flame;
            const node = tree.unit.findIndex((unit, at) => at > 0 && units.name(unit) === {name:?});
            if (node < 0) return null;
            const [before, after] = page.pairOf(tree, node);
            const x = (tree.start[node] + tree.total[node] / 2) / tree.total[0] * flame.width;
            const y = flame.top(tree.depth[node]) + 2;
            const [red, , blue] = flame.context.getImageData(x * flame.ratio, y * flame.ratio, 1, 1).data;
            const colour = tree.total[node] === 0 ? 'none' : red > blue + 20 ? 'red' : blue > red + 20 ? 'blue' : 'grey';
            return [before, after, page.compare.mark([before, after]), colour];
        }})()"
    ))?;
    serde_json::from_value(drawn).with_context(|| format!("no box is {name}"))
}

#[test]
fn boxes_of_a_difference_are_red_or_blue_with_a_sign_and_grey_where_it_is_not_certain() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    for dark in [false, true] {
        open(
            &mut shown,
            &side(7, &BEFORE),
            &side(15, &AFTER),
            Screen { width: 1280, dark },
        )?;
        shown.browser.click("#tab-flame")?;
        let (before, after, mark, colour) = drawn(&mut shown, "render")?;
        ensure!((before, after) == (10.0, 30.0), "{before} {after}");
        ensure!((&*mark, &*colour) == ("+20.0 ", "red"), "{mark} {colour}");
        let (.., mark, colour) = drawn(&mut shown, "sort")?;
        ensure!((&*mark, &*colour) == ("-10.0 ", "blue"), "{mark} {colour}");
        let (.., mark, colour) = drawn(&mut shown, "fetch")?;
        ensure!((&*mark, &*colour) == ("", "grey"), "{mark} {colour}");
        // What is gone has no width after, and is blue before.
        ensure!(drawn(&mut shown, "old")?.3 == "none");
        shown.set("value", "0")?;
        let (before, after, _, colour) = drawn(&mut shown, "old")?;
        ensure!(
            (before, after, &*colour) == (2.0, 0.0, "blue"),
            "{before} {after} {colour}"
        );
        ensure!(drawn(&mut shown, "render")?.3 == "red");
    }
    // The same in words, and beside the picture.
    shown.set("value", "1")?;
    shown.browser.eval("profile.page.flame.canvas.focus() ?? 1")?;
    for key in ["ArrowDown", "ArrowDown"] {
        shown.browser.key(key)?;
    }
    let details = shown.browser.text("#details")?;
    ensure!(
        details.starts_with("render (srv/shop/views.py:20)")
            && details.contains("10.0 before, 30.0 after: +20.0 points (± "),
        "{details}"
    );
    let beside = shown.rows("#hottest")?;
    ensure!(beside[0] == ["+20.0", "render srv/shop/views.py:20"], "{beside:?}");
    Ok(())
}

#[test]
fn tables_of_a_difference_have_both_sides_and_lead_to_callers_of_what_is_gone() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    page(&mut shown)?;
    shown.browser.click("#tab-table")?;
    let rows = shown.rows("#view-table")?;
    ensure!(rows.len() == 6, "{rows:?}");
    ensure!(
        rows[0][..3] == ["10.0", "30.0", "+20.0"] && rows[0][5].starts_with("render"),
        "{rows:?}"
    );
    let fetch = rows.iter().find(|row| row[5].starts_with("fetch")).context("fetch")?;
    ensure!(fetch[..3] == ["20.0", "20.0", "0.0"] && fetch[4] == "0.0", "{fetch:?}");
    // Processes and threads have other numbers than before, and are the same by name.
    shown.browser.click("#tab-threads")?;
    let threads = shown.rows("#threads-table")?;
    ensure!(threads.len() == 1 && threads[0][3] == "MainThread", "{threads:?}");
    ensure!(threads[0][..3] == ["47.0", "58.0", "+11.0"], "{threads:?}");
    // Lines of two versions are not each other's.
    shown.browser.click("#tab-difference")?;
    shown.browser.click("#list-3 tbody tr")?;
    let head = shown.browser.text("#callers-of")?;
    ensure!(head.starts_with("old"), "{head}");
    let callers = shown.rows("#callers-table")?;
    ensure!(
        callers[0] == ["2.0", "0.0", "-2.0", "<module> srv/shop/main.py:40"],
        "{callers:?}"
    );
    let numbers = shown.browser.text("#callers-numbers")?;
    ensure!(
        numbers.starts_with("total 2.0 before, 0.0 after: -2.0 points"),
        "{numbers}"
    );
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    Ok(())
}

#[test]
fn lines_of_both_sides_are_beside_each_other_where_their_function_is_after() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    // The file has a line more at its top, so functions begin a line later.
    let line = |profile: &mut Profile, name: &str, (first_line, line): (u32, u32), count: i64| {
        let frame = Frame {
            kind: FrameKind::Python,
            function: profile.intern_string(name),
            file: profile.intern_string(VIEWS),
            line,
            first_line,
            mapping: None,
            address: 0,
            inlined: false,
        };
        let frame = profile.intern_frame(frame);
        add(profile, (1, 1, "MainThread"), &[frame], &[count, count * PERIOD_NS]);
    };
    let (mut before, mut after) = (side(7, &[]), side(8, &[]));
    line(&mut before, "render", (20, 22), 300);
    line(&mut before, "render", (20, 25), 600);
    line(&mut after, "render", (21, 23), 900);
    line(&mut after, "render", (21, 26), 600);
    line(&mut after, "added", (40, 41), 90);
    line(&mut before, "gone", (24, 26), 60);
    open(&mut shown, &before, &after, DESK)?;
    shown.browser.click("#tab-source")?;
    let rows = shown.rows("#view-source")?;
    let expected = |[render, again, gone, added]: [&str; 4]| {
        [
            ["10.0", "30.0", "+20.0", render],
            ["20.0", "20.0", "0.0", again],
            ["2.0", "0.0", "-2.0", gone],
            ["0.0", "3.0", "+3.0", added],
        ]
        .map(|row| row.map(str::to_owned))
    };
    ensure!(
        rows == expected(["23 render", "26 render", "26 before gone", "41 added"]),
        "{rows:?}"
    );
    ensure!(
        shown
            .browser
            .text("#view-source")?
            .contains("Lines of before have moved"),
        "nothing says that lines have moved"
    );
    // With text, a line is where the same words are, and one that is not there has the text that it had.
    let text = |words: &dyn Fn(u32) -> String| (1..60).map(words).collect::<Vec<_>>().join("\n");
    let old = text(&|line| format!("<b>{line}</b>"));
    let new = text(&|line| match line {
        27 => "other".to_owned(),
        _ => format!("<b>{}</b>", line - 1),
    });
    before.sources = Sources::from_iter([(VIEWS, &*old)]);
    after.sources = Sources::from_iter([(VIEWS, &*new)]);
    open(&mut shown, &before, &after, DESK)?;
    shown.browser.click("#tab-source")?;
    let rows = shown.rows("#view-source")?;
    let shown_text = ["23 <b>22</b>", "26 <b>25</b>", "26 before <b>26</b>", "41 <b>40</b>"];
    ensure!(rows == expected(shown_text), "{rows:?}");
    Ok(())
}

#[test]
fn waits_of_both_sides_are_told_by_cause() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let waits = |asks: i64, locks: i64| -> Profile {
        let types = [("waits", "count"), ("wait", "nanoseconds")].map(|(kind, unit)| ValueType { kind, unit });
        let mut profile = Profile::new(types.to_vec(), None);
        profile.default_type = 1;
        profile.duration_ns = SECONDS * 1_000_000_000;
        let load = intern(&mut profile, FrameKind::Python, "load", VIEWS, 22);
        for (mark, seconds) in [("[socket 10.0.0.7:5432]", asks), ("[lock]", locks)] {
            let mark = intern(&mut profile, FrameKind::Marker, mark, "", 0);
            let values = [seconds, seconds * 1_000_000_000];
            add(&mut profile, (1, 1, "MainThread"), &[load, mark], &values);
        }
        profile
    };
    open(&mut shown, &waits(3, 6), &waits(12, 6), DESK)?;
    shown.browser.click("#tab-waits")?;
    // Hundredths of a thread's time.
    let causes = shown.rows("#causes-table")?;
    let row = |row: &[String]| [row[0].clone(), row[1].clone(), row[2].clone(), row[3].clone()];
    let told: Vec<_> = causes.iter().map(|cells| row(cells)).collect();
    ensure!(
        told == [["10.0", "40.0", "+30.0", "socket"], ["20.0", "20.0", "0.0", "lock"]],
        "{causes:?}"
    );
    shown.browser.click("#causes-table tbody tr")?;
    let lines = shown.rows("#waits-table")?;
    ensure!(
        lines.len() == 1 && lines[0][3] == "[socket 10.0.0.7:5432]" && lines[0][4].starts_with("load"),
        "{lines:?}"
    );
    Ok(())
}

#[test]
fn equal_programs_have_no_verdict_and_no_colour() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let names = BEFORE.map(|(name, count)| (name, count + 9));
    let (sentence, _) = open(&mut shown, &side(7, &BEFORE), &side(8, &names), DESK)?;
    ensure!(sentence.starts_with("no difference that 30 s could show"), "{sentence}");
    ensure!(shown.browser.text("#answer")? == sentence);
    let title = shown.browser.text("#list-0 th:last-child")?;
    ensure!(title == "largest; none of all differs for certain", "{title}");
    shown.browser.click("#tab-flame")?;
    for name in ["render", "fetch", "sort", "old"] {
        let (.., mark, colour) = drawn(&mut shown, name)?;
        ensure!((&*mark, &*colour) == ("", "grey"), "{name}: {mark} {colour}");
    }
    Ok(())
}

#[test]
fn a_name_of_a_target_is_text_in_every_view_of_a_difference_also_on_a_telephone() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let hostile = "</script><img src=x onerror=\"window.owned=1\"><script>window.owned=1</script>a\u{202e}b";
    let (before, after) = (
        side(7, &[(hostile, 30), ("f", 300)]),
        side(8, &[(hostile, 900), ("f", 300)]),
    );
    for screen in [DESK, Screen { width: 390, dark: true }] {
        open(&mut shown, &before, &after, screen)?;
        for tab in ["difference", "flame", "table", "callers", "threads", "about"] {
            shown.browser.click(&format!("#tab-{tab}"))?;
            let text = shown.browser.text("body")?;
            ensure!(text.contains("<img src=x onerror="), "{tab}: {text}");
            ensure!(!text.contains('\u{202e}'), "{tab}");
            let wide = shown.browser.eval("document.documentElement.scrollWidth")?;
            ensure!(wide == screen.width, "{tab} is {wide} pixels wide on {}", screen.width);
        }
        let harm = shown
            .browser
            .eval("[typeof window.owned, document.images.length, document.scripts.length]")?;
        ensure!(harm == serde_json::json!(["undefined", 0, 2]), "{harm}");
        ensure!(
            shown.browser.complaints().is_empty(),
            "{:?}",
            shown.browser.complaints()
        );
    }
    Ok(())
}
