//! One stack out of three: kernel frames, native frames and Python frames, in the order in which they called each other.
//!
//! CPython's evaluation loop is a native function that runs Python frames: its native frame is replaced, in place, by
//! the Python frames it ran. Up to 3.10 that is one each; from 3.11 on a loop runs calls from Python to Python itself,
//! and the frame it was entered with is marked.

/// A native frame, leaf first among its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Native<T> {
    pub frame: T,
    /// Part of an interpreter's evaluation loop.
    pub eval_loop: bool,
}

/// A Python frame, leaf first among its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Python<T> {
    /// `None` if CPython itself does not show it.
    pub frame: Option<T>,
    /// The last one its evaluation loop ran: below it lies C.
    pub entry: bool,
}

/// What is known of one sample's stack. Every list is leaf first.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a, T> {
    pub kernel: &'a [T],
    pub native: &'a [Native<T>],
    /// The native list reaches the thread's first function.
    pub native_complete: bool,
    pub python: &'a [Python<T>],
    /// The Python list reaches the thread's first frame.
    pub python_complete: bool,
    /// Above the first Python frame there is an evaluation loop that has not got one yet.
    pub leading_entry: bool,
}

/// Appends the whole stack to `stack`, leaf first.
///
/// If the native list and the Python list do not agree on the number of evaluation loops, the native list has gaps
/// (code built without frame pointers), and nobody can say where in between its frames belong. Then only what is certain
/// is kept: the native frames above the first loop if the list is unbroken down to there, which only the very leaf is.
pub fn stitch<T: Copy>(parts: Parts<'_, T>, stack: &mut Vec<T>) {
    stack.extend_from_slice(parts.kernel);
    let loops = parts.native.iter().filter(|native| native.eval_loop).count();
    let entries = parts.python.iter().filter(|python| python.entry).count() + usize::from(parts.leading_entry);

    if parts.python.is_empty() && loops == usize::from(parts.leading_entry) {
        stack.extend(
            parts
                .native
                .iter()
                .filter(|native| !native.eval_loop)
                .map(|native| native.frame),
        );
    } else if parts.python.is_empty() {
        // The interpreter's Python stack could not be read: its loop stays visible.
        stack.extend(parts.native.iter().map(|native| native.frame));
    } else if parts.native_complete && parts.python_complete && loops == entries {
        interleave(parts, stack);
    } else {
        if let Some(leaf) = parts.native.first()
            && !leaf.eval_loop
        {
            stack.push(leaf.frame);
        }
        stack.extend(parts.python.iter().filter_map(|python| python.frame));
    }
}

fn interleave<T: Copy>(parts: Parts<'_, T>, stack: &mut Vec<T>) {
    let mut python = parts.python.iter();
    let mut leading = parts.leading_entry;
    for native in parts.native {
        if !native.eval_loop {
            stack.push(native.frame);
        } else if leading {
            leading = false;
        } else {
            for frame in python.by_ref() {
                stack.extend(frame.frame);
                if frame.entry {
                    break;
                }
            }
        }
    }
    stack.extend(python.filter_map(|frame| frame.frame));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(text: &str) -> Vec<Native<char>> {
        text.chars()
            .map(|frame| Native {
                frame,
                eval_loop: frame == '*',
            })
            .collect()
    }

    /// A frame followed by `|` is its loop's entry; `_` is a frame that CPython hides.
    fn python(text: &str) -> Vec<Python<char>> {
        let mut frames: Vec<Python<char>> = Vec::new();
        for letter in text.chars() {
            match (letter, frames.last_mut()) {
                ('|', Some(last)) => last.entry = true,
                ('_', _) => frames.push(Python {
                    frame: None,
                    entry: false,
                }),
                _ => frames.push(Python {
                    frame: Some(letter),
                    entry: false,
                }),
            }
        }
        frames
    }

    fn stitched(kernel: &str, native_frames: &str, python_frames: &str, complete: bool, leading_entry: bool) -> String {
        let kernel: Vec<char> = kernel.chars().collect();
        let mut stack = Vec::new();
        stitch(
            Parts {
                kernel: &kernel,
                native: &native(native_frames),
                native_complete: complete,
                python: &python(python_frames),
                python_complete: true,
                leading_entry,
            },
            &mut stack,
        );
        stack.into_iter().collect()
    }

    #[test]
    fn each_loop_is_replaced_by_the_frames_it_ran() {
        assert_eq!(stitched("k", "ab*cd*e", "PQ|R|", true, false), "kabPQcdRe");
        assert_eq!(stitched("", "*x*y*s", "P|Q|R|", true, false), "PxQyRs");
    }

    #[test]
    fn a_loop_without_a_frame_yet_is_skipped() {
        assert_eq!(stitched("", "a*b*s", "P|", true, true), "abPs");
        assert_eq!(stitched("", "a*s", "", true, true), "as");
    }

    #[test]
    fn frames_that_cpython_hides_are_left_out_but_still_end_their_loop() {
        assert_eq!(stitched("", "*c*s", "P_|Q|", true, false), "PcQs");
    }

    #[test]
    fn gaps_in_the_native_list_cost_the_native_frames_not_the_order() {
        // One loop was not seen: `b` may belong above or below Q.
        assert_eq!(stitched("k", "ab*s", "P|Q|", true, false), "kaPQ");
        // The list does not reach the thread's start.
        assert_eq!(stitched("", "a*", "P|", false, false), "aP");
        assert_eq!(stitched("", "*", "P|", false, false), "P");
        assert_eq!(stitched("k", "", "P|", false, false), "kP");
    }

    #[test]
    fn a_loop_whose_python_frames_could_not_be_read_stays_visible() {
        assert_eq!(stitched("", "a*s", "", true, false), "a*s");
    }
}
