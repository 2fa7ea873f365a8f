//! Whether the running thread has the global interpreter lock of the interpreter that it is in.
//!
//! The lock's own words say it: `last_holder` is the thread state that took it last, and `locked` whether it is taken. Who
//! has it does not change while its thread is looked at, so what is read of a holder is true; of a thread that has it not,
//! others may take it meanwhile.

use core::ptr::read_volatile;

use profiler_common::python::GilFacts;

use super::thread;
use crate::{memory::ReadMemory, scratch::Scratch};

/// `struct _gil_runtime_state`: `last_holder`, and 8 bytes on `locked` (3.8 – 3.15, with a GIL).
pub const LAST_HOLDER: u64 = 8;

/// `scratch.process` is filled in. `false` for a thread without Python, and for what cannot be read.
#[inline(always)]
pub fn is_held<M: ReadMemory>(memory: &M, fs_base: u64, scratch: &mut Scratch, facts: &GilFacts) -> bool {
    let Some(interpreter) = thread::current_interpreter(memory, fs_base, scratch) else {
        return false;
    };
    let gil = match facts.in_interpreter {
        0 => facts.address,
        // Sub-interpreters can have one of their own (3.12 on).
        offset => match memory.read_u64(interpreter.wrapping_add(offset)) {
            Some(gil) if gil != 0 => gil,
            _ => return false,
        },
    };
    let mut words = [0u64; 2];
    // SAFETY: the local is 16 bytes long.
    if !unsafe { memory.read(gil.wrapping_add(LAST_HOLDER), words.as_mut_ptr().cast(), 16) } {
        return false;
    }
    // SAFETY: reads of a local. Volatile: see the crate's documentation.
    let (holder, locked) = unsafe { (read_volatile(&raw const words[0]), read_volatile(&raw const words[1])) };
    if locked as u32 != 1 || holder == 0 {
        return false;
    }
    // Up to 3.11 a thread can have another state in a sub-interpreter than its first one: whose it is decides.
    memory.read_u64(holder.wrapping_add(scratch.process.thread_id.into())) == Some(fs_base)
}

#[cfg(test)]
mod tests {
    use profiler_common::python::{PythonProcess, THREAD_BY_STATIC_TLS};

    use super::*;
    use crate::{memory::fake::Memory, scratch::zeroed};

    const FS_BASE: u64 = 0x50_000;
    const STATE: u64 = 0x20_000;
    const OTHER_STATE: u64 = 0x21_000;
    const INTERPRETER: u64 = 0x30_000;
    const GIL: u64 = 0x40_000;
    const FACTS: GilFacts = GilFacts {
        address: 0,
        in_interpreter: 16,
    };

    /// A thread of an interpreter, and another one.
    fn process() -> Memory {
        let mut memory = Memory::default();
        for (at, bytes) in [(FS_BASE, 64), (STATE, 0x2000), (INTERPRETER, 64), (GIL, 64)] {
            memory.map(at, bytes);
        }
        memory.put_u64(FS_BASE + 32, STATE);
        for (state, owner) in [(STATE, FS_BASE), (OTHER_STATE, 0x51_000)] {
            memory.put_u64(state + 152, owner);
            memory.put_u64(state + 16, INTERPRETER);
        }
        memory.put_u64(INTERPRETER + 16, GIL);
        memory
    }

    fn held(memory: &Memory, facts: &GilFacts) -> bool {
        let mut scratch = zeroed();
        scratch.process = PythonProcess {
            thread_lookup: THREAD_BY_STATIC_TLS,
            tls_offset: 32,
            thread_id: 152,
            thread_interpreter: 16,
            ..PythonProcess::default()
        };
        is_held(memory, FS_BASE, &mut scratch, facts)
    }

    fn take(memory: &mut Memory, gil: u64, holder: u64, locked: u64) {
        memory.put_u64(gil + LAST_HOLDER, holder);
        memory.put_u64(gil + 16, locked);
    }

    #[test]
    fn who_took_it_last_has_it_while_it_is_taken() {
        let mut memory = process();
        assert!(!held(&memory, &FACTS), "nobody has taken it yet");
        take(&mut memory, GIL, STATE, 1);
        assert!(held(&memory, &FACTS));
        // The word beside `locked` is the count of switches: it is 32 bits of padding away.
        take(&mut memory, GIL, STATE, 7 << 32 | 1);
        assert!(held(&memory, &FACTS));
        take(&mut memory, GIL, STATE, 0);
        assert!(!held(&memory, &FACTS), "it was given up");
        take(&mut memory, GIL, OTHER_STATE, 1);
        assert!(!held(&memory, &FACTS), "another thread has it");
    }

    #[test]
    fn an_interpreter_with_a_gil_of_its_own_is_asked_for_that() {
        const OWN: u64 = 0x41_000;
        let mut memory = process();
        memory.map(OWN, 64);
        take(&mut memory, GIL, STATE, 1);
        memory.put_u64(INTERPRETER + 16, OWN);
        assert!(!held(&memory, &FACTS));
        take(&mut memory, OWN, STATE, 1);
        assert!(held(&memory, &FACTS));
    }

    #[test]
    fn before_there_is_a_thread_state_or_a_gil_nobody_has_one() {
        let mut memory = process();
        take(&mut memory, GIL, STATE, 1);
        let global = GilFacts {
            address: GIL,
            in_interpreter: 0,
        };
        assert!(held(&memory, &global));
        memory.put_u64(INTERPRETER + 16, 0);
        assert!(!held(&memory, &FACTS));
        memory.put_u64(FS_BASE + 32, 0);
        assert!(!held(&memory, &global));
        memory.put_u64(FS_BASE + 32, 0xdead_0000);
        assert!(!held(&memory, &global), "a state that cannot be read");
    }
}
