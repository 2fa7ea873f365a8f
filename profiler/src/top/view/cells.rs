//! Numbers in few columns.

use crate::waits::cause::Cause;

use crate::top::snapshot::ThreadTime;

/// `0`, `0.3`, `7.5`, `98.2`, `412`.
pub fn percent(percent: f64) -> String {
    match percent {
        _ if !percent.is_finite() => "?".to_owned(),
        _ if percent < 0.05 => "0".to_owned(),
        _ if percent < 99.95 => format!("{percent:.1}"),
        _ => format!("{percent:.0}"),
    }
}

/// Without a fraction, and a mark if it may be off by more than `most`.
pub fn rough((percent, error): (f64, f64), most: f64) -> String {
    let mark = if error > most { "~" } else { "" };
    format!("{mark}{percent:.0}")
}

/// `512B`, `41.2M`, `1.3G`, in powers of 1024.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match value {
        _ if value < 99.95 => format!("{value:.1}{}", UNITS[unit]),
        _ => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// `+1.2M`, `-300K`, `0`.
pub fn change(bytes: f64) -> String {
    let sign = if bytes < 0.0 { "-" } else { "+" };
    match bytes.abs() {
        none if none < 1024.0 => "0".to_owned(),
        bytes => format!("{sign}{}", size(bytes as u64)),
    }
}

/// `950`, `12k`, `3M`.
pub fn count(number: f64) -> String {
    match number {
        _ if number < 999.5 => format!("{number:.0}"),
        _ if number < 9_950.0 => format!("{:.1}k", number / 1e3),
        _ if number < 999_500.0 => format!("{:.0}k", number / 1e3),
        _ => format!("{:.0}M", number / 1e6),
    }
}

/// What threads do, in one letter.
pub fn letter(cause: Cause) -> char {
    match cause {
        Cause::Gil => 'g',
        Cause::Lock => 'l',
        Cause::Sleep => 'z',
        Cause::Socket => 's',
        Cause::Pipe => 'i',
        Cause::File => 'f',
        Cause::Disk => 'd',
        Cause::Poll => 'p',
        Cause::Child => 'c',
        Cause::Fault => 'm',
        Cause::Ready => 'r',
        Cause::Stopped => 't',
        Cause::Throttled => 'q',
        Cause::Other => 'o',
    }
}

/// How the time of threads adds up, as a bar: `█` is on a CPU, letters are waits. What has no cell is less than half of one,
/// and every cause has its share to within one cell.
pub fn bar(time: &ThreadTime, cells: usize) -> String {
    let parts = std::iter::once(('█', time.on_cpu)).chain(Cause::ALL.into_iter().map(letter).zip(time.waiting));
    let parts: Vec<(char, u64)> = parts.filter(|(_, ns)| *ns > 0).collect();
    let all: u64 = parts.iter().map(|(_, ns)| ns).sum();
    if all == 0 {
        return String::new();
    }
    let exact = |ns: u64| ns as f64 / all as f64 * cells as f64;
    let mut given: Vec<usize> = parts.iter().map(|(_, ns)| exact(*ns) as usize).collect();
    // What is left goes to the largest remainders.
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by(|&a, &b| {
        let left = |at: usize| exact(parts[at].1) - given[at] as f64;
        left(b).total_cmp(&left(a))
    });
    let left = cells.saturating_sub(given.iter().sum());
    for &at in order.iter().take(left) {
        given[at] += 1;
    }
    let cells = parts
        .iter()
        .zip(&given)
        .flat_map(|((letter, _), &cells)| std::iter::repeat_n(*letter, cells));
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_columns() {
        let percents = [0.0, 0.31, 98.24, 99.96, 412.4].map(percent);
        assert_eq!(percents, ["0", "0.3", "98.2", "100", "412"]);
        let sizes = [5, 2048, 43_201_331, 1_023 << 20, 5 << 40].map(size);
        assert_eq!(sizes, ["5B", "2.0K", "41.2M", "1.0G", "5.0T"]);
        assert!((0..63).all(|shift| size((1 << shift) - 1).len() <= 6));
        assert_eq!([1_300_000.0, -2048.0, 12.0].map(change), ["+1.2M", "-2.0K", "0"]);
        assert_eq!([12.0, 1234.0, 45_678.0, 2e6].map(count), ["12", "1.2k", "46k", "2M"]);
        assert_eq!(rough((12.4, 3.0), 5.0), "12");
        assert_eq!(rough((12.4, 30.0), 5.0), "~12");
    }

    #[test]
    fn a_bar_has_all_its_cells_and_each_cause_its_share() {
        let mut time = ThreadTime {
            on_cpu: 250,
            ..ThreadTime::default()
        };
        time.waiting[0] = 250;
        time.waiting[3] = 500;
        assert_eq!(bar(&time, 8), "██ggssss");
        time.waiting[3] = 490;
        time.waiting[7] = 10;
        assert_eq!(bar(&time, 8).chars().count(), 8);
        assert_eq!(bar(&ThreadTime::default(), 8), "");
    }
}
