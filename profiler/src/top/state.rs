//! What was typed so far, and what a key does: no terminal here, and nothing is drawn.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    rows::{RowKey, Sort, rows},
    snapshot::{Sample, Snapshot},
};

/// Lines are told apart since the last reset, and no more than these.
const MOST_LINES: usize = 20_000;
const OTHERS: &str = "[too many lines]";
/// A filter is some words.
const MOST_TYPED: usize = 60;

#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub screen: Screen,
    pub help: bool,
    pub sort: Sort,
    pub reversed: bool,
    pub grouped: bool,
    /// Which columns of the table of processes.
    pub numbers: bool,
    pub filter: String,
    /// A filter is being typed.
    pub typing: bool,
    pub paused: bool,
    /// Functions are sorted by what is in themselves, or with what they call.
    pub order: Order,
    /// Lines of a function are one.
    pub functions: bool,
    /// Machine code is shown between the lines of Python.
    pub native: bool,
    /// A picture is of CPU time, or of waits as well.
    pub wall: bool,
    pub selected: Option<RowKey>,
    pub scroll: usize,
    /// Of the processes that are looked at closely, since the last reset.
    pub totals: Totals,
    pub quits: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Screen {
    #[default]
    Processes,
    /// Of these processes.
    Threads(Vec<u32>),
    Functions(Vec<u32>),
    Flame(Vec<u32>),
}

impl Screen {
    pub fn pids(&self) -> &[u32] {
        match self {
            Self::Processes => &[],
            Self::Threads(pids) | Self::Functions(pids) | Self::Flame(pids) => pids,
        }
    }
}

/// By what lines are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Own,
    Total,
    Waiting,
    OwnTime,
}

/// Time by line, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    pub since: Duration,
    pub lines: HashMap<Arc<str>, Sums>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub own: u64,
    pub total: u64,
    pub waiting: u64,
}

/// A key, as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Tab,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Interrupt,
}

impl State {
    pub fn new(grouped: bool) -> Self {
        Self {
            screen: Screen::Processes,
            help: false,
            sort: Sort::default(),
            reversed: false,
            grouped,
            numbers: false,
            filter: String::new(),
            typing: false,
            paused: false,
            order: Order::default(),
            functions: false,
            native: false,
            wall: false,
            selected: None,
            scroll: 0,
            totals: Totals::default(),
            quits: false,
        }
    }

    /// A refresh has come.
    pub fn take(&mut self, snapshot: &Snapshot) {
        if self.screen != Screen::Processes
            && let Some(newest) = snapshot.windows.last()
        {
            self.totals.since += newest.length;
            let pids = self.screen.pids();
            add_up(
                &mut self.totals.lines,
                self.native,
                newest.samples.iter().filter(|sample| pids.contains(&sample.pid)),
            );
        }
    }

    /// What a key does. `page`: how many rows there are on the screen.
    pub fn press(&mut self, key: Key, snapshot: Option<&Snapshot>, page: usize) {
        match key {
            Key::Interrupt => self.quits = true,
            _ if self.typing => self.edit(key),
            _ if self.help => self.help = false,
            Key::Char('q') => self.quits = true,
            Key::Char('h' | '?') => self.help = true,
            Key::Char('/') => {
                self.typing = true;
                self.scroll = 0;
            }
            Key::Char(' ' | 'p') => self.paused = !self.paused,
            Key::Char('r') => self.totals = Totals::default(),
            Key::Char('g') => self.group(snapshot),
            Key::Up | Key::Char('k') => self.go(snapshot, -1),
            Key::Down | Key::Char('j') => self.go(snapshot, 1),
            Key::PageUp => self.go(snapshot, -(page as isize)),
            Key::PageDown => self.go(snapshot, page as isize),
            Key::Home => self.go(snapshot, isize::MIN / 2),
            Key::End => self.go(snapshot, isize::MAX / 2),
            Key::Escape | Key::Backspace => self.back(),
            _ if self.screen == Screen::Processes => self.press_among_processes(key, snapshot),
            _ => self.press_in_process(key),
        }
    }

    fn press_among_processes(&mut self, key: Key, snapshot: Option<&Snapshot>) {
        match key {
            Key::Char('<' | ',') => self.sort_by(self.sort.step(false)),
            Key::Char('>' | '.') => self.sort_by(self.sort.step(true)),
            Key::Char('P' | 'c') => self.sort_by(Sort::Cpu),
            Key::Char('M' | 'm') => self.sort_by(Sort::Memory),
            Key::Char('G') => self.sort_by(Sort::Growth),
            Key::Char('N' | 'n') => self.sort_by(Sort::Pid),
            Key::Char('L') => self.sort_by(Sort::Gil),
            Key::Char('R' | 'I') => self.reversed = !self.reversed,
            Key::Tab => self.numbers = !self.numbers,
            Key::Enter => self.open(snapshot, Screen::Threads),
            Key::Char('t') => self.open(snapshot, Screen::Threads),
            Key::Char('f') => self.open(snapshot, Screen::Functions),
            Key::Char('l') => self.open(snapshot, Screen::Flame),
            _ => {}
        }
    }

    fn press_in_process(&mut self, key: Key) {
        let pids = self.screen.pids().to_vec();
        let order = match key {
            Key::Char('1') => Some(Order::Own),
            Key::Char('2') => Some(Order::Total),
            Key::Char('3') => Some(Order::Waiting),
            Key::Char('4') => Some(Order::OwnTime),
            Key::Char('o') if self.order == Order::Own => Some(Order::Total),
            Key::Char('o') => Some(Order::Own),
            _ => None,
        };
        if let Some(order) = order {
            self.order = order;
            self.scroll = 0;
            return;
        }
        let next = match (key, &self.screen) {
            (Key::Char('t'), _) => Screen::Threads(pids),
            (Key::Char('f'), _) | (Key::Enter, Screen::Threads(_)) => Screen::Functions(pids),
            (Key::Char('l'), _) | (Key::Enter, Screen::Functions(_)) => Screen::Flame(pids),
            (Key::Char('L'), _) => return self.functions = !self.functions,
            (Key::Char('w'), _) => return self.wall = !self.wall,
            (Key::Char('n'), _) => return self.show_native(),
            (Key::Tab, Screen::Threads(_)) => Screen::Functions(pids),
            (Key::Tab, Screen::Functions(_)) => Screen::Flame(pids),
            (Key::Tab, Screen::Flame(_)) => Screen::Threads(pids),
            _ => return,
        };
        self.screen = next;
        self.scroll = 0;
    }

    /// What is in a line of Python itself is other than with what it called.
    fn show_native(&mut self) {
        self.native = !self.native;
        self.totals = Totals::default();
    }

    fn edit(&mut self, key: Key) {
        match key {
            Key::Char(c) if self.filter.chars().count() < MOST_TYPED && !crate::shown::acts(c) => self.filter.push(c),
            Key::Backspace => self.typing = self.filter.pop().is_some(),
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.filter.clear();
                self.typing = false;
            }
            _ => {}
        }
    }

    fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.reversed = false;
        // The first row is what was asked for.
        self.selected = None;
        self.scroll = 0;
    }

    fn group(&mut self, snapshot: Option<&Snapshot>) {
        let selected = self.chosen(snapshot);
        self.grouped = !self.grouped;
        let process = selected.first().and_then(|&pid| snapshot?.process(pid));
        self.selected = process.map(|process| match self.grouped {
            true => RowKey::Service(process.name.clone(), process.place.clone()),
            false => RowKey::Process(process.pid),
        });
    }

    fn open(&mut self, snapshot: Option<&Snapshot>, screen: impl Fn(Vec<u32>) -> Screen) {
        let pids = self.chosen(snapshot);
        if pids.is_empty() {
            return;
        }
        self.screen = screen(pids);
        self.totals = Totals::default();
        self.scroll = 0;
        // What is known of the last few refreshes already.
        if let Some(snapshot) = snapshot {
            self.totals.since = snapshot.span();
            let pids = self.screen.pids();
            add_up(
                &mut self.totals.lines,
                self.native,
                snapshot.samples().filter(|sample| pids.contains(&sample.pid)),
            );
        }
    }

    fn back(&mut self) {
        match self.screen {
            Screen::Processes => self.filter.clear(),
            _ => self.screen = Screen::Processes,
        }
        self.scroll = 0;
    }

    /// The processes of the row that is selected.
    fn chosen(&self, snapshot: Option<&Snapshot>) -> Vec<u32> {
        let Some(snapshot) = snapshot else { return Vec::new() };
        let rows = rows(snapshot, self);
        let Some(row) = rows.get(self.selected_row(&rows)) else {
            return Vec::new();
        };
        if !self.grouped {
            return vec![row.process.pid];
        }
        let same = |name: &str, place: &str| name == row.process.name && place == row.process.place;
        let all = snapshot.processes.iter();
        all.filter(|process| same(&process.name, &process.place))
            .map(|process| process.pid)
            .collect()
    }

    /// The place of the row that is selected: the first one, if that is gone.
    pub fn selected_row(&self, rows: &[super::rows::Row<'_>]) -> usize {
        let Some(selected) = &self.selected else { return 0 };
        let is_it = |row: &super::rows::Row<'_>| row.key(self.grouped) == *selected;
        rows.iter().position(is_it).unwrap_or(0)
    }

    fn go(&mut self, snapshot: Option<&Snapshot>, by: isize) {
        if self.screen != Screen::Processes {
            self.scroll = self.scroll.saturating_add_signed(by).min(MOST_LINES);
            return;
        }
        let Some(snapshot) = snapshot else { return };
        let rows = rows(snapshot, self);
        let last = rows.len().saturating_sub(1);
        let to = self.selected_row(&rows).saturating_add_signed(by).min(last);
        self.selected = rows.get(to).map(|row| row.key(self.grouped));
    }
}

/// Adds up stacks by line.
pub fn add_up<'a>(sums: &mut HashMap<Arc<str>, Sums>, native: bool, samples: impl Iterator<Item = &'a Sample>) {
    let mut met: Vec<&Arc<str>> = Vec::new();
    for sample in samples {
        let mut of = |line: &Arc<str>, add: &dyn Fn(&mut Sums)| {
            if let Some(sums) = sums.get_mut(line) {
                add(sums);
            } else {
                let line = if sums.len() < MOST_LINES {
                    Arc::clone(line)
                } else {
                    Arc::from(OTHERS)
                };
                add(sums.entry(line).or_default());
            }
        };
        if sample.cpu_ns > 0 {
            met.clear();
            for line in sample.frames(native) {
                // A function that calls itself counts once.
                if !met.contains(&line) {
                    met.push(line);
                    of(line, &|sums| sums.total += sample.cpu_ns);
                }
            }
            if let Some(leaf) = sample.frames(native).next_back() {
                of(leaf, &|sums| sums.own += sample.cpu_ns);
            }
        }
        if sample.wait_ns > 0 {
            of(&sample.line, &|sums| sums.waiting += sample.wait_ns);
        }
    }
}
