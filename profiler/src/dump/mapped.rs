//! What a process has mapped, and how one comes by the files: of one that lives from /proc, of one that died by its core
//! file.

use std::path::Path;

use super::core::Core;
use crate::process::{
    files::{FileId, Files},
    maps::{self, MapEntry},
};

pub struct Mapped<'a> {
    /// In order of address.
    pub entries: Vec<MapEntry>,
    from: From<'a>,
}

enum From<'a> {
    Process(u32),
    Core {
        core: &'a Core,
        executable: Option<&'a Path>,
    },
}

impl<'a> Mapped<'a> {
    pub fn of_process(pid: u32) -> Self {
        Self {
            entries: maps::read(pid).map(|maps| maps.entries).unwrap_or_default(),
            from: From::Process(pid),
        }
    }

    /// `executable` stands for the program.
    pub fn of_core(core: &'a Core, executable: Option<&'a Path>) -> Self {
        Self {
            entries: core.entries(),
            from: From::Core { core, executable },
        }
    }

    /// The file of a mapping.
    pub fn file(&self, files: &mut Files, entry: &MapEntry) -> Option<FileId> {
        match self.from {
            From::Process(pid) => files.of_mapping(pid, entry),
            From::Core { core, executable } => core.file(files, entry, executable),
        }
    }
}
