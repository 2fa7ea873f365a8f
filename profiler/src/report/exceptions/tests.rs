use std::time::Duration;

use super::*;
use crate::profile::{Frame, FrameKind, Labels, SampleKey};

/// `KeyError` in `lookup` called by `page`, and `Stop` without a stack.
pub(in crate::report) fn made(windows: Option<u64>) -> ExceptionsReport {
    let mut profile = Profile::new(vec![EXCEPTIONS], Some((EXCEPTIONS, 1)));
    let frame = |profile: &mut Profile, kind, function: &str, file: &str, line| {
        let (function, file) = (profile.intern_string(function), profile.intern_string(file));
        profile.intern_frame(Frame {
            kind,
            function,
            file,
            line,
            first_line: 0,
            mapping: None,
            address: 0,
            inlined: false,
        })
    };
    let key_error = frame(&mut profile, FrameKind::Marker, "KeyError", "", 0);
    let lookup = frame(&mut profile, FrameKind::Python, "lookup", "/srv/app/cache.py", 12);
    let page = frame(&mut profile, FrameKind::Python, "page", "/srv/app/views.py", 40);
    let stop = frame(&mut profile, FrameKind::Marker, "Stop", "", 0);
    let lost = frame(&mut profile, FrameKind::Marker, "[stack not known]", "", 0);
    let labels = Labels {
        pid: 7,
        tid: 7,
        comm: Profile::EMPTY,
        command: Profile::EMPTY,
        thread: Profile::EMPTY,
        cgroup: Profile::EMPTY,
        container: Profile::EMPTY,
        task: Profile::EMPTY,
    };
    let mut details = Vec::new();
    for (stack, count, error, caught) in [
        (
            &[key_error, lookup, page][..],
            1000,
            60.0,
            vec![(Caught::Frame(page), 90), (Caught::Frame(lookup), 10)],
        ),
        (&[stop, lost], 3, 2.0, vec![]),
    ] {
        let stack = profile.intern_stack(stack);
        profile.add(
            SampleKey {
                stack,
                labels: labels.clone(),
            },
            &[count],
        );
        details.push(Detail {
            kind: if count == 3 { "Stop" } else { "KeyError" }.to_owned(),
            counted: count as u64 / 10 + 1,
            count: count as f64,
            error: if windows.is_some() { error } else { 0.0 },
            caught: caught.into_iter().collect(),
        });
    }
    ExceptionsReport {
        profile,
        details,
        length: Duration::from_secs(10),
        observed: Duration::from_secs(if windows.is_some() { 1 } else { 10 }),
        windows,
        estimated: windows.is_some(),
        counted: 102,
        in_c: 0,
        lost: 0,
        slow_down: SlowDown::NONE,
        handling: Looks {
            running: 400,
            handling: 100,
        },
    }
}

#[test]
fn a_row_says_what_is_raised_where_and_who_catches_it() {
    let text = table::text(&made(None), 20, 80);
    assert_eq!(
        text,
        "\
1,003 exceptions in 10.0 s: 100 a second.
Every one was counted. The program took 1.00 times as long for it.
While it ran Python it was handling an exception 25.0 % of the time (± 4.3 %).

a second  count   share  exception  raised in
     100  1,000  99.7 %   KeyError  lookup (srv/app/cache.py:12)
                                     caught in page (srv/app/views.py:40) 90.0 %
                                     caught there 10.0 %
     0.3      3  0.30 %       Stop  [stack not known]
"
    );
}

#[test]
fn what_is_estimated_says_so_and_how_far_off_it_can_be() {
    let text = table::text(&made(Some(50)), 1, 80);
    assert!(text.starts_with("1,003 exceptions ± 62 in 10.0 s"), "{text}");
    assert!(text.contains("Estimated from 102 seen in 50 windows"), "{text}");
    assert!(text.contains("± 60"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn too_little_to_estimate_from_is_at_least_what_was_seen() {
    let mut report = made(Some(1));
    report.estimated = false;
    assert!(table::text(&report, 20, 80).starts_with("At least 1,003 exceptions in"));
    let mut json = Vec::new();
    export::write_json(&report, &mut json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["at_least"], &json["exact"]), (&true.into(), &false.into()));
}

#[test]
fn names_are_cleaned_in_every_format() {
    let mut report = made(None);
    report.details[0].kind = "Key\x1b[31mError\n".to_owned();
    let mut out = Vec::new();
    export::write_csv(&report, &mut out).unwrap();
    export::write_json(&report, &mut out).unwrap();
    out.extend(table::text(&report, 20, 80).into_bytes());
    assert!(!out.contains(&0x1b));
    let mut csv = Vec::new();
    export::write_csv(&report, &mut csv).unwrap();
    let csv = String::from_utf8(csv).unwrap();
    let widths: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(widths, [17; 3], "{csv}");
}
