//! Where a thread finds its own `PyThreadState`.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use profiler_common::python::{
    LAYOUT_MUSL, PythonProcess, THREAD_BY_DYNAMIC_TLS, THREAD_BY_PTHREAD_KEY, THREAD_BY_STATIC_TLS,
};

use super::c_library::Musl;
use super::image::{Image, Symbol};

/// How the thread state of the running thread is found. Addresses are the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadLookup {
    /// A pthread key in the `Py_tss_t` at this address (3.8 – 3.14).
    PthreadKey { key: u64 },
    /// A thread-local variable at this distance from the fs base (3.15, executables).
    StaticTls { offset: i32 },
    /// A thread-local variable of a library: its module's number stands at `module`, and it lies at `offset` in the
    /// module's block (3.15, libraries).
    DynamicTls { module: u64, offset: i32 },
}

impl ThreadLookup {
    /// Decodes `PyGILState_GetThisThreadState`, which from 3.15 on does nothing but return the thread-local variable
    /// `_Py_tss_gilstate` (3.15.2, Debian's executable and library, disassembled). The variable itself is not exported.
    pub fn from_function(image: &Image<'_>, function: Symbol) -> Option<Self> {
        let code = image.bytes_from(function.address)?;
        // Both known forms end well before this; a function that does more is not the one we know.
        let code = code.get(..64.min(code.len()))?;
        let mut loaded: Option<(Register, u64)> = None;
        let mut called_with = None;
        for instruction in Decoder::with_ip(64, code, function.address, DecoderOptions::NONE) {
            if instruction.mnemonic() == Mnemonic::Call {
                // `__tls_get_addr(&pair)`, directly or through the GOT.
                let (register, pair) = loaded?;
                if register != Register::RDI || called_with.is_some() {
                    return None;
                }
                called_with = Some(pair);
                continue;
            }
            if ends_straight_line(&instruction) {
                return None;
            }
            if let Some(offset) = static_offset(&instruction, loaded) {
                return Some(Self::StaticTls { offset });
            }
            if let Some(pair) = called_with
                && is_load_of_rax(&instruction)
                && instruction.memory_base() == Register::RAX
            {
                let offset = image
                    .tls_index(pair)?
                    .offset
                    .wrapping_add(instruction.memory_displacement64());
                return Some(Self::DynamicTls {
                    module: pair,
                    offset: i32::try_from(offset).ok()?,
                });
            }
            match instruction.code() {
                Code::Lea_r64_m if instruction.is_ip_rel_memory_operand() => {
                    loaded = Some((instruction.op0_register(), instruction.ip_rel_memory_address()));
                }
                Code::Mov_rm64_imm32 if instruction.op0_kind() == OpKind::Register => {
                    loaded = Some((instruction.op0_register(), instruction.immediate(1)));
                }
                _ => {}
            }
        }
        None
    }

    /// The process's C library is musl, whatever its CPython expects. A thread-local variable of an executable is where it is
    /// on glibc.
    pub fn use_musl(process: &mut PythonProcess, musl: Musl) {
        process.flags |= LAYOUT_MUSL;
        if process.thread_lookup == THREAD_BY_PTHREAD_KEY {
            process.tls_offset = musl.values;
        }
    }

    /// Writes the lookup into what the kernel side reads, for a file loaded at `bias`.
    pub fn fill(self, process: &mut PythonProcess, bias: u64) {
        match self {
            Self::PthreadKey { key } => {
                process.thread_lookup = THREAD_BY_PTHREAD_KEY;
                process.key_address = key.wrapping_add(bias);
            }
            Self::StaticTls { offset } => {
                process.thread_lookup = THREAD_BY_STATIC_TLS;
                process.tls_offset = offset;
            }
            Self::DynamicTls { module, offset } => {
                process.thread_lookup = THREAD_BY_DYNAMIC_TLS;
                process.key_address = module.wrapping_add(bias);
                process.tls_offset = offset;
            }
        }
    }
}

/// The offset of `mov %fs:offset,%rax`, or of `mov $offset,%reg; mov %fs:(%reg),%rax` (what a linker makes of the
/// form for libraries when it links an executable).
fn static_offset(instruction: &Instruction, loaded: Option<(Register, u64)>) -> Option<i32> {
    if !is_load_of_rax(instruction)
        || instruction.segment_prefix() != Register::FS
        || instruction.memory_index() != Register::None
    {
        return None;
    }
    let displacement = instruction.memory_displacement64();
    let offset = match (instruction.memory_base(), loaded) {
        (Register::None, _) => displacement,
        (base, Some((register, value))) if base == register => value.wrapping_add(displacement),
        _ => return None,
    };
    // A static block lies below the fs base.
    i32::try_from(offset as i64).ok().filter(|offset| *offset < 0)
}

fn ends_straight_line(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Ret | Mnemonic::Jmp | Mnemonic::Ud2 | Mnemonic::INVALID
    ) || instruction.op0_kind() == OpKind::NearBranch64
}

fn is_load_of_rax(instruction: &Instruction) -> bool {
    instruction.code() == Code::Mov_r64_rm64
        && instruction.op0_register() == Register::RAX
        && instruction.op1_kind() == OpKind::Memory
}

#[cfg(test)]
mod tests {
    use super::super::fake_elf::FakeElf;
    use super::*;

    const FUNCTION: Symbol = Symbol {
        address: 0x1000,
        size: 64,
    };
    const PAIR: u64 = 0x3000;

    fn lookup(elf: FakeElf) -> Option<ThreadLookup> {
        let elf = elf.build();
        ThreadLookup::from_function(&Image::parse(&elf).unwrap(), FUNCTION)
    }

    fn code(bytes: &[u8]) -> FakeElf {
        FakeElf::default().section(".text", FUNCTION.address, bytes)
    }

    /// `endbr64; sub $8,%rsp; lea PAIR(%rip),%rdi; call …; mov displacement(%rax),%rax; add $8,%rsp; ret`.
    fn library(displacement: u8) -> FakeElf {
        let mut bytes = b"\xf3\x0f\x1e\xfa\x48\x83\xec\x08\x48\x8d\x3d".to_vec();
        bytes.extend(((PAIR - 0x100f) as u32).to_le_bytes());
        bytes.extend(b"\xe8\0\0\0\0\x48\x8b\x40");
        bytes.extend([displacement, 0x48, 0x83, 0xc4, 0x08, 0xc3]);
        code(&bytes)
    }

    fn relocation(address: u64, symbol: u64, kind: u64, addend: u64) -> Vec<u8> {
        [address, symbol << 32 | kind, addend]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    #[test]
    fn an_executable_reads_below_its_fs_base() {
        // endbr64; mov %fs:-40,%rax; ret
        let direct = b"\xf3\x0f\x1e\xfa\x64\x48\x8b\x04\x25\xd8\xff\xff\xff\xc3";
        assert_eq!(lookup(code(direct)), Some(ThreadLookup::StaticTls { offset: -40 }));
        // mov $-40,%rax; mov %fs:(%rax),%rax; ret
        let relaxed = b"\x48\xc7\xc0\xd8\xff\xff\xff\x64\x48\x8b\x00\xc3";
        assert_eq!(lookup(code(relaxed)), Some(ThreadLookup::StaticTls { offset: -40 }));
    }

    #[test]
    fn a_library_names_its_module_and_an_offset() {
        let elf = library(40)
            .section(".got", PAIR, [0; 16])
            .section(".rela.dyn", 0x4000, relocation(PAIR, 0, 16, 0));
        assert_eq!(
            lookup(elf),
            Some(ThreadLookup::DynamicTls {
                module: PAIR,
                offset: 40
            })
        );
    }

    #[test]
    fn an_offset_in_the_pair_counts_whoever_writes_it() {
        let written: Vec<u8> = [0_u64, 24].into_iter().flat_map(u64::to_le_bytes).collect();
        let by_linker =
            library(0)
                .section(".got", PAIR, written)
                .section(".rela.dyn", 0x4000, relocation(PAIR, 0, 16, 0));
        assert_eq!(
            lookup(by_linker),
            Some(ThreadLookup::DynamicTls {
                module: PAIR,
                offset: 24
            })
        );

        let relocations = [relocation(PAIR, 1, 16, 0), relocation(PAIR + 8, 1, 17, 8)].concat();
        let by_loader = library(0)
            .section(".got", PAIR, [0; 16])
            .section(".rela.dyn", 0x4000, relocations)
            .symbol("state", 16, 8);
        assert_eq!(
            lookup(by_loader),
            Some(ThreadLookup::DynamicTls {
                module: PAIR,
                offset: 24
            })
        );
    }

    #[test]
    fn an_address_that_is_no_tls_pair_is_refused() {
        assert_eq!(lookup(library(40).section(".got", PAIR, [0; 16])), None);
    }

    #[test]
    fn a_function_that_does_something_else_is_refused() {
        // 3.14: cmpl $0,key(%rip); je …
        assert_eq!(lookup(code(b"\xf3\x0f\x1e\xfa\x83\x3d\0\x10\0\0\0\x74\x10")), None);
        // xor %eax,%eax; ret
        assert_eq!(lookup(code(b"\x31\xc0\xc3")), None);
        // mov %fs:40,%rax; ret: above the fs base is the C library's own data (the stack protector's canary).
        assert_eq!(lookup(code(b"\x64\x48\x8b\x04\x25\x28\0\0\0\xc3")), None);
    }

    proptest::proptest! {
        #[test]
        fn no_code_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..80)) {
            let _ = lookup(code(&bytes));
        }
    }
}
