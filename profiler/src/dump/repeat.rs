//! What has not changed between several looks: where a program is stuck.

use super::{Snapshot, frame::Frame, thread::Thread};

/// Marks in `now` what is as it was `before`. Of a third look on, what was not marked before is not marked.
pub fn mark(now: &mut [Snapshot], before: &[Snapshot], is_second: bool) {
    for snapshot in now {
        let Some(before) = before.iter().find(|before| before.pid == snapshot.pid) else {
            continue;
        };
        for thread in &mut snapshot.threads {
            let same = |before: &&Thread| before.tid == thread.tid && before.ident == thread.ident;
            if let Some(before) = before.threads.iter().find(same) {
                mark_thread(thread, before, is_second);
            }
        }
    }
}

fn mark_thread(now: &mut Thread, before: &Thread, is_second: bool) {
    let is_away = now.state.wait().is_some();
    now.has_not_run = is_away && now.slices == before.slices && (is_second || before.has_not_run);
    // From the root: what lies above a frame that went on is another call.
    for (frame, before) in now.frames.iter_mut().rev().zip(before.frames.iter().rev()) {
        if !is_same_call(frame, before) {
            break;
        }
        frame.is_unchanged =
            frame.link.instruction() == before.link.instruction() && (is_second || before.is_unchanged);
        if !frame.is_unchanged {
            break;
        }
    }
}

fn is_same_call(one: &Frame, other: &Frame) -> bool {
    let place = |frame: &Frame| (frame.link.address, frame.link.frame.code, frame.link.frame.fingerprint);
    place(one) == place(other)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use profiler_common::record::PythonFrame;

    use super::*;
    use crate::{
        dump::{
            chain::Link,
            state::{State, Wait},
            thread::Sample,
        },
        python::code::Code,
        waits::cause::Cause,
    };

    /// A thread that waits, with frames of these codes and instructions, innermost first.
    fn thread(slices: u64, frames: &[(u64, u64)]) -> Thread {
        let frames = frames
            .iter()
            .rev()
            .enumerate()
            .map(|(depth, &(code, instruction))| Frame {
                code: Rc::new(Code::gone()),
                line: None,
                link: Link {
                    address: 0x1000 * depth as u64,
                    frame: PythonFrame {
                        code,
                        instruction,
                        fingerprint: code,
                    },
                },
                locals: None,
                is_unchanged: false,
            });
        let mut frames: Vec<Frame> = frames.collect();
        frames.reverse();
        Thread {
            tid: 7,
            ident: 8,
            name: None,
            comm: String::new(),
            state: State::Waiting(Wait {
                cause: Cause::Lock,
                call: 202,
                target: String::new(),
                socket: None,
                peer: None,
                holder: None,
                left_ns: None,
                is_uninterruptible: false,
            }),
            since_ns: None,
            owns_gil: false,
            is_collecting: false,
            handles: None,
            frames,
            native: Vec::new(),
            sample: Sample::None,
            is_cut: false,
            held_still: true,
            slices,
            died_of: None,
            has_not_run: false,
        }
    }

    fn marks(looks: &[Thread]) -> (bool, Vec<bool>) {
        let mut before = looks[0].clone();
        for (at, look) in looks.iter().enumerate().skip(1) {
            let mut now = look.clone();
            mark_thread(&mut now, &before, at == 1);
            before = now;
        }
        (
            before.has_not_run,
            before.frames.iter().map(|frame| frame.is_unchanged).collect(),
        )
    }

    #[test]
    fn frames_are_unchanged_from_the_root_up_to_the_first_that_went_on() {
        let looks = [
            thread(1, &[(3, 30), (2, 20), (1, 10)]),
            thread(2, &[(4, 30), (3, 30), (2, 21), (1, 10)]),
        ];
        assert_eq!(marks(&looks), (false, vec![false, false, false, true]));
        let still = [looks[0].clone(), looks[0].clone(), looks[0].clone()];
        assert_eq!(marks(&still), (true, vec![true; 3]));
    }

    #[test]
    fn what_moved_once_is_not_unchanged_although_it_is_back() {
        let (one, other) = (thread(1, &[(2, 20), (1, 10)]), thread(2, &[(2, 22), (1, 10)]));
        assert_eq!(marks(&[one.clone(), other, one]), (false, vec![false, true]));
    }
}
