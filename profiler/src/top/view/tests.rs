use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    top::{
        snapshot::{Frame, Line, Process, Sample, Samples, Split, Thread, ThreadTime},
        state::{Key, Screen},
    },
    waits::cause::Cause,
};

const PLAIN: Look = Look {
    colours: false,
    unicode: false,
};

fn process(pid: u32, name: &str, cpu_percent: f64) -> Process {
    let mut time = ThreadTime {
        elapsed: 2_000_000_000,
        on_cpu: (cpu_percent * 1e7) as u64,
        ..ThreadTime::default()
    };
    time.waiting[3] = 2_000_000_000 - time.on_cpu;
    Process {
        pid,
        name: name.to_owned(),
        user: "shop".to_owned(),
        cpu_percent,
        split: Split {
            python: 300,
            native: 100,
            kernel: 90,
            unknown: 0,
            collector: Some(49),
        },
        gil_held: Some((40.0, 3.0)),
        gil_waited: Some(12.5),
        time,
        resident: 43_201_331,
        growth: Some((1_300_000.0, Duration::from_secs(60))),
        threads: 2,
        descriptors: Some(17),
        switches: Some(1_234.0),
        line: Some(Line {
            text: "orders (shop/views.py:29)".to_owned(),
            cause: None,
            share: 0.75,
        }),
        rows: vec![Thread {
            tid: pid,
            name: "MainThread".to_owned(),
            time,
            line: None,
        }],
        ..Process::default()
    }
}

fn sample(pid: u32, stack: &[&str], cpu_ms: u64, wait_ms: u64) -> Sample {
    let frame = |text: &&str| Frame {
        text: Arc::from(*text),
        native: !text.contains(".py"),
    };
    let line = stack.iter().rev().find(|text| text.contains(".py")).unwrap_or(&"?");
    Sample {
        pid,
        tid: pid,
        stack: stack.iter().map(frame).collect(),
        line: Arc::from(*line),
        cpu_ns: cpu_ms * 1_000_000,
        wait_ns: wait_ms * 1_000_000,
        cause: (wait_ms > 0).then_some(Cause::Socket),
    }
}

fn snapshot() -> Snapshot {
    let samples = vec![
        sample(
            41,
            &["main (app.py:9)", "orders (shop/views.py:29)", "memcpy (libc.so.6)"],
            600,
            0,
        ),
        sample(41, &["main (app.py:9)", "page (shop/views.py:36)"], 200, 0),
        sample(41, &["main (app.py:9)", "fetch (shop/db.py:7)", "[socket]"], 0, 1_000),
    ];
    Snapshot {
        length: Duration::from_secs(1),
        host: Host {
            cpus: 2,
            cpu_percent: Some(120.0),
            memory_used: 3 << 30,
            memory_total: 8 << 30,
            pressure: Some([12.3, 0.0, 0.4]),
        },
        cost: Cost {
            user_percent: 0.8,
            kernel_percent: 0.1,
            resident: 41 << 20,
        },
        instruments: vec!["on: CPU clock 49 Hz".to_owned(), "waits".to_owned(), "GIL".to_owned()],
        processes: vec![
            process(42, "gunicorn shop.wsgi", 20.0),
            process(41, "gunicorn shop.wsgi", 80.0),
            process(7, "celery worker", 0.3),
        ],
        windows: vec![Arc::new(Samples {
            length: Duration::from_secs(2),
            samples,
            splits: Vec::new(),
        })],
        ..Snapshot::default()
    }
}

fn drawn(look: Look, size: (u16, u16), snapshot: &Snapshot, state: &State) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, size.0, size.1));
    draw(&mut buffer, look, Some(snapshot), state);
    lines(&buffer)
}

fn at_80(snapshot: &Snapshot, state: &State) -> Vec<String> {
    drawn(PLAIN, (80, 24), snapshot, state)
        .lines()
        .map(str::to_owned)
        .collect()
}

fn pressed(keys: &[Key], snapshot: &Snapshot) -> State {
    let mut state = State::new(false);
    for key in keys {
        state.press(*key, Some(snapshot), page(24));
    }
    state
}

/// The first columns of the rows of processes.
fn pids(screen: &[String]) -> Vec<&str> {
    let rows = screen[usize::from(HEAD)..].iter().take_while(|row| !row.is_empty());
    rows.filter_map(|row| row.split_whitespace().next()).collect()
}

#[test]
fn the_first_screen_says_who_computes_and_where_in_80_columns() {
    let screen = at_80(&snapshot(), &State::new(false));
    assert_eq!(
        screen[0],
        "profiler top  2 CPUs 60.0 % busy  mem 3.0G/8.0G  pressure cpu 12.3 mem 0 io 0.4"
    );
    assert_eq!(
        screen[1],
        "3 Pythons: 100 % of a CPU, all else 19.7  top itself: 0.8 + 0.1 %, 41.0M"
    );
    assert_eq!(screen[2], "on: CPU clock 49 Hz, waits, GIL; lines, shares: last 2 s");
    assert_eq!(
        screen[3],
        "    PID CPU%v  GIL% TIME         RSS   +/min SERVICE            LINE NOW"
    );
    assert_eq!(
        screen[4],
        "     41  80.0    40 ###sssss   41.2M   +1.2M gunicorn shop.wsgi orders:29"
    );
    assert_eq!(pids(&screen), ["41", "42", "7"]);
    assert_eq!(
        screen[22],
        "75 % of its CPU time: orders (shop/views.py:29)  (41 gunicorn shop.wsgi)"
    );
    assert!(screen.iter().all(|line| line.chars().count() <= 80 && line.is_ascii()));
}

#[test]
fn every_screen_fits_any_size_and_nothing_panics() {
    let snapshot = snapshot();
    for size in [(80, 24), (20, 4), (1, 1), (200, 60), (40, 7), (131, 24)] {
        for keys in [
            &[][..],
            &[Key::Tab],
            &[Key::Enter],
            &[Key::Char('f')],
            &[Key::Char('l')],
            &[Key::Char('?')],
        ] {
            let state = pressed(keys, &snapshot);
            for look in [
                PLAIN,
                Look {
                    colours: true,
                    unicode: true,
                },
            ] {
                drawn(look, size, &snapshot, &state);
            }
        }
    }
    drawn(PLAIN, (80, 24), &Snapshot::default(), &State::new(true));
}

#[test]
fn rows_are_sorted_filtered_and_put_together_by_service() {
    let snapshot = snapshot();
    let at = |keys: &[Key]| {
        let state = pressed(keys, &snapshot);
        let screen = at_80(&snapshot, &state);
        pids(&screen).join(" ")
    };
    assert_eq!(at(&[Key::Char('N')]), "7 41 42");
    assert_eq!(at(&[Key::Char('R')]), "7 42 41");
    let word: Vec<Key> = "/CELERY".chars().map(Key::Char).chain([Key::Enter]).collect();
    assert_eq!(at(&word), "7");
    let back: Vec<Key> = word.iter().copied().chain([Key::Escape]).collect();
    assert_eq!(at(&back), "41 42 7");

    let state = pressed(&[Key::Char('g')], &snapshot);
    let screen = at_80(&snapshot, &state);
    assert!(screen[4].starts_with("    2 x   100    80 "), "{}", screen[4]);
    assert!(screen[4].contains("82.4M"), "{}", screen[4]);
    assert_eq!(screen[5].split_whitespace().next(), Some("7"));
}

#[test]
fn what_is_selected_stays_so_whatever_its_place_and_enter_shows_its_threads() {
    let mut snapshot = snapshot();
    let mut state = pressed(&[Key::Down], &snapshot);
    snapshot.processes[0].cpu_percent = 99.0;
    state.press(Key::Enter, Some(&snapshot), 18);
    assert_eq!(state.screen, Screen::Threads(vec![42]));
    let screen = at_80(&snapshot, &state);
    assert!(
        screen[4].contains("42") && screen[4].contains("MainThread"),
        "{}",
        screen[4]
    );
    state.press(Key::Escape, Some(&snapshot), 18);
    assert_eq!(state.screen, Screen::Processes);
    // Workers of one service are opened together.
    state.press(Key::Char('g'), Some(&snapshot), 18);
    state.press(Key::Char('f'), Some(&snapshot), 18);
    assert_eq!(state.screen, Screen::Functions(vec![42, 41]));
}

#[test]
fn lines_have_their_own_time_that_of_what_they_call_and_their_waits() {
    let snapshot = snapshot();
    let of = |keys: &[Key]| -> Vec<String> {
        let state = pressed(keys, &snapshot);
        let screen = at_80(&snapshot, &state);
        let rows = screen[4..].iter().take_while(|row| !row.is_empty());
        rows.map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let lines = [
        "30.0 30.0 0 0.60 0.60 0.00 orders (shop/views.py:29)",
        "10.0 10.0 0 0.20 0.20 0.00 page (shop/views.py:36)",
        "0 40.0 0 0.00 0.80 0.00 main (app.py:9)",
        "0 0 50.0 0.00 0.00 1.00 fetch (shop/db.py:7)",
    ];
    assert_eq!(of(&[Key::Char('f')]), lines);
    assert_eq!(of(&[Key::Char('f'), Key::Char('o')])[0], lines[2]);
    assert_eq!(of(&[Key::Char('f'), Key::Char('3')])[0], lines[3]);
    let functions = of(&[Key::Char('f'), Key::Char('L')]);
    assert!(functions[0].ends_with("orders (shop/views.py)"), "{functions:?}");
    // With native frames the time is in those; what was summed up before does not fit it.
    let native = of(&[Key::Char('f'), Key::Char('n')]);
    assert_eq!(native[0], "30.0 30.0 0 0.00 0.00 0.00 memcpy (libc.so.6)");
    let reset = of(&[Key::Char('f'), Key::Char('r')]);
    assert_eq!(reset[0], "30.0 30.0 0 0.00 0.00 0.00 orders (shop/views.py:29)");
}

#[test]
fn widths_of_the_flame_graph_are_time() {
    let snapshot = snapshot();
    let screen = at_80(&snapshot, &pressed(&[Key::Char('l')], &snapshot));
    assert_eq!(screen[3], "CPU time of the last 2 s: 0.80 s");
    assert_eq!(screen[4], "|main (app.py:9)");
    // Three quarters of 80 columns.
    assert_eq!(screen[5].find("|page"), Some(60), "{}", screen[5]);
    assert!(screen[5].starts_with("|orders (shop/views.py:29) "));
    let wall = at_80(&snapshot, &pressed(&[Key::Char('l'), Key::Char('w')], &snapshot));
    assert!(wall[5].starts_with("|fetch"), "{}", wall[5]);
}

#[test]
fn frames_that_all_stacks_have_in_common_take_one_row() {
    let mut snapshot = snapshot();
    let stem = [
        "<module> (run.py:1)",
        "main (m.py:1)",
        "run (r.py:2)",
        "loop (l.py:3)",
        "turn (l.py:4)",
    ];
    let with = |leaf: &'static str| [&stem[..], &[leaf]].concat();
    let samples = vec![
        sample(41, &with("orders (shop/views.py:29)"), 600, 0),
        sample(41, &with("page (shop/views.py:36)"), 200, 0),
    ];
    let window = |samples| {
        vec![Arc::new(Samples {
            length: Duration::from_secs(2),
            samples,
            splits: Vec::new(),
        })]
    };
    snapshot.windows = window(samples);
    let keys = [Key::Char('l')];
    let screen = at_80(&snapshot, &pressed(&keys, &snapshot));
    assert_eq!(screen[4], "|[4 frames that all of it has in common]");
    assert_eq!(screen[5], "|turn (l.py:4)");
    assert!(screen[6].starts_with("|orders (shop/views.py:29) "), "{}", screen[6]);
    let scrolled = at_80(&snapshot, &pressed(&[Key::Char('l'), Key::Down], &snapshot));
    assert_eq!(scrolled[4], "|turn (l.py:4)");
    // One stack, and nothing else.
    snapshot.windows = window(vec![sample(41, &with("orders (shop/views.py:29)"), 600, 0)]);
    let screen = at_80(&snapshot, &pressed(&keys, &snapshot));
    assert_eq!(screen[4], "|[5 frames that all of it has in common]");
    assert_eq!(screen[5], "|orders (shop/views.py:29)");
}

#[test]
fn what_is_paused_lost_or_refused_is_said() {
    let mut snapshot = snapshot();
    snapshot.processes[0].refused = Some("/usr/bin/python3.7: too old".to_owned());
    snapshot.notes = vec!["3 stacks lost, the ring buffer was full".to_owned()];
    let screen = at_80(&snapshot, &State::new(false));
    assert!(screen[2].starts_with("! 3 stacks lost"), "{}", screen[2]);
    assert!(screen[5].contains("not seen: "), "{}", screen[5]);
    let paused = at_80(&snapshot, &pressed(&[Key::Char('p')], &snapshot));
    assert!(paused[2].starts_with("PAUSED"), "{}", paused[2]);
}

#[test]
fn names_that_would_act_on_a_terminal_do_not() {
    let mut snapshot = snapshot();
    for process in &mut snapshot.processes {
        process.name = "a\u{1b}[2Jb\u{202e}c\nd".to_owned();
        process.user = "\u{7}".to_owned();
        process.line = None;
    }
    for look in [
        PLAIN,
        Look {
            colours: true,
            unicode: true,
        },
    ] {
        let text = drawn(look, (170, 24), &snapshot, &State::new(false));
        assert!(!text.chars().any(|c| c != '\n' && crate::shown::acts(c)), "{text:?}");
        assert!(text.contains("[2Jb"), "{text}");
    }
}

#[test]
fn without_colours_there_are_none_and_what_is_selected_is_seen_all_the_same() {
    let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 24));
    draw(&mut buffer, PLAIN, Some(&snapshot()), &State::new(false));
    let reversed = ratatui::style::Modifier::REVERSED;
    assert!(buffer[(0, 4)].modifier.contains(reversed));
    let colours = |cell: &ratatui::buffer::Cell| {
        [cell.fg, cell.bg]
            .iter()
            .any(|colour| *colour != ratatui::style::Color::Reset)
    };
    assert!(!buffer.content.iter().any(colours));
}

#[test]
fn shares_by_few_samples_are_marked() {
    let mut snapshot = snapshot();
    snapshot.processes[1].split = Split {
        python: 3,
        native: 1,
        ..Split::default()
    };
    let state = pressed(&[Key::Tab], &snapshot);
    let screen = at_80(&snapshot, &state);
    let cells: Vec<&str> = screen[4].split_whitespace().collect();
    assert_eq!(&cells[..6], ["41", "80.0", "~60", "~20", "~0", "-"]);
    let cells: Vec<&str> = screen[5].split_whitespace().collect();
    assert_eq!(&cells[..6], ["42", "20.0", "12", "4", "4", "2"]);
}

#[test]
fn the_help_fits_a_small_terminal() {
    let snapshot = snapshot();
    let screen = at_80(&snapshot, &pressed(&[Key::Char('?')], &snapshot));
    assert!(screen[0].starts_with("profiler top: keys"));
    assert!(
        screen
            .iter()
            .any(|line| line.trim_start().starts_with("-        not known")),
        "{screen:#?}"
    );
    assert!(
        !screen.iter().any(|line| line.contains('~') && line.ends_with('~')),
        "a line is cut: {screen:#?}"
    );
}
