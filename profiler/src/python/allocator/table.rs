//! The table of allocator functions that CPython calls through, in the file and in a process.

use std::ops::Range;

use super::super::memory::ReadMemory;
use super::super::version::Version;
use super::NoAllocator;
use super::code::{Code, variable};

/// What memory is asked for: `PyMemAllocatorDomain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    Raw,
    Memory,
    Object,
}

/// The functions of a `PyMemAllocatorEx`, and where it is. Addresses are the file's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub address: u64,
    pub malloc: u64,
    pub calloc: u64,
    pub realloc: u64,
    pub free: u64,
}

/// The tables as the file initialises them: pymalloc for `memory` and `object`, the C library's malloc for `raw`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub raw: Table,
    pub memory: Table,
    pub object: Table,
    /// The file's code.
    span: Range<u64>,
}

/// `sizeof(PyMemAllocatorEx)`: a context and four functions.
const TABLE_BYTES: u64 = 40;

/// The tables lie at 712 to 1,136 in 3.12.1 – 3.15.2.
const MAX_RUNTIME_OFFSET: u64 = 4096;

impl Tables {
    pub fn find(code: &Code<'_>, version: Version, runtime: u64) -> Result<Self, NoAllocator> {
        let tables = if version.series() >= (3, 12) {
            in_runtime(code, runtime)
        } else {
            // Static variables, which the exported functions call through.
            let table = |name| {
                let function = code.function(code.image.symbol(name)?.address)?;
                code.instructions(&function)
                    .iter()
                    .filter_map(variable)
                    // The function's own load, or the context's before it.
                    .flat_map(|address| [address, address.wrapping_sub(8)])
                    .find_map(|address| table(code, address))
            };
            table("PyMem_RawMalloc").and_then(|raw| Some([raw, table("PyMem_Malloc")?, table("PyObject_Malloc")?]))
        };
        let [raw, memory, object] = tables
            .filter(|[raw, memory, object]| are_defaults(raw, memory, object))
            .ok_or(NoAllocator::NoTable)?;
        Ok(Self {
            raw,
            memory,
            object,
            span: code.span(),
        })
    }
}

/// `_PyRuntime.allocators.standard`: three tables, one after the other.
fn in_runtime(code: &Code<'_>, runtime: u64) -> Option<[Table; 3]> {
    (0..MAX_RUNTIME_OFFSET).step_by(8).find_map(|offset| {
        let first = runtime.checked_add(offset)?;
        let raw = table(code, first)?;
        let memory = table(code, first.checked_add(TABLE_BYTES)?)?;
        let object = table(code, first.checked_add(2 * TABLE_BYTES)?)?;
        are_defaults(&raw, &memory, &object).then_some([raw, memory, object])
    })
}

/// No context and the starts of four functions.
fn table(code: &Code<'_>, address: u64) -> Option<Table> {
    let word = |number: u64| code.word(address.checked_add(8 * number)?);
    let function = |number| word(number).filter(|function| code.function(*function).is_some());
    (word(0)? == 0).then_some(())?;
    Some(Table {
        address,
        malloc: function(1)?,
        calloc: function(2)?,
        realloc: function(3)?,
        free: function(4)?,
    })
}

fn are_defaults(raw: &Table, memory: &Table, object: &Table) -> bool {
    let functions = |table: &Table| [table.malloc, table.calloc, table.realloc, table.free];
    let distinct = |table: &Table| {
        let mut functions = functions(table).to_vec();
        functions.sort_unstable();
        functions.dedup();
        functions.len() == 4
    };
    functions(memory) == functions(object) && functions(raw) != functions(object) && distinct(raw) && distinct(object)
}

/// What a process allocates with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocatorInUse {
    Pymalloc,
    /// The C library's (`PYTHONMALLOC=malloc`).
    Malloc,
    /// In the interpreter, and neither: `PYTHONMALLOC=mimalloc`.
    Mimalloc {
        address: u64,
    },
    /// The interpreter's own hooks (`PYTHONMALLOC=debug`, tracemalloc), which call what lies below.
    Hooked {
        address: u64,
        hook: Hook,
        below: Below,
    },
    /// Somebody else's function: memray or another profiler, an extension's allocator.
    Other {
        address: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Debug,
    /// tracemalloc.
    Trace,
}

/// What the interpreter's own hooks call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    Pymalloc,
    Malloc,
    /// mimalloc, another hook, somebody else's.
    Other {
        address: u64,
    },
}

impl Tables {
    pub fn of(&self, domain: Domain) -> &Table {
        match domain {
            Domain::Raw => &self.raw,
            Domain::Memory => &self.memory,
            Domain::Object => &self.object,
        }
    }

    /// What the process that maps the file at `bias` allocates with in a domain. None if its memory cannot be read, or is
    /// not ready yet: we may come before the loader has relocated the table. Eight of 24 processes that had just started
    /// were taken for having another allocator by that (libpython of 3.12 and 3.13, whose slots are 0 in the file).
    pub fn in_use(&self, memory: &impl ReadMemory, bias: u64, domain: Domain) -> Option<AllocatorInUse> {
        let table = self.of(domain).address.wrapping_add(bias);
        let context = memory.read_u64(table)?;
        let malloc = memory.read_u64(table.wrapping_add(8))?;
        // As it is in the file: zeros, or, from linkers that write addends as well, the address without the bias.
        let is_relocated = malloc != 0 && (bias == 0 || matches!(self.below(malloc, 0), Below::Other { .. }));
        if !is_relocated {
            return None;
        }
        Some(match self.below(malloc, bias) {
            Below::Pymalloc => AllocatorInUse::Pymalloc,
            Below::Malloc => AllocatorInUse::Malloc,
            Below::Other { address } if !self.span.contains(&address.wrapping_sub(bias)) => {
                AllocatorInUse::Other { address }
            }
            Below::Other { address } if context == 0 => AllocatorInUse::Mimalloc { address },
            Below::Other { address } => {
                let (hook, below) = self.hook(memory, bias, context)?;
                AllocatorInUse::Hooked { address, hook, below }
            }
        })
    }

    fn below(&self, malloc: u64, bias: u64) -> Below {
        match malloc.wrapping_sub(bias) {
            address if address == self.object.malloc => Below::Pymalloc,
            address if address == self.raw.malloc => Below::Malloc,
            _ => Below::Other { address: malloc },
        }
    }

    /// The context of a hook has the table below. Before it, the debug hooks have a letter for the domain
    /// (`debug_alloc_api_t`).
    fn hook(&self, memory: &impl ReadMemory, bias: u64, context: u64) -> Option<(Hook, Below)> {
        const LETTERS: [u8; 3] = *b"rmo";
        let first = memory.read_u64(context)?;
        let second = memory.read_u64(context.wrapping_add(8))?;
        if LETTERS.contains(&first.to_le_bytes()[0]) && !self.span.contains(&second.wrapping_sub(bias)) {
            let malloc = memory.read_u64(context.wrapping_add(16))?;
            return Some((Hook::Debug, self.below(malloc, bias)));
        }
        Some((Hook::Trace, self.below(second, bias)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::memory::FakeMemory;
    use super::super::fake;
    use super::*;

    const RAW: [u64; 4] = [0x1000, 0x1010, 0x1020, 0x1030];
    const PYMALLOC: [u64; 4] = [0x1040, 0x1050, 0x1060, 0x1070];
    const RUNTIME: u64 = 0x5000;
    const TABLES: u64 = RUNTIME + 72;
    const BIAS: u64 = 0x7f00_0000_0000;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn functions() -> Vec<(u64, Vec<u8>)> {
        let all = RAW.into_iter().chain(PYMALLOC);
        all.map(|address| (address, vec![0xc3; 16])).collect()
    }

    fn table_words(functions: [u64; 4]) -> Vec<u64> {
        [vec![0], functions.to_vec()].concat()
    }

    fn runtime(tables: [[u64; 4]; 3]) -> Vec<u8> {
        words(&[vec![7; 9], tables.into_iter().flat_map(table_words).collect()].concat())
    }

    fn find(elf: &[u8]) -> Result<Tables, NoAllocator> {
        Tables::find(&Code::new(elf).unwrap(), Version::parse("3.12.1").unwrap(), RUNTIME)
    }

    fn tables() -> Tables {
        let elf = fake::elf(&functions()).section(".data", RUNTIME, runtime([RAW, PYMALLOC, PYMALLOC]));
        find(&elf.build()).unwrap()
    }

    #[test]
    fn three_tables_in_the_runtime_are_found() {
        let tables = tables();
        assert_eq!((tables.raw.address, tables.raw.malloc), (TABLES, RAW[0]));
        assert_eq!((tables.object.address, tables.object.free), (TABLES + 80, PYMALLOC[3]));
        assert_eq!(tables.of(Domain::Memory).address, TABLES + 40);
    }

    #[test]
    fn tables_that_the_loader_fills_in_are_read_from_the_relocations() {
        let slots = [RAW, PYMALLOC, PYMALLOC]
            .into_iter()
            .enumerate()
            .flat_map(|(table, functions)| {
                let slot = move |(number, function)| [TABLES + 40 * table as u64 + 8 + 8 * number as u64, 8, function];
                functions.into_iter().enumerate().map(slot)
            });
        let relocations: Vec<u64> = slots.collect::<Vec<_>>().into_iter().rev().flatten().collect();
        let elf = fake::elf(&functions()).section(".data", RUNTIME, vec![0; 400]).section(
            ".rela.dyn",
            0x8000,
            words(&relocations),
        );
        assert_eq!(find(&elf.build()), Ok(tables()));
    }

    #[test]
    fn tables_of_anything_else_are_not_taken_for_them() {
        for odd in [
            [RAW, PYMALLOC, RAW],
            [PYMALLOC, PYMALLOC, PYMALLOC],
            [RAW, PYMALLOC, [PYMALLOC[0] + 1, PYMALLOC[1], PYMALLOC[2], PYMALLOC[3]]],
            [RAW, [PYMALLOC[0]; 4], [PYMALLOC[0]; 4]],
        ] {
            let elf = fake::elf(&functions()).section(".data", RUNTIME, runtime(odd));
            assert_eq!(find(&elf.build()), Err(NoAllocator::NoTable));
        }
    }

    #[test]
    fn before_3_12_the_exported_functions_lead_to_their_tables() {
        let exported = [
            ("PyMem_RawMalloc", 0x2000, 0x5000, RAW),
            ("PyMem_Malloc", 0x2020, 0x5040, PYMALLOC),
            ("PyObject_Malloc", 0x2040, 0x5080, PYMALLOC),
        ];
        let mut code = functions();
        let mut data = vec![0; 0xa8];
        for (_, address, table, functions) in exported {
            // mov table+8(%rip),%rax; mov table(%rip),%rdi; jmp *%rax
            let load = fake::relative(b"\x48\x8b\x05", address, table + 8);
            let context = fake::relative(b"\x48\x8b\x3d", address + 7, table);
            code.push((address, [&load[..], &context, b"\xff\xe0"].concat()));
            let at = (table - 0x5000) as usize;
            data[at..at + 40].copy_from_slice(&words(&table_words(functions)));
        }
        let elf = fake::elf(&code).section(".data", 0x5000, data);
        let elf = exported
            .into_iter()
            .fold(elf, |elf, (name, address, ..)| elf.symbol(name, address, 16));
        let elf = elf.build();
        let found = Tables::find(&Code::new(&elf).unwrap(), Version::parse("3.11.7").unwrap(), 0).unwrap();
        assert_eq!(
            [found.raw.address, found.memory.address, found.object.address],
            [0x5000, 0x5040, 0x5080]
        );
        assert_eq!((found.raw.realloc, found.object.calloc), (RAW[2], PYMALLOC[1]));
    }

    fn in_use(table: &[u64], context: Option<&[u64]>) -> Option<AllocatorInUse> {
        let mut memory = FakeMemory::default();
        memory.put(TABLES + 80 + BIAS, words(table));
        if let Some(context) = context {
            memory.put(CONTEXT, words(context));
        }
        tables().in_use(&memory, BIAS, Domain::Object)
    }

    const CONTEXT: u64 = BIAS + 0x6000;
    const HOOK: u64 = BIAS + 0x1008;

    #[test]
    fn the_allocator_of_a_process_is_told_by_its_pointer() {
        assert_eq!(in_use(&[0, PYMALLOC[0] + BIAS], None), Some(AllocatorInUse::Pymalloc));
        assert_eq!(in_use(&[0, RAW[0] + BIAS], None), Some(AllocatorInUse::Malloc));
        assert_eq!(
            in_use(&[0, HOOK], None),
            Some(AllocatorInUse::Mimalloc { address: HOOK })
        );
        let other = BIAS - 0x10_0000;
        assert_eq!(
            in_use(&[CONTEXT, other], None),
            Some(AllocatorInUse::Other { address: other })
        );
        assert_eq!(in_use(&[], None), None);
    }

    #[test]
    fn a_table_that_the_loader_has_not_come_to_yet_says_nothing() {
        assert_eq!(in_use(&[0, 0], None), None);
        assert_eq!(in_use(&[0, PYMALLOC[0]], None), None);
        assert_eq!(in_use(&[0, RAW[0]], None), None);
    }

    #[test]
    fn a_hook_says_what_is_below_it() {
        let hooked = |hook, below| {
            Some(AllocatorInUse::Hooked {
                address: HOOK,
                hook,
                below,
            })
        };
        let debug = |malloc| in_use(&[CONTEXT, HOOK], Some(&[u64::from(b'o'), 0, malloc]));
        assert_eq!(debug(PYMALLOC[0] + BIAS), hooked(Hook::Debug, Below::Pymalloc));
        assert_eq!(debug(RAW[0] + BIAS), hooked(Hook::Debug, Below::Malloc));
        assert_eq!(debug(0x77), hooked(Hook::Debug, Below::Other { address: 0x77 }));
        let traced = in_use(&[CONTEXT, HOOK], Some(&[0, PYMALLOC[0] + BIAS]));
        assert_eq!(traced, hooked(Hook::Trace, Below::Pymalloc));
        assert_eq!(in_use(&[CONTEXT, HOOK], None), None);
    }

    proptest::proptest! {
        #[test]
        fn no_damage_to_a_file_panics(
            changes in proptest::collection::vec((64..4000_usize, proptest::prelude::any::<u8>()), 0..8),
        ) {
            let elf = fake::elf(&functions()).section(".data", RUNTIME, runtime([RAW, PYMALLOC, PYMALLOC]));
            let elf = fake::damaged(elf.build(), &changes);
            if let Ok(code) = Code::new(&elf) {
                for version in ["3.8.18", "3.12.1"] {
                    let _ = Tables::find(&code, Version::parse(version).unwrap(), RUNTIME);
                }
            }
        }
    }
}
