//! How often one function is called for each call of another, and how far that can be wrong.
//!
//! Where calls were counted without a break, only those that were under way at either end are in doubt. In windows that are
//! shorter than a call of the other function, few see one end at all, and how many do is an accident: of five that did there
//! may as well have been two, or eleven. Fay and Feuer (Statistics in Medicine 16, 1997) have an interval for such sums, by
//! the quantiles of a gamma distribution with as many events as the scatter of the windows is worth. It is lopsided, as
//! the truth is, and where next to nothing was seen it has no upper end.

use crate::report::calls::Ratio;

/// With fewer ends of the other function's calls there is no telling how many calls there are at most.
const FEWEST_FOR_MOST: u64 = 3;
/// By how much a ratio of windows can be off because a program does not call as often everywhere: of what is near a stretch
/// of many calls windows see less. On a busy machine they also end rather when the program waits than when they should. 10 to
/// 30 % on Django's `/orders` at a load of 3 to 6 (windows of a twelfth of a request), so this is one standard deviation.
const UNEVEN: f64 = 0.15;
/// 95 % are within so many standard deviations.
const NORMAL: f64 = 1.96;
/// Student's t for that: of two windows (or calls), of three, and so on. From few little is known of how they scatter.
const STUDENT: [f64; 20] = [
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09,
    2.09,
];

/// Of calls that were counted without a break, while `threads` could be within one at either end.
pub(super) fn without_break(callees: f64, callers: f64, threads: u64) -> Option<Ratio> {
    if callees <= 0.0 || callers <= 0.0 {
        return None;
    }
    let ends = (threads.max(1) as f64).sqrt();
    Some(Ratio {
        each: callees / callers,
        least: callees / (callers + ends),
        most: (callers > ends).then(|| callees / (callers - ends)),
    })
}

/// Of both in each window. `ended`: calls of the other function of which an end was seen, whatever windows weigh.
pub(super) fn of_windows(callees: &[f64], callers: &[f64], ended: u64) -> Option<Ratio> {
    let (all, each_of): (f64, f64) = (callees.iter().sum(), callers.iter().sum());
    let windows = callees.len().min(callers.len()) as f64;
    if windows < 2.0 || all <= 0.0 || each_of <= 0.0 {
        return None;
    }
    let each = all / each_of;
    // Of the logarithm: what each window has more of one than of the other.
    let scatter: f64 = callees
        .iter()
        .zip(callers)
        .map(|(callees, callers)| (callees / all - callers / each_of).powi(2))
        .sum();
    // Each has moved the mean that it is held against, so what it is off by is more (as HC3 has it, for equal windows).
    let variance = (scatter * (windows / (windows - 1.0)).powi(3)).max(f64::EPSILON);
    // What is longer than a request has all of it.
    let uneven = UNEVEN.powi(2) / (1.0 + ended as f64 / windows);
    let events = 1.0 / (variance + uneven);
    let deviations = student(windows as usize);
    let more = chi_square(2.0 * events + 2.0, deviations) / (2.0 * events);
    let fewer = chi_square(2.0 * events, -deviations) / (2.0 * events);
    Some(Ratio {
        each,
        least: each / more,
        most: (ended >= FEWEST_FOR_MOST && fewer > 0.0).then(|| each / fewer),
    })
}

/// If only a part of the calls counted, between `least` and all of them, are for the other function.
pub(super) fn of_part(ratio: Ratio, part: f64, least: f64) -> Ratio {
    Ratio {
        each: ratio.each * part,
        least: ratio.least * least,
        ..ratio
    }
}

/// Of so many windows.
pub(super) fn student(many: usize) -> f64 {
    let known = STUDENT.get(many.saturating_sub(2)).copied();
    known.unwrap_or(NORMAL + 2.5 / many as f64)
}

/// A quantile of χ², by how many standard deviations from the middle a normal one is (Wilson and Hilferty, 1931: within 2 %
/// from four degrees of freedom on).
fn chi_square(freedom: f64, deviations: f64) -> f64 {
    let ninth = 2.0 / (9.0 * freedom);
    freedom * (1.0 - ninth + deviations * ninth.sqrt()).max(0.0).powi(3)
}

#[cfg(test)]
mod tests;
