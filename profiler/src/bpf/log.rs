//! Where the kernel side's log goes (`-vv` only): standard error, one line each.

use log::{Level, Log, Metadata, Record};

use crate::shown;

pub(super) struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error | Level::Warn => "kernel side warns: ",
            _ => "kernel side: ",
        };
        shown::say(&format!("{level}{}", shown::line(&record.args().to_string())));
    }

    fn flush(&self) {}
}
