//! Whether a function that is called ever comes back: behind a call of one that does not, other code begins.

use iced_x86::{Decoder, DecoderOptions, FlowControl};
use rustc_hash::FxHashSet;

use super::{
    function::{continues, is_call, is_system_call, target},
    view::View,
};

/// What does not come back says so soon: `__stack_chk_fail` in musl is a `hlt`, `exit` some calls and a loop.
const MOST_INSTRUCTIONS: usize = 256;
/// Functions that call such functions.
const DEEPEST: usize = 4;

/// Whether it may come back. It does not if none of its ways, all of which are followed, leads out of it.
pub fn comes_back(view: &View<'_>, function: u32) -> bool {
    comes_back_within(view, function, DEEPEST)
}

fn comes_back_within(view: &View<'_>, function: u32, deeper: usize) -> bool {
    if let Some(known) = view.come_back.borrow().get(&function) {
        return *known;
    }
    if deeper == 0 {
        return true;
    }
    // Whoever calls itself comes back, unless something else says no.
    view.come_back.borrow_mut().insert(function, true);
    let comes = finds_way_out(view, function, deeper - 1);
    if comes && deeper < DEEPEST {
        // Asked from its start it may be found out.
        view.come_back.borrow_mut().remove(&function);
    } else {
        view.come_back.borrow_mut().insert(function, comes);
    }
    comes
}

fn finds_way_out(view: &View<'_>, function: u32, deeper: usize) -> bool {
    let mut seen: FxHashSet<u32> = FxHashSet::default();
    let mut open = vec![function];
    while let Some(from) = open.pop() {
        let Some(bytes) = view.code_from(from) else { return true };
        for instruction in Decoder::with_ip(64, bytes, from.into(), DecoderOptions::NONE) {
            if !seen.insert(instruction.ip() as u32) {
                break;
            }
            if seen.len() > MOST_INSTRUCTIONS || instruction.is_invalid() {
                return true;
            }
            let target = target(&instruction);
            match instruction.flow_control() {
                _ if is_system_call(&instruction) => {}
                FlowControl::Next | FlowControl::IndirectCall | FlowControl::Exception => {}
                FlowControl::Interrupt => break,
                FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => match target {
                    Some(target) if view.is_function(target) => {
                        if comes_back_within(view, target, deeper) {
                            return true;
                        }
                    }
                    Some(target) => open.push(target),
                    None => return true,
                },
                FlowControl::Call => {}
                _ => return true,
            }
            let stays = is_call(&instruction)
                && target.is_some_and(|target| view.is_open(target) && !comes_back_within(view, target, deeper));
            if !continues(&instruction) || stays {
                break;
            }
        }
    }
    false
}
