//! The keyed 128-bit hash that names a stack.
//!
//! Two 64-bit lanes with different multipliers and different ways of taking a word in: a pair of stacks that agree in
//! one lane has no better chance than any other pair to agree in the other. 64 bits alone would not do: a machine that
//! records for days sees enough stacks for the birthday bound to matter, and a collision puts one function's time on
//! another. The seed is drawn per recording, so a program cannot prepare stacks that collide.

use profiler_common::record::{PythonFrame, StackKey};

/// Takes one word into both lanes.
#[inline(always)]
pub fn mix(key: &mut StackKey, word: u64) {
    let mut a = (key.hash[0] ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    a ^= a >> 32;
    let mut b = key.hash[1].wrapping_add(word).wrapping_mul(0xd6e8_feb8_6659_fd93);
    b ^= b >> 29;
    // Without the rotation a lane would map equal low bits to equal low bits.
    key.hash = [a, b.rotate_left(23)];
}

/// Takes a Python frame into both lanes: two words for the price of one, because what joins them is not on the chain
/// from frame to frame. Each lane joins them in its own way, so that frames which agree in one do not in the other.
#[inline(always)]
pub fn mix_frame(key: &mut StackKey, frame: PythonFrame) {
    let PythonFrame { code, instruction, .. } = frame;
    let mut a = (key.hash[0] ^ code.wrapping_add(instruction.rotate_left(32))).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    a ^= a >> 32;
    let joined = code.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ instruction;
    let mut b = key.hash[1].wrapping_add(joined).wrapping_mul(0xd6e8_feb8_6659_fd93);
    b ^= b >> 29;
    key.hash = [a, b.rotate_left(23)];
}

/// Takes the fingerprint of one more code object into what those of a stack come to.
#[inline(always)]
pub fn mix_fingerprint(fingerprint: &mut u64, word: u64) {
    let mixed = (*fingerprint ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    *fingerprint = mixed ^ (mixed >> 29);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn order_and_length_matter() {
        let hash = |words: &[u64]| {
            let mut key = StackKey { hash: [1, 2] };
            words.iter().for_each(|&word| mix(&mut key, word));
            key
        };
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
        assert_ne!(hash(&[0]), hash(&[0, 0]));
        assert_ne!(hash(&[]), hash(&[0]));
    }

    #[test]
    fn frames_of_neighbouring_code_and_instructions_do_not_collide_in_either_lane() {
        let (mut a, mut b) = (HashSet::new(), HashSet::new());
        for code in 0..1000u64 {
            for instruction in 0..1000u64 {
                let mut key = StackKey { hash: [7, 9] };
                let code = 0x7f00_0000_0000 + code * 16;
                mix_frame(
                    &mut key,
                    PythonFrame {
                        code,
                        instruction: code + 0xc8 + instruction * 2,
                        fingerprint: 0,
                    },
                );
                a.insert(key.hash[0]);
                b.insert(key.hash[1]);
            }
        }
        assert_eq!((a.len(), b.len()), (1_000_000, 1_000_000));
    }

    #[test]
    fn stacks_of_neighbouring_addresses_do_not_collide_in_either_lane() {
        let (mut a, mut b) = (HashSet::new(), HashSet::new());
        for leaf in 0..1000u64 {
            for root in 0..1000u64 {
                let mut key = StackKey { hash: [7, 9] };
                mix(&mut key, 0x7f00_0000_0000 + leaf * 2);
                mix(&mut key, 0x7f00_0000_0000 + root * 2);
                a.insert(key.hash[0]);
                b.insert(key.hash[1]);
            }
        }
        assert_eq!((a.len(), b.len()), (1_000_000, 1_000_000));
    }
}
