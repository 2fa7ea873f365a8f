//! Where the evaluation loop leaves a frame (3.8 – 3.10).
//!
//! A return probe would see it as well, but the kernel follows only 64 of those at once in a thread, and each run of the
//! loop is one: of 33,689 entries of a workload with deep recursion 29,009 returns were seen. On its way out, the loop
//! makes the caller's frame the thread's (`tstate->frame = f->f_back`), and what comes next is a call, which the kernel
//! emulates.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::super::allocator::code::Code;
use super::super::allocator::place::{Place, emulates, saved};
use super::super::binary::PythonBinary;
use super::FrameProbe;
use super::handlers::writes;

/// Between the load and the store; known ones have up to 5 instructions in between.
const MAX_TO_STORE: usize = 10;
const MAX_TO_PLACE: usize = 6;

/// The most known is one.
const MAX_COPIES: usize = 8;

pub fn find(code: &Code<'_>, binary: &PythonBinary) -> Vec<FrameProbe> {
    let ranges = binary.eval_loop.iter();
    let found = ranges.flat_map(|range| {
        let body = code.instructions(range);
        let probes = (0..body.len()).filter_map(|at| leaves(code, binary, body.get(at..)?));
        probes.take(MAX_COPIES).collect::<Vec<_>>()
    });
    found.take(MAX_COPIES).collect()
}

/// Whether here a frame is read for its caller's, and that becomes the thread's.
fn leaves(code: &Code<'_>, binary: &PythonBinary, body: &[Instruction]) -> Option<FrameProbe> {
    let (load, after) = body.split_first()?;
    let (frame, back) = (load.memory_base(), load.op0_register());
    let is_load = load.mnemonic() == Mnemonic::Mov
        && load.op0_kind() == OpKind::Register
        && load.op1_kind() == OpKind::Memory
        && is_field(load, binary.layout.process.frame_previous)
        && back.is_gpr64()
        && frame != back;
    if !is_load {
        return None;
    }
    let straight = after.iter().take_while(|next| next.flow_control() == FlowControl::Next);
    let straight = straight.count();
    let store = after.iter().take(straight.min(MAX_TO_STORE)).position(|store| {
        store.mnemonic() == Mnemonic::Mov
            && store.op0_kind() == OpKind::Memory
            && store.op1_kind() == OpKind::Register
            && store.op1_register() == back
            && store.memory_base() != frame
            && is_field(store, binary.layout.process.thread_frame)
    })?;
    if writes(after.get(..store)?, back) {
        return None;
    }
    // The last of what is straight may itself be a branch or a call.
    let rest = after
        .get(store + 1..)?
        .iter()
        .take((straight - store).min(MAX_TO_PLACE));
    let (place, bytes) = rest
        .filter_map(|next| Some((next, code.image.bytes(next.ip(), next.len())?)))
        .find(|(_, bytes)| emulates(bytes))?;
    let before = after.iter().take_while(|next| next.ip() < place.ip()).count();
    if writes(after.get(..before)?, frame) {
        return None;
    }
    Some(FrameProbe {
        place: Place {
            file_offset: code.file_offset(place.ip())?,
            address: place.ip(),
            emulated: emulates(bytes),
        },
        frame: saved(frame)?,
    })
}

/// Whether the operand in memory is a field of what a register points to.
fn is_field(instruction: &Instruction, offset: u16) -> bool {
    instruction.memory_index() == Register::None
        && instruction.memory_base().is_gpr64()
        && instruction.memory_base() != Register::RSP
        && instruction.memory_displacement64() == u64::from(offset)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{EVAL, FakePython};

    /// mov 24(%rbx),%rax; movb $0,116(%rbx); mov %rax,24(%r12); call +0
    const LEAVE: [&[u8]; 4] = [
        b"\x48\x8b\x43\x18",
        b"\xc6\x43\x74\x00",
        b"\x49\x89\x44\x24\x18",
        b"\xe8\0\0\0\0",
    ];

    fn ends(parts: &[&[u8]]) -> Vec<(u64, u8)> {
        let mut python = FakePython::new("3.10.13", b"\xc3");
        python.put(EVAL + 0x100, &parts.concat());
        let probes = python.inspect().unwrap();
        probes
            .ends
            .iter()
            .map(|probe| (probe.place.address - EVAL, probe.frame.0))
            .collect()
    }

    #[test]
    fn the_call_after_the_callers_frame_has_become_the_threads_is_probed() {
        assert_eq!(ends(&LEAVE), [(0x10d, 5)]);
    }

    #[test]
    fn another_value_or_another_field_is_no_end() {
        for part in [0, 2] {
            let mut parts = LEAVE;
            parts[part] = b"\x90";
            assert_eq!(ends(&parts), [], "without part {part}");
        }
        let mut parts = LEAVE;
        // xor %eax,%eax
        parts[1] = b"\x31\xc0";
        assert_eq!(ends(&parts), []);
        // jne +0: others may come in between.
        parts[1] = b"\x75\x00";
        assert_eq!(ends(&parts), []);
    }

    #[test]
    fn where_the_frame_has_left_its_register_there_is_no_place() {
        let [load, clear, store, call] = LEAVE;
        // pop %rbx
        assert_eq!(ends(&[load, clear, store, b"\x5b", call]), []);
    }

    proptest::proptest! {
        #[test]
        fn no_code_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = ends(&[&bytes]);
        }
    }
}
