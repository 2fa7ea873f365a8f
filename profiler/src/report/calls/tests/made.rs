//! Reports made by hand, and by chance.

use proptest::prelude::*;

use super::*;
use crate::governor::SlowDown;

pub(super) const MS: u64 = 1_000_000;

pub(super) fn function(file: &str, first_line: u32, name: &str, calls: u64, samples: (u64, u64)) -> Function {
    Function {
        file: file.to_owned(),
        first_line,
        name: name.to_owned(),
        calls: Some(exactly(calls)),
        divided: calls as f64,
        own_samples: samples.0,
        cumulative_samples: samples.1,
        timed: None,
        callers: Vec::new(),
    }
}

pub(super) fn exactly(calls: u64) -> Count {
    Count {
        all: calls,
        primitive: Some(calls),
        exact: true,
        at_least: false,
        error: 0,
    }
}

pub(super) fn timed(times: impl IntoIterator<Item = u64>) -> Timed {
    let mut timed = Timed {
        count: 0,
        total_ns: 0,
        min_ns: u64::MAX,
        max_ns: 0,
        histogram: Histogram::default(),
        missed_entries: 0,
        nested: 0,
        nested_ns: 0,
        taken_off_ns: 0,
        most_taken_off_ns: 0,
        delayed_ns: 0,
        less_ns: 0,
        more_ns: 0,
        spread_ns: None,
        at_most: Histogram::default(),
        left_out: 0,
    };
    for time in times {
        timed.count += 1;
        timed.total_ns = timed.total_ns.saturating_add(time);
        timed.min_ns = timed.min_ns.min(time);
        timed.max_ns = timed.max_ns.max(time);
        timed.histogram.add(time);
        timed.at_most.add(time);
    }
    timed
}

/// A shop that asks its database once for each order of a list.
pub(in super::super) fn shop() -> CallsReport {
    let site = "/srv/shop/venv/lib/python3.13/site-packages";
    let mut functions = vec![
        function("/srv/shop/app/__main__.py", 3, "<module>", 0, (0, 488)),
        function("/srv/shop/app/views.py", 41, "orders", 120, (2, 480)),
        function("/srv/shop/app/models.py", 12, "Order.customer", 30_120, (11, 433)),
        function(
            &format!("{site}/sqlalchemy/orm/session.py"),
            2212,
            "Session.execute",
            30_240,
            (61, 422),
        ),
        function(
            &format!("{site}/sqlalchemy/orm/loading.py"),
            87,
            "_instances.<locals>.chunks_of_rows_that_were_fetched",
            30_240,
            (340, 340),
        ),
        function("/srv/shop/app/tree.py", 7, "depth", 4_095, (9, 9)),
        function("/srv/shop/app/größe.py", 1, "größe", 120, (0, 0)),
        function("<frozen importlib._bootstrap>", 1165, "_find_and_load", 1, (0, 0)),
    ];
    functions[5].calls = Some(Count {
        primitive: Some(63),
        ..exactly(4_095)
    });
    for (callee, caller, calls, own, cumulative) in [
        (1, 0, 120, 2, 480),
        (2, 1, 30_120, 11, 433),
        (3, 2, 30_120, 60, 420),
        (3, 1, 120, 1, 2),
        (4, 3, 30_240, 340, 340),
        (5, 1, 63, 1, 9),
        (5, 5, 4_032, 8, 8),
    ] {
        functions[callee].callers.push(Caller {
            function: caller,
            calls,
            own_samples: own,
            cumulative_samples: cumulative,
        });
    }
    CallsReport {
        functions,
        chosen: false,
        length: Duration::from_secs(5),
        observed: Duration::from_secs(5),
        sampled: Duration::from_secs(5),
        scaled: None,
        one_window: false,
        cost: cost(1.31),
        beginning: Beginning::default(),
        lost: 0,
        unnamed: 0,
        under_way: 0,
        threads: 1,
        repeated: Vec::new(),
        perhaps_repeated: Vec::new(),
        per: None,
        compiled_samples: 0,
        samples: 488,
        period_ns: 10 * MS,
        stop: None,
    }
}

/// The same with its counts from windows.
pub(in super::super) fn windows() -> CallsReport {
    let mut report = CallsReport {
        observed: Duration::from_millis(250),
        scaled: Some(Scaled {
            error: 9_114,
            slowed: 0.01,
            first: Duration::ZERO,
        }),
        cost: cost(1.02),
        ..shop()
    };
    for function in &mut report.functions {
        if let Some(count) = &mut function.calls {
            count.all = count.all.next_multiple_of(20);
            count.primitive = None;
            count.exact = false;
            count.error = count.all / 11;
        }
    }
    report
}

/// The same as one window saw it.
pub(in super::super) fn one_window() -> CallsReport {
    let mut report = CallsReport {
        one_window: true,
        scaled: None,
        ..windows()
    };
    for function in &mut report.functions {
        if let Some(count) = &mut function.calls {
            (count.at_least, count.error) = (true, 0);
        }
    }
    report
}

/// One function chosen and timed, and one whose times cannot be seen.
pub(super) fn chosen() -> CallsReport {
    let mut report = shop();
    for index in [0, 1, 2, 4, 6, 7] {
        report.functions[index].calls = None;
    }
    let mut times =
        timed((0..30_236).map(|call| 90_000 + call * call % 97_003 + if call % 2_000 == 7 { 9 * MS } else { 0 }));
    times.missed_entries = 4;
    report.functions[3].timed = Some(times);
    CallsReport {
        chosen: true,
        cost: cost(1.004),
        ..report
    }
}

/// That many times as long, all the time.
fn cost(factor: f64) -> Option<Cost> {
    let slow_down = SlowDown {
        factor,
        least: factor * 0.97,
        most: factor * 1.03,
    };
    Some(Cost {
        over_all: slow_down,
        within: slow_down,
        spent: Duration::from_millis(40),
        idle: false,
    })
}

fn any_cost() -> impl Strategy<Value = Cost> {
    let any_slow_down = || any::<[f64; 3]>().prop_map(|[factor, least, most]| SlowDown { factor, least, most });
    (any_slow_down(), any_slow_down(), any_duration(), any::<bool>()).prop_map(|(over_all, within, spent, idle)| Cost {
        over_all,
        within,
        spent,
        idle,
    })
}

fn any_time() -> impl Strategy<Value = u64> {
    (0_u32..64, any::<u64>()).prop_map(|(shift, bits)| bits >> shift)
}

fn any_count(bits: u32) -> impl Strategy<Value = Count> {
    let any_number = move || any_time().prop_map(move |number| number >> (64 - bits));
    let any_primitive = prop::option::of(any_number());
    (any_number(), any_primitive, any::<[bool; 2]>(), any_number()).prop_map(
        |(all, primitive, [exact, at_least], error)| Count {
            all,
            primitive,
            exact,
            at_least,
            error,
        },
    )
}

prop_compose! {
    fn any_timed()(
        times in prop::collection::vec(any_time(), 0..20),
        more in any::<[u64; 3]>(),
        ours in any::<[u64; 3]>(),
        wrong in prop::option::weighted(0.2, any::<[u64; 4]>()),
    ) -> Timed {
        let mut timed = timed(times);
        [timed.missed_entries, timed.nested, timed.nested_ns] = more;
        [timed.taken_off_ns, timed.less_ns, timed.left_out] = ours;
        timed.more_ns = timed.less_ns;
        if let Some(wrong) = wrong {
            [timed.count, timed.total_ns, timed.min_ns, timed.max_ns] = wrong;
        }
        timed
    }
}

prop_compose! {
    fn any_function(bits: u32)(
        file in "[ab]?|\\PC{0,60}|[\n\0;,\"\u{1b}\u{202e}=-]{0,3}",
        first_line in prop_oneof![0_u32..3, any::<u32>()],
        name in "[fg]?|\\PC{0,60}|[\n\0;,\"\u{1b}\u{202e}=-]{0,3}",
        calls in prop::option::of(any_count(bits)),
        own_samples in any_time(),
        cumulative_samples in any_time(),
        timed in prop::option::of(any_timed()),
        callers in prop::collection::vec((0_usize..20, any_time(), any_time(), any_time()), 0..12),
    ) -> Function {
        Function {
            divided: calls.map_or(0.0, |calls| calls.all as f64),
            file, first_line, name, calls, own_samples, cumulative_samples, timed,
            callers: callers
                .into_iter()
                .map(|(function, calls, own_samples, cumulative_samples)| Caller {
                    function, calls, own_samples, cumulative_samples,
                })
                .collect(),
        }
    }
}

fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        any_time().prop_map(Duration::from_nanos)
    ]
}

prop_compose! {
    /// Whatever the types allow, with numbers of calls of so many bits.
    pub(super) fn any_report(bits: u32)(
        functions in prop::collection::vec(any_function(bits), 0..20),
        [chosen, one_window] in any::<[bool; 2]>(),
        [length, observed, sampled] in [any_duration(), any_duration(), any_duration()],
        scaled in prop::option::of((any::<u64>(), 0.0..10.0_f64).prop_map(|(error, slowed)| Scaled {
            error,
            slowed,
            first: Duration::ZERO,
        })),
        cost in prop::option::of(any_cost()),
        (late, most, missed) in (any::<u64>(), any_duration(), any::<u64>()),
        (lost, unnamed, under_way, threads) in (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()),
        samples in any_time(),
        period_ns in any_time(),
        stop in prop::option::of(any_duration()),
    ) -> CallsReport {
        let beginning = Beginning { late, most, missed };
        CallsReport {
            functions, chosen, length, observed, sampled, scaled, one_window, cost, beginning, lost, unnamed, under_way, threads,
            repeated: Vec::new(), perhaps_repeated: Vec::new(), per: None, samples, compiled_samples: 0,
            period_ns, stop,
        }
    }
}
