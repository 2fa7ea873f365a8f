//! N+1 of a database that is part of the process: SQLite is asked by a function call, and nothing is sent.
//!
//! What shows are its reads. Where a journal is kept beside the file (`journal_mode` DELETE, TRUNCATE, PERSIST), each
//! transaction begins with a look at whether somebody else has changed the file: a read of 16 bytes
//! (`sqlite3PagerSharedLock`, `dbFileVers`, src/pager.c; 3.7 to 3.50). Other reads are of whole pages. So from how many reads
//! there were, and of how many bytes, follows how many transactions there were; outside of `BEGIN` that is how many questions.
//! With a write-ahead log there is no such read, and inside of a transaction there is one for all questions.

use super::{
    case::{Case, percent},
    peers,
};
use crate::{
    humanize::count,
    report::waits::rows::Place,
    why::{
        Finding, Kind, Severity,
        evidence::{CallFamily, Database, Role},
    },
};

/// The version of the file in its header.
const LOOK_BYTES: f64 = 16.0;
/// Fewer are no evidence.
const FEW: f64 = 100.0;
/// If most reads are of pages, the others are a difference of two large numbers.
const MOST_PAGES: f64 = 0.5;

/// What a line asks a database.
struct Asked<'a> {
    place: &'a Place,
    database: &'a Database,
    calls: f64,
    bytes: f64,
}

impl Asked<'_> {
    /// Transactions that were begun.
    fn looks(&self) -> Option<f64> {
        let page = f64::from(self.database.page_bytes);
        if self.database.has_log || page <= LOOK_BYTES {
            return None;
        }
        let pages = ((self.bytes - LOOK_BYTES * self.calls) / (page - LOOK_BYTES)).max(0.0);
        (pages <= MOST_PAGES * self.calls).then_some(self.calls - pages)
    }
}

/// The line that asks most.
pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    let mut lines: Vec<Asked<'_>> = Vec::new();
    let process = case.process;
    let reads = process.calls.iter().filter(|calls| calls.family == CallFamily::Read);
    for read in reads.filter(|read| read.place.line != 0) {
        let Some(database) = process.databases.iter().find(|known| known.path == read.target) else {
            continue;
        };
        let same = lines
            .iter_mut()
            .find(|known| is_same(known.place, &read.place) && known.database.path == database.path);
        match same {
            Some(known) => {
                known.calls += read.calls;
                known.bytes += read.bytes;
            }
            None => lines.push(Asked {
                place: &read.place,
                database,
                calls: read.calls,
                bytes: read.bytes,
            }),
        }
    }
    let looks = lines
        .into_iter()
        .filter_map(|asked| Some((asked.looks().filter(|looks| *looks >= FEW)?, asked)));
    if let Some((looks, asked)) = looks.max_by(|a, b| a.0.total_cmp(&b.0)) {
        found.extend(again_and_again(case, &asked, looks));
    }
}

/// Whatever it calls there.
fn is_same(a: &Place, b: &Place) -> bool {
    (&a.function, &a.file, a.line) == (&b.function, &b.file, b.line)
}

fn again_and_again(case: &Case<'_>, asked: &Asked<'_>, looks: f64) -> Option<Finding> {
    let often = peers::Often::of(case, looks)?;
    let cpu = case.process.cpu.iter().filter(|line| is_same(&line.place, asked.place));
    let (cpu_ns, samples) = cpu.fold((0u64, 0), |(ns, samples), line| {
        (ns.saturating_add(line.ns), samples + line.samples)
    });
    let waits = case.process.waits.iter();
    let waited: u64 = waits
        .filter(|wait| wait.role.is_at_work() && wait.role != Role::Ready && is_same(&wait.place, asked.place))
        .map(|wait| wait.ns)
        .sum();
    let share = case.share(cpu_ns.saturating_add(waited));
    let finding = case.finding(Kind::NPlusOne, share)?;
    let finding = match often.requests.is_some() {
        true => finding,
        // It may be what the program is for.
        false => finding.no_worse_than(Severity::Medium),
    };
    let path = &asked.database.path;
    let file = path.rsplit('/').next().unwrap_or(path);
    Some(
        finding
            .at(asked.place)
            .says(format!(
                "N+1: {} asks SQLite ({file}) about {} ({} transactions in all); the line takes {} of the time",
                asked.place.name,
                often.said,
                count(often.all.round() as u64),
                percent(share)
            ))
            .gains(format!(
                "at most {} less time, with one question for many",
                percent(share)
            ))
            .give_or_take(case.sampling_error(samples))
            .by_text("path", path.clone())
            .by("transactions", looks)
            .by("requests", often.requests.unwrap_or(0.0))
            .by("calls_looked_at_s", often.looked_s)
            .by("cpu_s", cpu_ns as f64 / 1e9)
            .by("waited_s", waited as f64 / 1e9)
            .next(case.next(
                "calls",
                &format!("-d 5 --per {}", super::case::bare(&asked.place.function)),
            )),
    )
}
