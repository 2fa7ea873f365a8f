//! Where a function's bytecode adds to what has a name: `KEPT.append(row)`, `self.cache[key] = row`, `rows += more`.
//!
//! Only what is certain of the instructions is told. What a name leads to is followed on the evaluation stack, as deep as it
//! lies there, until a method that adds is looked up on it, something is stored in it, or it is used for anything else. A name
//! that is handed to another function, or to another variable, is not followed there.

use super::{bytecode, layout::Instruction, memory::ReadMemory};

/// What is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// A variable of the function's module.
    Global(&'a str),
    Attribute(&'a str),
    /// A variable of the function, by its number.
    Local(u32),
}

/// Methods by which the containers of the standard library, and most others, get more.
const METHODS: [&str; 12] = [
    "add",
    "append",
    "appendleft",
    "extend",
    "extendleft",
    "insert",
    "push",
    "put",
    "put_nowait",
    "setdefault",
    "update",
    "__setitem__",
];

/// What an instruction does, as far as it matters here, by its opcode; of specialized ones as of what they were before. From
/// 3.8 on: `dis.stack_effect` of `dis._all_opmap` by the interpreters themselves (3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1,
/// 3.13.0 and 3.13.18, 3.14.10, 3.15.2).
///
/// - `g`, `n`, `a`, `m`, `f`: loads a global, a name, an attribute, a method, a local;
/// - `s`, `G`, `A`: stores an item, a global or name, an attribute; `b`: gets an item; `o`, `I`: an operation, in place;
/// - `0` to `3`: leaves so many more on the stack; `q`, `r`, `t`, `u`: one to four less;
/// - `c`, `d`, `e`: less by its argument and 0, 1 or 2; `h`: by its argument, and one more; `x`: `EXTENDED_ARG`;
/// - `?`: jumps, or does what depends; `.`: is not there, or put there to trace.
const KINDS: [&[u8; 256]; 8] = [
    b".q00120..0000..0qI.qq.qqqbqqII....................011??III.Isrqq\
      qqqI00q1q0.IIIII.2t?q0?0?tG0???AqG0.1nhhh?aqq1??????g.....?.fq0.\
      ..cc??.11q0..d??xqqr1hhhhh??chh.md??............................\
      ................................................................",
    b".q00120..0000..0qI.qq.qqqbqqII..................t1011.?III.Isrqq\
      qqqI00q1q01IIIII..0?q0?0.tG0???AqG0.1nhhh?aqq1??????gqq..??.fq0.\
      ..cc??.11q0..d??xqqr1.....??ch..mdqqqq..........................\
      ................................................................",
    b".q00120..0000..0qI.qq.qqqbqqII11120..............1011.?III.Isrqq\
      qqqI00q1q01IIIII..0?q0?0.tG0???AqG001nhhh?aqq1??????gqqt.??.fq0.\
      .qcc??.11q0..d??xqqr1...q.??ch..mdqqqq..........................\
      ................................................................",
    b"0q1oooooo0000oo0obbbbbqqqbqqqq1111x100?aaaaa1ffgg10111rgmmmmsrmm\
      cccc00q1cc1?cccccc0?q0?0qqG0???AqG001nhhh?aqq1???c??gqqq1co?fq0c\
      ??c0???011q0?c?cxqqr1000rAA?chAAmqqqqqcqsssq0????????...........\
      ................................................................",
    b"0q1qrqooo0o00oo0o0obbbbddbrudd1111d100ddddddddddd10111rqdqqqsr??\
      ????00a1aa1?aaaaaaa?10f1fqG0???AqG001nhhh?aqq1?ggA??gqqq1?o?fq0f\
      ??c0???011q0???1xqqrA0?0rAq?chqss?qqqq???..d00q00...............\
      ................................................................",
    b"011orb00qrrqqq0q001010q11101110qq11??0us00001och?h?hhd?0qeqq010q\
      0000qq.x?01qq???qqa11f1f200gn?0rr????cq??qqqAqq0rGG0???.........\
      .....................0ooooooobbbbbddddddddddddddddddddqqqqq????a\
      aaaaaaaaaaagg??0?AAAss000000???.................................",
    b"0rqot00qrqqq0q010010q11011100qqq11??0us00001o?h?hhhhd0qeqq010q00\
      00qq?x?01qq???qqa111f1f2f200gn11?0rr????cq?qqqAqq0rGG0???.......\
      0ooooooooooooooddddddddeeeddddddddddddqqqqq??????aaaaaaaaaaaaa11\
      gg??0?AAAss000000???............................................",
    b"0rqot00qrqrq0q0110q11011100qrq11??0us00001o?h?hhhhd0qeqq010q0000\
      qq?x?011qq???qqa111f1f2f200gn11?0rr????cq?qqqAqq0rGG0???........\
      0ooooooooooooooodddddddttdeeeddddddddddddqqqqq?????11??aaaaaaaaa\
      aaaagg??00???AAAss000000???.....................................",
];
/// Minor version that the first of them is of.
const FIRST: u8 = 8;
/// Code units of 3.15's caches, as [`bytecode`] has them of the versions before.
const CACHES_3_15: &[u8; 256] = b"0005100000000000000000000000000000001300005000000030031100000000\
      00001010001000090000000000040001000111100100040000000010........\
      1555555555555555333333311333333333333333311111111111111999999999\
      999944111111144411333333111.....................................";

/// `NB_INPLACE_ADD` to `NB_INPLACE_XOR`, and `NB_SUBSCR` (from 3.14 on), arguments of `BINARY_OP` (opcode.h, 3.11 – 3.15).
const IN_PLACE: std::ops::RangeInclusive<u32> = 13..=25;
const ITEM: u32 = 26;

/// `PyCodeObject.co_consts` and `co_names`, up to 3.10 and from 3.11 on (found in live objects of 3.8 – 3.15).
const CONSTANTS: [u64; 2] = [56, 24];
const NAMES: [u64; 2] = [64, 32];

/// Where a code object has its tuple of constants.
pub fn constants(instruction: Instruction) -> u64 {
    CONSTANTS[usize::from(is_adaptive(instruction))]
}

/// Where a code object has its tuple of names.
pub fn names(instruction: Instruction) -> u64 {
    NAMES[usize::from(is_adaptive(instruction))]
}

fn is_adaptive(instruction: Instruction) -> bool {
    matches!(instruction, Instruction::Address { .. })
}

/// What a frame of a code object has for its instruction at a byte of its bytecode.
pub fn instruction_at(instruction: Instruction, code: u64, offset: usize) -> u64 {
    match instruction {
        Instruction::Index { unit_bytes } => offset as u64 / u64::from(unit_bytes.max(1)),
        Instruction::Address { code_adaptive } => code.wrapping_add(u64::from(code_adaptive) + offset as u64),
    }
}

/// The bytecode of the code object at `code`.
pub fn read(memory: &dyn ReadMemory, instruction: Instruction, code: u64) -> Option<Vec<u8>> {
    bytecode::bytes(memory, instruction, code)
}

#[derive(Clone, Copy, Debug)]
struct Step {
    offset: usize,
    kind: u8,
    argument: u32,
}

/// The bytes of the bytecode at which something named is loaded, to be added to.
pub fn additions(minor: u8, bytes: &[u8], names: &[Box<str>], wanted: Named<'_>) -> Vec<usize> {
    let reader = Reader { minor, names };
    let steps = decoded(minor, bytes).unwrap_or_default();
    let all = steps.iter().enumerate();
    all.filter(|(at, step)| reader.loads(step, wanted) && reader.adds(&steps[at + 1..]))
        .map(|(_, step)| step.offset)
        .collect()
}

/// The same, where the name is given another value.
pub fn assignments(minor: u8, bytes: &[u8], names: &[Box<str>], wanted: Named<'_>) -> Vec<usize> {
    let reader = Reader { minor, names };
    let steps = decoded(minor, bytes).unwrap_or_default();
    let stores = |step: &&Step| match (step.kind, wanted) {
        (b'G', Named::Global(name)) | (b'A', Named::Attribute(name)) => reader.name(step.argument) == Some(name),
        _ => false,
    };
    steps.iter().filter(stores).map(|step| step.offset).collect()
}

/// `None` if something in it is not known.
fn decoded(minor: u8, bytes: &[u8]) -> Option<Vec<Step>> {
    let kinds = KINDS.get(usize::from(minor.checked_sub(FIRST)?))?;
    let caches = |opcode: u8| match minor {
        15 => char::from(CACHES_3_15[usize::from(opcode)]).to_digit(16),
        _ => bytecode::caches(minor, opcode),
    };
    let units = bytes.as_chunks::<2>().0;
    let (mut steps, mut at, mut argument) = (Vec::new(), 0, 0u32);
    while let Some(&[opcode, low]) = units.get(at) {
        argument = argument << 8 | u32::from(low);
        match kinds[usize::from(opcode)] {
            b'.' => return None,
            b'x' => {}
            kind => {
                let offset = 2 * at;
                steps.push(Step { offset, kind, argument });
                argument = 0;
            }
        }
        at += 1 + caches(opcode)? as usize;
    }
    Some(steps)
}

struct Reader<'a> {
    minor: u8,
    names: &'a [Box<str>],
}

impl Reader<'_> {
    fn name(&self, number: u32) -> Option<&str> {
        self.names.get(number as usize).map(|name| &**name)
    }

    /// Its name, and whether something else is left on the stack beside it, as for a call.
    fn loaded(&self, step: &Step) -> (Option<&str>, bool) {
        // The lowest bit of the argument says so.
        let has_flag = match step.kind {
            b'g' => self.minor >= 11,
            b'a' => self.minor >= 12,
            _ => false,
        };
        match has_flag {
            true => (self.name(step.argument >> 1), step.argument & 1 != 0),
            false => (self.name(step.argument), step.kind == b'm'),
        }
    }

    fn loads(&self, step: &Step, wanted: Named<'_>) -> bool {
        match (step.kind, wanted) {
            (b'g' | b'n', Named::Global(name)) | (b'a', Named::Attribute(name)) => {
                self.loaded(step) == (Some(name), false)
            }
            (b'f', Named::Local(number)) => step.argument == number,
            _ => false,
        }
    }

    /// Whether the object on the top of the stack is added to by what follows.
    fn adds(&self, steps: &[Step]) -> bool {
        // How many are on the stack, counted from that object.
        let mut depth = 1i64;
        for step in steps {
            let argument = i64::from(step.argument);
            let more = match step.kind {
                b'a' | b'm' if depth == 1 => {
                    return self.loaded(step).0.is_some_and(|name| METHODS.contains(&name));
                }
                b's' => return depth == 2,
                b'I' if depth == 2 => return true,
                b'o' if depth == 2 && IN_PLACE.contains(&step.argument) => return true,
                // What is in it is as good as itself.
                b'b' if depth == 2 => -1,
                b'o' if depth == 2 && step.argument == ITEM => -1,
                b'g' | b'a' | b'm' => i64::from(step.kind == b'g') + i64::from(self.loaded(step).1),
                b'n' | b'f' | b'1' => 1,
                b'2' => 2,
                b'3' => 3,
                b'0' => 0,
                b'b' | b'o' | b'I' | b'q' => -1,
                b'r' => -2,
                b't' => -3,
                b'u' => -4,
                b'c' => -argument,
                b'd' => -argument - 1,
                b'e' => -argument - 2,
                b'h' => 1 - argument,
                _ => return false,
            };
            let is_item = more == -1 && depth == 2 && matches!(step.kind, b'b' | b'o');
            depth += more;
            // It has been taken from the stack: of what takes something its result lies above.
            if more <= 0 && depth < 2 && !is_item {
                return false;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|&name| name.into()).collect()
    }

    /// 3.8: LOAD_GLOBAL 116, LOAD_METHOD 160, LOAD_FAST 124, CALL_METHOD 161, POP_TOP 1, STORE_SUBSCR 60, LOAD_CONST 100.
    #[test]
    fn a_method_that_adds_is_told_from_one_that_reads() {
        let names = names(&["KEPT", "append", "index"]);
        let call = |method: u8| [116, 0, 160, method, 124, 0, 161, 1, 1, 0];
        let wanted = Named::Global("KEPT");
        assert_eq!(additions(8, &call(1), &names, wanted), [0]);
        assert!(additions(8, &call(2), &names, wanted).is_empty());
        assert!(additions(8, &call(1), &names, Named::Global("OTHER")).is_empty());
        assert!(additions(8, &call(1), &names, Named::Attribute("KEPT")).is_empty());
    }

    #[test]
    fn an_item_is_stored_in_a_container_not_in_what_is_stored() {
        let names = names(&["KEPT", "other"]);
        let wanted = Named::Global("KEPT");
        // KEPT[k] = v
        assert_eq!(additions(8, &[124, 1, 116, 0, 124, 0, 60, 0], &names, wanted), [2]);
        // other[k] = KEPT
        assert!(additions(8, &[116, 0, 116, 1, 124, 0, 60, 0], &names, wanted).is_empty());
        // other[KEPT[k]] = v
        let code = [124, 1, 116, 1, 116, 0, 124, 0, 25, 0, 60, 0];
        assert!(additions(8, &code, &names, wanted).is_empty());
        // KEPT[k][l] = v
        let code = [124, 1, 116, 0, 124, 0, 25, 0, 124, 0, 60, 0];
        assert_eq!(additions(8, &code, &names, wanted), [2]);
    }

    #[test]
    fn what_is_compared_called_or_gone_through_is_not_added_to() {
        let names = names(&["KEPT", "append"]);
        let wanted = Named::Global("KEPT");
        // k in KEPT, then [].append(…)
        let compared = [124, 0, 116, 0, 107, 6, 160, 1];
        // iter(KEPT)
        let iterated = [116, 0, 68, 0, 160, 1];
        // f(KEPT).append
        let handed_on = [124, 0, 116, 0, 131, 1, 160, 1];
        for code in [&compared[..], &iterated, &handed_on] {
            assert!(additions(8, code, &names, wanted).is_empty(), "{code:?}");
        }
    }

    #[test]
    fn a_local_and_an_assignment_are_told_by_what_they_are() {
        let names = names(&["head", "append"]);
        assert_eq!(additions(8, &[124, 3, 160, 1], &names, Named::Local(3)), [0]);
        assert_eq!(assignments(8, &[100, 0, 97, 0], &names, Named::Global("head")), [2]);
        assert_eq!(assignments(8, &[124, 0, 95, 0], &names, Named::Attribute("head")), [2]);
        assert!(assignments(8, &[124, 0, 95, 0], &names, Named::Global("head")).is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(minor in 0u8..20, code in prop::collection::vec(any::<u8>(), 0..64), local: u32) {
            let names = names(&["a", "append"]);
            for wanted in [Named::Global("a"), Named::Attribute("a"), Named::Local(local)] {
                let _ = additions(minor, &code, &names, wanted);
                let _ = assignments(minor, &code, &names, wanted);
            }
        }
    }
}
