//! Which rules the kernel side knows, and for how many tables.
//!
//! Tables share them: all of a machine's have some thousands. A file that is made for it has thousands of its own, which go
//! with its table.

use profiler_common::unwind::{MAX_RULES, RULE_UNSUPPORTED, UnwindRule};
use rustc_hash::FxHashMap;

/// The user who may have all there is.
pub const ROOT: u32 = 0;

/// One user may bring half of all rules, however many files they have.
const USERS_MOST: usize = MAX_RULES / 2;

#[derive(Debug)]
pub struct Rules {
    indices: FxHashMap<UnwindRule, u16>,
    /// By index: the rule, the tables that have it, and the user whose file brought it.
    known: Vec<(UnwindRule, u32, u32)>,
    unused: Vec<u16>,
    /// Rules that each user's files have brought.
    brought: FxHashMap<u32, usize>,
}

impl Rules {
    /// With these at the first indices, for good.
    pub fn new(first: [UnwindRule; 2]) -> Self {
        Self {
            indices: first.into_iter().zip(0..).collect(),
            known: first.map(|rule| (rule, 1, ROOT)).into(),
            unused: Vec::new(),
            brought: FxHashMap::default(),
        }
    }

    /// The index of a rule, for one table more, and whether it is new; `None` if there is none left for this user.
    pub fn take(&mut self, rule: UnwindRule, owner: u32) -> Option<(u16, bool)> {
        if let Some(&index) = self.indices.get(&rule) {
            self.known[usize::from(index)].1 += 1;
            return Some((index, false));
        }
        let brought = self.brought.entry(owner).or_default();
        if owner != ROOT && *brought >= USERS_MOST {
            return None;
        }
        let index = match self.unused.pop() {
            Some(index) => index,
            None if self.known.len() < MAX_RULES => {
                self.known.push((rule, 0, owner));
                (self.known.len() - 1) as u16
            }
            None => return None,
        };
        *brought += 1;
        self.known[usize::from(index)] = (rule, 1, owner);
        self.indices.insert(rule, index);
        Some((index, true))
    }

    /// Whether there is no number left, for whomever.
    pub fn is_full(&self) -> bool {
        self.unused.is_empty() && self.known.len() >= MAX_RULES
    }

    /// How many tables have each, by index.
    #[cfg(test)]
    pub fn users(&self) -> impl Iterator<Item = u32> {
        self.known.iter().map(|&(_, users, _)| users)
    }

    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// One table less has this rule.
    pub fn give(&mut self, index: u16) {
        // What was refused is nobody's, and the first two stay.
        if index <= RULE_UNSUPPORTED {
            return;
        }
        let Some((rule, users, owner)) = self.known.get_mut(usize::from(index)) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            if let Some(brought) = self.brought.get_mut(owner) {
                *brought -= 1;
            }
            self.indices.remove(rule);
            self.unused.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(number: usize) -> UnwindRule {
        UnwindRule {
            cfa_offset: number as i32 + 1_000_000,
            ..UnwindRule::default()
        }
    }

    fn rules() -> Rules {
        Rules::new([rule(MAX_RULES), rule(MAX_RULES + 1)])
    }

    #[test]
    fn rules_go_with_the_last_table_that_has_them() {
        let mut rules = rules();
        let (index, is_new) = rules.take(rule(1), 1000).unwrap();
        assert!(is_new && index > RULE_UNSUPPORTED);
        assert_eq!(rules.take(rule(1), 1001), Some((index, false)));
        rules.give(index);
        assert_eq!(rules.take(rule(1), 1000), Some((index, false)));
        rules.give(index);
        rules.give(index);
        // Another one has its place.
        assert_eq!(rules.take(rule(2), 1000), Some((index, true)));
        for first in [0, RULE_UNSUPPORTED] {
            rules.give(first);
        }
        assert_eq!(rules.take(rule(MAX_RULES), 1000), Some((0, false)));
    }

    #[test]
    fn one_user_cannot_take_the_rules_of_all() {
        let mut rules = rules();
        let taken: Vec<u16> = (0..MAX_RULES)
            .map_while(|number| rules.take(rule(number), 1000))
            .map(|(index, _)| index)
            .collect();
        assert_eq!(taken.len(), USERS_MOST);
        assert!(rules.take(rule(MAX_RULES + 7), 1001).is_some());
        assert!(rules.take(rule(MAX_RULES + 8), ROOT).is_some());
        // Those of others can be used by everybody.
        assert!(rules.take(rule(MAX_RULES + 7), 1000).is_some());
        rules.give(taken[0]);
        assert!(rules.take(rule(MAX_RULES + 9), 1000).is_some());
    }
}
