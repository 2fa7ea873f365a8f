//! A report made by hand, as text, CSV and JSON (golden files; `cargo xtask bless` rewrites them), and what must hold
//! of every report.

use std::{fs, os::unix::process::ExitStatusExt as _, path::Path, process::ExitStatus};

use proptest::prelude::*;
use serde_json::Value;

use super::{
    difference::{NotMemory, difference},
    group::{By, Sums},
    table::{TOP, Table, WIDTH},
    victim::Against,
    *,
};
use crate::report::{Format, View, grouping, overview, pprof};

mod made;

use made::{MIB, Sites, any_report, between_recordings, between_recordings_by, growth, process};

const ALL: [By; 6] = [By::Line, By::Function, By::File, By::Module, By::Thread, By::Process];

mod golden {
    use super::*;

    #[test]
    fn the_table_tells_who_grew() {
        let report = growth();
        for by in ALL {
            check(
                &format!("table-{}.txt", by.name()),
                &table::text(&report, &Table::new(&report, by), TOP, WIDTH),
            );
        }
    }

    #[test]
    fn a_narrow_table_keeps_what_matters() {
        let report = growth();
        let table = Table::new(&report, By::Line);
        check("table-80.txt", &table::text(&report, &table, 3, 80));
        check("table-40.txt", &table::text(&report, &table, 3, 40));
    }

    #[test]
    fn other_views_name_what_they_show() {
        for shown in [
            Shown::Allocated,
            Shown::Peak,
            Shown::Temporary,
            Shown::Leaks {
                older_than: Duration::from_secs(30),
            },
        ] {
            let report = MemoryReport { shown, ..growth() };
            let text = table::text(&report, &Table::new(&report, By::Line), 2, WIDTH);
            let lines = lines(&report).join("\n");
            check(&format!("shown-{}.txt", shown.name()), &format!("{text}\n{lines}\n"));
        }
    }

    #[test]
    fn processes_of_a_machine_are_ranked_by_growth() {
        let mut report = growth();
        for (index, mib) in (1..30).zip([5_u64, 3, 900, 40].into_iter().cycle()) {
            report.processes.push(process(index, mib * index as u64 * MIB));
        }
        report.processes[3].exited = true;
        report.processes[4].started = true;
        check("processes.txt", &table::processes(&report, TOP, WIDTH));
    }

    #[test]
    fn files_have_exact_bytes() {
        let report = growth();
        let table = Table::new(&report, By::Line);
        check("table.csv", &written(|out| export::write_csv(&table, out)));
        check(
            "table.json",
            &written(|out| export::write_json(&report, &table, &[], out)),
        );
    }

    #[test]
    fn the_curve_has_a_line_for_each_of_the_largest() {
        let report = growth();
        let table = Table::new(&report, By::Line);
        check("curve.txt", &curve::text(&report, &table, 2, WIDTH));
        let series = curve::series(report.curve.as_ref().unwrap(), &table, 2);
        check("curve.csv", &written(|out| curve::write_csv(&series, out)));
        check("curve.json", &written(|out| curve::write_json(&series, out)));
        check("curve.dat", &written(|out| curve::write_mprof(&report, out)));
    }

    #[test]
    fn a_difference_tells_what_grew_between_two_recordings() {
        let difference = between_recordings();
        check("difference.txt", &difference::text(&difference, TOP, WIDTH));
        check(
            "difference.csv",
            &written(|out| difference::write_csv(&difference, out)),
        );
        check(
            "difference.json",
            &written(|out| difference::write_json(&difference, out)),
        );
    }

    #[test]
    fn the_summary_says_what_is_not_exact() {
        check("lines.txt", &(lines(&growth()).join("\n") + "\n"));
    }

    #[test]
    fn a_flame_graph_is_of_bytes() {
        let report = growth();
        let view = View {
            title: "Memory of python3 (4242), live".to_owned(),
            value: report.shown.value(),
            ..View::default()
        };
        let svg = written(|out| Format::Svg.writer().write(&report.profile, &view, out));
        // inferno's JavaScript is not ours to keep a copy of.
        let (before, after) = (svg.find("<script").unwrap(), svg.find("</script>").unwrap());
        let ours = svg.rfind("<script").unwrap();
        let svg = format!("{}{}</svg>", &svg[..before], &svg[after + "</script>".len()..ours]);
        check("flame.svg", &svg.replace("><", ">\n<"));
    }

    pub(super) fn check(name: &str, now: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/golden/memory")
            .join(name);
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, now).unwrap();
            return;
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            golden == now,
            "{name} differs; if this is meant, run cargo xtask bless\n{now}"
        );
    }
}

#[test]
fn a_report_without_memory_says_so() {
    let empty = || MemoryReport {
        profile: heap_profile(Shown::Live, false, 4096),
        details: Vec::new(),
        curve: None,
        processes: Vec::new(),
        ..growth()
    };
    for shown in [Shown::Live, Shown::Peak, Shown::Temporary, Shown::Allocated] {
        let report = MemoryReport { shown, ..empty() };
        let table = Table::new(&report, By::Line);
        let words = "Nothing grew: no new memory in 60 s.";
        assert_eq!(table::text(&report, &table, TOP, WIDTH), format!("{words}\n"));
        assert_eq!(lines(&report), [words]);
        assert_eq!(curve::text(&report, &table, TOP, WIDTH), "");
    }
    let report = empty();
    let difference = difference(&report.profile, &report, By::Line).unwrap();
    assert!(difference::text(&difference, TOP, WIDTH).ends_with("Nothing grew or shrank between them.\n"));
}

#[test]
fn memory_that_is_gone_again_is_no_growth() {
    let mut report = growth();
    let mut profile = heap_profile(Shown::Live, false, 4096);
    let mut sites = Sites { profile: &mut profile };
    let stack = [sites.python("f", "/srv/f.py", 1)];
    sites.add(&stack, 768, 0, (4242, 4242));
    report.profile = profile;
    report.processes.clear();
    let table = Table::new(&report, By::Line);
    assert_eq!(
        table::text(&report, &table, TOP, WIDTH),
        "Nothing stayed: all of the 3.0 MiB that came in 60 s is gone again.\n"
    );
}

#[test]
fn a_process_that_shrank_or_hardly_changed_has_no_riddle_of_a_ratio() {
    let text = |before, after, explained| {
        let report = MemoryReport {
            processes: vec![ProcessMemory {
                before: Resident {
                    rss: before,
                    ..Resident::default()
                },
                after: Resident {
                    rss: after,
                    ..Resident::default()
                },
                explained,
                ..process(7, 0)
            }],
            ..growth()
        };
        let text = table::processes(&report, TOP, WIDTH);
        text.lines().next().unwrap().to_owned()
    };
    assert_eq!(
        text(10 * MIB, 6 * MIB, 3 * MIB as i64),
        "worker (7): RSS 10.0 MiB -> 6.0 MiB (-4.0 MiB in 60 s), +3.0 MiB accounted for"
    );
    assert_eq!(
        text(10 * MIB, 6 * MIB, -3 * MIB as i64),
        "worker (7): RSS 10.0 MiB -> 6.0 MiB (-4.0 MiB in 60 s), 75 % accounted for"
    );
    assert_eq!(
        text(10 * MIB, 10 * MIB + 8192, 4096),
        "worker (7): RSS 10.0 MiB -> 10.0 MiB (+8.0 KiB in 60 s), +4.0 KiB accounted for"
    );
}

#[test]
fn processes_that_did_not_grow_are_no_rows() {
    let still = |pid: u32, explained: i64| ProcessMemory {
        explained,
        after: process(pid, 0).before,
        ..process(pid, 0)
    };
    // One begins just now, and nobody has read what it has yet.
    let unread = |pid: u32, explained: i64| ProcessMemory {
        before: Resident::default(),
        after: Resident::default(),
        started: true,
        explained,
        ..process(pid, 0)
    };
    let report = MemoryReport {
        processes: vec![
            process(7, 3 * MIB),
            still(8, 8192),
            unread(9, 104 << 10),
            unread(10, 5 * MIB as i64),
        ],
        ..growth()
    };
    let text = table::processes(&report, TOP, WIDTH);
    assert!(text.contains("(7)") && text.contains("(10)"), "{text}");
    assert!(!text.contains("(8)") && !text.contains("(9)"), "{text}");
    assert!(text.ends_with("(1 other process did not grow)\n"), "{text}");
}

#[test]
fn what_was_copied_unseen_is_told() {
    let said = |perhaps_copied| {
        lines(&MemoryReport {
            perhaps_copied,
            ..growth()
        })
        .join("\n")
    };
    assert!(said(42 * MIB).contains("42.0 MiB was written to that other processes had as well since a fork"));
    assert!(!said(0).contains("copies, most likely"));
}

#[test]
fn a_process_that_ended_unread_is_not_said_to_have_had_nothing() {
    let report = MemoryReport {
        processes: vec![ProcessMemory {
            before: Resident::default(),
            after: Resident::default(),
            explained: 5 * MIB as i64,
            started: true,
            exited: true,
            ..process(7, 0)
        }],
        ..growth()
    };
    assert_eq!(
        table::processes(&report, TOP, WIDTH),
        "worker (7) (started, ended): it ended before its RSS could be read, +5.0 MiB accounted for\n"
    );
}

#[test]
fn of_processes_that_were_ended_for_want_of_memory_limit_and_first_lines_come_first() {
    let ended = |pid, against| ProcessMemory {
        exited: true,
        victim: Some(Victim {
            after: Duration::from_millis(12_340),
            peak: 510 * MIB,
            against,
        }),
        ..process(pid, 40 * MIB)
    };
    let cgroup = Against::Cgroup {
        path: "/pod\u{1b}[2J/app".to_owned(),
        limit: 512 * MIB,
    };
    let itself = |status, address_space| {
        Some(Against::Itself {
            ended: ExitStatus::from_raw(status),
            error_ago: Duration::from_millis(120),
            address_space,
        })
    };
    let report = MemoryReport {
        processes: vec![
            process(9, 0),
            ended(4242, Some(cgroup)),
            ended(4243, None),
            ended(4244, itself(1 << 8, Some(512 * MIB))),
            ended(4245, itself(6, None)),
        ],
        ..growth()
    };
    let table = Table::new(&report, By::Line);
    let text = table::text(&report, &table, TOP, 80);
    golden::check("victims.txt", text.split("RSS in").next().unwrap());
    let file: Value = {
        let mut out = Vec::new();
        export::write_json(&report, &table, &[], &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    };
    let told = |at: usize| &file["processes"][at]["ended_for_memory"];
    assert!(told(0).is_null());
    assert_eq!(told(1)["limit_bytes"], 512 * MIB);
    assert_eq!(told(2)["limit_bytes"], Value::Null);
}

#[test]
fn a_process_that_ended_is_not_explained_by_a_share_of_what_was_last_read() {
    let text_of = |explained: u64, shown: Shown| {
        let report = MemoryReport {
            shown,
            processes: vec![ProcessMemory {
                before: Resident::default(),
                after: Resident {
                    rss: 10 * MIB,
                    ..Resident::default()
                },
                explained: (explained * MIB) as i64,
                started: true,
                exited: true,
                ..process(7, 0)
            }],
            ..growth()
        };
        table::processes(&report, TOP, 200)
    };
    let text = |explained| text_of(explained, Shown::Live);
    let more = "in 60 s), +30.0 MiB accounted for at its end (RSS was last read before it)\n";
    assert!(text(30).contains(more), "{}", text(30));
    let less = "+4.0 MiB accounted for at its end (RSS was last read before it; --peak shows what was there before)\n";
    assert!(text(4).contains(less), "{}", text(4));
    let peak = "(RSS was last read before it; the table is of its peak)\n";
    assert!(text_of(4, Shown::Peak).contains(peak));
    assert!(text(10).contains("100 % accounted for\n"), "{}", text(10));
}

#[test]
fn a_site_without_a_byte_in_any_snapshot_has_no_line_of_the_curve() {
    let mut report = growth();
    let table = Table::new(&report, By::Line);
    let lines = |report: &MemoryReport| curve::text(report, &table, TOP, WIDTH).lines().count();
    let before = lines(&report);
    let curve = report.curve.as_mut().unwrap();
    let some = curve
        .sites
        .iter_mut()
        .find(|(_, bytes)| bytes.iter().any(|bytes| *bytes > 0));
    some.unwrap().1.fill(0);
    assert_eq!(lines(&report), before - 1);
}

#[test]
fn one_row_more_than_asked_for_is_shown_rather_than_counted() {
    let report = growth();
    let table = Table::new(&report, By::Process);
    assert_eq!(table.rows.len(), 2);
    assert!(!table::text(&report, &table, 1, WIDTH).contains("more)"));
}

#[test]
fn pprof_gives_back_a_heap_profile_that_opens_at_what_is_in_use() {
    let before = growth().profile;
    let file = written_bytes(|out| Format::Pprof.writer().write(&before, &View::default(), out));
    let after = pprof::read(&file).unwrap();
    assert_eq!(after.sample_types, HEAP);
    assert_eq!(after.sample_types[after.default_type].kind, "inuse_space");
    assert_eq!(after.period, before.period);
    let dump = pprof::dump(&file);
    assert!(dump.contains("inuse_space"), "{dump}");
}

#[test]
fn a_base_that_went_through_a_file_compares_equal() {
    let report = growth();
    let file = written_bytes(|out| Format::Pprof.writer().write(&report.profile, &View::default(), out));
    let base = pprof::read(&file).unwrap();
    for by in ALL {
        let difference = difference(&base, &report, by).unwrap();
        assert!(
            difference.rows.iter().all(|row| row.numbers.change() == 0),
            "{difference:?}"
        );
    }
}

#[test]
fn a_profile_of_something_else_is_no_base() {
    let cpu = Profile::new(vec![HEAP[0]], None);
    assert_eq!(difference(&cpu, &growth(), By::Line), Err(NotMemory));
}

#[test]
fn a_process_is_itself_in_another_recording_under_another_number() {
    let difference = between_recordings_by(By::Process);
    let python = difference
        .rows
        .iter()
        .find(|row| row.place.name == "gunicorn shop.wsgi")
        .unwrap();
    assert!(python.numbers.base > 0 && python.numbers.now > 0);
}

proptest! {
    #[test]
    fn rows_and_the_closing_row_add_up_to_the_whole(report in any_report(), top in 0_usize..6, width in 0_usize..200) {
        for by in ALL {
            let table = Table::new(&report, by);
            let merged = merged::lines(&table);
            let sum = |of: fn(&Sums) -> u64| merged.iter().map(|line| of(&line.sums)).sum::<u64>();
            for of in [
                |sums: &Sums| sums.inuse_bytes,
                |sums: &Sums| sums.alloc_bytes,
                |sums: &Sums| sums.inuse_objects,
                |sums: &Sums| sums.alloc_objects,
                |sums: &Sums| sums.estimated_bytes,
            ] {
                prop_assert_eq!(sum(of), of(&table.total));
            }
            prop_assert_eq!(table.total.inuse_bytes as i64, report.profile.total(3));
            prop_assert_eq!(table.total.alloc_bytes as i64, report.profile.total(1));
            let shares: f64 = table.rows.iter().map(|row| table.share(&row.sums)).sum();
            prop_assert!(table.bytes(&table.total) == 0 || (shares - 1.0).abs() < 1e-9);
            for (sample, (_, values)) in report.profile.samples().enumerate() {
                let row = &table.rows[table.row_of(sample).unwrap()];
                prop_assert!(row.sums.inuse_bytes >= values[3] as u64);
            }
            let text = table::text(&report, &table, top, width);
            prop_assert_eq!(&text, &table::text(&report, &Table::new(&report, by), top, width));
            for line in text.lines().skip_while(|line| !line.contains("share  ") && !line.contains("  where")) {
                prop_assert!(layout::columns(line) <= width.max(40), "{}", line);
            }
            prop_assert!(only_reads(&text), "{:?}", text);
            written(|out| export::write_csv(&table, out));
            let json = written(|out| export::write_json(&report, &table, &[], out));
            let json: Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(json["rows"].as_array().unwrap().len(), table.rows.len());
            prop_assert!(only_reads(&curve::text(&report, &table, top, width)));
            let curve = curve::series(report.curve.as_ref().unwrap(), &table, top);
            written(|out| curve::write_csv(&curve, out));
            prop_assert!(only_reads(&lines(&report).join("\n")));
        }
    }

    #[test]
    fn a_difference_adds_up(base in any_report(), now in any_report(), top in 0_usize..6) {
        for by in ALL {
            let difference = difference(&base.profile, &now, by).unwrap();
            let change: i64 = difference.rows.iter().map(|row| row.numbers.change()).sum();
            prop_assert_eq!(change, difference.total.change());
            let value = now.shown.value();
            prop_assert_eq!(change, now.profile.total(value) - base.profile.total(value));
            prop_assert!(only_reads(&difference::text(&difference, top, WIDTH)));
            written(|out| difference::write_csv(&difference, out));
            written(|out| difference::write_json(&difference, out));
        }
    }
}

/// Nothing that a stranger has named moves a terminal's cursor or turns text around.
fn only_reads(text: &str) -> bool {
    crate::shown::lines(text) == text
}

fn written(write: impl FnOnce(&mut dyn std::io::Write) -> anyhow::Result<()>) -> String {
    String::from_utf8(written_bytes(write)).unwrap()
}

fn written_bytes(write: impl FnOnce(&mut dyn std::io::Write) -> anyhow::Result<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_report_of_the_file_has_the_errors_of_the_runs_own_table() {
    let report = growth();
    let mut profile = growth().profile;
    add_variances(&mut profile, &report.details);
    let mut file = Vec::new();
    let writer = Format::Pprof.writer();
    writer.write(&profile, &View::default(), &mut file).unwrap();
    let read = pprof::read(&file).unwrap();
    assert_eq!(read.sample_types[read.default_type].kind, "inuse_space");
    for (value, error) in [
        (3, Sums::inuse_error as fn(&Sums) -> u64),
        (1, Sums::alloc_error as fn(&Sums) -> u64),
    ] {
        let asked = overview::Asked {
            value,
            by: Some(grouping::By::Process),
            ..overview::Asked::default()
        };
        let mut told = Vec::new();
        overview::json::write(&read, &asked, &mut told).unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        let of_file = told["rows"][0]["self_amount_error"].as_u64().unwrap();
        let of_run = group::group(&report, By::Process, group::Ids::Kept).rows;
        let of_run = of_run.iter().map(|row| error(&row.sums)).max().unwrap();
        assert!(
            of_run > 0 && of_file.abs_diff(of_run) <= of_run / 1000,
            "{of_file} {of_run}"
        );
    }
}
