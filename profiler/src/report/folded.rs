//! Folded text: `main (app.py:3);f (app.py:9);read (libc.so.6);ksys_read_[k] 12`, root first, one line per stack.

use std::io::Write;

use super::{View, Writer, fold::fold};
use crate::profile::Profile;

#[derive(Clone, Copy, Debug)]
pub struct Folded;

impl Writer for Folded {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        view.value_type(profile)?;
        let fold = fold(profile, view);
        let mut text = String::new();
        for line in &fold.lines {
            text.clear();
            for name in &line.names {
                if !text.is_empty() {
                    text.push(';');
                }
                text.push_str(&fold.names[*name as usize].0);
            }
            writeln!(out, "{text} {}", line.value)?;
        }
        Ok(())
    }
}
