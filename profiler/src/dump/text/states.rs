//! What a thread does, in words.

use std::time::Duration;

use profiler_common::wait::NO_CALL;

use crate::{
    dump::{
        state::{self, State, Wait},
        thread::Thread,
    },
    humanize, shown,
    waits::cause::Cause,
};

/// `Thread 4245 "worker": in recv from 10.0.0.7:5432 for 12.3 s, holds the GIL`
pub(super) fn title(thread: &Thread) -> String {
    let name = thread.name.as_deref().unwrap_or(&thread.comm);
    let mut title = format!(
        "Thread {} \"{}\": {}",
        thread.tid,
        shown::line(name),
        told(&thread.state)
    );
    let time = |ns: u64| humanize::duration(Duration::from_nanos(ns));
    if let Some(since) = thread.since_ns {
        title.push_str(&format!(" for {}", time(since)));
    }
    if let Some(left) = thread.state.wait().and_then(|wait| wait.left_ns) {
        title.push_str(&format!(", {} to go", time(left)));
    }
    if thread.owns_gil {
        title.push_str(", holds the GIL");
    }
    if thread.is_collecting {
        title.push_str(", collects garbage");
    }
    if let Some(kind) = &thread.handles {
        title.push_str(&format!(", handles {}", shown::line(kind)));
    }
    if let Some(signal) = thread.died_of {
        title.push_str(&format!(", died of signal {signal}"));
    }
    if thread.has_not_run {
        title.push_str(", has not run");
    }
    if !thread.held_still {
        title.push_str(", may have moved while it was read");
    }
    title
}

/// A state in words.
pub(super) fn told(state: &State) -> String {
    match state {
        State::Running { cpu } => format!("running on CPU {cpu}"),
        State::Ended => "has ended".to_owned(),
        State::Waiting(wait) => waiting(wait),
    }
}

/// The same without the CPU, which is another every time.
pub(super) fn kind(state: &State) -> String {
    match state {
        State::Running { .. } => "running".to_owned(),
        state => told(state),
    }
}

fn waiting(wait: &Wait) -> String {
    let target = shown::line(&wait.target);
    let words = match wait.cause {
        Cause::Gil => match &wait.holder {
            Some(holder) => {
                let name = holder.name.as_deref().map(|name| format!(" \"{}\"", shown::line(name)));
                format!("waits for the GIL held by {}{}", holder.tid, name.unwrap_or_default())
            }
            None => "waits for the GIL".to_owned(),
        },
        Cause::Lock => "waits for a lock".to_owned(),
        Cause::Sleep => "sleeps".to_owned(),
        Cause::Fault => "waits for a page of memory".to_owned(),
        Cause::Stopped => return target,
        Cause::Child if target.is_empty() => "waits for a child process".to_owned(),
        Cause::Child => format!("waits for {target}"),
        _ if wait.call == NO_CALL => "waits in the kernel".to_owned(),
        _ => {
            let call = state::call_name(wait.call);
            let preposition = preposition(wait.call);
            let peer = wait.peer.as_ref().map(|peer| shown::line(&peer.to_string()));
            match (&*target, peer) {
                ("", None) => format!("in {call}"),
                ("", Some(peer)) => format!("in {call} {preposition} process {peer}"),
                (target, None) if target.starts_with("listening on ") => format!("in {call}, {target}"),
                (target, None) => format!("in {call} {preposition} {target}"),
                (target, Some(peer)) => format!("in {call} {preposition} {target} of process {peer}"),
            }
        }
    };
    match wait.is_uninterruptible {
        true => format!("{words} (uninterruptible)"),
        false => words,
    }
}

fn preposition(call: u32) -> &'static str {
    match call {
        // read, pread, readv, recv…
        0 | 17 | 19 | 45 | 47 | 299 => "from",
        // write, pwrite, writev, connect, send…, sendfile
        1 | 18 | 20 | 42 | 44 | 46 | 307 | 40 => "to",
        7 | 23 | 232 | 270 | 271 | 281 | 441 => "on",
        _ => "of",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dump::state::Holder, process::peers::Peer};

    fn wait(cause: Cause, call: u32, target: &str) -> Wait {
        Wait {
            cause,
            call,
            target: target.to_owned(),
            socket: None,
            peer: None,
            holder: None,
            left_ns: None,
            is_uninterruptible: false,
        }
    }

    #[test]
    fn a_wait_is_a_sentence() {
        for (cause, call, target, expected) in [
            (Cause::Socket, 45, "10.0.0.7:5432", "in recv from 10.0.0.7:5432"),
            (
                Cause::Socket,
                43,
                "listening on 0.0.0.0:80",
                "in accept, listening on 0.0.0.0:80",
            ),
            (Cause::Poll, 232, "12 descriptors", "in epoll_wait on 12 descriptors"),
            (Cause::Disk, 74, "/var/x.db", "in fsync of /var/x.db"),
            (Cause::File, 73, "/run/\x1b[2J", "in flock of /run/\u{fffd}[2J"),
            (Cause::Child, 61, "", "waits for a child process"),
            (Cause::Other, 34, "", "in pause"),
            (Cause::Other, NO_CALL, "", "waits in the kernel"),
            (Cause::Other, 999, "", "in system call 999"),
        ] {
            assert_eq!(waiting(&wait(cause, call, target)), expected);
        }
        let mut near = wait(Cause::Socket, 45, "127.0.0.1:5432");
        near.peer = Some(Peer {
            pid: 812,
            name: "postgres\x07".to_owned(),
        });
        assert_eq!(
            waiting(&near),
            "in recv from 127.0.0.1:5432 of process 812 (postgres\u{fffd})"
        );
        near.target.clear();
        assert_eq!(waiting(&near), "in recv from process 812 (postgres\u{fffd})");
        let mut gil = wait(Cause::Gil, 202, "");
        gil.holder = Some(Holder {
            tid: 4245,
            name: Some("worker\n".to_owned()),
        });
        assert_eq!(waiting(&gil), "waits for the GIL held by 4245 \"worker\u{fffd}\"");
        let mut stuck = wait(Cause::Disk, 0, "/nfs/x");
        stuck.is_uninterruptible = true;
        assert_eq!(waiting(&stuck), "in read from /nfs/x (uninterruptible)");
    }
}
