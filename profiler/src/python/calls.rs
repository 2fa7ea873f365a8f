//! Where the calls of Python functions can be counted and timed from outside.
//!
//! Up to 3.10, `_PyEval_EvalFrameDefault` runs one frame, once per call and once per resumption of a generator: exactly
//! what CPython's own profiler counts. From 3.11 on it runs calls from Python to Python inside itself, but the frames of
//! those are cleared by one function when they end ([`exits`]). In 3.11, all other calls and all resumptions still enter
//! the loop. From 3.12 on all frames are cleared by that function, and what remains are generators, which end once and
//! are resumed often: they stop in the handler of `YIELD_VALUE`, which the loop's own table leads to ([`handlers`]).
//!
//! | version | a call is |
//! |---|---|
//! | 3.8 – 3.10 | an entry |
//! | 3.11 | an entry (but not to create a generator), or the end of a frame that the loop was not entered with |
//! | 3.12 – 3.15 | the end of a frame, or a yield |
//!
//! Two kinds of ends are no calls. From 3.13 on, `C()` with an `__init__` in Python ends two frames, one of them of a
//! code object that lies in the file ([`CallProbes::cleanup_code`]). And a frame whose call failed because of its
//! arguments, or of too deep recursion, is cleared without having begun: its instruction pointer still is before (3.11,
//! 3.12) or at (3.13 on) the first instruction.
//!
//! Compared with cProfile in one run, function by function, over 30,000 calls of 79 functions, each called in another way
//! (`tests/workloads/calls/kinds.py`): equal on pyenv's 3.11.7, 3.12.1 and 3.13.0, on Debian's 3.11.2 (executable and
//! library), 3.13.18, 3.14.10 and 3.15.2, on a 3.12.10 that clang compiled with a profile, and on tail-calling test
//! builds of 3.14.10 (library, executable, with a profile, after BOLT) and 3.15.2. On pyenv's 3.8.18, 3.9.18 and 3.10.13
//! the one call that is too deep is counted as well. Of two runs, one with cProfile and one with probes, the same is
//! true up to 3.13.0. On 3.13.18 and later, cProfile's has more: while it watches, CPython resumes a suspended generator
//! that is closed, which otherwise is just cleared.
//!
//! Machine code that CPython's JIT has made (3.15.2, PYTHON_JIT=1) calls the function that clears frames, and so calls of
//! functions are counted, but it has handlers of its own: of 50,000 yields 50 were seen, and of 50,000 entries 50.

pub mod exits;
pub mod handlers;
pub mod leave;

#[cfg(test)]
mod builds;
#[cfg(test)]
mod fake;

use super::allocator::NoAllocator;
use super::allocator::code::Code;
use super::allocator::flow::{State, Value};
use super::allocator::place::{Place, RegisterIndex, on_entry};
use super::binary::PythonBinary;
use handlers::Handlers;

/// How calls can be seen in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallProbes {
    /// All of them together see every call once.
    pub calls: Vec<CallProbe>,
    /// Where the beginning of a call or of a resumption can be seen, for timing; all of them are needed. No use for
    /// counting: when code is first run, a beginning may be seen twice, the second time some hundred instructions later;
    /// a generator expression of 3.15 also begins when it is made; and a generator that an exception is thrown into, or
    /// that is closed, is resumed unseen.
    pub entries: Result<Vec<FrameProbe>, NoEntry>,
    /// Where the end of a call or of a resumption can be seen, for timing, on 3.8 – 3.10; if empty, by a return probe at
    /// the entry, which loses what is nested deeper than 64. From 3.11 on, [`CallProbes::calls`] see the ends.
    pub ends: Vec<FrameProbe>,
    /// Why the yields of generators cannot be seen. Then a generator counts when it ends, not when it is resumed.
    pub no_yields: Option<NoEntry>,
    /// `_Py_InitCleanup`, the file's address: frames with this code object are not calls (3.13 on).
    pub cleanup_code: Option<u64>,
    /// The frame that ends has not begun, and so is not a call, if its instruction pointer is at most so many bytes after
    /// its code's first instruction (3.11 on).
    pub not_begun: Option<i16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallProbe {
    pub place: Place,
    pub event: Event,
    /// What has the address of the frame (the frame object up to 3.10).
    pub frame: RegisterIndex,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call, or the resumption of a generator. The stack pointer is as it was on entry: a return probe may stand here,
    /// and sees the end.
    Entry,
    /// A call or a resumption (3.11), unless the code's flags, at this offset, have one of [`GENERATOR_FLAGS`] and no
    /// generator owns the frame ([`OWNED_BY_GENERATOR`]): then one is created. The end of such a frame is seen by a
    /// return probe here, as with [`Event::Entry`]; its [`Event::InnerExit`] is missing in some builds.
    LoopEntry { code_flags: u8 },
    /// The end of a frame, and of a call unless [`CallProbes::cleanup_code`] is its code, or it has not begun.
    Exit,
    /// The end of a frame, and of a call unless the loop was entered with it (`is_entry` in the frame; 3.11), or it has
    /// not begun.
    InnerExit,
    /// A generator or coroutine stops and will be resumed: a call has ended.
    Yield,
}

/// See [`CallProbes::entries`] and [`CallProbes::ends`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameProbe {
    pub place: Place,
    pub frame: RegisterIndex,
}

/// `CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR` in `co_flags`, a 32-bit field.
pub const GENERATOR_FLAGS: u32 = 0x20 | 0x80 | 0x200;

/// `FRAME_OWNED_BY_GENERATOR`, 3.11 – 3.15.
pub const OWNED_BY_GENERATOR: u8 = 1;

/// 3.11 and 3.12 have the last instruction in a frame, from 3.13 on it is the next.
const BEFORE_FIRST: i16 = -2;
const AT_FIRST: i16 = 0;

/// `offsetof(PyCodeObject, co_flags)` of 3.11.
const CODE_FLAGS_3_11: u8 = 48;

/// Why calls cannot be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCalls {
    #[error(transparent)]
    Code(#[from] NoAllocator),
    #[error("of a pre-release it is not known which of its instructions are calls")]
    PreRelease,
    #[error("its evaluation loop was not found")]
    NoEvalLoop,
    #[error("the arguments of _PyEval_EvalFrameDefault cannot be read where it begins")]
    NoArguments,
    #[error("the function that clears frames ({name}) was not found: this build has it inlined")]
    Inlined { name: &'static str },
}

/// Why the entries or the yields cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry {
    #[error("the evaluation loop has no table of handlers, or it was not found")]
    NoTable,
    #[error("the handler of opcode {opcode} does not set the frame's instruction pointer in a known way")]
    UnknownHandler { opcode: u8 },
}

/// What `elf`, the bytes of the file that `binary` was read from, says about calls.
pub fn inspect(elf: &[u8], binary: &PythonBinary) -> Result<CallProbes, NoCalls> {
    let code = Code::new(elf)?;
    if binary.version.is_alpha_or_beta() {
        return Err(NoCalls::PreRelease);
    }
    if binary.eval_loop.is_empty() {
        return Err(NoCalls::NoEvalLoop);
    }
    let series = binary.version.series();
    if series < (3, 11) {
        // 3.8: (frame, throwflag); then (tstate, frame, throwflag).
        let probe = entry(&code, binary, u8::from(series > (3, 8)), Event::Entry)?;
        return Ok(CallProbes {
            entries: Ok(vec![FrameProbe {
                place: probe.place,
                frame: probe.frame,
            }]),
            calls: vec![probe],
            ends: leave::find(&code, binary),
            no_yields: None,
            cleanup_code: None,
            not_begun: None,
        });
    }
    let handlers = Handlers::find(&code, binary);
    let handlers = handlers.as_ref().map_err(|reason| *reason);
    let mut calls = exits::find(&code, binary)?;
    let mut no_yields = None;
    if series == (3, 11) {
        let event = Event::LoopEntry {
            code_flags: CODE_FLAGS_3_11,
        };
        calls.push(entry(&code, binary, 1, event)?);
    } else {
        match handlers.and_then(Handlers::yields) {
            Ok(yields) => calls.extend(yields),
            Err(reason) => no_yields = Some(reason),
        }
    }
    Ok(CallProbes {
        calls,
        entries: handlers.and_then(Handlers::entries),
        ends: Vec::new(),
        no_yields,
        cleanup_code: exits::cleanup_code(&code, binary),
        not_begun: Some(if series < (3, 13) { BEFORE_FIRST } else { AT_FIRST }),
    })
}

/// Where `_PyEval_EvalFrameDefault` is entered; `argument` is its frame.
fn entry(code: &Code<'_>, binary: &PythonBinary, argument: u8, event: Event) -> Result<CallProbe, NoCalls> {
    let mut pieces = binary.eval_loop.iter();
    let piece = pieces
        .find(|piece| piece.contains(&binary.eval_frame))
        .ok_or(NoCalls::NoEvalLoop)?;
    let fits = |state: &State| state.holder(Value::Argument(argument)).is_some() && state.stack_is_untouched();
    let spot = on_entry(code, &(binary.eval_frame..piece.end), fits).ok_or(NoCalls::NoArguments)?;
    Ok(CallProbe {
        place: spot.place,
        event,
        frame: spot.register(Value::Argument(argument)).ok_or(NoCalls::NoArguments)?,
    })
}
