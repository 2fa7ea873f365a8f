//! Where pools, the pieces that the small-object heap grows by, are born.
//!
//! `allocate_from_new_pool` is out of line in every build (the interpreters have up to 254 calls of it) and runs once
//! per pool: 4 KiB before 3.10, 16 KiB from then on. On 3.8 it is a part of `pymalloc_alloc`. Either begins by reading
//! `usable_arenas`, the list of arenas with free pools, and by testing it for null; that is how it is told from others.
//!
//! Which pool it will be is known before: the first free one of the first arena, or else the next that was never used.
//! So it was for every one of 532 to 2,330 births in each of 11 builds (3.8.18 – 3.15.2), watched with a debugger up to
//! the return, but for the 0.4 – 1.3 % where a new arena was made.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::super::version::Version;
use super::NoAllocator;
use super::code::{Code, direct_call, variable};
use super::flow::{State, Value, continues, states};
use super::place::{Place, RegisterIndex, Spot, on_entry, saved, spot};

/// Where to see that a pool is born, and what is known there of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolProbe {
    pub place: Place,
    /// Holds the size class, a `u32`: objects have (class + 1) * 16 bytes.
    pub size_class: RegisterIndex,
    pub usable_arenas: UsableArenas,
    pub pool_bytes: u32,
}

/// Where `usable_arenas` is, a pointer to the `struct arena_object` that the next pool is taken from. It is null when a
/// new arena is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsableArenas {
    /// A variable at this address of the file (up to 3.11).
    Static { address: u64 },
    /// In the state of the interpreter's heap, which a register points to (from 3.12 on).
    InState { register: RegisterIndex, offset: u32 },
}

/// `struct arena_object`, 3.8.18 – 3.15.2 (disassembled): where the next pool comes from.
pub const ARENA_POOL_ADDRESS: u32 = 8;
pub const ARENA_FREE_COUNT: u32 = 16;
pub const ARENA_FREE_POOLS: u32 = 24;

/// `struct pool_header`.
pub const POOL_SIZE_CLASS: u32 = 36;

pub fn find(code: &Code<'_>, version: Version, object_malloc: u64) -> Result<PoolProbe, NoAllocator> {
    let malloc = code.function(object_malloc).ok_or(NoAllocator::NoTable)?;
    let body = code.instructions(&malloc);
    let mut called = body
        .iter()
        .filter_map(direct_call)
        .filter_map(|target| code.function(target))
        .take(MAX_CALLED);
    let found = if version.series() == (3, 8) {
        called
            .chain([malloc])
            .find_map(|function| in_the_middle(code, &function))
    } else {
        called.find_map(|function| of_function(code, version, &function))
    };
    found.ok_or(NoAllocator::NoPool)
}

/// `allocate_from_new_pool(size_class)`, from 3.12 on with the heap's state before it.
fn of_function(code: &Code<'_>, version: Version, function: &Range<u64>) -> Option<PoolProbe> {
    let body = code.instructions(function);
    let states = states(&body);
    let (at, source) = body
        .iter()
        .enumerate()
        .find_map(|(at, load)| Some((at, arenas_load(&body, at, states.get(&load.ip())?)?)))?;
    // Before it is anything but a few moves, the arenas are read.
    if at > MAX_BEFORE_ARENAS {
        return None;
    }
    let has_state = version.series() >= (3, 12);
    let class = u8::from(has_state);
    let fits = |state: &State| {
        class_register(state, class).is_some() && (!has_state || state.holder(Value::Argument(0)).is_some())
    };
    let usable_arenas = |spot: &Spot| match (source, has_state) {
        (Source::Variable(address), false) => Some(UsableArenas::Static { address }),
        (Source::InArgument(offset), true) => Some(UsableArenas::InState {
            register: spot.register(Value::Argument(0))?,
            offset,
        }),
        _ => None,
    };
    let spot = on_entry(code, function, fits)?;
    Some(PoolProbe {
        place: spot.place,
        size_class: class_register(&spot.state, class)?,
        usable_arenas: usable_arenas(&spot)?,
        pool_bytes: pool_bytes(&body)?,
    })
}

/// The slow path of `pymalloc_alloc`: the branch that tests `usable_arenas`.
fn in_the_middle(code: &Code<'_>, function: &Range<u64>) -> Option<PoolProbe> {
    let body = code.instructions(function);
    let states = states(&body);
    let pool_bytes = pool_bytes(&body)?;
    body.iter().enumerate().find_map(|(at, load)| {
        let Source::Variable(address) = arenas_load(&body, at, states.get(&load.ip())?)? else {
            return None;
        };
        let branch = body
            .get(at..)?
            .iter()
            .take(MAX_TO_BRANCH)
            .find(|next| is_null_branch(next))?;
        let spot = spot(code, branch, states.get(&branch.ip())?.clone())?;
        let class = (0..2).find_map(|number| spot.register(Value::SizeClass(number)))?;
        Some(PoolProbe {
            place: spot.place,
            size_class: class,
            usable_arenas: UsableArenas::Static { address },
            pool_bytes,
        })
    })
}

/// It is the first in all builds seen.
const MAX_CALLED: usize = 4;

/// A few registers are saved first (11 instructions in pyenv's 3.13.0).
const MAX_BEFORE_ARENAS: usize = 16;
const MAX_TO_BRANCH: usize = 6;
const MAX_TO_FIELDS: usize = 20;

#[derive(Clone, Copy)]
enum Source {
    Variable(u64),
    InArgument(u32),
}

/// Whether the instruction loads `usable_arenas`: what is loaded is tested for null, and if it is not, two fields of an
/// arena are read.
fn arenas_load(body: &[Instruction], at: usize, state: &State) -> Option<Source> {
    let load = body.get(at)?;
    let is_load = load.mnemonic() == Mnemonic::Mov
        && load.op0_kind() == OpKind::Register
        && load.op0_register().is_gpr64()
        && load.op1_kind() == OpKind::Memory;
    if !is_load {
        return None;
    }
    let source = match variable(load) {
        Some(address) => Source::Variable(address),
        None if load.memory_index() == Register::None && state.get(load.memory_base()) == Value::Argument(0) => {
            Source::InArgument(u32::try_from(load.memory_displacement64()).ok()?)
        }
        None => return None,
    };
    let arena = load.op0_register();
    let after = body.get(at + 1..)?;
    let branch = after.iter().take(MAX_TO_BRANCH).position(is_null_branch)?;
    let tested = after
        .get(..branch)?
        .iter()
        .any(|test| test.mnemonic() == Mnemonic::Test && test.op0_register() == arena && test.op1_register() == arena);
    let reads = |offset: u32, wide: bool| {
        after.iter().skip(branch).take(MAX_TO_FIELDS).any(|read| {
            read.mnemonic() == Mnemonic::Mov
                && read.op1_kind() == OpKind::Memory
                && read.memory_base() == arena
                && read.memory_index() == Register::None
                && read.memory_displacement64() == u64::from(offset)
                && read.op0_register().is_gpr64() == wide
        })
    };
    (tested && reads(ARENA_FREE_COUNT, false) && reads(ARENA_FREE_POOLS, true)).then_some(source)
}

fn is_null_branch(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Je | Mnemonic::Jne) && continues(instruction)
}

fn class_register(state: &State, argument: u8) -> Option<RegisterIndex> {
    let holder = state.holder(Value::Argument(argument));
    saved(holder.or_else(|| state.holder(Value::LowArgument(argument)))?)
}

/// The size of a pool is a constant in the code that lays one out and takes the next: moved to a register, or added to
/// an address. None if there are both sizes, or neither.
fn pool_bytes(body: &[Instruction]) -> Option<u32> {
    let mentioned = |size: u32| {
        body.iter().any(|instruction| match instruction.mnemonic() {
            Mnemonic::Mov => instruction.op1_kind() == OpKind::Immediate32 && instruction.immediate32() == size,
            Mnemonic::Lea => instruction.memory_displacement64() == u64::from(size),
            _ => false,
        })
    };
    match [4 << 10, 16 << 10].map(mentioned) {
        [true, false] => Some(4 << 10),
        [false, true] => Some(16 << 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::*;

    const MALLOC: u64 = 0x1000;
    const POOL: u64 = 0x2000;
    const ARENAS: u64 = 0x5000;

    /// `mov arenas,%rax`, of which this is the beginning; the test of it for null; fields of an arena; `ret`.
    const REST: &[&[u8]] = &[
        b"\x48\x85\xc0",     // test %rax,%rax
        b"\x74\x0d",         // je ret
        b"\x8b\x48\x10",     // mov 16(%rax),%ecx
        b"\x48\x8b\x50\x18", // mov 24(%rax),%rdx
        b"\xb9\0\x10\0\0",   // mov $0x1000,%ecx
        b"\x90",             // nop
        b"\xc3",
    ];

    fn variable_load(at: u64) -> Vec<u8> {
        fake::relative(b"\x48\x8b\x05", at, ARENAS)
    }

    fn of_variable(before: &[u8]) -> Vec<u8> {
        let load = variable_load(POOL + before.len() as u64);
        [before, &load, &REST.concat()].concat()
    }

    fn of_state(before: &[u8]) -> Vec<u8> {
        // mov 0x218(%rdi),%rax
        [before, b"\x48\x8b\x87\x18\x02\0\0", &REST.concat()].concat()
    }

    fn in_file(version: &str, pool: Vec<u8>) -> Result<PoolProbe, NoAllocator> {
        let malloc = [fake::relative(&[0xe8], MALLOC, POOL), vec![0xc3]].concat();
        let elf = fake::elf(&[(MALLOC, malloc), (POOL, pool)]).build();
        find(&Code::new(&elf).unwrap(), Version::parse(version).unwrap(), MALLOC)
    }

    /// push %rbx; mov %edi,%ebx
    const PROLOGUE: &[u8] = b"\x53\x89\xfb";

    #[test]
    fn a_function_that_reads_the_arenas_first_is_probed_on_entry() {
        let probe = in_file("3.9.18", of_variable(PROLOGUE)).unwrap();
        assert_eq!((probe.place.address, probe.place.emulated), (POOL, true));
        assert_eq!(probe.size_class, RegisterIndex(14));
        assert_eq!(probe.usable_arenas, UsableArenas::Static { address: ARENAS });
        assert_eq!(probe.pool_bytes, 4096);
    }

    #[test]
    fn from_3_12_on_the_arenas_are_in_a_state_that_is_handed_over() {
        let probe = in_file("3.12.1", of_state(PROLOGUE)).unwrap();
        assert_eq!(probe.size_class, RegisterIndex(13));
        let register = RegisterIndex(14);
        assert_eq!(
            probe.usable_arenas,
            UsableArenas::InState {
                register,
                offset: 0x218
            }
        );
        // The other kind is not what the version has.
        assert_eq!(in_file("3.11.7", of_state(PROLOGUE)), Err(NoAllocator::NoPool));
        assert_eq!(in_file("3.12.1", of_variable(PROLOGUE)), Err(NoAllocator::NoPool));
    }

    #[test]
    fn without_a_push_the_branch_that_tests_the_arenas_is_probed() {
        // sub $24,%rsp
        let probe = in_file("3.13.1", of_state(b"\x48\x83\xec\x18")).unwrap();
        assert_eq!((probe.place.address, probe.place.emulated), (POOL + 4 + 7 + 3, true));
    }

    #[test]
    fn on_3_8_the_slow_path_in_the_middle_is_probed() {
        // test %rdi,%rdi; je +5; lea -1(%rdi),%ebx; shr $4,%ebx
        let fast = b"\x48\x85\xff\x74\x06\x8d\x5f\xff\xc1\xeb\x04";
        let split = of_variable(fast);
        // The class is not known on the way that leaves it out.
        assert_eq!(in_file("3.8.18", split), Err(NoAllocator::NoPool));
        let fast = b"\x8d\x5f\xff\xc1\xeb\x04";
        let probe = in_file("3.8.18", of_variable(fast)).unwrap();
        assert_eq!(probe.place.address, POOL + 6 + 7 + 3);
        assert_eq!(probe.size_class, RegisterIndex(5));
    }

    #[test]
    fn a_function_that_does_something_else_is_refused() {
        assert_eq!(in_file("3.9.18", vec![0xc3]), Err(NoAllocator::NoPool));
        for part in [0, 1, 2, 3, 4] {
            let mut rest = REST.to_vec();
            rest[part] = b"\x90";
            let other = [&variable_load(POOL)[..], &rest.concat()].concat();
            assert_eq!(
                in_file("3.9.18", other),
                Err(NoAllocator::NoPool),
                "without part {part}"
            );
        }
        let late = of_variable(&[0x90; MAX_BEFORE_ARENAS + 1]);
        assert_eq!(in_file("3.9.18", late), Err(NoAllocator::NoPool));
    }

    proptest::proptest! {
        #[test]
        fn no_change_to_the_code_panics(
            changes in proptest::collection::vec((0..64_usize, proptest::prelude::any::<u8>()), 0..6),
        ) {
            for (version, pool) in [
                ("3.8.18", of_variable(b"\x8d\x5f\xff\xc1\xeb\x04")),
                ("3.9.18", of_variable(PROLOGUE)),
                ("3.12.1", of_state(PROLOGUE)),
            ] {
                let _ = in_file(version, fake::damaged(pool, &changes));
            }
        }
    }
}
