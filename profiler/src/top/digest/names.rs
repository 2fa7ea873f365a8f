//! What tells a process apart.

use std::path::Path;

use crate::{
    process::{cgroup::Cgroup, comm, command},
    report::label,
    top::facts,
};

pub struct Names {
    pub name: String,
    pub place: String,
    pub user: String,
}

impl Names {
    pub fn of(pid: u32) -> Self {
        let proc = Path::new(super::PROC);
        let comm = comm::of(proc, pid);
        let name = match command::of(pid) {
            Some(command) => command.with_name(&comm),
            None => comm,
        };
        let cgroup = Cgroup::of(pid);
        let place = cgroup.as_ref().and_then(|cgroup| {
            let container = cgroup.container.as_deref().unwrap_or_default();
            label::place(&cgroup.path, container)
        });
        Self {
            name: label::clean(name),
            place: place.map(|place| label::clean(place.to_owned())).unwrap_or_default(),
            user: facts::user(proc, pid),
        }
    }
}
