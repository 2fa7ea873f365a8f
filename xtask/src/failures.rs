//! Why tests failed, once more at the very end: of a log of thousands of lines, the end is what is kept and read.

use std::fmt::Write as _;

/// What libtest writes, line by line, with what it says of failed tests kept.
#[derive(Debug, Default)]
pub struct Failures {
    within: bool,
    /// In this test program's output there was a heading of failures: the second one is of a list of names.
    headed: bool,
    tests: Vec<Failure>,
}

#[derive(Debug)]
struct Failure {
    name: String,
    said: Vec<String>,
    backtrace: bool,
}

/// What claims say of a target that came to harm, or to which something was left.
const HARM: [&str; 10] = [
    "ended without a further line",
    "the target has ended",
    "the target does not go on",
    " is stopped: ",
    " is traced",
    "the probes are still there",
    "a probe is left",
    "of its code are changed",
    "left behind: ",
    " links are left: ",
];

/// What a failed claim says first matters; what it shows of a report can be long.
const SHOWN_LINES: usize = 30;
const SHOWN_CHARACTERS: usize = 400;

impl Failures {
    /// With `--show-output` those that passed come first, each under the same kind of heading.
    pub fn take(&mut self, line: &str) {
        match line {
            "failures:" => {
                self.within = !self.headed;
                self.headed = true;
            }
            "successes:" => self.within = false,
            // Of one test program; another one's may follow.
            _ if line.starts_with("test result: ") => {
                self.within = false;
                self.headed = false;
            }
            _ if !self.within => {}
            _ => {
                if let Some(name) = line
                    .strip_prefix("---- ")
                    .and_then(|rest| rest.strip_suffix(" stdout ----"))
                {
                    self.tests.push(Failure {
                        name: name.to_owned(),
                        said: Vec::new(),
                        backtrace: false,
                    });
                } else if let Some(test) = self.tests.last_mut() {
                    test.backtrace |= line.trim() == "Stack backtrace:";
                    if !test.backtrace && !line.trim().is_empty() {
                        test.said.push(line.to_owned());
                    }
                }
            }
        }
    }

    /// Those that may have failed by chance, if all may have: samples are drawn, and the machine has other work, a compiler
    /// among it. A claim that fails for a reason fails again. Many at once are no chance, and whether a target came to harm
    /// is not asked twice.
    pub fn to_ask_again(&self) -> Vec<&str> {
        const MOST: usize = 12;
        let harmless = |test: &Failure| {
            !test.name.starts_with("safety::")
                && !test.said.iter().any(|line| HARM.iter().any(|harm| line.contains(harm)))
        };
        if self.tests.len() <= MOST && self.tests.iter().all(harmless) {
            self.tests.iter().map(|test| &*test.name).collect()
        } else {
            Vec::new()
        }
    }

    /// None is known of. A task can fail without one: what does not compile has no tests.
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Whether a test is among them.
    pub fn has(&self, name: &str) -> bool {
        self.tests.iter().any(|test| test.name == name)
    }

    /// In words, or nothing. `how`: `failed`, and the like.
    pub fn shown(&self, how: &str) -> String {
        let mut text = String::new();
        for test in &self.tests {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\nxtask: {} {how}:", test.name);
            for line in test.said.iter().take(SHOWN_LINES) {
                let line: String = line.chars().take(SHOWN_CHARACTERS).collect();
                let _ = writeln!(text, "  {line}");
            }
            if test.said.len() > SHOWN_LINES {
                let _ = writeln!(text, "  and {} lines more", test.said.len() - SHOWN_LINES);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_tests_said_is_kept_and_what_others_said_is_not() {
        let output = "\
test a::one ... ok
successes:
---- a::one stdout ----
skipped: no tmux
successes:
    a::one
failures:

---- b::two stdout ----
Error: no caller

Caused by:
    12 of 13

Stack backtrace:
   0: anyhow::error
---- b::three stdout ----
Error: two

failures:
    b::two
    b::three

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1 s
failures:

---- c::of_the_next_program stdout ----
assertion failed

failures:
    c::of_the_next_program

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1 s
";
        let mut failures = Failures::default();
        output.lines().for_each(|line| failures.take(line));
        assert_eq!(
            failures.shown("failed"),
            "
xtask: b::two failed:
  Error: no caller
  Caused by:
      12 of 13

xtask: b::three failed:
  Error: two

xtask: c::of_the_next_program failed:
  assertion failed
"
        );
    }

    #[test]
    fn a_few_failures_are_asked_again_but_not_many_and_never_whether_a_target_came_to_harm() {
        let failed = |tests: &[(&str, &str)]| {
            let mut failures = Failures::default();
            failures.take("failures:");
            for (name, said) in tests {
                failures.take(&format!("---- {name} stdout ----"));
                failures.take(said);
            }
            failures.to_ask_again().len()
        };
        assert_eq!(failed(&[]), 0);
        assert_eq!(failed(&[("a::one", "Error: 98 %"), ("b::two", "Error: 97 %")]), 2);
        assert_eq!(failed(&[("a::one", "Error: 98 %"), ("safety::two", "Error: 97 %")]), 0);
        assert_eq!(failed(&[("a_safety::one", "Error: 2.1 s for a look")]), 1);
        for harm in ["it ended without a further line: signal 5", "3.12: a probe is left"] {
            assert_eq!(failed(&[("a::one", harm), ("b::two", "Error: 98 %")]), 0);
        }
        assert_eq!(failed(&[("a::one", "Error: 98 %"); 13]), 0);
    }
}
