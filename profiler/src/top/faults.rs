//! What a panic has to say while the terminal is ours: kept until that is given back, since what is written on the screen
//! that we draw on goes with it.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    mem,
    panic::{self, PanicHookInfo},
    sync::{Mutex, Once, PoisonError},
    thread,
};

use crate::shown;

static KEPT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on; at other times it is said at once, as ever.
pub fn keep_while(is_taken: fn() -> bool) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let at_once = panic::take_hook();
        panic::set_hook(Box::new(move |info| match is_taken() {
            true => keep(info),
            false => at_once(info),
        }));
    });
}

fn keep(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let mut text = format!("thread '{}' {info}", thread.name().unwrap_or("?"));
    // As RUST_BACKTRACE wants it.
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("\n{trace}"));
    }
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(text);
}

/// Says what was kept.
pub fn tell() {
    for text in mem::take(&mut *KEPT.lock().unwrap_or_else(PoisonError::into_inner)) {
        shown::say(&text);
    }
}
