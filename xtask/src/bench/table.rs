//! The benchmark's result: for people a table with the goal beside each figure, for programs JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::spread::Spread;

/// Every figure, in the order in which they were measured.
#[derive(Default)]
pub struct Table {
    groups: Vec<Group>,
    notes: Vec<String>,
    losses: Vec<Loss>,
}

/// Something that went missing in the recordings of a section, by reason.
struct Loss {
    section: String,
    reason: String,
    count: u64,
}

struct Group {
    title: String,
    figures: Vec<Figure>,
}

struct Figure {
    what: String,
    unit: Unit,
    measured: Result<Spread, String>,
    goal: Option<f64>,
}

/// What a figure counts. Less is better for each of them that has a goal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Ratio,
    Microseconds,
    Milliseconds,
    Mebibytes,
    Number,
}

impl Table {
    pub fn group(&mut self, title: impl Into<String>) {
        self.groups.push(Group {
            title: title.into(),
            figures: Vec::new(),
        });
    }

    /// A figure, with the goal it is to stay at or below.
    pub fn figure(&mut self, what: impl Into<String>, unit: Unit, values: Vec<f64>, goal: impl Into<Option<f64>>) {
        let measured = Spread::of(values).map_err(|error| format!("{error:#}"));
        self.push(what, unit, measured, goal.into());
    }

    /// A figure that could not be had, and why.
    pub fn absent(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.push(what, Unit::Number, Err(why.into()), None);
    }

    fn push(&mut self, what: impl Into<String>, unit: Unit, measured: Result<Spread, String>, goal: Option<f64>) {
        if self.groups.is_empty() {
            self.group("");
        }
        if let Some(group) = self.groups.last_mut() {
            group.figures.push(Figure {
                what: what.into(),
                unit,
                measured,
                goal,
            });
        }
    }

    /// Something a reader of the figures should know. Said once.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// What the recordings of a section have lost, summed up by reason. Figures of a profiler that drops half of its
    /// work are worth nothing.
    pub fn lost(&mut self, section: &str, losses: impl IntoIterator<Item = (String, u64)>) {
        for (reason, count) in losses {
            let known = self
                .losses
                .iter_mut()
                .find(|loss| loss.section == section && loss.reason == reason);
            match known {
                Some(loss) => loss.count += count,
                None => self.losses.push(Loss {
                    section: section.to_owned(),
                    reason,
                    count,
                }),
            }
        }
    }

    fn notes(&self) -> Vec<String> {
        let losses = self
            .losses
            .iter()
            .map(|loss| format!("{}: lost {} {}", loss.section, loss.count, loss.reason));
        self.notes.iter().cloned().chain(losses).collect()
    }

    pub fn text(&self) -> String {
        let headings = ["", "median", "min – max", "n", "goal", ""].map(str::to_owned);
        let mut rows = vec![Row::Cells(headings)];
        for group in &self.groups {
            rows.push(Row::Title(&group.title));
            rows.extend(group.figures.iter().map(row));
        }
        let mut text = aligned(&rows);
        for note in self.notes() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "note: {note}");
        }
        text
    }

    pub fn json(&self) -> Value {
        let groups: Vec<Value> = self
            .groups
            .iter()
            .map(|group| {
                let figures: Vec<Value> = group.figures.iter().map(Figure::json).collect();
                json!({"title": group.title, "figures": figures})
            })
            .collect();
        json!({"groups": groups, "notes": self.notes()})
    }

    /// How many figures have a goal, and how many of these miss it.
    pub fn goals(&self) -> (usize, usize) {
        let met: Vec<bool> = self
            .groups
            .iter()
            .flat_map(|group| &group.figures)
            .filter_map(Figure::met)
            .collect();
        (met.len(), met.iter().filter(|&&met| !met).count())
    }
}

impl Figure {
    /// Compared as measured, not as printed.
    fn met(&self) -> Option<bool> {
        Some(self.measured.as_ref().ok()?.median() <= self.goal?)
    }

    fn json(&self) -> Value {
        let mut json = json!({"what": self.what, "unit": self.unit.name(), "goal": self.goal, "met": self.met()});
        match &self.measured {
            Ok(spread) => {
                json["median"] = spread.median().into();
                json["min"] = spread.min().into();
                json["max"] = spread.max().into();
                json["values"] = spread.measured().into();
            }
            Err(why) => json["absent"] = why.as_str().into(),
        }
        json
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Number => "number",
        }
    }

    fn shown(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.3}"),
            Self::Microseconds if value.abs() < 100.0 => format!("{value:.2}"),
            Self::Milliseconds | Self::Mebibytes if value.abs() < 100.0 => format!("{value:.1}"),
            Self::Microseconds | Self::Milliseconds | Self::Mebibytes | Self::Number => format!("{value:.0}"),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Ratio | Self::Number => "",
            Self::Microseconds => " µs",
            Self::Milliseconds => " ms",
            Self::Mebibytes => " MiB",
        }
    }
}

const COLUMNS: usize = 6;

enum Row<'a> {
    Title(&'a str),
    Cells([String; COLUMNS]),
    /// What, and why it was not measured.
    Absent(&'a str, &'a str),
}

fn row(figure: &Figure) -> Row<'_> {
    let spread = match &figure.measured {
        Ok(spread) => spread,
        Err(why) => return Row::Absent(&figure.what, why),
    };
    let unit = figure.unit;
    let (median, suffix) = (spread.median(), unit.suffix());
    let (goal, mark) = match figure.goal {
        Some(goal) if median <= goal => (format!("≤ {}{suffix}", plain(goal)), "met".to_owned()),
        Some(goal) => {
            let excess = unit.shown(median - goal);
            (
                format!("≤ {}{suffix}", plain(goal)),
                format!("MISSED by {excess}{suffix}"),
            )
        }
        None => (String::new(), String::new()),
    };
    Row::Cells([
        format!("  {}", figure.what),
        format!("{}{suffix}", unit.shown(median)),
        format!("{} – {}", unit.shown(spread.min()), unit.shown(spread.max())),
        spread.measured().len().to_string(),
        goal,
        mark,
    ])
}

/// A goal as it was set: 2.5 and 64, not 2.50 and 64.0. A measured one has no more digits than it deserves.
fn plain(goal: f64) -> String {
    let precision = if goal.abs() < 10.0 { 1000.0 } else { 10.0 };
    ((goal * precision).round() / precision).to_string()
}

/// Text to the left, numbers to the right; the last column is not padded.
fn aligned(rows: &[Row<'_>]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        if let Row::Cells(cells) = row {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        match row {
            Row::Title(title) => text.push_str(title),
            Row::Absent(what, why) => {
                let indented = format!("  {what}");
                let _ = write!(text, "{indented:<width$}  not measured: {why}", width = widths[0]);
            }
            Row::Cells([what, median, range, n, goal, mark]) => {
                let [what_width, median_width, range_width, n_width, goal_width, _] = widths;
                let line = format!(
                    "{what:<what_width$}  {median:>median_width$}  {range:>range_width$}  {n:>n_width$}  \
                     {goal:<goal_width$}  {mark}"
                );
                text.push_str(line.trim_end());
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::default();
        table.group("slow-down");
        table.figure("profiler 99 Hz", Unit::Ratio, vec![1.004, 1.001, 1.02], 1.01);
        table.figure("profiler 999 Hz", Unit::Ratio, vec![1.045], 1.03);
        table.absent("py-spy 100 Hz", "no network");
        table.group("memory");
        table.figure("while recording", Unit::Mebibytes, vec![41.25], 64.0);
        table.figure("kernel maps", Unit::Mebibytes, vec![112.0], None);
        table.note("the machine was busy");
        table.note("the machine was busy");
        table.lost("memory", [("samples".to_owned(), 2)]);
        table.lost("memory", [("samples".to_owned(), 3), ("stacks".to_owned(), 1)]);
        table
    }

    #[test]
    fn the_goal_stands_beside_the_figure_and_a_miss_says_by_how_much() {
        let expected = [
            "                     median      min – max  n  goal",
            "slow-down",
            "  profiler 99 Hz      1.004  1.001 – 1.020  3  ≤ 1.01    met",
            "  profiler 999 Hz     1.045  1.045 – 1.045  1  ≤ 1.03    MISSED by 0.015",
            "  py-spy 100 Hz    not measured: no network",
            "memory",
            "  while recording  41.2 MiB    41.2 – 41.2  1  ≤ 64 MiB  met",
            "  kernel maps       112 MiB      112 – 112  1",
            "note: the machine was busy",
            "note: memory: lost 5 samples",
            "note: memory: lost 1 stacks",
            "",
        ];
        assert_eq!(table().text(), expected.join("\n"));
        assert_eq!(table().goals(), (3, 1));
    }

    #[test]
    fn json_has_every_value_and_whether_the_goal_is_met() {
        let json = table().json();
        let first = &json["groups"][0]["figures"][0];
        assert_eq!(first["median"], 1.004);
        assert_eq!(first["values"], json!([1.004, 1.001, 1.02]));
        assert_eq!(first["met"], true);
        assert_eq!(json["groups"][0]["figures"][2]["absent"], "no network");
        assert_eq!(json["groups"][1]["figures"][1]["met"], Value::Null);
        assert_eq!(json["notes"][0], "the machine was busy");
    }

    #[test]
    fn a_figure_just_above_its_goal_is_a_miss_although_it_prints_the_same() {
        let mut table = Table::default();
        table.figure("x", Unit::Ratio, vec![1.01001], 1.01);
        assert_eq!(table.goals(), (1, 1));
    }

    #[test]
    fn a_goal_is_printed_as_it_was_set() {
        assert_eq!([1.01, 2.5, 64.0, 51.557].map(plain), ["1.01", "2.5", "64", "51.6"]);
    }
}
