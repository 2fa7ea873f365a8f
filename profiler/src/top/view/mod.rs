//! The screen: a pure function of what was measured and what was typed, to the cells of a terminal.

mod cells;
mod detail;
mod flame;
mod help;
mod paper;
mod processes;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use ratatui::{buffer::Buffer, layout::Rect};

pub use self::paper::Look;
use self::{
    cells::{percent, size},
    paper::{Ink, Paper},
};
use super::{
    snapshot::{Cost, Host, Snapshot},
    state::{Screen, State},
};

/// Lines above the table, its head included.
const HEAD: u16 = 4;
/// Lines below it.
const FOOT: u16 = 2;

/// How many rows there is room for.
pub fn page(height: u16) -> usize {
    usize::from(height.saturating_sub(HEAD + FOOT).max(1))
}

/// Draws everything.
pub fn draw(buffer: &mut Buffer, look: Look, snapshot: Option<&Snapshot>, state: &State) {
    let mut paper = Paper::new(buffer, look);
    let Some(snapshot) = snapshot else {
        paper.line(0, "profiler top: the first refresh is being measured …", Ink::Plain);
        return;
    };
    if state.help {
        help::draw(&mut paper);
        return;
    }
    head(&mut paper, snapshot, state);
    match &state.screen {
        Screen::Processes => processes::draw(&mut paper, snapshot, state),
        Screen::Threads(pids) => detail::threads(&mut paper, snapshot, state, pids),
        Screen::Functions(pids) => detail::functions(&mut paper, snapshot, state, pids),
        Screen::Flame(pids) => flame::draw(&mut paper, snapshot, state, pids),
    }
    foot(&mut paper, snapshot, state);
}

/// The machine, what is seen of it, and what looking costs.
fn head(paper: &mut Paper<'_>, snapshot: &Snapshot, state: &State) {
    let Host {
        cpus,
        cpu_percent,
        memory_used,
        memory_total,
        pressure,
    } = snapshot.host;
    let mut machine = format!("profiler top  {cpus} CPUs");
    if let Some(busy) = cpu_percent {
        let of = busy / (cpus.max(1) as f64);
        machine.push_str(&format!(" {} % busy", percent(of)));
    }
    machine.push_str(&format!("  mem {}/{}", size(memory_used), size(memory_total)));
    if let Some([cpu, memory, io]) = pressure {
        let [cpu, memory, io] = [cpu, memory, io].map(percent);
        machine.push_str(&format!("  pressure cpu {cpu} mem {memory} io {io}"));
    }
    paper.line(0, &machine, Ink::Bold);

    let used: f64 = snapshot.processes.iter().map(|process| process.cpu_percent).sum();
    let number = snapshot.processes.len();
    let mut whom = match number {
        1 => "1 Python".to_owned(),
        _ => format!("{number} Pythons"),
    };
    whom.push_str(&format!(": {} % of a CPU", percent(used)));
    if let Some(busy) = cpu_percent {
        whom.push_str(&format!(", all else {}", percent((busy - used).max(0.0))));
    }
    let Cost {
        user_percent,
        kernel_percent,
        resident,
    } = snapshot.cost;
    let cost = format!(
        "top itself: {} + {} %, {}",
        percent(user_percent),
        percent(kernel_percent),
        size(resident)
    );
    paper.line(1, &format!("{whom}  {cost}"), Ink::Plain);

    let mut on = snapshot.instruments.join(", ");
    if state.paused {
        on = "PAUSED: space goes on".to_owned();
    } else if !snapshot.notes.is_empty() {
        on = format!("! {}", snapshot.notes.join("; "));
    }
    let span = seconds(snapshot.span());
    let ink = if state.paused || !snapshot.notes.is_empty() {
        Ink::Warn
    } else {
        Ink::Dim
    };
    paper.line(2, &format!("{on}; lines, shares: last {span}"), ink);
}

fn foot(paper: &mut Paper<'_>, snapshot: &Snapshot, state: &State) {
    let last = paper.height().saturating_sub(1);
    if state.typing {
        paper.line(
            last,
            &format!("filter: {}_   (Enter keeps it, Esc removes it)", state.filter),
            Ink::Bold,
        );
        return;
    }
    let keys = match &state.screen {
        Screen::Processes => "Enter threads  f lines  l flame  < > sort  / filter  g group  Tab more  ? help",
        Screen::Threads(_) => "Enter/f lines  l flame  Esc back  space pause  ? help  q quit",
        Screen::Functions(_) => "1-4 sort  o own/total  L functions  n native  r reset  l flame  Esc back  ? help",
        Screen::Flame(_) => "w CPU/wall  n native  t threads  f lines  up/down scroll  Esc back  ? help",
    };
    let mut text = keys.to_owned();
    if !state.filter.is_empty() && state.screen == Screen::Processes {
        text = format!("filter: {} (Esc removes it)  {text}", state.filter);
    }
    if snapshot.processes.is_empty() {
        text = "? help  q quit".to_owned();
    }
    paper.line(last, &text, Ink::Dim);
}

fn seconds(span: Duration) -> String {
    format!("{:.0} s", span.as_secs_f64().round().max(1.0))
}

/// The table of processes as text, for `--once`: all its rows, in so many columns.
pub fn text(snapshot: &Snapshot, state: &State, look: Look, columns: u16) -> String {
    let rows = super::rows::rows(snapshot, state).len();
    // A buffer has no more than 65,536 cells.
    let most = u16::try_from(u32::from(u16::MAX) / u32::from(columns.max(1))).unwrap_or(u16::MAX);
    let height = (rows as u64 + u64::from(HEAD)).min(u64::from(most)) as u16;
    let mut buffer = Buffer::empty(Rect::new(0, 0, columns, height));
    let mut paper = Paper::new(&mut buffer, look);
    head(&mut paper, snapshot, state);
    processes::draw_all(&mut paper, snapshot, state);
    lines(&buffer)
}

/// What a buffer holds, without its colours.
pub fn lines(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let mut line = String::new();
        for x in buffer.area.left()..buffer.area.right() {
            line.push_str(buffer[(x, y)].symbol());
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
