//! Which samples are meant, as SQL, and as words.

use anyhow::{Result, bail};
use profiler_parquet::Hour;

use super::{columns, engine::Engine};
use crate::{
    cli::Which,
    text::{clean, quoted},
    times,
};

/// Samples of one type and unit.
pub struct Chosen {
    /// After WHERE.
    pub condition: String,
    pub kind: String,
    pub unit: String,
    /// For a headline.
    pub words: String,
}

impl Which {
    /// All that was asked but the type.
    pub fn condition(&self) -> String {
        let mut all = Vec::new();
        if let Some(service) = &self.service {
            all.push(format!("service = {}", quoted(service)));
        }
        if let Some(host) = &self.host {
            all.push(format!("host = {}", quoted(host)));
        }
        for (key, value) in &self.label {
            all.push(match &**key {
                "process" | "thread" | "trace_id" | "span_id" => format!("{key} = {}", quoted(value)),
                key => format!("labels[{}] = {}", quoted(key), quoted(value)),
            });
        }
        let (from, to) = self.range();
        let time = |us: i64| format!("arrow_cast({us}, 'Timestamp(Microsecond, Some(\"UTC\"))')");
        // Directories first: what they say is not even opened.
        if let Some((from, hour)) = from.and_then(|from| Some((from, Hour::of(from)?))) {
            let (day, hour) = names(hour);
            all.push(format!(
                "day >= '{day}' AND (day > '{day}' OR hour >= '{hour}') AND time >= {}",
                time(from)
            ));
        }
        if let Some((to, hour)) = to.and_then(|to| Some((to, Hour::of(to)?))) {
            let (day, hour) = names(hour);
            all.push(format!(
                "day <= '{day}' AND (day < '{day}' OR hour <= '{hour}') AND time < {}",
                time(to)
            ));
        }
        match all.is_empty() {
            true => "true".to_owned(),
            false => all.join(" AND "),
        }
    }

    fn range(&self) -> (Option<i64>, Option<i64>) {
        match self.last {
            Some(last) => {
                let last = i64::try_from(last.as_micros()).unwrap_or(i64::MAX);
                (Some(times::now_us().saturating_sub(last)), None)
            }
            None => (self.from, self.to),
        }
    }

    /// The type that is meant: the one that was asked for, else CPU time, else the only one there is.
    pub async fn choose(&self, engine: &Engine) -> Result<Chosen> {
        let condition = self.condition();
        let sql = format!(
            "SELECT arrow_cast(type, 'Utf8') AS type, arrow_cast(unit, 'Utf8') AS unit, \
             count(*) AS rows FROM samples WHERE {condition} GROUP BY type, unit ORDER BY type, unit"
        );
        let mut kinds = Vec::new();
        for batch in engine.rows(&sql).await? {
            let (kind, unit) = (columns::texts(&batch, 0)?, columns::texts(&batch, 1)?);
            kinds.extend(
                kind.iter()
                    .zip(&unit)
                    .map(|(kind, unit)| (kind.unwrap_or_default().to_owned(), unit.unwrap_or_default().to_owned())),
            );
        }
        if kinds.is_empty() {
            bail!("no samples: nothing in the store is as asked ({})", self.words());
        }
        let (kind, unit) = self.of_these(&kinds)?;
        Ok(Chosen {
            condition: format!("{condition} AND type = {} AND unit = {}", quoted(kind), quoted(unit)),
            kind: kind.clone(),
            unit: unit.clone(),
            words: self.words(),
        })
    }

    /// The one of these types and units that is meant. Values of two units are never added, nor is one of them taken for
    /// all.
    fn of_these<'a>(&self, kinds: &'a [(String, String)]) -> Result<(&'a String, &'a String)> {
        let has = |name: &str| kinds.iter().any(|(kind, _)| kind == name);
        let mut names: Vec<&str> = kinds.iter().map(|(kind, _)| &**kind).collect();
        names.dedup();
        let name = match (self.kind.as_deref(), &names[..]) {
            (Some(wanted), _) => Some(wanted).filter(|wanted| has(wanted)),
            (None, [only]) => Some(*only),
            (None, _) => ["cpu", "samples"].into_iter().find(|name| has(name)),
        };
        let Some(name) = name else {
            let names: Vec<String> = names.into_iter().map(clean).collect();
            bail!("say which with --type: {}", names.join(", "));
        };
        let there: Vec<_> = kinds.iter().filter(|(kind, _)| kind == name).collect();
        let wanted = self.unit.as_deref();
        let found: Vec<_> = (there.iter())
            .filter(|(_, unit)| wanted.is_none_or(|wanted| wanted == unit))
            .collect();
        let units = || -> String {
            let shown = |unit: &str| if unit.is_empty() { "''".to_owned() } else { clean(unit) };
            let units: Vec<String> = there.iter().map(|(_, unit)| shown(unit)).collect();
            units.join(", ")
        };
        match found[..] {
            [(kind, unit)] => Ok((kind, unit)),
            [] => bail!(
                "{} of {} is not there in {}, only in: {}",
                clean(name),
                self.words(),
                clean(wanted.unwrap_or_default()),
                units()
            ),
            _ => bail!(
                "{} of {} is there in several units, which cannot be added: say which with --unit: {}",
                clean(name),
                self.words(),
                units()
            ),
        }
    }

    pub fn words(&self) -> String {
        let mut words = vec![match &self.service {
            Some(service) => clean(service),
            None => "all services".to_owned(),
        }];
        words.extend(self.host.as_deref().map(clean));
        words.extend(self.label.iter().map(|(key, value)| clean(&format!("{key}={value}"))));
        match self.range() {
            (Some(from), Some(to)) => words.push(format!("{} to {}", times::shown(from), times::shown(to))),
            (Some(from), None) => words.push(format!("since {}", times::shown(from))),
            (None, Some(to)) => words.push(format!("before {}", times::shown(to))),
            (None, None) => {}
        }
        words.join(", ")
    }
}

/// The values of the columns `day` and `hour`.
fn names(hour: Hour) -> (String, String) {
    let (day, hour) = (hour.day(), hour.hour());
    (day.replace("day=", ""), hour.replace("hour=", ""))
}
