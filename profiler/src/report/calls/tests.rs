//! Reports made by hand, as text, CSV and JSON (golden files; `cargo xtask bless` rewrites them), what real interpreters
//! read in a file for `pstats`, and what must hold of every report.

use std::{fs, path::Path};

use proptest::prelude::*;
use serde_json::Value;

use super::{
    export::Format,
    table::{Sort, TOP, Table, WIDTH},
    *,
};
use crate::report::layout;

mod interpreters;
pub(super) mod made;

use made::{any_report, chosen, exactly, function, one_window, shop, timed, windows};

const ALL: [Sort; 4] = [Sort::NCalls, Sort::TotTime, Sort::CumTime, Sort::PerCall];

fn text(report: &CallsReport, sort: Sort, top: usize, width: usize) -> String {
    table::text(report, &Table::new(report, sort), top, width)
}

mod golden {
    use super::*;

    #[test]
    fn the_table_reads_as_cprofile_s() {
        for sort in ALL {
            check(&format!("table-{}.txt", sort.name()), &text(&shop(), sort, TOP, WIDTH));
        }
    }

    #[test]
    fn a_narrow_table_keeps_what_matters() {
        check("table-80.txt", &text(&shop(), Sort::NCalls, 3, 80));
        check("table-40.txt", &text(&shop(), Sort::NCalls, 3, 40));
    }

    #[test]
    fn scaled_counts_have_their_error() {
        check("windows.txt", &text(&windows(), Sort::NCalls, 4, WIDTH));
    }

    #[test]
    fn one_window_s_counts_are_not_scaled_and_marked() {
        check("one-window.txt", &text(&one_window(), Sort::NCalls, 4, 80));
    }

    #[test]
    fn a_chosen_function_has_a_block_of_its_own() {
        check("chosen.txt", &text(&chosen(), Sort::NCalls, TOP, WIDTH));
        check("chosen-60.txt", &text(&chosen(), Sort::NCalls, TOP, 60));
    }

    #[test]
    fn standard_error_hears_the_whole() {
        let detached = CallsReport {
            observed: Duration::from_millis(2100),
            sampled: Duration::from_millis(2100),
            ..shop()
        };
        let all = [shop(), windows(), detached, chosen()].map(|report| lines(&report).join("\n"));
        check("lines.txt", &(all.join("\n\n") + "\n"));
    }

    #[test]
    fn files_for_programs_have_raw_numbers() {
        let report = chosen();
        let table = Table::new(&report, Sort::NCalls);
        for name in ["calls.csv", "calls.json"] {
            let mut file = Vec::new();
            let format = Format::from_path(Path::new(name)).unwrap();
            format.write(&report, &table, None, &mut file).unwrap();
            check(name, &String::from_utf8(file).unwrap());
        }
    }

    fn check(name: &str, now: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/golden/calls")
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
fn a_report_without_calls_says_so() {
    let empty = CallsReport {
        functions: Vec::new(),
        samples: 0,
        ..shop()
    };
    let words = "No Python function returned from a call in 5.0 s.";
    assert_eq!(lines(&empty), [words]);
    assert_eq!(text(&empty, Sort::NCalls, TOP, WIDTH), format!("{words}\n"));
    let compiled = CallsReport {
        compiled_samples: 300,
        ..empty
    };
    assert!(lines(&compiled)[0].starts_with("No call was counted in 5.0 s: the program's functions were compiled"));
}

#[test]
fn what_is_called_again_and_again_is_told_with_its_range_or_as_at_least_so_many() {
    let queries = |ratio, calls, samples| Repeated {
        what: "database query",
        function: "CursorWrapper.execute".to_owned(),
        caller: "orders".to_owned(),
        file: "/srv/shop/catalog/views.py".to_owned(),
        line: 29,
        ratio,
        calls,
        samples,
    };
    let told = |ratio| {
        lines(&CallsReport {
            repeated: vec![queries(ratio, 5, 22)],
            ..shop()
        })
        .remove(0)
    };
    let of = |least, most| Ratio {
        each: 124.0,
        least,
        most,
    };
    assert_eq!(
        told(of(67.2, Some(290.0))),
        "N+1: CursorWrapper.execute is called 124 times (67 to 290) for each orders (catalog/views.py:29), a database \
         query each; by the counts of both (5 calls of orders) and 22 samples that show who calls."
    );
    for wide in [of(31.0, None), of(31.0, Some(900.0))] {
        assert!(told(wide).contains("is called at least 31 times for each orders"));
    }
    let report = CallsReport {
        perhaps_repeated: vec![queries(of(2.0, None), 1, 3)],
        ..shop()
    };
    assert_eq!(
        lines(&report)[0],
        "Perhaps N+1: CursorWrapper.execute may be called again and again for each orders (catalog/views.py:29), a \
         database query each; 1 call of orders that ended and 3 samples are too few to say so. Count longer."
    );
}

#[test]
fn functions_of_two_interpreters_are_told_apart_by_their_paths() {
    let mut report = shop();
    for version in ["3.12", "3.13"] {
        let file = format!("/opt/python{version}/lib/email/message.py");
        report.functions.push(function(&file, 493, "get", 90_000, (1, 1)));
    }
    let text = text(&report, Sort::NCalls, TOP, WIDTH);
    for version in ["3.12", "3.13"] {
        let row = format!("/opt/python{version}/lib/email/message.py:493(get)\n");
        assert!(text.contains(&row), "{text}");
    }
}

#[test]
fn code_objects_of_one_function_are_one_row() {
    let mut report = shop();
    let mut again = function("/srv/shop/app/tree.py", 7, "depth", 5, (1, 1));
    again.callers = vec![
        // Itself, under its other index.
        Caller {
            function: 8,
            calls: 4,
            ..Caller::default()
        },
        Caller {
            function: 1_000,
            calls: 1,
            ..Caller::default()
        },
    ];
    report.functions.push(again);
    let table = Table::new(&report, Sort::NCalls);
    assert_eq!(table.functions.len(), 8);
    let index = table
        .functions
        .iter()
        .position(|function| function.name == "depth")
        .unwrap();
    let depth = &table.functions[index];
    let calls = Count {
        primitive: Some(68),
        ..exactly(4_100)
    };
    assert_eq!((depth.calls, depth.own_samples), (Some(calls), 10));
    let by_itself = depth.callers.iter().find(|caller| caller.function == index).unwrap();
    assert_eq!(by_itself.calls, 4_036);
    assert_eq!(depth.callers.len(), 2);
}

#[test]
fn times_and_calls_of_a_row_are_of_the_same_span() {
    // Detached after 1 s, sampled for all 5 s: 500 samples of 10 ms are one second of the one observed.
    let report = CallsReport {
        functions: vec![function("a.py", 1, "f", 1000, (500, 500))],
        observed: Duration::from_secs(1),
        ..shop()
    };
    let f = &report.functions[0];
    assert_eq!(report.tottime(f).seconds, 1.0);
    assert_eq!(report.percall(f), Some(0.001));
    assert_eq!(report.per_second(1000), 1000.0);
}

#[test]
fn the_error_of_a_time_shrinks_with_the_root_of_its_samples() {
    let Time { seconds, error } = shop().estimate(100);
    assert_eq!((seconds, error), (1.0, Some(0.196)));
}

#[test]
fn a_timed_function_has_the_time_that_was_measured() {
    let mut f = function("a.py", 1, "f", 3, (1, 1));
    f.timed = Some(Timed {
        nested: 1,
        nested_ns: 300,
        ..timed([300, 400, 500])
    });
    let report = shop();
    assert_eq!(
        report.cumtime(&f),
        Time {
            seconds: 900e-9,
            error: None
        }
    );
    assert_eq!(report.percall(&f), Some(450e-9));
    // Of which the part that it spent itself is no more, whatever one sample stands for.
    assert_eq!(report.tottime(&f).seconds, 900e-9);
}

#[test]
fn a_call_that_was_under_way_all_the_time_is_in_the_time_of_its_function() {
    let mut f = function("a.py", 1, "f", 3, (400, 400));
    f.timed = Some(timed([300, 400, 500]));
    assert_eq!(shop().cumtime(&f), shop().estimate(400));
}

#[test]
fn no_time_is_longer_than_the_time_that_was_counted() {
    let report = CallsReport {
        observed: Duration::from_millis(600),
        sampled: Duration::from_millis(600),
        ..shop()
    };
    assert_eq!(report.estimate(61).seconds, 0.6);
    assert_eq!(CallsReport { threads: 2, ..report }.estimate(61).seconds, 0.61);
}

#[test]
fn what_began_before_it_was_counted_is_told_and_not_every_call_was_counted() {
    let beginning = Beginning {
        late: 1,
        most: Duration::from_millis(41),
        missed: 2,
    };
    let report = CallsReport { beginning, ..shop() };
    let said = lines(&report).join(" ");
    for words in [
        "began 41.0 ms after",
        "2 processes had ended before",
        "Not every call was counted",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("Every call"), "{said}");
    assert!(lines(&shop()).join(" ").contains("Every call was counted."));
}

#[test]
fn a_control_character_does_not_reach_the_terminal() {
    let report = CallsReport {
        functions: vec![function("a\u{1b}[2J.py", 1, "f\ng", 1, (0, 0))],
        ..shop()
    };
    assert!(text(&report, Sort::NCalls, TOP, WIDTH).contains("a�[2J.py:1(f�g)"));
}

#[test]
fn times_of_breakpoints_say_by_how_much_they_can_be_wrong() {
    let said = |stop| {
        text(&CallsReport { stop, ..chosen() }, Sort::default(), 20, 100).contains("Each time can be wrong by 9.0 µs")
    };
    assert!(said(Some(Duration::from_micros(9))));
    assert!(!said(None));
}

/// `def business(x): return x * 2` was told to take 6.5 µs ± 783 ns, where it takes 50 ns and a stop 16 µs.
#[test]
fn what_is_shorter_than_a_stop_at_a_breakpoint_is_told_as_at_most() {
    let mut report = CallsReport {
        stop: Some(Duration::from_micros(16)),
        ..chosen()
    };
    for function in &mut report.functions {
        function.timed = Some(Timed {
            less_ns: 40 * 16_000,
            more_ns: 40 * 16_000,
            taken_off_ns: 40 * 3_000,
            ..timed([6_500; 40])
        });
    }
    let text = text(&report, Sort::default(), 20, 100);
    assert!(text.contains("at most: total 900.0 µs, mean 22.5 µs"), "{text}");
    assert!(
        text.contains("A stop at a breakpoint takes 16.0 µs and was taken off"),
        "{text}"
    );
    assert!(!text.contains("Probes took"), "{text}");
}

/// A page of 0.18 ms was told to take 9.3 ms ± 2.3 on a busy machine.
#[test]
fn where_most_of_a_call_was_waited_for_a_processor_since_probes_made_it_long_no_mean_is_told() {
    let mut report = chosen();
    for function in &mut report.functions {
        function.timed = Some(Timed {
            taken_off_ns: 40 * 9_300_000,
            delayed_ns: 40 * 8_400_000,
            less_ns: 40 * 14_000_000,
            more_ns: 40 * 2_325_000,
            ..timed([9_300_000; 40])
        });
    }
    let said = text(&report, Sort::default(), 20, 100);
    assert!(said.contains("at most: total 465.0 ms, mean 11.6 ms"), "{said}");
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("and some 8.4 ms of waiting for a CPU came of it: what is left is too little to be told better"),
        "{said}"
    );
    // Nor in the table, and of counts of nobody knows what there is no time for each.
    let told = |report: &CallsReport| report.functions.iter().any(|f| f.in_reach().is_some());
    assert!(!told(&report) && told(&chosen()));
    for function in &mut report.functions {
        if let Some(count) = &mut function.calls {
            (count.exact, count.at_least) = (false, true);
        }
    }
    let percalls = |f: &Function| report.percall(f).or(report.own_percall(f));
    assert!(report.functions.iter().all(|f| percalls(f).is_none()), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_reported_is_written(report in any_report(64), top in 0_usize..12, width in 0_usize..200) {
        for sort in ALL {
            let table = Table::new(&report, sort);
            let text = table::text(&report, &table, top, width);
            prop_assert_eq!(&*crate::shown::lines(&text), &text);
            for format in [Format::Pstats, Format::Csv] {
                format.write(&report, &table, None, &mut Vec::new()).unwrap();
            }
            let mut json = Vec::new();
            Format::Json.write(&report, &table, None, &mut json).unwrap();
            let json: Value = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(json["functions"].as_array().unwrap().len(), table.functions.len());
        }
        let text = lines(&report).join("\n");
        prop_assert_eq!(&*crate::shown::lines(&text), &text);
    }

    /// A count has up to 27 digits and marks here, `~1,073,741,823/1,073,741,823`; no terminal is taken for so narrow
    /// that there is no room for it and some letters of a name.
    #[test]
    fn no_line_is_wider_than_the_terminal(report in any_report(30), top in 0_usize..12, width in 0_usize..200) {
        for sort in ALL {
            for line in text(&report, sort, top, width).lines() {
                prop_assert!(layout::columns(line) <= width.max(40), "{}", line);
            }
        }
    }

    #[test]
    fn rows_and_rest_are_the_total(report in any_report(64), top in 0_usize..12) {
        let table = Table::new(&report, Sort::NCalls);
        let visible = table.visible(top);
        let rest = table.rest(visible);
        let shown = &table.functions[..visible];
        let calls = shown.iter().fold(rest.calls.all, |sum, row| sum.saturating_add(row.all_calls()));
        prop_assert_eq!(calls, table.total.calls.all);
        let own = shown.iter().fold(rest.own_samples, |sum, row| sum.saturating_add(row.own_samples));
        prop_assert_eq!(own, table.total.own_samples);
    }

    #[test]
    fn no_call_is_lost_or_invented(report in any_report(64)) {
        let sum = |functions: &[Function]| functions.iter().fold(0_u64, |sum, row| sum.saturating_add(row.all_calls()));
        for sort in ALL {
            let table = Table::new(&report, sort);
            prop_assert_eq!(sum(&table.functions), sum(&report.functions));
            prop_assert_eq!(table.total.calls.all, sum(&report.functions));
        }
    }

    #[test]
    fn callers_stay_who_they_were(report in any_report(64)) {
        for sort in ALL {
            let table = Table::new(&report, sort);
            for function in &report.functions {
                let row = table.functions.iter().find(|row| row.key() == function.key()).unwrap();
                for caller in &function.callers {
                    let Some(by) = report.functions.get(caller.function) else { continue };
                    let found = row.callers.iter().find(|caller| table.functions[caller.function].key() == by.key());
                    prop_assert!(found.is_some_and(|found| found.calls >= caller.calls));
                }
            }
        }
    }

    #[test]
    fn rows_fall_in_the_order_of_their_key(report in any_report(64)) {
        let table = Table::new(&report, Sort::NCalls);
        prop_assert!(table.functions[..table.rows].is_sorted_by(|a, b| a.all_calls() >= b.all_calls()));
        let table = Table::new(&report, Sort::TotTime);
        prop_assert!(table.functions[..table.rows].is_sorted_by(|a, b| a.own_samples >= b.own_samples));
    }

    #[test]
    fn percentiles_rise_and_stay_within_their_ends(times in prop::collection::vec(0_u64..1 << 40, 1..100)) {
        let timed = timed(times);
        let told: Vec<_> = PERCENTILES.iter().map(|(_, share)| timed.percentile(*share).unwrap()).collect();
        prop_assert!(told.is_sorted());
        prop_assert!(told.iter().all(|time| (timed.min_ns..=timed.max_ns).contains(time)));
    }
}
