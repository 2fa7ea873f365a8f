//! Where an agent's windows go: to receivers, by way of a spool each, and to directories on this machine.

mod courier;
mod grpc;
mod http;
mod otlp;
mod pyroscope;
mod spool;
mod store;
#[cfg(test)]
mod tests;
mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{DirBuilder, File},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Sender as SessionEnd;

use self::{
    courier::{Courier, Receiver},
    grpc::OtlpGrpc,
    otlp::Otlp,
    pyroscope::{Pyroscope, Series},
    spool::Spool,
    store::Kept,
    webhook::Webhook,
};
use super::{
    address::Address,
    alerts::To,
    budget::{Budget, Step},
    digest,
    options::{Options, Outlet},
    service,
    split::{by_service, part},
    state::{OutputNow, State},
};
use crate::{
    config::Verbosity,
    cost,
    flight::{Keep, Named, Shelf, Sink, names},
    instruments::content::Content,
    output::Written,
    profile::{Labels, Profile},
    report::{self, Format, View},
    session::StoppedBy,
    shown,
    waits::cause::Cause,
};

/// A collector takes 4 MiB by gRPC unless it was told otherwise (gRPC's default, as it is when unpacked).
const MOST_MESSAGE_BYTES: usize = 3 << 20;
/// Windows that the page shows when nobody said how many are kept.
const SHOWN_WINDOWS: usize = 60;

/// What an agent's windows are given to.
pub struct Outlets {
    options: Options,
    host: String,
    state: State,
    budget: Budget,
    /// What went wrong with the last window.
    failed: String,
    /// By whom a session is ended.
    ask: SessionEnd<StoppedBy>,
    couriers: Vec<Sender>,
    shelves: Vec<Shelves>,
    stores: Vec<Kept>,
    /// Where the page finds windows.
    pub shown: Option<PathBuf>,
    /// Held as long as we are there.
    _lock: File,
}

/// What sends, and what it sends.
struct Sender {
    name: String,
    /// What became of messages in sessions before.
    before: OutputNow,
    kind: Kind,
    courier: Courier,
    /// What was said of it last.
    trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Otlp,
    Pyroscope,
    Alerts,
}

/// A directory with one for each kind of profile in it: a recording has one.
struct Shelves {
    time: Option<Shelf>,
    memory: Option<Shelf>,
}

impl Outlets {
    /// `ask`: for the end of the session.
    pub fn open(options: &Options, state: State, ask: SessionEnd<StoppedBy>) -> anyhow::Result<Self> {
        let lock = spool::only_one(&options.spool)?;
        let mut couriers = Vec::new();
        let mut shelves = Vec::new();
        let mut stores = Vec::new();
        let mut shown = None;
        for outlet in &options.outputs {
            match outlet {
                Outlet::Otlp { url, headers } => {
                    let receiver: Box<dyn Receiver> = match url.starts_with("grpc") {
                        true => Box::new(OtlpGrpc::new(url, headers)?),
                        false => Box::new(Otlp::new(url, headers)),
                    };
                    couriers.push(sender(options, "otlp", url, headers, receiver)?);
                }
                Outlet::Pyroscope { url, headers } => {
                    let receiver = Box::new(Pyroscope::new(url, headers));
                    couriers.push(sender(options, "pyroscope", url, headers, receiver)?);
                }
                Outlet::Pprof { directory, keep } => {
                    shelves.push(Shelves::open(directory, *keep)?);
                    shown.get_or_insert_with(|| directory.clone());
                }
                Outlet::Store { directory, keep } => {
                    stores.push(Kept::open(directory, *keep)?);
                }
            }
        }
        if options.listen.is_some() && shown.is_none() {
            let directory = options.spool.join("shown");
            shelves.push(Shelves::open(&directory, SHOWN_WINDOWS)?);
            shown = Some(directory);
        }
        for to in &options.alerts.to {
            if let To::Webhook(url) = to {
                couriers.push(sender(
                    options,
                    "webhook",
                    url,
                    &BTreeMap::new(),
                    Box::new(Webhook::new(url)),
                )?);
            }
        }
        {
            let seen = state.lock();
            let before = |name: &str| seen.outputs.iter().find(|output| output.name == name).cloned();
            for sender in &mut couriers {
                sender.before = before(&sender.name).unwrap_or_default();
            }
            for store in &mut stores {
                if let Some(before) = before(&store.now.name) {
                    store.now = before;
                }
            }
        }
        let outlets = Self {
            options: options.clone(),
            host: options.host_name.clone().unwrap_or_else(host),
            state,
            budget: Budget::default(),
            failed: String::new(),
            ask,
            couriers,
            shelves,
            stores,
            shown,
            _lock: lock,
        };
        outlets.tell_state();
        Ok(outlets)
    }

    /// What is said of where windows go.
    pub fn place(&self) -> String {
        let mut places: Vec<String> = self.couriers.iter().map(|sender| sender.name.clone()).collect();
        places.extend(self.options.outputs.iter().filter_map(|outlet| match outlet {
            Outlet::Store { directory, .. } | Outlet::Pprof { directory, .. } => Some(directory.display().to_string()),
            Outlet::Otlp { .. } | Outlet::Pyroscope { .. } => None,
        }));
        places.extend(self.options.listen.as_ref().map(Address::to_string));
        places.join(", ")
    }

    /// What the message says of a process beside what its profile says.
    fn about(&self, profile: &Profile, labels: &Labels) -> Vec<(String, String)> {
        let who = digest::who(profile, labels);
        let mut about = vec![
            ("service.name".to_owned(), service::name(&self.options.services, who)),
            ("host.name".to_owned(), self.host.clone()),
        ];
        if let Some(pod) = service::pod(who.cgroup) {
            about.push(("k8s.pod.uid".to_owned(), pod));
        }
        about.extend(
            self.options
                .labels
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        about
    }

    fn message(&self, profile: &Profile, causes: &[Option<Cause>]) -> anyhow::Result<Vec<u8>> {
        let cause = |place: usize| Some(("wait.cause", causes.get(place).copied().flatten()?.name()));
        report::otlp::message(profile, |labels| self.about(profile, labels), cause)
    }

    /// A profile as one message, or as several where that would be larger than receivers take: each of some processes.
    fn messages(&self, profile: &Profile, causes: &[Option<Cause>]) -> anyhow::Result<Vec<Vec<u8>>> {
        let whole = self.message(profile, causes)?;
        if whole.len() <= MOST_MESSAGE_BYTES {
            return Ok(vec![whole]);
        }
        let pids: BTreeSet<u32> = profile.samples().map(|(key, _)| key.labels.pid).collect();
        // What one process has is not torn: whoever takes less will say so.
        if pids.len() < 2 {
            return Ok(vec![whole]);
        }
        drop(whole);
        // Neighbours are often workers of one service, and of one size.
        let first: BTreeSet<u32> = pids.into_iter().step_by(2).collect();
        let mut messages = Vec::new();
        for half in [true, false] {
            let is_his = |labels: &Labels| first.contains(&labels.pid) == half;
            let of_half = (profile.samples().zip(causes))
                .filter(|((key, _), _)| is_his(&key.labels))
                .map(|(_, cause)| *cause)
                .collect::<Vec<_>>();
            messages.extend(self.messages(&part(profile, is_his), &of_half)?);
        }
        Ok(messages)
    }

    /// Gives a profile to those who want a message of it; what is for stores goes to `stored`.
    fn send(&self, content: &Content, stored: &mut Vec<Vec<u8>>) -> anyhow::Result<u64> {
        let Some(profile) = content.profile().filter(|profile| !profile.is_empty()) else {
            return Ok(0);
        };
        let mut bytes = 0;
        let wants = |kind| self.couriers.iter().filter(move |sender| sender.kind == kind);
        // A place that is full must not keep the others from having it.
        let mut failures: Vec<String> = Vec::new();
        let causes = match content {
            Content::Wall(report) => &*report.causes,
            _ => &[],
        };
        if wants(Kind::Otlp).next().is_some() {
            for message in self.messages(profile, causes)? {
                let zipped = gzipped(&message)?;
                for sender in wants(Kind::Otlp) {
                    match sender.courier.spool.put(&zipped) {
                        Ok(()) => bytes += zipped.len() as u64,
                        Err(error) => failures.push(format!("{error:#}")),
                    }
                }
            }
        }
        if !self.stores.is_empty() {
            stored.push(self.message(profile, causes)?);
        }
        if wants(Kind::Pyroscope).next().is_some() {
            let body = gzipped(&pyroscope::body(self.series(content, profile)?)?)?;
            for sender in wants(Kind::Pyroscope) {
                match sender.courier.spool.put(&body) {
                    Ok(()) => bytes += body.len() as u64,
                    Err(error) => failures.push(format!("{error:#}")),
                }
            }
        }
        match failures.is_empty() {
            true => Ok(bytes),
            false => anyhow::bail!(failures.join("; ")),
        }
    }

    fn series(&self, content: &Content, profile: &Profile) -> anyhow::Result<Vec<Series>> {
        let name = match content {
            Content::Memory(..) => "memory",
            _ => "process_cpu",
        };
        let parts = by_service(profile, |labels| {
            service::name(&self.options.services, digest::who(profile, labels))
        });
        let mut labels = self.options.labels.clone();
        labels.insert("host".to_owned(), self.host.clone());
        (parts.into_iter())
            .map(|(service, profile)| {
                let mut pprof = Vec::new();
                Format::Pprof.writer().write(&profile, &View::default(), &mut pprof)?;
                Ok(Series {
                    name,
                    service,
                    labels: labels.clone(),
                    pprof,
                })
            })
            .collect()
    }

    /// Says what rules were broken, everywhere it is to be said; what could not be done.
    fn alert(&self, digest: &digest::Digest) -> Vec<String> {
        let mut failures = Vec::new();
        let alerts = self.state.lock().watch.look(digest, &self.options.alerts);
        for alert in alerts {
            let line = match serde_json::to_string(&alert) {
                Ok(line) => line,
                Err(error) => {
                    failures.push(format!("failed to write an alert: {error}"));
                    continue;
                }
            };
            for to in &self.options.alerts.to {
                let said = match to {
                    To::Stderr => {
                        shown::say(&line);
                        Ok(())
                    }
                    To::File(path) => append(path, &line),
                    // By its spool.
                    To::Webhook(_) => Ok(()),
                };
                failures.extend(said.err().map(|error| format!("{error:#}")));
            }
            for sender in self.couriers.iter().filter(|sender| sender.kind == Kind::Alerts) {
                let put = sender.courier.spool.put(line.as_bytes());
                failures.extend(put.err().map(|error| format!("{error:#}")));
            }
            self.state.lock().tell(alert);
        }
        failures
    }

    /// Has the session end where the next is to measure less, or more.
    fn keep_budget(&mut self, digest: &digest::Digest) {
        let mut seen = self.state.lock();
        let resident_bytes = cost::resident_bytes().0;
        let step = self.budget.look(digest, resident_bytes, &self.options, seen.level);
        let level = match step {
            Some(Step::Less) => seen.level + 1,
            Some(Step::More) => seen.level.saturating_sub(1),
            None => return,
        };
        // It has been asked to end already: what it is asked for now can wait for the next.
        if self.ask.try_send(StoppedBy::OwnBudget).is_ok() {
            seen.level = level;
        }
    }

    fn tell_state(&self) {
        let outputs = (self.couriers.iter())
            .map(|sender| {
                let (waiting, waiting_bytes, dropped) = sender.courier.spool.counts();
                let sent = sender.courier.sent();
                let before = &sender.before;
                OutputNow {
                    name: sender.name.clone(),
                    sent: before.sent + sent.messages,
                    bytes: before.bytes + sent.bytes,
                    failed: before.failed + sent.failed,
                    lost: before.lost + dropped + sent.refused,
                    waiting,
                    waiting_bytes,
                    trouble: sent.trouble,
                }
            })
            .chain(self.stores.iter().map(|store| store.now.clone()))
            .collect();
        let cut = self.stores.iter().flat_map(|store| &store.cut);
        let mut seen = self.state.lock();
        seen.outputs = outputs;
        seen.cut = cut.map(|(what, number)| ((*what).to_owned(), *number)).collect();
    }

    /// Says when a receiver begins to fail, and when it takes messages again; not each time.
    fn say_troubles(&mut self) {
        let quiet = self.options.verbosity == Verbosity::Quiet;
        for sender in &mut self.couriers {
            let trouble = sender.courier.sent().trouble;
            match (&trouble, &sender.trouble) {
                (Some(why), before) if before.as_ref() != Some(why) => {
                    let (waiting, ..) = sender.courier.spool.counts();
                    shown::say(&format!("error: {}: {why}; {waiting} messages wait", sender.name));
                }
                (None, Some(_)) if !quiet => shown::say(&format!("{} takes messages again", sender.name)),
                _ => {}
            }
            sender.trouble = trouble;
        }
    }
}

impl Sink for Outlets {
    fn take(&mut self, window: &Named) -> anyhow::Result<Written> {
        let mut written = Written {
            path: None,
            bytes: 0,
            reader_left: false,
        };
        // One place that is full must not keep the others from having it.
        let digest = digest::digest(window, &self.options.services);
        let mut failures = self.alert(&digest);
        self.keep_budget(&digest);
        self.state.lock().take(digest);
        let mut stored = Vec::new();
        for content in &window.contents {
            match self.send(content, &mut stored) {
                Ok(bytes) => written.bytes += bytes,
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        for store in &mut self.stores {
            match store.take(&stored) {
                Ok(bytes) => written.bytes += bytes,
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        for shelves in &mut self.shelves {
            match shelves.take(window) {
                Ok(bytes) => written.bytes += bytes,
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        self.say_troubles();
        self.tell_state();
        let failed = failures.join("; ");
        let took = std::mem::replace(&mut self.failed, failed.clone());
        match failures.is_empty() {
            true => Ok(written),
            // Nobody has it.
            false if written.bytes == 0 => {
                self.state.lock().windows_lost += 1;
                anyhow::bail!(failed)
            }
            // What others have is not lost. That one place fails is said when it begins to.
            false => {
                if took != failed {
                    shown::say(&format!(
                        "error: the window from {} on is not everywhere: {failed}",
                        names::stamp(window.began)
                    ));
                }
                Ok(written)
            }
        }
    }

    fn tidy(&mut self, keep: &Keep) -> anyhow::Result<u64> {
        self.tell_state();
        let mut kept = 0;
        for shelf in self.shelves.iter_mut().flat_map(Shelves::all) {
            kept += shelf.tidy(keep)?;
        }
        Ok(kept)
    }

    fn finish(&mut self) {
        // All are told before any is waited for: of several that do not answer, each waits for itself.
        for sender in &self.couriers {
            sender.courier.spool.close();
        }
        for sender in &mut self.couriers {
            sender.courier.finish();
        }
        self.say_troubles();
        self.tell_state();
    }
}

impl Shelves {
    fn open(directory: &Path, keep: usize) -> anyhow::Result<Self> {
        let shelf = |name: &str| {
            let directory = directory.join(name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .with_context(|| format!("cannot make {}; name another with --pprof", directory.display()))?;
            Shelf::open(&directory, None, keep)
        };
        Ok(Self {
            time: Some(shelf("time")?),
            memory: Some(shelf("memory")?),
        })
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Shelf> {
        self.time.iter_mut().chain(&mut self.memory)
    }

    fn take(&mut self, window: &Named) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for content in &window.contents {
            let shelf = match content {
                Content::Memory(..) => &mut self.memory,
                _ => &mut self.time,
            };
            let (Some(shelf), Some(profile)) = (shelf, content.profile()) else {
                continue;
            };
            let written = shelf.write(window.number, window.began, window.kept, |out| {
                Format::Pprof.writer().write(profile, &View::default(), out)
            })?;
            bytes += written.bytes;
        }
        Ok(bytes)
    }
}

/// What is sent to one address has a spool of its own, named so that the next agent finds it.
fn sender(
    options: &Options,
    kind_name: &str,
    url: &str,
    headers: &BTreeMap<String, String>,
    receiver: Box<dyn Receiver>,
) -> anyhow::Result<Sender> {
    let kind = match kind_name {
        "otlp" => Kind::Otlp,
        "pyroscope" => Kind::Pyroscope,
        _ => Kind::Alerts,
    };
    let host: String = (place(url).chars())
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .take(60)
        .collect();
    // What is sent to one address as two tenants must not wait in one place.
    let hash = Sha256::digest(format!("{url}\n{headers:?}"));
    let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let spool = options.spool.join(format!("{kind_name}-{host}-{hash}"));
    let spool = Spool::open(&spool, options.spool_bytes)?;
    Ok(Sender {
        name: format!("{kind_name} {}", place(url)),
        before: OutputNow::default(),
        kind,
        courier: Courier::start(kind_name, spool, receiver)?,
        trouble: None,
    })
}

/// Of `http://user:password@host:port/path?token=…` what may be shown: a webhook's path is its password.
pub fn place(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
    format!("{scheme}://{host}")
}

/// What a stranger says, as one line that only reads.
fn one_line(text: &str) -> String {
    shown::line(text).chars().take(200).collect()
}

fn gzipped(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    (gzip.write_all(bytes).and_then(|()| gzip.finish())).context("failed to compress a message")
}

fn append(path: &Path, line: &str) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    // Command lines of every program can be in it.
    let opened = options.append(true).create(true).mode(0o600).open(path);
    opened
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .with_context(|| format!("cannot write an alert to {}", path.display()))
}

/// What this machine calls itself.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}
