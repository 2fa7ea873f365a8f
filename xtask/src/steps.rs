//! A task of several steps that goes on after a failure and tells at the end what ran and what failed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What became of the steps so far.
#[derive(Default)]
pub struct Steps {
    done: Vec<Step>,
}

struct Step {
    name: String,
    took: Duration,
    outcome: Outcome,
}

enum Outcome {
    Passed,
    Failed,
    /// Left out, and why.
    Skipped(String),
}

impl Steps {
    /// Runs one step and returns what it made, or nothing if it failed.
    pub fn step<T>(&mut self, name: &str, run: impl FnOnce() -> Result<T>) -> Option<T> {
        eprintln!("\nxtask: {name}");
        let start = Instant::now();
        let result = run();
        self.told(name, start.elapsed(), result)
    }

    /// Records what became of a step that another thread ran.
    pub fn told<T>(&mut self, name: &str, took: Duration, result: Result<T>) -> Option<T> {
        if let Err(error) = &result {
            eprintln!("xtask: {name}: {error:#}");
        }
        let outcome = if result.is_ok() {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        self.done.push(Step {
            name: name.to_owned(),
            took,
            outcome,
        });
        result.ok()
    }

    /// Records a step that is not run.
    pub fn skip(&mut self, name: &str, why: impl Into<String>) {
        self.done.push(Step {
            name: name.to_owned(),
            took: Duration::ZERO,
            outcome: Outcome::Skipped(why.into()),
        });
    }

    /// Prints the closing summary, and fails if a step failed.
    pub fn finish(self, task: &str) -> Result<()> {
        eprintln!("\nxtask: {task}: summary");
        for step in &self.done {
            eprintln!("  {}", line(step));
        }
        let failed: Vec<&str> = self
            .done
            .iter()
            .filter(|step| matches!(step.outcome, Outcome::Failed))
            .map(|step| &*step.name)
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!(
            "{task}: {} of {} steps failed: {}",
            failed.len(),
            self.done.len(),
            failed.join(", ")
        )
    }
}

fn line(Step { name, took, outcome }: &Step) -> String {
    match outcome {
        Outcome::Passed => format!("passed   {name} ({:.1} s)", took.as_secs_f64()),
        Outcome::Failed => format!("FAILED   {name} ({:.1} s)", took.as_secs_f64()),
        Outcome::Skipped(why) => format!("skipped  {name}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_does_not_stop_the_next_and_fails_the_whole() {
        let mut steps = Steps::default();
        assert_eq!(steps.step("one", || -> Result<()> { bail!("no") }), None);
        assert_eq!(steps.step("two", || Ok(2)), Some(2));
        steps.skip("three", "not wanted");
        assert_eq!(
            format!("{:#}", steps.finish("test").unwrap_err()),
            "test: 1 of 3 steps failed: one"
        );
    }

    #[test]
    fn a_skipped_step_is_no_failure() {
        let mut steps = Steps::default();
        steps.skip("one", "not wanted");
        assert!(steps.finish("test").is_ok());
    }
}
