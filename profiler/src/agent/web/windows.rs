//! Windows that are kept as files: which there are, and pages of a range of them.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::bail;
use serde::{Deserialize, Serialize};

use crate::{
    agent::{digest, file::ServiceRule, service, split::part},
    diff::{self, Asked as AskedOfDiff, verdict},
    flight::names,
    profile::Profile,
    report::{self, Format, View},
    reread::view::view,
    stored,
};

/// Windows that one page is made of: a day of minutes would take up gigabytes.
const MOST: usize = 120;

/// What a profile is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// CPU time and waits.
    #[default]
    Time,
    Memory,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Memory => "memory",
        }
    }
}

/// Windows from one to another, by when they began; the last one if neither is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub kind: Kind,
    pub from: Option<String>,
    pub to: Option<String>,
    pub service: Option<String>,
}

#[derive(Debug)]
pub struct Windows {
    directory: Option<PathBuf>,
}

impl Windows {
    pub fn of(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// When windows began of which there is a file, oldest first.
    pub fn names(&self) -> Vec<String> {
        (self.files(Kind::Time).into_iter())
            .chain(self.files(Kind::Memory))
            .filter_map(|path| stamp(&path).map(str::to_owned))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    pub fn report(&self, asked: &Asked, rules: &[ServiceRule]) -> anyhow::Result<Vec<u8>> {
        let (profile, name) = self.profile(asked, rules)?;
        let view = view(&profile, profile.default_type, Path::new(&name));
        let mut page = Vec::new();
        Format::Html.writer().write(&profile, &view, &mut page)?;
        Ok(page)
    }

    pub fn pprof(&self, asked: &Asked, rules: &[ServiceRule]) -> anyhow::Result<Vec<u8>> {
        let (profile, _) = self.profile(asked, rules)?;
        let mut bytes = Vec::new();
        Format::Pprof.writer().write(&profile, &View::default(), &mut bytes)?;
        Ok(bytes)
    }

    pub fn diff(&self, before: &Asked, after: &Asked, rules: &[ServiceRule]) -> anyhow::Result<Vec<u8>> {
        let (sides, name) = (self.profiles(before, rules)?, title(before));
        let (others, other_name) = (self.profiles(after, rules)?, title(after));
        let asked = AskedOfDiff::default();
        let found = diff::compare(&sides, &others, &asked)?;
        let verdict = verdict::verdict(&found);
        let asked = AskedOfDiff { native: true, ..asked };
        let tables = diff::compare(&sides, &others, &asked)?;
        let (one, other) = (diff::merge(&sides)?, diff::merge(&others)?);
        let mut page = Vec::new();
        let names = [&*name, &*other_name];
        report::diff::write_page(&found, &verdict, &[], &tables, [&one, &other], names, &mut page)?;
        Ok(page)
    }

    fn profile(&self, asked: &Asked, rules: &[ServiceRule]) -> anyhow::Result<(Profile, String)> {
        let profiles = self.profiles(asked, rules)?;
        Ok((diff::merge(&profiles)?, title(asked)))
    }

    fn profiles(&self, asked: &Asked, rules: &[ServiceRule]) -> anyhow::Result<Vec<Profile>> {
        let mut files = self.files(asked.kind);
        match (&asked.from, &asked.to) {
            (None, None) => {
                let last = files.pop();
                files = last.into_iter().collect();
            }
            (from, to) => files.retain(|path| {
                stamp(path).is_some_and(|stamp| {
                    from.as_deref().is_none_or(|from| stamp >= from) && to.as_deref().is_none_or(|to| stamp <= to)
                })
            }),
        }
        if files.is_empty() {
            bail!("there is no window of that time any more; / lists those that there are");
        }
        if files.len() > MOST {
            bail!("{} windows are too many for one page: {MOST} at most", files.len());
        }
        let mut profiles = Vec::with_capacity(files.len());
        for path in &files {
            let profile = stored::read(path)?;
            profiles.push(match &asked.service {
                Some(wanted) => part(&profile, |labels| {
                    service::name(rules, digest::who(&profile, labels)) == *wanted
                }),
                None => profile,
            });
        }
        if profiles.iter().all(Profile::is_empty) {
            bail!("nothing of it was seen in that time");
        }
        Ok(profiles)
    }

    /// Oldest first.
    fn files(&self, kind: Kind) -> Vec<PathBuf> {
        let Some(directory) = &self.directory else {
            return Vec::new();
        };
        // The directory can be away; then there are no windows.
        let entries = fs::read_dir(directory.join(kind.name()))
            .into_iter()
            .flatten()
            .flatten();
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| stamp(path).is_some())
            .collect();
        files.sort_unstable();
        files
    }
}

/// When the window of a file began, in its own words.
fn stamp(path: &Path) -> Option<&str> {
    let name = path.file_name().and_then(OsStr::to_str)?;
    names::began(name)
}

fn title(asked: &Asked) -> String {
    let what = asked.service.as_deref().unwrap_or("this host");
    match (&asked.from, &asked.to) {
        (Some(from), Some(to)) if from == to => format!("{what}, {from}"),
        (Some(from), Some(to)) => format!("{what}, {from} to {to}"),
        (Some(from), None) => format!("{what}, from {from}"),
        (None, Some(to)) => format!("{what}, to {to}"),
        (None, None) => format!("{what}, last window"),
    }
}
