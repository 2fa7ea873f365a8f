//! Where exceptions, imports and garbage collections can be seen, without symbols.
//!
//! Each is a place that is passed once for what is counted, in every build: functions that CPython exports, or what these
//! lead to. Checked by counting in pyenv's 3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1 and 3.13.0, and in Debian's 3.11.2,
//! 3.13.18, 3.14.10 and 3.15.2 (tests/e2e/exceptions.rs, imports.rs, gc.rs).

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use profiler_common::mark::{
    MARK_COLLECT, MARK_COLLECTED, MARK_DRAWN, MARK_IMPORT, MARK_IMPORTED, MARK_RAISE, MARK_TAGGED, MARK_UNWIND,
    mark_cookie,
};

use super::{
    allocator::{
        NoAllocator,
        code::{Code, direct_call, direct_target},
        flow::Value,
        place::{Place, RegisterIndex, on_entry, saved, spot},
    },
    binary::PythonBinary,
};
use crate::{governor::stepped, orders::MarkPlace};

/// Why they cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMarks {
    #[error(transparent)]
    Code(#[from] NoAllocator),
    #[error("the function {name} was not found")]
    NoFunction { name: &'static str },
    #[error("CPython 3.8 collects by a function that cannot be told from others without symbols")]
    NoCollector,
    #[error("the objects of free-threaded builds are laid out otherwise, and this is not supported yet")]
    FreeThreaded,
}

/// `PyFrameObject.f_frame` (3.11 – 3.15).
const FRAME_OF_OBJECT: u16 = 24;

/// Where an exception is set, and where one comes through a frame.
///
/// `_PyErr_SetObject(tstate, type, value)` is exported up to 3.12, and in 3.15; otherwise it is the only function that
/// `PyErr_SetObject` jumps to. `PyTraceBack_Here(frame)` is called by the evaluation loop whenever an exception arrives in a
/// frame, and not again where it is raised anew by `raise` alone or at the end of `finally`.
pub fn raises(elf: &[u8], binary: &PythonBinary) -> Result<Vec<MarkPlace>, NoMarks> {
    has_usual_objects(binary)?;
    let code = Code::new(elf)?;
    let name = "_PyErr_SetObject";
    let missing = NoMarks::NoFunction { name };
    let set = exported(&code, name)
        .or_else(|| jumped_to(&code, &exported(&code, "PyErr_SetObject")?))
        .ok_or(missing)?;
    let (state, kind) = (Value::Argument(0), Value::Argument(1));
    let at = on_entry(&code, &set, |known| {
        known.holder(state).is_some() && known.holder(kind).is_some()
    });
    let at = at.ok_or(missing)?;
    let registers = (at.register(state).ok_or(missing)?, at.register(kind).ok_or(missing)?);
    let mut places = vec![place(MARK_RAISE, &at.place, registers, current_exception(binary), 0)];
    let name = "PyTraceBack_Here";
    let missing = NoMarks::NoFunction { name };
    let here = exported(&code, name).ok_or(missing)?;
    let at = on_entry(&code, &here, |known| known.holder(state).is_some()).ok_or(missing)?;
    let frame = at.register(state).ok_or(missing)?;
    let process = &binary.layout.process;
    // Up to 3.10 the object is the frame.
    let offset = if binary.version.series() >= (3, 11) {
        FRAME_OF_OBJECT
    } else {
        0
    };
    let mut unwind = place(MARK_UNWIND, &at.place, (frame, frame), offset, process.frame_code);
    if binary.version.series() >= (3, 14) {
        unwind.cookie |= MARK_TAGGED;
    }
    places.push(unwind);
    Ok(places)
}

/// What the kernel side reads of types, strings and frame objects lies where it does with a GIL.
fn has_usual_objects(binary: &PythonBinary) -> Result<(), NoMarks> {
    match binary.layout.free_threaded {
        true => Err(NoMarks::FreeThreaded),
        false => Ok(()),
    }
}

/// The same where that is too dear: of exceptions some are told, at random, and not how far they go.
pub fn some_raises(places: &[MarkPlace]) -> Vec<MarkPlace> {
    let raises = places.iter().filter(|place| place.cookie as u32 & 0x7f == MARK_RAISE);
    raises
        .map(|place| MarkPlace {
            cookie: place.cookie | MARK_DRAWN,
            ..*place
        })
        .collect()
}

/// `PyThreadState.curexc_type` (3.8 – 3.11), `.current_exception`: set while an exception is on its way.
fn current_exception(binary: &PythonBinary) -> u16 {
    match binary.version.minor {
        ..=10 => 88,
        11 | 12 => 96,
        13 | 14 => 112,
        _ => 136,
    }
}

/// Where a module is imported that is not in `sys.modules`, and where that is over.
///
/// `import_find_and_load` calls `importlib._bootstrap._find_and_load(name, __import__)` by a variadic function, with
/// `importlib` and `__import__` out of the interpreter's state: two loads through one register, and an end of the arguments
/// behind them. What `-X importtime` measures is this call.
pub fn imports(elf: &[u8], binary: &PythonBinary) -> Result<Vec<MarkPlace>, NoMarks> {
    has_usual_objects(binary)?;
    let code = Code::new(elf)?;
    let name = "import_find_and_load";
    let missing = NoMarks::NoFunction { name };
    let outer = exported(&code, "PyImport_ImportModuleLevelObject").ok_or(missing)?;
    // Text of a compact ASCII string.
    let text = binary.layout.process.unicode_ascii_data;
    let mut places = Vec::new();
    for function in called_from(&code, &outer) {
        let body = code.instructions(&function);
        for (at, call) in body.iter().enumerate() {
            if call.mnemonic() != Mnemonic::Call || !finds_and_loads(&body[at.saturating_sub(MOST_BEFORE)..at]) {
                continue;
            }
            let (Some(name), Some(next)) = (saved(Register::RDX), body.get(at + 1)) else {
                continue;
            };
            let state = super::allocator::flow::State::at_entry;
            let (Some(begins), Some(ends)) = (spot(&code, call, state()), spot(&code, next, state())) else {
                continue;
            };
            places.push(place(MARK_IMPORT, &begins.place, (name, name), text, 0));
            places.push(place(MARK_IMPORTED, &ends.place, (name, name), 0, 0));
        }
    }
    places.sort_unstable_by_key(|place| (place.offset, place.cookie));
    places.dedup();
    if places.is_empty() { Err(missing) } else { Ok(places) }
}

/// Instructions before a call in which its arguments are put in place.
const MOST_BEFORE: usize = 12;
/// `PyInterpreterState.importlib` and `.import_func` are so far apart at most (504 bytes in 3.9).
const MOST_APART: u64 = 1024;

/// Whether the instructions before a call put `_find_and_load`'s arguments into place: the first and the fourth come out of
/// one structure, and the fifth is the end.
fn finds_and_loads(before: &[Instruction]) -> bool {
    let mut found: [Option<(Register, u64)>; 2] = [None; 2];
    let mut is_end = false;
    for instruction in before {
        if instruction.mnemonic() == Mnemonic::Call || instruction.is_jmp_short_or_near() {
            (found, is_end) = ([None; 2], false);
            continue;
        }
        if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
            continue;
        }
        let loaded = (instruction.mnemonic() == Mnemonic::Mov
            && instruction.op1_kind() == OpKind::Memory
            && instruction.memory_index() == Register::None
            && !matches!(
                instruction.memory_base(),
                Register::RIP | Register::None | Register::RSP
            ))
        .then(|| (instruction.memory_base(), instruction.memory_displacement64()));
        match instruction.op0_register().full_register() {
            Register::RDI => found[0] = loaded,
            Register::RCX => found[1] = loaded,
            Register::R8 => {
                is_end = instruction.mnemonic() == Mnemonic::Xor
                    && instruction.op1_kind() == OpKind::Register
                    && instruction.op1_register() == instruction.op0_register();
            }
            _ => {}
        }
    }
    match found {
        [Some((base, importlib)), Some((other, function))] => {
            is_end && base == other && function > importlib && function - importlib < MOST_APART
        }
        _ => false,
    }
}

/// Where garbage is collected: `gc_collect_main(tstate, generation, …)`, which `PyGC_Collect` calls with generation 2
/// (3.9 – 3.15).
pub fn collections(elf: &[u8], binary: &PythonBinary) -> Result<Vec<MarkPlace>, NoMarks> {
    // What it calls there is a copy for it alone.
    if binary.version.series() < (3, 9) {
        return Err(NoMarks::NoCollector);
    }
    let code = Code::new(elf)?;
    let missing = NoMarks::NoFunction {
        name: "gc_collect_main",
    };
    let collect = exported(&code, "PyGC_Collect").ok_or(missing)?;
    let body = code.instructions(&collect);
    let calls = body.iter().enumerate();
    let main = calls
        .filter_map(|(at, call)| Some((at, code.function(direct_call(call)?)?)))
        .find(|(at, _)| is_given_two(&body[at.saturating_sub(MOST_BEFORE)..*at]))
        .map(|(_, function)| function)
        .ok_or(missing)?;
    let generation = Value::Argument(1);
    let at = on_entry(&code, &main, |known| {
        known.holder(generation).is_some() && known.stack_is_untouched()
    });
    let at = at.ok_or(missing)?;
    let register = at.register(generation).ok_or(missing)?;
    let mut returns = place(MARK_COLLECTED, &at.place, (register, register), 0, 0);
    returns.returns = true;
    Ok(vec![
        // In this order, a return that is seen has been seen to begin, but for the first.
        returns,
        place(MARK_COLLECT, &at.place, (register, register), 0, 0),
    ])
}

/// Whether the second argument of a call is the number 2.
fn is_given_two(before: &[Instruction]) -> bool {
    let last = before
        .iter()
        .rev()
        .take_while(|instruction| instruction.mnemonic() != Mnemonic::Call)
        .find(|instruction| {
            instruction.op_count() > 0
                && instruction.op0_kind() == OpKind::Register
                && instruction.op0_register().full_register() == Register::RSI
        });
    last.is_some_and(|last| {
        last.mnemonic() == Mnemonic::Mov && last.op1_kind() == OpKind::Immediate32 && last.immediate32() == 2
    })
}

fn place(what: u32, at: &Place, registers: (RegisterIndex, RegisterIndex), offset: u16, other: u16) -> MarkPlace {
    MarkPlace {
        offset: at.file_offset,
        returns: false,
        cookie: mark_cookie(what | stepped(at), registers.0.0, registers.1.0, offset, other),
    }
}

/// An exported function.
fn exported(code: &Code<'_>, name: &str) -> Option<Range<u64>> {
    code.function(code.image.symbol(name)?.address)
}

/// The function that this one jumps to, if that is one.
fn jumped_to(code: &Code<'_>, function: &Range<u64>) -> Option<Range<u64>> {
    let body = code.instructions(function);
    let jumps = body
        .iter()
        .filter(|instruction| instruction.mnemonic() == Mnemonic::Jmp)
        .filter_map(direct_target)
        .filter(|target| !function.contains(target));
    let mut functions: Vec<Range<u64>> = jumps.filter_map(|target| code.function(target)).collect();
    functions.dedup();
    match &functions[..] {
        [one] => Some(one.clone()),
        _ => None,
    }
}

/// A function, and the file's own that it calls or jumps to.
fn called_from(code: &Code<'_>, function: &Range<u64>) -> Vec<Range<u64>> {
    let mut found = vec![function.clone()];
    for instruction in code.instructions(function) {
        let target = direct_target(&instruction).filter(|target| !function.contains(target));
        let Some(target) = target else { continue };
        let piece = match direct_call(&instruction) {
            Some(_) => code.function(target),
            None => code.piece_of(target),
        };
        found.extend(piece.filter(|piece| !found.contains(piece)));
    }
    found
}

#[cfg(test)]
mod tests;
