//! What an agent is to do: the file and what is typed together, checked, with every default.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    address::Address,
    alerts::Rules,
    file::{AgentFile, OutputFile, ServiceRule},
    outlets::place,
};
use crate::{
    cli::agent::{Agent, Measures},
    config::{DEFAULT_KEPT_WINDOWS, RATES_HZ, SHORTEST_WINDOW, Verbosity},
};

/// A prime near twenty: what others take, and nothing else happens as often.
pub const DEFAULT_RATE_HZ: u32 = 19;
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);
const DEFAULT_SPOOL: &str = "/var/lib/profiler/spool";
const DEFAULT_SPOOL_BYTES: u64 = 256 << 20;
const DEFAULT_STORE_KEEP: Duration = Duration::from_secs(14 * 24 * 3600);
/// Labels that every profile has.
const MOST_LABELS: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("cannot read {}: {error}; name another with --config", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{} is larger than 1 MiB, and no configuration of an agent", path.display())]
    LongFile { path: PathBuf },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: String },
    #[error(
        "an agent needs somewhere to send to: --otlp URL, --store DIR, --pprof DIR, --pyroscope URL or --listen ADDRESS"
    )]
    NoOutput,
    #[error("windows are at least 1 second long")]
    ShortWindow,
    #[error("the rate is from {} to {} samples a second", RATES_HZ.start(), RATES_HZ.end())]
    Rate,
    #[error("there is nothing to measure: name cpu, waits or memory with --instruments")]
    NoInstrument,
    #[error("{text:?} is no share of a CPU; write it as 1% or 0.5%, up to 100%")]
    Share { text: String },
    #[error("cpu-pressure is a percentage from 1 to 100")]
    Pressure,
    #[error("{url:?} is no address to send to; it begins with {schemes}")]
    Url { url: String, schemes: String },
    #[error(
        "{address} could be reached from other machines, and there is no password; listen at 127.0.0.1, [::1] or unix:/run/profiler-agent/socket, and let a proxy with TLS in front of it decide who may look"
    )]
    Listen { address: Address },
    #[error("the service rule {name:?} fits every process; give it a command, cgroup, container or executable")]
    EmptyRule { name: String },
    #[error("a service rule has no name; write name = \"…\"")]
    NamelessRule,
    #[error("{0}")]
    Alert(String),
    #[error("{number} labels are too many: {MOST_LABELS} at most, since every profile has all of them")]
    Labels { number: usize },
    #[error("the label {name:?} is what the agent itself says of each process; {remedy}")]
    ReservedLabel { name: String, remedy: &'static str },
    #[error("a label has no name; write name = \"value\"")]
    NamelessLabel,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub window: Duration,
    pub rate_hz: u32,
    pub instruments: Vec<Measures>,
    pub duration: Option<Duration>,
    /// The agent's own, as a part of one CPU.
    pub max_cpu: Option<f64>,
    pub max_memory: Option<u64>,
    /// Nothing is looked at while more of the time something waits for a CPU, in percent.
    pub max_pressure: Option<f64>,
    pub stop_file: Option<PathBuf>,
    pub outputs: Vec<Outlet>,
    pub spool: PathBuf,
    pub spool_bytes: u64,
    /// `None`: as the machine calls itself.
    pub host_name: Option<String>,
    pub listen: Option<Address>,
    pub labels: BTreeMap<String, String>,
    pub services: Vec<ServiceRule>,
    pub alerts: Rules,
    pub verbosity: Verbosity,
}

/// Where windows go.
#[derive(Clone, Debug, PartialEq)]
pub enum Outlet {
    Otlp {
        url: String,
        headers: BTreeMap<String, String>,
    },
    Pyroscope {
        url: String,
        headers: BTreeMap<String, String>,
    },
    Store {
        directory: PathBuf,
        /// For so long.
        keep: Duration,
    },
    Pprof {
        directory: PathBuf,
        keep: usize,
    },
}

impl Options {
    pub fn from_cli(typed: &Agent) -> Result<Self, OptionsError> {
        let file = match &typed.config {
            Some(path) => AgentFile::read(path)?,
            None => AgentFile::default(),
        };
        Self::new(typed, file)
    }

    fn new(typed: &Agent, file: AgentFile) -> Result<Self, OptionsError> {
        // Every field is named, so that a new option cannot be forgotten here.
        let Agent {
            action: _,
            config: _,
            window,
            rate,
            instruments,
            duration,
            max_cpu,
            max_memory,
            stop_file,
            otlp,
            pyroscope,
            store,
            store_keep,
            pprof,
            keep,
            spool,
            spool_bytes,
            host_name,
            alerts,
            listen,
            quiet,
            verbose,
        } = typed;
        let window = window.or(file.window).unwrap_or(DEFAULT_WINDOW);
        if window < SHORTEST_WINDOW {
            return Err(OptionsError::ShortWindow);
        }
        let rate_hz = match rate.or(file.rate) {
            Some(rate) => u32::try_from(rate).map_err(|_| OptionsError::Rate)?,
            None => DEFAULT_RATE_HZ,
        };
        if !RATES_HZ.contains(&rate_hz) {
            return Err(OptionsError::Rate);
        }
        let mut wanted = match (instruments.is_empty(), file.instruments) {
            (false, _) => instruments.clone(),
            (true, Some(instruments)) => instruments,
            (true, None) => vec![Measures::Cpu, Measures::Waits, Measures::Memory],
        };
        wanted.sort_by_key(|one| *one as u8);
        wanted.dedup();
        if wanted.is_empty() {
            return Err(OptionsError::NoInstrument);
        }
        let none = BTreeMap::new;
        let typed_outputs = (otlp.iter().map(|url| Outlet::Otlp {
            url: url.clone(),
            headers: none(),
        }))
        .chain(pyroscope.iter().map(|url| Outlet::Pyroscope {
            url: url.clone(),
            headers: none(),
        }))
        .chain(store.iter().map(|directory| Outlet::Store {
            directory: directory.clone(),
            keep: store_keep.unwrap_or(DEFAULT_STORE_KEEP),
        }))
        .chain(pprof.iter().map(|directory| Outlet::Pprof {
            directory: directory.clone(),
            keep: kept(*keep),
        }));
        let outputs: Vec<Outlet> = typed_outputs.chain(file.output.into_iter().map(Outlet::from)).collect();
        for outlet in &outputs {
            outlet.check()?;
        }
        let listen = listen.clone().or(file.listen);
        if outputs.is_empty() && listen.is_none() {
            return Err(OptionsError::NoOutput);
        }
        if let Some(address) = listen.as_ref().filter(|address| !address.is_own()) {
            return Err(OptionsError::Listen {
                address: address.clone(),
            });
        }
        for rule in &file.service {
            rule.check()?;
        }
        if file.labels.len() > MOST_LABELS {
            return Err(OptionsError::Labels {
                number: file.labels.len(),
            });
        }
        for name in file.labels.keys() {
            label(name)?;
        }
        let max_cpu = max_cpu.as_ref().or(file.budget.cpu.as_ref());
        Ok(Self {
            window,
            rate_hz,
            instruments: wanted,
            duration: *duration,
            max_cpu: max_cpu.map(|text| share(text)).transpose()?,
            max_memory: max_memory.or(file.budget.memory),
            max_pressure: pressure(file.budget.cpu_pressure)?,
            stop_file: stop_file.clone().or(file.budget.stop_file),
            outputs,
            spool: (spool.clone().or(file.spool.directory)).unwrap_or_else(|| PathBuf::from(DEFAULT_SPOOL)),
            spool_bytes: spool_bytes.or(file.spool.bytes).unwrap_or(DEFAULT_SPOOL_BYTES),
            host_name: host_name.clone().or(file.host_name),
            listen,
            labels: file.labels,
            services: file.service,
            alerts: Rules::new(file.alerts, alerts).map_err(OptionsError::Alert)?,
            verbosity: match (quiet, verbose) {
                (true, _) => Verbosity::Quiet,
                (false, true) => Verbosity::Verbose,
                (false, false) => Verbosity::Normal,
            },
        })
    }

    pub fn measures(&self, what: Measures) -> bool {
        self.instruments.contains(&what)
    }
}

impl Outlet {
    fn check(&self) -> Result<(), OptionsError> {
        let (url, schemes) = match self {
            Self::Otlp { url, .. } => (url, &["http://", "https://", "grpc://", "grpcs://"][..]),
            Self::Pyroscope { url, .. } => (url, &["http://", "https://"][..]),
            Self::Store { .. } | Self::Pprof { .. } => return Ok(()),
        };
        let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
        match rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            true => Ok(()),
            false => Err(OptionsError::Url {
                url: place(url),
                schemes: schemes.join(" or "),
            }),
        }
    }
}

impl From<OutputFile> for Outlet {
    fn from(file: OutputFile) -> Self {
        match file {
            OutputFile::Otlp { url, headers } => Self::Otlp { url, headers },
            OutputFile::Pyroscope { url, headers } => Self::Pyroscope { url, headers },
            OutputFile::Store { directory, keep } => Self::Store {
                directory,
                keep: keep.unwrap_or(DEFAULT_STORE_KEEP),
            },
            OutputFile::Pprof { directory, keep } => Self::Pprof {
                directory,
                keep: kept(keep),
            },
        }
    }
}

impl ServiceRule {
    fn check(&self) -> Result<(), OptionsError> {
        if self.name.is_empty() {
            return Err(OptionsError::NamelessRule);
        }
        match (&self.command, &self.cgroup, &self.container, &self.executable) {
            (None, None, None, None) => Err(OptionsError::EmptyRule {
                name: self.name.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// A resource has each attribute once (OTLP): a second `host.name` would be read as either, by whom it pleases.
fn label(name: &str) -> Result<(), OptionsError> {
    let remedy = match name {
        "" => return Err(OptionsError::NamelessLabel),
        "host.name" => "use host-name or --host-name for that",
        "service.name" => "use a [[service]] rule for that",
        "container.id" | "k8s.pod.uid" => "call it something else",
        _ if name.starts_with("process.") => "call it something else",
        _ => return Ok(()),
    };
    Err(OptionsError::ReservedLabel {
        name: name.to_owned(),
        remedy,
    })
}

fn kept(keep: Option<u32>) -> usize {
    usize::try_from(keep.unwrap_or(DEFAULT_KEPT_WINDOWS)).unwrap_or(usize::MAX)
}

fn pressure(percent: Option<f64>) -> Result<Option<f64>, OptionsError> {
    match percent {
        Some(percent) if !(1.0..=100.0).contains(&percent) => Err(OptionsError::Pressure),
        percent => Ok(percent),
    }
}

fn share(text: &str) -> Result<f64, OptionsError> {
    let wrong = || OptionsError::Share { text: text.to_owned() };
    let number = text.trim().strip_suffix('%').ok_or_else(wrong)?;
    match number.trim().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(wrong()),
    }
}
