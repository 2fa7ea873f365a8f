//! One stack out of three: kernel frames, native frames and Python frames, in the order in which they called each other.
//!
//! CPython's evaluation loop is a native function that runs Python frames: its native frame is replaced, in place, by
//! the Python frames it ran. Up to 3.10 that is one each; from 3.11 on a loop runs calls from Python to Python itself,
//! and the frame it was entered with is marked.
//!
//! Both lists are exact from the leaf to where they end, so they are joined from the leaf.

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
    /// What stands for the native frames that are missing towards the root; `None` if none are.
    pub native_end: Option<T>,
    pub python: &'a [Python<T>],
    /// The same for Python frames.
    pub python_end: Option<T>,
    /// Loops above the first Python frame that have none (yet, or any more).
    pub frameless: usize,
    /// What stands for the frames of loops that are not in a Python list that is whole; `None` where they may be missing
    /// because it is not.
    pub unseen: Option<T>,
    /// Which loops those are cannot be said.
    pub unseen_anywhere: bool,
}

/// Appends the whole stack to `stack`, leaf first; `false` if the two lists contradict each other.
///
/// Then nobody can say where in between the native frames belong, and only the leaf of them is kept.
pub fn stitch<T: Copy>(parts: Parts<'_, T>, stack: &mut Vec<T>) -> bool {
    stack.extend_from_slice(parts.kernel);
    let loops = parts.native.iter().filter(|native| native.eval_loop).count();
    let entries = parts.python.iter().filter(|python| python.entry).count() + parts.frameless;
    // Frames of compiled Python functions (Nuitka's) are in the chain, and no loop has run them.
    let loopless = parts.python_end.is_none() && parts.python.last().is_some_and(|last| !last.entry);
    let native_complete = !parts.native.is_empty() && parts.native_end.is_none();
    // A native stack that reaches the thread's first function has all loops there are.
    let fits = !(native_complete && entries + usize::from(loopless) > loops);
    if fits && !parts.unseen_anywhere {
        interleave(parts, stack);
    } else {
        if let Some(leaf) = parts.native.first().filter(|leaf| !leaf.eval_loop) {
            stack.push(leaf.frame);
        }
        stack.extend(parts.unseen.filter(|_| fits));
        stack.extend(parts.python.iter().filter_map(|python| python.frame));
        stack.extend(parts.python_end);
    }
    fits && !parts.unseen_anywhere
}

fn interleave<T: Copy>(parts: Parts<'_, T>, stack: &mut Vec<T>) {
    let mut python = parts.python.iter().peekable();
    let mut python_end = parts.python_end;
    let mut frameless = parts.frameless;
    for native in parts.native {
        if !native.eval_loop {
            stack.push(native.frame);
        } else if frameless > 0 {
            frameless -= 1;
        } else if python.peek().is_some() {
            for frame in python.by_ref() {
                stack.extend(frame.frame);
                if frame.entry {
                    break;
                }
            }
            // The frame this loop was entered with may be among those that are missing.
            if python.peek().is_none() {
                stack.extend(python_end.take());
            }
        } else {
            // A loop whose frames are not in the list: it could not be read, or ended before this loop, or they are
            // those of another interpreter of this thread.
            stack.push(parts.unseen.unwrap_or(native.frame));
        }
    }
    if python.peek().is_some() {
        // The native list ended first.
        stack.extend(parts.native_end);
        stack.extend(python.filter_map(|frame| frame.frame));
        stack.extend(python_end);
    } else {
        stack.extend(python_end);
        stack.extend(parts.native_end);
    }
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

    /// A list that ends with `!` is not complete; with `?` it is, and others are missing; with `??` nobody knows where.
    fn stitched(kernel: &str, native_frames: &str, python_frames: &str, frameless: usize) -> (String, bool) {
        let kernel: Vec<char> = kernel.chars().collect();
        let mut stack = Vec::new();
        let fits = stitch(
            Parts {
                kernel: &kernel,
                native: &native(native_frames.trim_end_matches('!')),
                native_end: native_frames.ends_with('!').then_some('N'),
                python: &python(python_frames.trim_end_matches(['!', '?'])),
                python_end: python_frames.ends_with('!').then_some('Y'),
                frameless,
                unseen: python_frames.ends_with('?').then_some('?'),
                unseen_anywhere: python_frames.ends_with("??"),
            },
            &mut stack,
        );
        (stack.into_iter().collect(), fits)
    }

    #[test]
    fn each_loop_is_replaced_by_the_frames_it_ran() {
        assert_eq!(stitched("k", "ab*cd*e", "PQ|R|", 0), ("kabPQcdRe".into(), true));
        assert_eq!(stitched("", "*x*y*s", "P|Q|R|", 0), ("PxQyRs".into(), true));
    }

    #[test]
    fn a_loop_without_a_frame_yet_is_skipped() {
        assert_eq!(stitched("", "a*b*s", "P|", 1), ("abPs".into(), true));
        assert_eq!(stitched("", "a*s", "", 1), ("as".into(), true));
    }

    #[test]
    fn frames_that_cpython_hides_are_left_out_but_still_end_their_loop() {
        assert_eq!(stitched("", "*c*s", "P_|Q|", 0), ("PcQs".into(), true));
    }

    #[test]
    fn a_native_list_that_ends_early_is_joined_as_far_as_it_goes() {
        assert_eq!(stitched("", "a*b*c!", "P|Q|R|S|", 0), ("aPbQcNRS".into(), true));
        assert_eq!(stitched("", "a*!", "PQ|", 0), ("aPQN".into(), true));
        assert_eq!(stitched("k", "", "P|", 0), ("kP".into(), true));
        assert_eq!(stitched("", "ab!", "", 0), ("abN".into(), true));
    }

    #[test]
    fn a_python_list_that_ends_early_is_marked_where_it_ends() {
        // Q's callers in its own loop are missing, and the frames of the outer loop.
        assert_eq!(stitched("", "a*b*c*s", "P|Q!", 0), ("aPbQYc*s".into(), true));
        assert_eq!(stitched("", "a*s", "!", 0), ("a*sY".into(), true));
    }

    #[test]
    fn loops_of_which_nothing_is_known_stay_visible() {
        assert_eq!(stitched("", "a*b*c*s", "P|", 0), ("aPb*c*s".into(), true));
        assert_eq!(stitched("", "a*s", "", 0), ("a*s".into(), true));
    }

    #[test]
    fn loops_of_other_interpreters_of_the_thread_are_marked_where_they_are() {
        assert_eq!(stitched("", "a*b*c*s", "P|?", 0), ("aPb?c?s".into(), true));
        assert_eq!(stitched("", "a*s", "?", 0), ("a?s".into(), true));
        assert_eq!(stitched("", "a*b*s", "P|?", 0), ("aPb?s".into(), true));
        assert_eq!(stitched("", "a*b*s", "P|?", 1), ("abPs".into(), true));
        assert_eq!(stitched("", "a*b*s!", "P|?", 0), ("aPb?sN".into(), true));
    }

    #[test]
    fn where_nobody_knows_which_loops_are_others_the_stack_says_so_and_is_no_whole_one() {
        assert_eq!(stitched("k", "a*b*c*s", "P|??", 0), ("ka?P".into(), false));
    }

    #[test]
    fn frames_that_no_loop_has_run_never_lie_below_what_called_them() {
        assert_eq!(stitched("k", "ab*s", "P|QR", 0), ("kaPQR".into(), false));
        assert_eq!(stitched("", "abs", "QR", 0), ("aQR".into(), false));
        assert_eq!(stitched("", "abs!", "QR", 0), ("absNQR".into(), true));
        // Where the chain was cut, their loop may be one of those that are there.
        assert_eq!(stitched("", "a*s", "QR!", 0), ("aQRYs".into(), true));
    }

    #[test]
    fn lists_that_contradict_each_other_cost_the_native_frames_not_the_order() {
        assert_eq!(stitched("k", "ab*s", "P|Q|", 0), ("kaPQ".into(), false));
        assert_eq!(stitched("", "*s", "P|Q|", 0), ("PQ".into(), false));
    }
}
