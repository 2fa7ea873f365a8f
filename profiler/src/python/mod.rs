//! CPython as seen from outside: what a file is, how its memory is laid out, what a code object says.
//!
//! Nothing here looks for processes. [`binary::inspect`] takes the bytes of an ELF file and says which CPython it is;
//! [`binary::PythonBinary::process`] adds where one process has it mapped, which is what the kernel side walks stacks
//! with; [`code::Code`] turns what the kernel side copied into names and lines.

pub mod activity;
pub mod additions;
pub mod allocator;
pub mod binary;
pub mod bytecode;
pub mod c_library;
pub mod calls;
pub mod chain_gaps;
pub mod code;
pub mod code_numbers;
pub mod codes;
pub mod collector;
pub mod eval_loop;
pub mod heap;
pub mod image;
pub mod layout;
pub mod linetable;
pub mod marks;
pub mod memory;
pub mod memory_error;
pub mod object;
pub mod secret;
pub mod tasks;
pub mod thread_lookup;
pub mod thread_names;
pub mod value;
pub mod variables;
pub mod version;

#[cfg(test)]
mod fake_elf;
