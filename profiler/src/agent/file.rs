//! The agent's configuration file (TOML). Whatever is misspelt is an error that says the line.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{address::Address, options::OptionsError};
use crate::cli::{agent::Measures, parse_age, parse_bytes};

/// No configuration that a person writes is larger.
const MOST_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct AgentFile {
    #[serde(deserialize_with = "time")]
    pub window: Option<Duration>,
    pub rate: Option<u64>,
    #[serde(deserialize_with = "measures")]
    pub instruments: Option<Vec<Measures>>,
    pub budget: BudgetFile,
    pub spool: SpoolFile,
    /// What every profile is labelled with.
    pub labels: BTreeMap<String, String>,
    /// In this order; the first that fits names a process's service.
    pub service: Vec<ServiceRule>,
    pub output: Vec<OutputFile>,
    pub host_name: Option<String>,
    pub listen: Option<Address>,
    pub alerts: AlertsFile,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BudgetFile {
    pub cpu: Option<String>,
    #[serde(deserialize_with = "bytes")]
    pub memory: Option<u64>,
    /// Percent of the time in which something on this machine waited for a CPU (`some avg10` of /proc/pressure/cpu).
    pub cpu_pressure: Option<f64>,
    pub stop_file: Option<std::path::PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SpoolFile {
    pub directory: Option<std::path::PathBuf>,
    #[serde(deserialize_with = "bytes")]
    pub bytes: Option<u64>,
}

/// What is written is compared with what a process is; `*` stands for anything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServiceRule {
    pub name: String,
    /// What it runs, in a few words: `gunicorn shop.wsgi`.
    pub command: Option<String>,
    /// The path of its cgroup.
    pub cgroup: Option<String>,
    /// The id or name of its container.
    pub container: Option<String>,
    /// The name of its main thread.
    pub executable: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum OutputFile {
    Otlp {
        url: String,
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    Pyroscope {
        url: String,
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    Store {
        directory: std::path::PathBuf,
        #[serde(default, deserialize_with = "time")]
        keep: Option<Duration>,
    },
    Pprof {
        directory: std::path::PathBuf,
        keep: Option<u32>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct AlertsFile {
    /// Files, `-` for standard error, or the URLs of webhooks.
    pub to: Vec<String>,
    /// Built-in rules that are off.
    pub off: Vec<String>,
    /// What is too much, by rule.
    pub above: BTreeMap<String, f64>,
}

impl AgentFile {
    pub fn read(path: &Path) -> Result<Self, OptionsError> {
        let failed = |error: std::io::Error| OptionsError::Unreadable {
            path: path.to_owned(),
            error,
        };
        let mut text = String::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MOST_BYTES {
            return Err(OptionsError::LongFile { path: path.to_owned() });
        }
        Self::parse(&text).map_err(|error| OptionsError::File {
            path: path.to_owned(),
            error: told(&error, &text),
        })
    }

    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

/// What is wrong, and in which line; not what that says, which can be a password.
fn told(error: &toml::de::Error, text: &str) -> String {
    let line = (error.span()).map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
    match line {
        Some(line) => format!("line {line}: {}", error.message()),
        None => error.message().to_owned(),
    }
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    parse_age(&text).map(Some).map_err(D::Error::custom)
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    parse_bytes(&text).map(Some).map_err(D::Error::custom)
}

fn measures<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Measures>>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    let of = |name: &String| match &**name {
        "cpu" => Ok(Measures::Cpu),
        "waits" => Ok(Measures::Waits),
        "memory" => Ok(Measures::Memory),
        _ => Err(D::Error::custom(format!(
            "there is no instrument {name:?}: cpu, waits, memory"
        ))),
    };
    names.iter().map(of).collect::<Result<Vec<_>, _>>().map(Some)
}
