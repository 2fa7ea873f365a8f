//! Where the calls of Python functions can be counted and timed from outside.
//!
//! Up to 3.10, `_PyEval_EvalFrameDefault` runs one frame, once per call and once per resumption of a generator: exactly
//! what CPython's own profiler counts. From 3.11 on it runs calls from Python to Python inside itself, but every frame
//! that ends is cleared by one function ([`exits`]). What remains are generators, which end once and are resumed often.
//! 3.11 still enters the evaluation loop for each resumption; from 3.12 on, a generator that stops does so in the
//! handler of `YIELD_VALUE`, which the loop's own table of handlers leads to ([`handlers`]). So a call is
//!
//! | version | a call is |
//! |---|---|
//! | 3.8 – 3.10 | an entry |
//! | 3.11 | the end of a frame whose code is no generator's, or an entry with a frame that a generator owns |
//! | 3.12 – 3.15 | the end of a frame, or a yield |
//!
//! Two kinds of ends are no calls. From 3.13 on, `C()` with an `__init__` in Python ends two frames, one of them of a
//! code object that lies in the file ([`CallProbes::cleanup_code`]). And a frame whose call failed because of its
//! arguments is cleared without having begun: its instruction pointer still is before (3.11, 3.12) or at (3.13 on) the
//! first instruction.
//!
//! Compared with cProfile, count by count, in 24 kinds of calls on pyenv's 3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1 and
//! 3.13.0, Debian's 3.11.2, 3.13.18, 3.14.10 and 3.15.2, a 3.12.10 that clang compiled with a profile, and tail-calling
//! test builds of 3.14.10 and 3.15.2.

pub mod exits;
pub mod handlers;

#[cfg(test)]
mod builds;

use super::allocator::NoAllocator;
use super::allocator::code::Code;
use super::allocator::flow::{State, Value};
use super::allocator::place::{Place, RegisterIndex, on_entry};
use super::binary::PythonBinary;

/// How calls can be seen in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallProbes {
    /// All of them together see every call once.
    pub calls: Vec<CallProbe>,
    /// Where the beginning of a call or of a resumption can be seen, for timing; all of them are needed. Some see the
    /// beginning of a call twice, the second time a few hundred instructions later, so they are no use for counting. Not
    /// seen is a generator that an exception is thrown into.
    pub entries: Result<Vec<EntryProbe>, NoEntry>,
    /// Why the yields of generators cannot be seen. Then a generator counts when it ends, not when it is resumed.
    pub no_yields: Option<NoEntry>,
    /// `_Py_InitCleanup`, the file's address: frames with this code object are not calls (3.13 on).
    pub cleanup_code: Option<u64>,
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
    /// Only if the frame is owned by a generator ([`OWNED_BY_GENERATOR`]) is this a call (3.11).
    GeneratorEntry,
    /// The end of a frame, and of a call unless [`CallProbes::cleanup_code`] is its code, or it has not begun.
    Exit,
    /// The end of a frame, as above, but of no call if its code's flags at this offset have one of
    /// [`GENERATOR_FLAGS`] (3.11).
    ExitOfFunction { code_flags: u16 },
    /// A generator or coroutine stops and will be resumed: a call has ended.
    Yield,
}

/// See [`CallProbes::entries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryProbe {
    pub place: Place,
    pub frame: RegisterIndex,
}

/// `CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR` in `co_flags`, a 32-bit field.
pub const GENERATOR_FLAGS: u32 = 0x20 | 0x80 | 0x200;

/// `FRAME_OWNED_BY_GENERATOR`, 3.11 – 3.15.
pub const OWNED_BY_GENERATOR: u8 = 1;

/// `offsetof(PyCodeObject, co_flags)` of 3.11.
const CODE_FLAGS_3_11: u16 = 48;

/// Why calls cannot be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCalls {
    #[error(transparent)]
    Code(#[from] NoAllocator),
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
    if binary.eval_loop.is_empty() {
        return Err(NoCalls::NoEvalLoop);
    }
    let series = binary.version.series();
    if series < (3, 11) {
        // 3.8: (frame, throwflag); then (tstate, frame, throwflag).
        let probe = entry(&code, binary, u8::from(series > (3, 8)), Event::Entry)?;
        return Ok(CallProbes {
            entries: Ok(vec![EntryProbe {
                place: probe.place,
                frame: probe.frame,
            }]),
            calls: vec![probe],
            no_yields: None,
            cleanup_code: None,
        });
    }
    let handlers = handlers::Handlers::find(&code, binary);
    let mut calls = exits::find(&code, binary)?;
    let mut no_yields = None;
    if series == (3, 11) {
        calls.push(entry(&code, binary, 1, Event::GeneratorEntry)?);
    } else {
        match handlers.and_then(|handlers| handlers.yields()) {
            Ok(yields) => calls.extend(yields),
            Err(reason) => no_yields = Some(reason),
        }
    }
    Ok(CallProbes {
        calls,
        entries: handlers::Handlers::find(&code, binary).and_then(|handlers| handlers.entries()),
        no_yields,
        cleanup_code: exits::cleanup_code(&code, binary),
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
