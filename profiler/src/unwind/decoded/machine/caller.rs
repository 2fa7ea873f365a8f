//! From what is known to where the caller is.

use profiler_common::unwind::{CFA_DEREF_SP, CFA_FP, CFA_REGISTER, CFA_SP, FP_AT_CFA, FP_LOST, FP_SAME, UnwindRule};

use super::{Base, Machine, Place, RBP, RSP, Value};
use crate::unwind::rule;

/// Where the kernel's `struct pt_regs` has registers (arch/x86/include/asm/ptrace.h), in words, by the number that
/// instructions give them.
const PT_REGS: [u8; 16] = [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];

impl Machine {
    /// The rule for the caller, if it is known.
    pub fn rule(&self) -> Option<UnwindRule> {
        let (kind, register, offset, extra) = self.frame()?;
        let (fp, fp_offset) = match (self.registers[RBP], self.saved_frame_pointer()) {
            (Value::Caller(number), _) if usize::from(number) == RBP => (FP_SAME, 0),
            (_, Some(offset)) => (FP_AT_CFA, offset),
            _ => (FP_LOST, 0),
        };
        Some(UnwindRule {
            cfa: kind,
            fp,
            register,
            cfa_offset: offset,
            cfa_extra: extra,
            fp_offset,
            ..rule::NONE
        })
    }

    /// Kind, register, offset and extra of a rule that finds the canonical frame address.
    fn frame(&self) -> Option<(u8, u8, i32, i32)> {
        let from_cfa = |number: usize| match self.registers[number] {
            Value::Stack(Place {
                base: Base::Cfa,
                offset,
            }) => Some(-offset),
            _ => None,
        };
        if let Some(offset) = from_cfa(RSP) {
            return Some((CFA_SP, 0, offset, 0));
        }
        if let Some(offset) = from_cfa(RBP) {
            return Some((CFA_FP, 0, offset, 0));
        }
        // What is put aside near a stack pointer that was rounded; unlike a register, callers' can be read.
        if let Value::Stack(sp) = self.registers[RSP] {
            let saved = self.words.iter().find_map(|(place, value)| match value {
                Value::Stack(Place {
                    base: Base::Cfa,
                    offset,
                }) if place.base == sp.base => Some((place.offset - sp.offset, -offset)),
                _ => None,
            });
            if let Some((offset, extra)) = saved {
                return Some((CFA_DEREF_SP, 0, offset, extra));
            }
        }
        let (number, offset) = (0..16).find_map(|number| Some((number, from_cfa(number)?)))?;
        Some((CFA_REGISTER, PT_REGS[number], offset, 0))
    }

    /// Where the caller's frame pointer lies, from the canonical frame address.
    fn saved_frame_pointer(&self) -> Option<i32> {
        self.words
            .iter()
            .find(|(place, value)| place.base == Base::Cfa && *value == Value::Caller(RBP as u8))
            .map(|(place, _)| place.offset)
    }

    /// Whether a rule holds here; `None` where too little is known to say. The second is about the frame pointer.
    #[cfg(test)]
    pub fn holds(&self, rule: &UnwindRule) -> (Option<bool>, Option<bool>) {
        use super::{cfa, moved};
        use profiler_common::unwind::{CFA_DEREF_FP, FP_AT_FP};

        let register = |number: usize| self.registers[number];
        let at = |number: usize, offset: i32| match register(number) {
            Value::Stack(place) => match moved(place, offset.into()) {
                Value::Stack(place) => self.word(place),
                _ => Value::Unknown,
            },
            _ => Value::Unknown,
        };
        let is = |value: Value, wanted: Value| (value != Value::Unknown).then_some(value == wanted);
        let by_register = PT_REGS.iter().position(|register| *register == rule.register);
        let frame = match rule.cfa {
            CFA_SP => is(register(RSP), cfa(-rule.cfa_offset)),
            CFA_FP => is(register(RBP), cfa(-rule.cfa_offset)),
            CFA_REGISTER => by_register.and_then(|number| is(register(number), cfa(-rule.cfa_offset))),
            CFA_DEREF_SP => is(at(RSP, rule.cfa_offset), cfa(-rule.cfa_extra)),
            CFA_DEREF_FP => is(at(RBP, rule.cfa_offset), cfa(-rule.cfa_extra)),
            _ => None,
        };
        let callers = Value::Caller(RBP as u8);
        let word = |offset| {
            self.word(Place {
                base: Base::Cfa,
                offset,
            })
        };
        let fp = match rule.fp {
            FP_SAME => is(register(RBP), callers),
            FP_AT_CFA => is(word(rule.fp_offset), callers),
            FP_AT_FP => is(at(RBP, rule.fp_offset), callers),
            _ => None,
        };
        (frame, fp)
    }
}
