//! `profiler diff`, as it is typed.

use std::path::PathBuf;

use clap::Args;

use super::parse_share;
use crate::{
    diff::{By, Normal, Over, gate::Condition},
    reread::diff::Format,
};

const EXAMPLES: &str = "\
Examples:
  profiler diff before.pb.gz after.pb.gz          # is it slower, and where
  profiler diff before.pb.gz after.pb.gz -o diff.html  # a page, or diff.svg
  profiler diff a1.pb.gz,a2.pb.gz,a3.pb.gz b1.pb.gz,b2.pb.gz,b3.pb.gz
  profiler diff --before yesterday/ --after today/     # a flight recorder's
  profiler diff a.pb.gz b.pb.gz --per requests=9120,9344
  profiler diff a.pb.gz b.pb.gz --fail-on 'total>+5%' \\
                                --fail-on 'func:orders.render>+10%'

Exit status:
  0  the recordings were compared
  1  something failed: the line `error: …` names it and the remedy
  2  the command line makes no sense
  4  what --fail-on names has become more by that much for certain: the lower
     end of its 95 % interval is above the bound";

/// Say whether two recordings differ, by how much, how surely, and where
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Diff {
    /// What was, and what is: each a recording, several with commas between them, or a directory of them
    #[arg(value_names = ["BEFORE", "AFTER"], num_args = 2, required_unless_present_all = ["before", "after"], conflicts_with_all = ["before", "after"])]
    pub sides: Vec<PathBuf>,

    /// A recording or directory of what was; can be given more than once
    #[arg(long, value_name = "FILE", requires = "after", help_heading = "Recordings")]
    pub before: Vec<PathBuf>,

    /// A recording or directory of what is; can be given more than once
    #[arg(long, value_name = "FILE", requires = "before", help_heading = "Recordings")]
    pub after: Vec<PathBuf>,

    /// What a row is
    #[arg(long, value_name = "WHAT", default_value = "function", help_heading = "Report")]
    pub by: By,

    /// Give machine code below Python rows of its own
    #[arg(short, long, help_heading = "Report")]
    pub native: bool,

    /// Which value to compare: cpu, samples, bytes, … [default: the recordings' own]
    #[arg(long, value_name = "VALUE", help_heading = "Report")]
    pub value: Option<String>,

    /// By what to divide values: time, samples (shares), recording (for what runs from its beginning to its end), none
    #[arg(long, value_name = "BY", conflicts_with = "per", help_heading = "Report")]
    pub normalize: Option<Normalize>,

    /// Compare per unit of work, of which there was so much before and after: requests=9120,9344, or one number for both
    #[arg(long, value_name = "WORK=N,M", value_parser = parse_work, help_heading = "Report")]
    pub per: Option<Normal>,

    /// What shows how exact the numbers are
    #[arg(long, value_name = "WHAT", default_value = "auto", help_heading = "Report")]
    pub over: Over,

    /// What equal runs are taken to differ by, where there is one recording a side
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value = "2%", help_heading = "Report")]
    pub noise: f64,

    /// Rows that are shown of each kind
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Report")]
    pub top: usize,

    /// End with status 4 if this has become more for certain, for example `total>+5%`; can be given more than once
    #[arg(long, value_name = "WHAT>+BOUND", help_heading = "Report")]
    pub fail_on: Vec<Condition>,

    /// File to write, `-` for standard output (the default)
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Format [default: by the ending of FILE, else text]
    #[arg(short, long, value_name = "FORMAT", help_heading = "Output")]
    pub format: Option<Format>,

    /// Overwrite FILE if it exists
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Normalize {
    Time,
    Samples,
    Recording,
    None,
}

impl Diff {
    pub fn normal(&self) -> Option<Normal> {
        let normal = self.normalize.map(|normalize| match normalize {
            Normalize::Time => Normal::Time,
            Normalize::Samples => Normal::Samples,
            Normalize::Recording => Normal::Recording,
            Normalize::None => Normal::Level,
        });
        normal.or_else(|| self.per.clone())
    }
}

/// `requests=9120,9344`.
fn parse_work(text: &str) -> Result<Normal, String> {
    let wrong = || format!("{text} is not a unit and how many there were, such as requests=9120,9344");
    let (unit, numbers) = text.split_once('=').ok_or_else(wrong)?;
    let unit = unit.trim();
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ');
    if unit.is_empty() || unit.len() > 40 || !unit.chars().all(plain) {
        return Err(wrong());
    }
    let (before, after) = numbers.split_once(',').unwrap_or((numbers, numbers));
    let number = |text: &str| match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(wrong()),
    };
    Ok(Normal::Per {
        unit: unit.strip_suffix('s').unwrap_or(unit).to_owned(),
        before: number(before)?,
        after: number(after)?,
    })
}
