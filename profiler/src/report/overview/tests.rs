use super::*;
use crate::profile::{Frame, FrameId, FrameKind, Labels, SampleKey, ValueType};

const ORM: &str = "/v/lib/python3.12/site-packages/orm/query.py";
const VIEWS: &str = "/srv/shop/views.py";

const SAMPLES: ValueType = ValueType {
    kind: "samples",
    unit: "count",
};
const CPU: ValueType = ValueType {
    kind: "cpu",
    unit: "nanoseconds",
};

fn frame(profile: &mut Profile, function: &str, file: &str, line: u32) -> FrameId {
    let python = file.ends_with(".py");
    let path = profile.intern_string(file);
    let mapping = crate::profile::Mapping {
        path,
        build_id: Profile::EMPTY,
    };
    let frame = Frame {
        kind: if python { FrameKind::Python } else { FrameKind::Native },
        function: profile.intern_string(function),
        file: if python { path } else { Profile::EMPTY },
        line,
        first_line: u32::from(python),
        mapping: (!python).then(|| profile.intern_mapping(mapping)),
        address: 0,
        inlined: false,
    };
    profile.intern_frame(frame)
}

fn add(profile: &mut Profile, pid: u32, count: i64, leaf_first: &[(&str, &str, u32)]) {
    let stack: Vec<FrameId> = leaf_first
        .iter()
        .map(|(function, file, line)| frame(profile, function, file, *line))
        .collect();
    let command = profile.intern_string("gunicorn shop.wsgi");
    let thread = profile.intern_string("worker");
    let key = SampleKey {
        stack: profile.intern_stack(&stack),
        labels: Labels {
            pid,
            tid: pid + 1,
            comm: command,
            command,
            thread,
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: Profile::EMPTY,
        },
    };
    profile.add(key, &[count, count * 10_101_010]);
}

fn made() -> Profile {
    let mut profile = Profile::new(vec![SAMPLES, CPU], Some((CPU, 10_101_010)));
    profile.duration_ns = 10_000_000_000;
    profile.comments = vec!["profiler record -p 1".to_owned(), "a \x1b[2J line".to_owned()];
    let main = ("main", VIEWS, 3);
    let orders = ("orders", VIEWS, 10);
    let call = ("_PyObject_Call", "/usr/bin/python3.12", 0);
    add(
        &mut profile,
        1,
        600,
        &[
            ("sqlite3_step", "/lib/libsqlite3.so.0", 0),
            ("fetch", ORM, 7),
            call,
            orders,
            main,
        ],
    );
    add(
        &mut profile,
        1,
        100,
        &[("fetch", ORM, 8), ("fetch", ORM, 9), orders, main],
    );
    add(&mut profile, 1, 10, &[("memcpy", "/lib/libc.so.6", 0), orders, main]);
    add(&mut profile, 2, 290, &[("loop", ORM, 1)]);
    profile
}

fn asked() -> Asked {
    Asked {
        interpreter: Interpreter::Work,
        ..Asked::default()
    }
}

fn shown(asked: &Asked) -> String {
    text(&made(), asked, 80).unwrap()
}

#[test]
fn the_first_screen_says_what_who_and_where() {
    let text = shown(&asked());
    for part in [
        "profiler record -p 1",
        "10 s",
        "shown: 1,000 samples: shares are ± 3 % at most",
        "also in it (--value): cpu",
        "71.0 %  ± 2.8  gunicorn shop.wsgi (process 1)",
        "orders (srv/shop/views.py:10)",
        "fetch (orm/query.py:7)",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains('\x1b'));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn rows_of_any_kind_add_up_to_all_in_self() {
    let profile = made();
    for by in [
        By::Line,
        By::Function,
        By::File,
        By::Module,
        By::Package,
        By::Thread,
        By::Process,
        By::Cause,
    ] {
        for value in 0..2 {
            let counted = Counted::new(&profile, value);
            let found = crate::report::rows::rows(&profile, counted, by, Interpreter::Work, false);
            let selves: i64 = found.rows.iter().map(|row| row.itself.value).sum();
            assert_eq!(selves, profile.total(value), "{by:?}");
            assert_eq!(found.all.samples, 1000);
            assert!(
                found
                    .rows
                    .iter()
                    .all(|row| row.total.value >= row.itself.value && row.total.value <= selves)
            );
        }
    }
}

#[test]
fn packages_are_told_and_recursion_counts_once() {
    let text = shown(&Asked {
        by: Some(By::Package),
        ..asked()
    });
    // orm: 100 + 290 itself; in 990 of 1,000 stacks, once each.
    assert!(text.contains("39.0 %  ± 3.0  99.0 %  ± 0.6"), "{text}");
    assert!(text.contains("60.0 %  ± 3.0  60.0 %  ± 3.0"), "{text}");
    assert!(text.contains("own (your code)"), "{text}");
    assert!(text.contains("~1.0 %"), "{text}");
    assert!(!text.contains("cpython"), "{text}");
    assert!(text.contains("~ fewer than 16 samples"), "{text}");
}

#[test]
fn a_tree_steps_to_the_right_only_where_stacks_part() {
    let text = shown(&Asked { tree: true, ..asked() });
    let tree = text.split_once("calls, from the outermost on\n").unwrap().1;
    let lines: Vec<&str> = tree.lines().collect();
    assert!(
        lines[0].starts_with("71.0 %") && lines[0].ends_with("  main (srv/shop/views.py:1)"),
        "{tree}"
    );
    assert!(lines[1].ends_with("  orders (srv/shop/views.py:1)"), "{tree}");
    let at = |line: &str, name: &str| line.find(name).unwrap();
    assert_eq!(at(lines[0], "main"), at(lines[1], "orders"), "{tree}");
    assert_eq!(at(lines[2], "fetch"), at(lines[1], "orders") + 2, "{tree}");
}

#[test]
fn callers_and_callees_of_a_function_add_up() {
    let profile = made();
    let counted = Counted::new(&profile, 0);
    let callers = neighbours::neighbours(&profile, &asked(), counted, "fetch", neighbours::Side::Callers).unwrap();
    assert_eq!(callers.total.value, 700);
    assert_eq!(callers.rows.len(), 1);
    let callees = neighbours::neighbours(&profile, &asked(), counted, "fetch", neighbours::Side::Callees).unwrap();
    let sums: Vec<i64> = callees.rows.iter().map(|row| row.sum.value).collect();
    assert_eq!(sums, [600, 100]);
    let text = shown(&Asked {
        callees: Some("fetch".to_owned()),
        ..asked()
    });
    assert!(text.contains("sqlite3_step (libsqlite3.so.0)"), "{text}");
    assert!(text.contains("[itself]"), "{text}");
    let none = super::text(
        &made(),
        &Asked {
            callers: Some("fetsh".to_owned()),
            ..asked()
        },
        80,
    );
    assert_eq!(none.unwrap_err().closest[0], "fetch");
}

#[test]
fn a_filter_keeps_what_passes_and_folded_libraries_are_one_frame() {
    use crate::report::select;
    let profile = made();
    let kept = |filter: &str| select::filtered(&profile, &[filter.parse().unwrap()]).map(|kept| kept.total(0));
    assert_eq!(kept("package=orm").unwrap(), 990);
    assert_eq!(kept("package!=orm").unwrap(), 10);
    assert_eq!(kept("kind=python").unwrap(), 390);
    assert_eq!(kept("function=orders").unwrap(), 710);
    assert_eq!(kept("file=shop/views.py").unwrap(), 710);
    assert_eq!(kept("pid=2").unwrap(), 290);
    assert_eq!(kept("thread=worker").unwrap(), 1000);
    assert!(kept("package=omr").unwrap_err().to_string().contains("closest: orm"));
    let folded = select::with_libraries_folded(&profile);
    assert_eq!(folded.total(0), 1000);
    let stacks: Vec<Vec<String>> = folded
        .samples()
        .map(|(key, _)| crate::report::label::stack(&folded, Some(key.stack)))
        .collect();
    assert_eq!(
        stacks[1],
        [
            "orm (orm)",
            "orders (srv/shop/views.py:10)",
            "main (srv/shop/views.py:3)"
        ]
    );
}

#[test]
fn editors_get_file_line_column_and_programs_get_all_numbers() {
    let mut out = Vec::new();
    quickfix::write(&made(), &asked(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with(&format!("{ORM}:7:1: 60.0 % ± 3.0 self, 60.0 % total: fetch\n")),
        "{text}"
    );
    let mut out = Vec::new();
    let all = Asked {
        by: Some(By::Function),
        callers: Some("fetch".to_owned()),
        source: Some("orders".to_owned()),
        ..asked()
    };
    json::write(&made(), &all, &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["format"], "profiler-report");
    assert_eq!(json["version"], 1);
    assert_eq!(json["samples"], 1000);
    let rows = json["rows"].as_array().unwrap();
    let sum: i64 = rows.iter().map(|row| row["self"].as_i64().unwrap()).sum();
    assert_eq!(sum, 1000);
    assert_eq!(json["source"][0]["native"], 10);
}

#[test]
fn source_that_is_not_here_is_said_and_its_lines_are_still_shown() {
    let text = shown(&Asked {
        source: Some("orders".to_owned()),
        ..asked()
    });
    assert!(text.contains("its source cannot be shown"), "{text}");
    assert!(text.contains("71.0 %"), "{text}");
}

#[test]
fn an_empty_profile_has_a_head_and_nothing_else() {
    let empty = Profile::new(vec![SAMPLES], None);
    let text = text(&empty, &asked(), 80).unwrap();
    assert!(text.contains("no sample"), "{text}");
}

#[test]
fn estimates_have_the_errors_that_the_run_knew_and_nobody_is_shown_their_variance() {
    const SPACE: ValueType = ValueType {
        kind: "inuse_space",
        unit: "bytes",
    };
    const OBJECTS: ValueType = ValueType {
        kind: "inuse_objects",
        unit: "count",
    };
    let mut profile = Profile::new(vec![OBJECTS, SPACE], None);
    profile.default_type = 1;
    add(&mut profile, 1, 1, &[("orders", VIEWS, 10), ("main", VIEWS, 3)]);
    add(
        &mut profile,
        1,
        3,
        &[("fetch", ORM, 7), ("page", VIEWS, 20), ("main", VIEWS, 3)],
    );
    let mebibyte = f64::from(1 << 20);
    profile.add_variances(SPACE, [mebibyte * mebibyte, 0.0].into_iter());
    let asked = Asked {
        value: 1,
        ..Asked::default()
    };
    let shown = text(&profile, &asked, 80).unwrap();
    assert!(shown.contains("± is 95 %"), "{shown}");
    assert!(shown.contains("38.5 MiB ± 2.0 MiB in all"), "{shown}");
    assert!(shown.contains("also in it (--value): inuse_objects\n"), "{shown}");
    // 1.96 standard deviations, as the run's own table says; what is exact has none.
    let line = |name: &str| shown.lines().find(|line| line.contains(name)).unwrap();
    assert!(line("orders (").contains("9.6 MiB  ± 2.0 MiB"), "{shown}");
    assert!(!line("page (").contains('±'), "{shown}");

    let mut out = Vec::new();
    json::write(&profile, &asked, &mut out).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(told["recording"]["values"].as_array().unwrap().len(), 2);
    let orders = told["rows"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["function"] == "orders");
    assert_eq!(orders.unwrap()["self_amount_error"], 2_055_209);
    // Three quarters are another's, and exact.
    let error = orders.unwrap()["self_error"].as_f64().unwrap();
    assert!(
        (error - 0.75 * 2_055_209.0 / (4.0 * 10_101_010.0)).abs() < 1e-4,
        "{error}"
    );
}
