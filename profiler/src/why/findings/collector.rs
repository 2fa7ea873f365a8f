//! The cyclic garbage collector: how much of the time it takes, how long its pauses are, and what to do.

use super::{
    case::{Case, named, percent, time},
    cpu::used,
};
use crate::{
    humanize::count,
    python::collector::GENERATIONS,
    summary::many,
    why::{
        Finding, Kind,
        evidence::{Purpose, Python},
    },
};

/// The collector begins one of everything after so many of younger objects at least: with thresholds as they are, after a
/// hundred. More than that, the program asks for itself.
const YOUNG_FOR_ALL: u64 = 20;
/// 3.14 collects in increments, and counts them otherwise.
const INCREMENTS: [u32; 2] = [3, 14];

pub fn find(case: &Case<'_>) -> Option<Finding> {
    let (ns, samples, place) = used(case, &[Purpose::Gc])?;
    let share = case.share(ns);
    let finding = case.finding(Kind::Gc, share)?;
    let version = match &case.process.python {
        Python::Known { version, .. } => version.clone(),
        _ => String::new(),
    };
    let around = &case.process.around;
    let collections = Collections {
        counted: around.collections.unwrap_or_default(),
        thresholds: around.thresholds,
        counts_whole: !is_incremental(&version),
        ns,
        seconds: case.length_ns as f64 / 1e9,
    };
    let mut sentence = format!(
        "Python's garbage collector runs for {} of the time, most of it below {}",
        percent(share),
        named(&place)
    );
    sentence.push_str(&collections.told());
    Some(
        finding
            .at(&place)
            .says(sentence)
            .gains(format!(
                "at most {} less time: {}",
                percent(share),
                collections.advice()
            ))
            .give_or_take(case.sampling_error(samples))
            .by("cpu_s", ns as f64 / 1e9)
            .by("samples", samples as f64)
            .by("collections_of_all", collections.of_all() as f64)
            .by("collections_of_young", collections.of_young() as f64)
            .by(
                "mean_pause_s",
                collections.mean_ns().map_or(f64::NAN, |ns| ns as f64 / 1e9),
            )
            .by_text("thresholds", format!("{:?}", around.thresholds))
            .by_text("python", version)
            .next(case.next("gc", "-d 30")),
    )
}

/// What the collector counts itself, and the time that all of it took.
struct Collections {
    counted: [u64; GENERATIONS],
    thresholds: [i32; GENERATIONS],
    /// What it counts are whole generations.
    counts_whole: bool,
    ns: u64,
    seconds: f64,
}

impl Collections {
    fn of_all(&self) -> u64 {
        self.counted[GENERATIONS - 1]
    }

    fn of_young(&self) -> u64 {
        self.counted[..GENERATIONS - 1].iter().sum()
    }

    /// A pause, on average over all of them.
    fn mean_ns(&self) -> Option<u64> {
        self.ns.checked_div(self.of_all() + self.of_young())
    }

    /// There are more of everything than the collector would have begun.
    fn are_asked_for(&self) -> bool {
        self.counts_whole && self.of_all() > 1 && self.of_young() < self.of_all() * YOUNG_FOR_ALL
    }

    fn told(&self) -> String {
        let Some(mean_ns) = self.mean_ns() else {
            return String::new();
        };
        format!(
            ": {} of everything, {} of younger objects (thresholds {:?}), {} each on average",
            many(self.of_all(), "collection"),
            count(self.of_young()),
            self.thresholds,
            time(mean_ns)
        )
    }

    fn advice(&self) -> String {
        if self.are_asked_for() {
            return format!(
                "the program itself asks for {:.0} a second (gc.collect())",
                self.of_all() as f64 / self.seconds.max(1e-9)
            );
        }
        let [young, ..] = self.thresholds;
        match i64::from(young).checked_mul(10).filter(|&more| more > 0) {
            Some(more) => {
                format!("gc.freeze() once it has started, or gc.set_threshold({more}) for a tenth of the collections")
            }
            None => "gc.freeze() once it has started".to_owned(),
        }
    }
}

fn is_incremental(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)] >= INCREMENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collections(counted: [u64; GENERATIONS]) -> Collections {
        Collections {
            counted,
            thresholds: [700, 10, 10],
            counts_whole: true,
            ns: 4_000_000_000,
            seconds: 10.0,
        }
    }

    #[test]
    fn what_to_do_depends_on_who_begins_collections() {
        let by_itself = collections([30_000, 2_700, 200]);
        assert_eq!(
            by_itself.advice(),
            "gc.freeze() once it has started, or gc.set_threshold(7000) for a tenth of the collections"
        );
        assert_eq!(
            by_itself.told(),
            ": 200 collections of everything, 32,700 of younger objects (thresholds [700, 10, 10]), 121.6 µs each on average"
        );
        let asked_for = collections([12, 1, 400]);
        assert!(asked_for.advice().contains("asks for 40 a second (gc.collect())"));
        let unknown = collections([0; GENERATIONS]);
        assert_eq!((unknown.told(), unknown.mean_ns()), (String::new(), None));
        // Increments are counted as if they were of everything.
        let increments = Collections {
            counts_whole: false,
            ..collections([12, 1, 400])
        };
        assert!(increments.advice().contains("set_threshold(7000)"));
        let off = Collections {
            thresholds: [0, 10, 10],
            ..collections([0, 0, 1])
        };
        assert_eq!(off.advice(), "gc.freeze() once it has started");
    }

    #[test]
    fn increments_came_with_3_14() {
        for (version, expected) in [("3.13.1", false), ("3.14.0", true), ("3.15.0a2", true), ("", false)] {
            assert_eq!(is_incremental(version), expected, "{version}");
        }
    }
}
