//! `--fail-on`: what must not become more, as a condition on a comparison.
//!
//! A condition is met when the change is *established* at that size: the lower end of its interval is beyond the bound. Were
//! it the estimate, a program that has become slower by exactly the bound would fail every other run, and one that has not
//! changed at all would fail whenever recordings are short: a gate that flaps is a gate that is switched off. So it errs on
//! one side: of runs that are not beyond the bound at most one in forty fails, for all conditions together. What is beyond it
//! passes as long as too little was recorded to know; the report says how much that can be.

use std::str::FromStr;

use thiserror::Error;

use super::{
    estimate::{Diff, Row},
    rows::{By, Key},
    statistics::{Difference, TAIL},
};

pub const GRAMMAR: &str = "WHAT>+BOUND: WHAT is total, func:NAME (with what it calls), self:NAME (itself), line:FILE:LINE, \
                           file:PATH, module:NAME or package:NAME; BOUND is 5% (of before), 3points (3 % of a CPU), 2ms or \
                           64MiB; for example total>+5% or func:orders.render>+10%";

#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// As it was typed.
    pub text: String,
    pub what: What,
    pub bound: Bound,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Total,
    /// A row of this grouping by its name; itself alone, or with what it calls.
    Row {
        by: By,
        name: String,
        own: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Of what it was before.
    Share(f64),
    /// Hundredths of a CPU, or of all samples.
    Points(f64),
    /// Nanoseconds, for each unit of work.
    Time(f64),
    Bytes(f64),
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("--fail-on {text}: {what}; it is {GRAMMAR}")]
pub struct BadCondition {
    pub text: String,
    pub what: &'static str,
}

/// A condition, held against one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub condition: String,
    /// None if there is no such row.
    pub row: Option<String>,
    pub difference: Option<Difference>,
    pub met: bool,
    /// It may be, for all that is known.
    pub possible: bool,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum CannotHold {
    #[error("--fail-on {0}: the comparison is in {1}, which this bound is not")]
    Unit(String, String),
    #[error("--fail-on {0}: shares of all samples have no total; leave --normalize samples out, or name a function")]
    NoTotal(String),
    #[error("--fail-on needs to know how exact the recordings are: give three or more a side")]
    Unknown,
}

impl FromStr for Condition {
    type Err = BadCondition;

    fn from_str(text: &str) -> Result<Self, BadCondition> {
        let bad = |what| BadCondition {
            text: text.to_owned(),
            what,
        };
        // A function's name may have any sign in it; a bound has none of these.
        let (what, bound) = text.rsplit_once('>').ok_or_else(|| bad("it has no >"))?;
        let (what, bound) = (what.trim(), bound.trim());
        let row = |by, name: &str, own| match name.is_empty() {
            true => Err(bad("the name is missing")),
            false => Ok(What::Row {
                by,
                name: name.to_owned(),
                own,
            }),
        };
        let what = match what.split_once(':') {
            None if what == "total" => What::Total,
            Some(("func", name)) => row(By::Function, name, false)?,
            Some(("self", name)) => row(By::Function, name, true)?,
            Some(("line", name)) => row(By::Line, name, false)?,
            Some(("file", name)) => row(By::File, name, false)?,
            Some(("module", name)) => row(By::Module, name, false)?,
            Some(("package", name)) => row(By::Package, name, false)?,
            _ => return Err(bad("what is before > is not known")),
        };
        let bound = bound.strip_prefix('+').unwrap_or(bound);
        let end = bound
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(bound.len());
        let (number, unit) = bound.split_at(end);
        let number: f64 = number
            .parse()
            .map_err(|_| bad("the bound is not a number above zero"))?;
        let bound = match unit.trim() {
            "%" => Bound::Share(number / 100.0),
            "points" | "point" => Bound::Points(number),
            "us" | "µs" => Bound::Time(number * 1e3),
            "ms" => Bound::Time(number * 1e6),
            "s" => Bound::Time(number * 1e9),
            "B" => Bound::Bytes(number),
            "KiB" => Bound::Bytes(number * 1024.0),
            "MiB" => Bound::Bytes(number * f64::from(1 << 20)),
            "GiB" => Bound::Bytes(number * f64::from(1 << 30)),
            _ => return Err(bad("the bound's unit is not known")),
        };
        Ok(Self {
            text: text.to_owned(),
            what,
            bound,
        })
    }
}

impl Condition {
    pub fn by(&self) -> Option<By> {
        match &self.what {
            What::Total => None,
            What::Row { by, .. } => Some(*by),
        }
    }
}

/// A row that was named, and the number of it that was.
type Named<'a> = (&'a Key, &'a Difference);

/// Holds conditions against comparisons, of which there is one for each grouping that they need.
///
/// # Errors
/// If one cannot be decided, whatever the numbers.
pub fn hold(conditions: &[Condition], diffs: &[Diff]) -> Result<Vec<Held>, CannotHold> {
    let mut asked: Vec<(&Condition, &Diff, Option<Named<'_>>)> = Vec::new();
    for condition in conditions {
        let by = condition.by();
        let Some(diff) = diffs.iter().find(|diff| by.is_none_or(|by| diff.by == by)) else {
            continue;
        };
        if diff.method == super::Method::Unknown {
            return Err(CannotHold::Unknown);
        }
        match &condition.what {
            What::Total if diff.total.is_none() => return Err(CannotHold::NoTotal(condition.text.clone())),
            What::Total => asked.push((condition, diff, None)),
            What::Row { name, own, by } => {
                let rows: Vec<&Row> = diff.rows.iter().filter(|row| is_named(&row.key, name, *by)).collect();
                // Named, and not met: of that nothing is established.
                if rows.is_empty() {
                    asked.push((condition, diff, None));
                }
                asked.extend(rows.iter().map(|row| {
                    let difference = if *own { &row.own } else { &row.total };
                    (condition, diff, Some((&row.key, difference)))
                }));
            }
        }
    }
    // Each has its part of the chance that any fails for nothing.
    let part = TAIL / asked.len().max(1) as f64;
    asked
        .into_iter()
        .map(|(condition, diff, row)| {
            let total = diff.total.as_ref().filter(|_| condition.what == What::Total);
            let difference = row.map(|(_, difference)| difference).or(total).copied();
            let (share, amount) = amounts(condition, diff)?;
            let least = |difference: &Difference, part| difference.least_beyond(share, amount, part);
            Ok(Held {
                condition: condition.text.clone(),
                row: row.map(|(key, _)| key.name.clone()),
                met: difference.is_some_and(|difference| least(&difference, part) > 0.0),
                possible: difference.is_some_and(|difference| least(&difference, 1.0 - TAIL) > 0.0),
                difference,
            })
        })
        .collect()
}

/// The bound in the comparison's own unit: a share of before, and an amount.
fn amounts(condition: &Condition, diff: &Diff) -> Result<(f64, f64), CannotHold> {
    let measure = &diff.measure;
    match condition.bound {
        Bound::Share(share) => Ok((share, 0.0)),
        Bound::Points(points) if measure.is_share() => Ok((0.0, points / measure.factor())),
        Bound::Time(nanoseconds) if !measure.is_share() && measure.value.unit == "nanoseconds" => {
            Ok((0.0, nanoseconds))
        }
        Bound::Bytes(bytes) if !measure.is_share() && measure.value.unit == "bytes" => Ok((0.0, bytes)),
        _ => Err(CannotHold::Unit(condition.text.clone(), measure.unit())),
    }
}

/// Whether a row is what was named: `render`, `orders.render` and `shop.orders.render` are all `render` of `shop.orders`.
fn is_named(key: &Key, name: &str, by: By) -> bool {
    let ends_in = |whole: &str, separator: char| {
        whole == name
            || whole
                .strip_suffix(name)
                .is_some_and(|before| before.ends_with(separator))
    };
    match by {
        By::Function => {
            key.name == name || ends_in(&key.function, '.') || ends_in(&format!("{}.{}", key.module, key.function), '.')
        }
        By::Line => ends_in(&format!("{}:{}", key.file, key.line), '/'),
        By::File => ends_in(&key.file, '/'),
        By::Module | By::Package => ends_in(&key.name, '.'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_a_name_and_a_bound() {
        let condition: Condition = "func:orders.render>+10%".parse().unwrap();
        assert_eq!(condition.bound, Bound::Share(0.1));
        assert_eq!(
            condition.what,
            What::Row {
                by: By::Function,
                name: "orders.render".to_owned(),
                own: false
            }
        );
        let condition: Condition = "total > 64MiB".parse().unwrap();
        assert_eq!(
            (condition.what, condition.bound),
            (What::Total, Bound::Bytes(67_108_864.0))
        );
        let condition: Condition = "self:<lambda>>+2.5points".parse().unwrap();
        assert_eq!(condition.bound, Bound::Points(2.5));
        assert!(matches!(condition.what, What::Row { name, own: true, .. } if name == "<lambda>"));
    }

    #[test]
    fn what_is_no_condition_is_answered_with_the_grammar() {
        for text in [
            "",
            "total",
            "total>",
            "total>+x%",
            "total>+5",
            "total>-5%",
            "func:>+5%",
            "speed>+5%",
            "total>+5 parsecs",
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.to_string().contains("for example total>+5%"), "{text}: {error}");
        }
    }

    #[test]
    fn a_function_is_named_with_as_much_of_its_module_as_one_likes() {
        let key = Key {
            name: "Cart.render (app/shop/orders.py)".to_owned(),
            function: "Cart.render".to_owned(),
            module: "shop.orders".to_owned(),
            file: "app/shop/orders.py".to_owned(),
            line: 12,
            python: true,
            marker: false,
        };
        for name in [
            "render",
            "Cart.render",
            "orders.Cart.render",
            "shop.orders.Cart.render",
            "Cart.render (app/shop/orders.py)",
        ] {
            assert!(is_named(&key, name, By::Function), "{name}");
        }
        for name in ["ender", "art.render", "Cart", "orders.render", ""] {
            assert!(!is_named(&key, name, By::Function), "{name}");
        }
        assert!(is_named(&key, "orders.py:12", By::Line) && !is_named(&key, "orders.py:1", By::Line));
    }
}
