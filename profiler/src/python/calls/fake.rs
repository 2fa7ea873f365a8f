//! Interpreters made of a few instructions, for tests.

use super::super::binary::{self, PythonBinary};
use super::super::fake_elf::FakeElf;
use super::super::version::Version;
use super::{CallProbes, NoCalls};

pub const EVAL: u64 = 0x1000;
const EVAL_BYTES: usize = 0x800;
/// Where the handler of an opcode is, unless a test puts one elsewhere.
pub const HANDLER: u64 = EVAL + 0x400;
pub const CLEAR: u64 = 0x2000;
const TABLE: u64 = 0x4000;
const CODE_TYPE: u64 = 0x7000;
const RUNTIME: u64 = 0x5000;
const UNWIND_TABLE: u64 = 0x9000;

/// `mov %r12,56(%rbx)`: the frame is in rbx.
pub const SET_INSTRUCTION: &[u8] = b"\x4c\x89\x63\x38";
pub const JMP_RAX: &[u8] = b"\xff\xe0";

/// An instruction that ends in a 32-bit displacement from the next one.
pub fn relative(opcode: &[u8], at: u64, target: u64) -> Vec<u8> {
    let end = at + opcode.len() as u64 + 4;
    [opcode, &(target.wrapping_sub(end) as u32).to_le_bytes()].concat()
}

/// A 3.10, 3.11 or 3.12.
#[derive(Clone)]
pub struct FakePython {
    version: &'static str,
    clear: Vec<u8>,
    /// Of the loop.
    code: Vec<u8>,
    table: Vec<u64>,
}

impl FakePython {
    /// The loop saves a register, calls the function that clears frames, and has handlers that do nothing.
    pub fn new(version: &'static str, clear: &[u8]) -> Self {
        let mut python = Self {
            version,
            clear: clear.to_vec(),
            code: vec![0x90; EVAL_BYTES],
            table: (0..256).map(|opcode| HANDLER + opcode).collect(),
        };
        python.put(EVAL, b"\x55");
        // lea table,%rax
        python.put(EVAL + 1, &relative(b"\x48\x8d\x05", EVAL + 1, TABLE));
        python.put(EVAL + 8, &relative(b"\xe8", EVAL + 8, CLEAR));
        python.put(EVAL + 13, JMP_RAX);
        python
    }

    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        let start = (address - EVAL) as usize;
        self.code[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Gives an opcode a handler of its own.
    pub fn handler(&mut self, opcode: u8, address: u64, bytes: &[&[u8]]) {
        self.put(address, &bytes.concat());
        self.table[usize::from(opcode)] = address;
    }

    pub fn without_table(mut self) -> Self {
        self.table.fill(HANDLER);
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let version = Version::parse(self.version).unwrap();
        let code_bytes = match version.series() {
            (3, 10) => 176_u64,
            (3, 11) => 184,
            _ => 192,
        };
        let functions = [(EVAL, &self.code), (CLEAR, &self.clear)];
        // One CIE ("zR", pc-relative 4-byte addresses, as gcc and clang emit).
        let mut unwind = vec![16, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0, 0, 0];
        for (address, code) in functions {
            let at = unwind.len() as u32;
            unwind.extend(16_u32.to_le_bytes());
            unwind.extend((at + 4).to_le_bytes());
            unwind.extend((address.wrapping_sub(UNWIND_TABLE + u64::from(at) + 8) as u32).to_le_bytes());
            unwind.extend((code.len() as u32).to_le_bytes());
            unwind.extend([0; 4]);
        }
        unwind.extend([0; 4]);
        let table: Vec<u8> = self.table.iter().flat_map(|address| address.to_le_bytes()).collect();
        let code_type = [vec![0; 32], code_bytes.to_le_bytes().to_vec()].concat();
        FakeElf::default()
            .section(".text", EVAL, self.code.clone())
            .section(".text", CLEAR, self.clear.clone())
            .section(".rodata", 0x3000, u64::from(version.hex).to_le_bytes())
            .section(".data.rel.ro", TABLE, table)
            .section(".PyRuntime", RUNTIME, [0; 8])
            .section(".data", CODE_TYPE, code_type)
            .section(".eh_frame", UNWIND_TABLE, unwind)
            .symbol("_PyRuntime", RUNTIME, 8)
            .symbol("PyCode_Type", CODE_TYPE, 40)
            .symbol("Py_Version", 0x3000, 8)
            .symbol("_PyEval_EvalFrameDefault", EVAL, 1)
            .symbol("PyGILState_GetThisThreadState", EVAL, 1)
            .build()
    }

    pub fn binary(&self) -> PythonBinary {
        binary::inspect(&self.build()).unwrap()
    }

    pub fn inspect(&self) -> Result<CallProbes, NoCalls> {
        super::inspect(&self.build(), &self.binary())
    }
}

/// `_PyEvalFrameClearAndPop` of 3.12: push %rbp; cmpb $0,70(%rsi); jne +1; ret; ret
pub const CLEAR_AND_POP: &[u8] = b"\x55\x80\x7e\x46\x00\x75\x01\xc3\xc3";

/// With handlers for `RESUME` (151, 240) and `YIELD_VALUE` (150, 243).
pub fn python_3_12() -> FakePython {
    let mut python = FakePython::new("3.12.1", CLEAR_AND_POP);
    // add $2,%r12; jne +2
    let resume: &[&[u8]] = &[SET_INSTRUCTION, b"\x49\x83\xc4\x02", b"\x75\x02", JMP_RAX];
    python.handler(151, EVAL + 0x100, resume);
    python.handler(240, EVAL + 0x140, resume);
    // lea -8(%r13),%rax; then the same, without a branch
    let stop: &[&[u8]] = &[b"\x49\x8d\x45\xf8", SET_INSTRUCTION, JMP_RAX];
    python.handler(150, EVAL + 0x180, stop);
    python.handler(243, EVAL + 0x1c0, stop);
    python
}
