//! Every allocation, function by function.
//!
//! The functions in the table see all calls through it, whoever makes them: the exported ones (`PyObject_Malloc`) are
//! only one way to it. What the table's functions hand on is seen twice: pymalloc passes a request of more than 512
//! bytes to the raw domain, `realloc` moves a block by `malloc` and `free`. The same address then is born again, which
//! replaces the block of before.

use super::code::Code;
use super::flow::{State, Value};
use super::place::{Place, RegisterIndex, on_entry};
use super::table::{Domain, Table, Tables};

/// A function that allocates or frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocFunction {
    /// `Object` for those that `Memory` shares with it.
    pub domain: Domain,
    /// The file's.
    pub address: u64,
    /// Where the arguments are known.
    pub entry: Place,
    pub arguments: Arguments,
    /// Where a return probe (uretprobe) belongs, which gets the result, the address of the block (null if there is
    /// none), in rax: the same place as `entry`. None for `free`.
    pub result: Option<Place>,
}

/// What the function does, and the registers of its arguments at [`AllocFunction::entry`]. A size may be 0, of which
/// each function makes a block of its own, and a block may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    Malloc { size: RegisterIndex },
    Calloc { count: RegisterIndex, size: RegisterIndex },
    Realloc { block: RegisterIndex, size: RegisterIndex },
    Free { block: RegisterIndex },
}

#[derive(Clone, Copy)]
enum Kind {
    Malloc,
    Calloc,
    Realloc,
    Free,
}

/// The functions of the tables, each once.
pub fn find(code: &Code<'_>, tables: &Tables) -> Vec<AllocFunction> {
    let of = |domain, table: &Table| {
        [
            (domain, table.malloc, Kind::Malloc),
            (domain, table.calloc, Kind::Calloc),
            (domain, table.realloc, Kind::Realloc),
            (domain, table.free, Kind::Free),
        ]
    };
    let all = of(Domain::Object, &tables.object)
        .into_iter()
        .chain(of(Domain::Raw, &tables.raw));
    // All of them have a context, which is not used, as their argument 0.
    all.filter_map(|(domain, address, kind)| function(code, domain, address, kind, 1))
        .collect()
}

/// The functions that a C library, or an allocator in its place, exports. They count as the raw domain.
pub fn exported(code: &Code<'_>) -> Vec<AllocFunction> {
    let names = [
        ("malloc", Kind::Malloc),
        ("calloc", Kind::Calloc),
        ("realloc", Kind::Realloc),
        ("free", Kind::Free),
    ];
    names
        .into_iter()
        .filter_map(|(name, kind)| {
            let address = code.image.symbol(name)?.address;
            function(code, Domain::Raw, address, kind, 0)
        })
        .collect()
}

/// `first`: the number of the argument that says what is wanted.
fn function(code: &Code<'_>, domain: Domain, address: u64, kind: Kind, first: u8) -> Option<AllocFunction> {
    let range = code.function(address)?;
    let has = |state: &State, argument| state.holder(Value::Argument(argument)).is_some();
    let arguments_are_there = |state: &State| match kind {
        Kind::Malloc | Kind::Free => has(state, first),
        Kind::Calloc | Kind::Realloc => has(state, first) && has(state, first + 1),
    };
    let has_result = !matches!(kind, Kind::Free);
    let fits = |state: &State| arguments_are_there(state) && (!has_result || state.stack_is_untouched());
    let spot = on_entry(code, &range, fits)?;
    let argument = |number| spot.register(Value::Argument(number));
    let arguments = match kind {
        Kind::Malloc => Arguments::Malloc { size: argument(first)? },
        Kind::Calloc => Arguments::Calloc {
            count: argument(first)?,
            size: argument(first + 1)?,
        },
        Kind::Realloc => Arguments::Realloc {
            block: argument(first)?,
            size: argument(first + 1)?,
        },
        Kind::Free => Arguments::Free {
            block: argument(first)?,
        },
    };
    Some(AllocFunction {
        domain,
        address,
        entry: spot.place,
        arguments,
        result: has_result.then_some(spot.place),
    })
}
