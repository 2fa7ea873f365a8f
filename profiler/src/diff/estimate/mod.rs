//! What each row differs by, and how exact that is known.
//!
//! Where recordings, processes or threads are many, how they differ among themselves is the error, whatever it is made of.
//! One recording a side shows only how many samples it has. A thread is met at each tick or it is not, so of `n` samples in
//! `s` ticks the variance is `n (1 - n / s)`: none for a thread that always runs, however many samples that makes; what is
//! uncertain then is only which function it was in. That ticks are independent of one another, and that one run is as
//! another, no such file can show. The first is looked for in how all functions scatter (`inflation`), the
//! second is assumed ([`Asked::noise`]), and both are told. Bytes and waits are estimates; their recordings say how they
//! were drawn, which takes the place of the number of samples.
//!
//! | module | does |
//! |---|---|
//! | `witness` | what bears witness: recordings, processes, threads, or samples |
//! | `moved` | programs that lie elsewhere now |
//! | `estimator` | differences and their variances |

use rustc_hash::{FxHashMap, FxHashSet};

use self::{
    estimator::{Estimator, worth_looking_at},
    moved::find_moved,
    witness::{choose, is_one_run, join_alike},
};
use super::{
    Asked,
    blocks::{Deal, Over, Side, Sums},
    bursts::{Bursts, Of},
    measure::{Measure, Normal, Refusal},
    rows::{By, Key, Rows},
    statistics::{Difference, FEWEST_DRAWN, adjusted},
};
use crate::profile::Profile;

mod estimator;
mod moved;
mod witness;

/// At most so many of a list are false, on average, and a verdict on equal programs as often.
pub const FALSE: f64 = 0.05;
/// By how large a part of itself what is waited for CPUs is taken to differ from run to run: a standard deviation
/// (docs/diff.md).
pub const DELAYS_DIFFER: f64 = 0.5;
/// What is drawn again is the same for the same recordings.
const SEED: u64 = 0x1d1f_f000_0000_0001;

#[derive(Debug)]
pub struct Diff {
    pub by: By,
    pub native: bool,
    pub measure: Measure,
    pub method: Method,
    /// Recordings of either side.
    pub recordings: [usize; 2],
    /// Samples of either side, where values are made of them.
    pub samples: [Option<f64>; 2],
    /// None of shares: those of all are all.
    pub total: Option<Difference>,
    /// Whether it differs.
    pub total_stands: bool,
    /// It does, but no row more than others.
    pub alike: bool,
    /// Those that changed most come first.
    pub rows: Vec<Row>,
    /// Rows with too few samples to be looked at.
    pub sparse: usize,
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub key: Key,
    pub own: Difference,
    pub total: Difference,
    /// Whether it differs: right for 95 of 100 such rows.
    pub own_stands: bool,
    pub total_stands: bool,
    /// Of both tests the smaller p, as Benjamini and Hochberg adjust it.
    pub p: f64,
}

/// How errors are known.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Blocks of either side, drawn again or by Student's t.
    Blocks {
        what: &'static str,
        number: [usize; 2],
        drawn: bool,
        one_run: bool,
    },
    /// Numbers of samples or variances of estimates ([`Measure::estimated`]), times the inflation, and what runs are taken
    /// to differ by: a part of all, and another of what was waited for CPUs, which is so much of all.
    Counts { inflation: f64, noise: f64, delays: f64 },
    /// Not at all.
    Unknown,
}

/// What a row did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    More,
    Less,
    New,
    Gone,
}

impl Method {
    /// By how large a part of all runs are taken to differ.
    pub fn runs_differ(&self) -> f64 {
        match self {
            Self::Counts { noise, delays, .. } => noise.hypot(DELAYS_DIFFER * delays),
            Self::Blocks { .. } | Self::Unknown => 0.0,
        }
    }
}

impl Row {
    pub fn stands(&self) -> bool {
        self.own_stands || self.total_stands
    }

    /// The number that is told of it: with what it called, unless only itself differs.
    pub fn told(&self) -> &Difference {
        match self.own_stands && !self.total_stands {
            true => &self.own,
            false => &self.total,
        }
    }

    pub fn change(&self) -> Change {
        let told = self.told();
        match (self.total.before.value, self.total.after.value) {
            (before, _) if before <= 0.0 => Change::New,
            (_, after) if after <= 0.0 => Change::Gone,
            _ if told.change() > 0.0 => Change::More,
            _ => Change::Less,
        }
    }
}

/// Where one recording a side is divided by its time, all functions alike having taken more says that there was more to do,
/// or that the machine was busy, and nothing of the code. So a row must have become a larger part of all, too, and all did
/// only if a row did.
pub fn estimate(sides: [&[Profile]; 2], measure: Measure, asked: &Asked) -> Result<Diff, Refusal> {
    let shares = match measure.normal {
        Normal::Samples => None,
        _ => {
            let measure = Measure {
                normal: Normal::Samples,
                ..measure.clone()
            };
            Some(of_measure(sides, measure, asked, None))
                .filter(|shares| matches!(shares.method, Method::Counts { .. }))
        }
    };
    let Some(shares) = shares else {
        return Ok(of_measure(sides, measure, asked, None));
    };
    let Method::Counts { inflation, .. } = shares.method else {
        return Ok(of_measure(sides, measure, asked, None));
    };
    let mut diff = of_measure(sides, measure, asked, Some(inflation));
    if diff.measure.normal == Normal::Time {
        diff.hold_against(&shares);
    }
    Ok(diff)
}

fn of_measure(sides: [&[Profile]; 2], measure: Measure, asked: &Asked, inflation: Option<f64>) -> Diff {
    let mut rows = Rows {
        by: asked.by,
        native: asked.native,
        keys: indexmap::IndexSet::default(),
    };
    let counted = measure.period[0].is_some() && measure.period[1].is_some() || measure.estimated;
    let over = match asked.over {
        Over::Auto => choose(sides, counted),
        over => over,
    };
    let deal = match over {
        Over::Windows | Over::Auto => Deal::Recording,
        Over::Processes => Deal::Process,
        Over::Threads | Over::Counts => Deal::Thread,
    };
    let mut parts = [0, 1].map(|side| Side::of(sides[side], &measure, deal, side, &mut rows));
    let mut notes = measure.notes.clone();
    find_moved(&mut parts, &rows, &mut notes);
    let one_run = deal == Deal::Recording && sides.iter().any(|side| is_one_run(side));
    if over == Over::Windows && one_run {
        join_alike(&mut parts, &measure, &mut notes);
    }
    let number = [parts[0].weights.len(), parts[1].weights.len()];
    let method = match over {
        Over::Counts if counted => Method::Counts {
            inflation: 1.0,
            noise: asked.noise * measure.unsteadiness(),
            // Nothing differs if nothing is taken to.
            delays: match asked.noise > 0.0 {
                true => parts.iter().map(Side::delayed).fold(0.0, f64::max),
                false => 0.0,
            },
        },
        Over::Counts => Method::Unknown,
        _ if number[0].min(number[1]) < 2 => Method::Unknown,
        _ => Method::Blocks {
            what: match deal {
                Deal::Recording if one_run => "windows",
                Deal::Recording => "recordings",
                Deal::Process => "processes",
                Deal::Thread => "threads",
            },
            number,
            drawn: number[0].min(number[1]) >= FEWEST_DRAWN,
            one_run,
        },
    };
    let samples = [0, 1].map(|side| measure.period[side].map(|period| parts[side].all.iter().sum::<f64>() / period));
    let ticks = [0, 1].map(|side| {
        let each = measure.seconds[side] / sides[side].len().max(1) as f64;
        measure.rate[side].map(|rate| rate * each).filter(|ticks| *ticks > 0.0)
    });
    let bursts = [0, 1].map(|side| {
        let known = &parts[side].exactness;
        bursts_of(sides[side], side, &measure, &method, ticks[side], known, &mut rows)
    });
    let bursting = bursts
        .iter()
        .flat_map(|side| side.own.keys())
        .collect::<FxHashSet<_>>()
        .len();
    if bursting > 0 {
        notes.push(format!(
            "{bursting} {}s were met in bursts ({}), and not at random: {} say less of them, their intervals are wider",
            asked.by.name(),
            if measure.is_of_waits() {
                "all wait at once, phases"
            } else {
                "imports, phases"
            },
            if measure.is_of_waits() {
                "single waits"
            } else {
                "samples"
            },
        ));
    }
    let mut estimator = Estimator {
        measure: &measure,
        parts: &parts,
        method,
        ticks,
        bursts,
        random: fastrand::Rng::with_seed(SEED),
    };
    let (mut tested, sparse) = worth_looking_at(&parts, &measure, rows.keys.len());
    tested.retain(|row| rows.keys.get_index(*row as usize).is_some_and(|key| !key.marker));
    match (inflation, &mut estimator.method) {
        (Some(known), Method::Counts { inflation, .. }) => *inflation = known,
        _ => estimator.inflate(&tested),
    }
    let total = (measure.normal != Normal::Samples).then(|| estimator.total());
    let rows = estimator.rows(&tested, rows.keys);
    let method = estimator.method;
    let recordings = [sides[0].len(), sides[1].len()];
    let mut diff = Diff {
        by: asked.by,
        native: asked.native,
        measure,
        method,
        recordings,
        samples,
        total,
        total_stands: false,
        alike: false,
        rows,
        sparse,
        notes,
    };
    diff.judge();
    diff
}

/// What comes in bursts, where numbers of samples of one recording are all that is known.
fn bursts_of(
    side: &[Profile],
    number: usize,
    measure: &Measure,
    method: &Method,
    ticks: Option<f64>,
    known: &Sums,
    rows: &mut Rows,
) -> Bursts {
    match (method, side, measure.period[number]) {
        (Method::Counts { .. }, [profile], _) if measure.is_of_waits() => {
            let is_part = measure.normal == Normal::Samples;
            Bursts::of_estimates(profile, measure.index_of(profile), known, is_part, rows)
        }
        (Method::Counts { .. }, [profile], Some(period)) if !measure.estimated => {
            let of = match (&measure.normal, ticks) {
                (Normal::Samples, _) => Of::All,
                (_, Some(ticks)) => Of::Ticks(ticks),
                (_, None) => return Bursts::default(),
            };
            Bursts::of(profile, measure.index_of(profile), period, of, rows)
        }
        _ => Bursts::default(),
    }
}

impl Diff {
    /// Says what stands. Two questions are asked, whether all took more or less and whether any row did, so that both
    /// together are wrong of equal programs as seldom as one.
    fn judge(&mut self) {
        if self.method == Method::Unknown {
            return;
        }
        let p: Vec<f64> = self.rows.iter().flat_map(|row| [row.own.p(), row.total.p()]).collect();
        let p = adjusted(&p);
        let of_rows = p.iter().copied().fold(1.0, f64::min);
        let questions = match &self.total {
            Some(total) => adjusted(&[of_rows, total.p()]),
            None => vec![of_rows],
        };
        let stands = |p: f64, difference: &Difference| p <= FALSE && difference.excludes_zero();
        if let (Some(total), Some(p)) = (&self.total, questions.get(1)) {
            self.total_stands = stands(*p, total);
        }
        for (row, p) in self.rows.iter_mut().zip(p.chunks(2)) {
            let [own, total] = p else { continue };
            row.p = own.min(*total);
            let any = questions[0] <= FALSE;
            row.own_stands = any && stands(*own, &row.own);
            row.total_stands = any && stands(*total, &row.total);
        }
        self.sort();
    }

    /// Takes back what shares do not bear out.
    fn hold_against(&mut self, shares: &Self) {
        let by_key: FxHashMap<&Key, &Row> = shares.rows.iter().map(|row| (&row.key, row)).collect();
        for row in &mut self.rows {
            let share = by_key.get(&row.key);
            let same = |own: &Difference, share: &Difference| own.change() * share.change() > 0.0;
            row.own_stands &= share.is_some_and(|share| share.own_stands && same(&row.own, &share.own));
            row.total_stands &= share.is_some_and(|share| share.total_stands && same(&row.total, &share.total));
        }
        let up = self.total.is_some_and(|total| total.change() > 0.0);
        let any = (self.rows.iter()).any(|row| row.stands() && (row.told().change() > 0.0) == up);
        self.alike = self.total_stands && !any;
        self.total_stands &= any;
        self.sort();
    }

    fn sort(&mut self) {
        self.rows.sort_by(|a, b| {
            let key = |row: &Row| (row.stands(), row.told().change().abs());
            let ((a_stands, a_change), (b_stands, b_change)) = (key(a), key(b));
            b_stands
                .cmp(&a_stands)
                .then(b_change.total_cmp(&a_change))
                .then_with(|| a.key.name.cmp(&b.key.name))
        });
    }
}
