//! The line of each process and thread, in windows that come and go.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::{
    top::snapshot::{Line, Sample, Samples},
    waits::cause::Cause,
};

/// Lines with the most of a process's or a thread's time, in windows that come and go.
#[derive(Debug, Default)]
pub struct Lines(FxHashMap<(u32, u32), Sums>);

/// By line, which is where its text is, and what is waited for there.
type Sums = FxHashMap<(usize, Option<Cause>), (Arc<str>, u64)>;

impl Lines {
    /// Whose a sample is. 0 is no thread's number.
    fn whose(sample: &Sample) -> [(u32, u32); 2] {
        [(sample.pid, 0), (sample.pid, sample.tid)]
    }

    pub fn add(&mut self, window: &Samples) {
        for sample in &window.samples {
            let line = (sample.line.as_ptr() as usize, sample.cause);
            for id in Self::whose(sample) {
                let sum = self.0.entry(id).or_default().entry(line);
                sum.or_insert_with(|| (Arc::clone(&sample.line), 0)).1 += sample.cpu_ns + sample.wait_ns;
            }
        }
    }

    /// Takes off what was added.
    pub fn remove(&mut self, window: &Samples) {
        for sample in &window.samples {
            let line = (sample.line.as_ptr() as usize, sample.cause);
            for id in Self::whose(sample) {
                let Some(sums) = self.0.get_mut(&id) else { continue };
                if let Some((_, ns)) = sums.get_mut(&line) {
                    *ns = ns.saturating_sub(sample.cpu_ns + sample.wait_ns);
                    if *ns == 0 {
                        sums.remove(&line);
                    }
                }
                if sums.is_empty() {
                    self.0.remove(&id);
                }
            }
        }
    }

    pub fn of_process(&self, pid: u32) -> Option<Line> {
        self.find(pid, 0)
    }

    pub fn of_thread(&self, pid: u32, tid: u32) -> Option<Line> {
        self.find(pid, tid)
    }

    /// Of computing, if there was any to speak of.
    fn find(&self, pid: u32, tid: u32) -> Option<Line> {
        /// Of the time that is known; less is what waking up takes.
        const LEAST: f64 = 0.01;
        let sums = self.0.get(&(pid, tid))?;
        let all: u64 = sums.values().map(|(_, ns)| ns).sum();
        let computing = sums.iter().filter(|((_, cause), _)| cause.is_none());
        let computes: u64 = computing.map(|(_, (_, ns))| ns).sum();
        let by_cpu = computes as f64 >= LEAST * all as f64 && computes > 0;
        let chosen = sums.iter().filter(|((_, cause), _)| cause.is_none() == by_cpu);
        let chosen = chosen.map(|((_, cause), (text, ns))| (&**text, cause, ns));
        // A mark is no line: it is told where there is none. Of equals, always the same.
        let (text, cause, ns) = chosen.max_by(|(a, _, one), (b, _, other)| {
            let is_line = |text: &str| !text.starts_with('[');
            (is_line(a), one).cmp(&(is_line(b), other)).then_with(|| b.cmp(a))
        })?;
        let whole = if by_cpu { computes } else { all - computes };
        Some(Line {
            text: text.to_string(),
            cause: *cause,
            share: *ns as f64 / whole.max(1) as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::digest::samples::Texts;

    fn window(texts: &mut Texts, samples: &[(&str, Option<Cause>, u64)]) -> Samples {
        let samples = samples.iter().map(|&(text, cause, ns)| Sample {
            pid: 1,
            tid: 2,
            stack: Arc::new([]),
            line: texts.shared(text),
            cpu_ns: if cause.is_none() { ns } else { 0 },
            wait_ns: if cause.is_some() { ns } else { 0 },
            cause,
        });
        Samples {
            samples: samples.collect(),
            ..Samples::default()
        }
    }

    #[test]
    fn the_line_is_that_of_the_windows_that_are_left_and_a_mark_only_if_there_is_no_line() {
        let (mut texts, mut lines) = (Texts::default(), Lines::default());
        let sleep = Some(Cause::Sleep);
        let first = window(&mut texts, &[("a", None, 900), ("b", None, 100)]);
        let second = window(&mut texts, &[("w", sleep, 400), ("[wait under way]", sleep, 600)]);
        lines.add(&first);
        lines.add(&second);
        let line = |lines: &Lines| lines.of_process(1).map(|line| (line.text, line.cause, line.share));
        assert_eq!(line(&lines), Some(("a".to_owned(), None, 0.9)));
        assert_eq!(lines.of_thread(1, 2), lines.of_process(1));
        lines.remove(&first);
        assert_eq!(line(&lines), Some(("w".to_owned(), sleep, 0.4)));
        let third = window(&mut texts, &[("[wait under way]", sleep, 5)]);
        lines.remove(&second);
        lines.add(&third);
        assert_eq!(line(&lines), Some(("[wait under way]".to_owned(), sleep, 1.0)));
        lines.remove(&third);
        assert!(lines.0.is_empty());
        drop((first, second, third));
        texts.tidy();
        assert!(texts.is_empty(), "nothing is kept of what is gone");
    }
}
