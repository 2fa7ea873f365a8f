//! A large recording, made up, as pprof: written here byte by byte, so that this crate needs nothing for it.
//!
//! A stack is another one with other innermost frames: programs go deep along few ways, and differ near the leaf.

use std::collections::{HashMap, HashSet};

pub const SAMPLES: u64 = 1_000_000;
pub const STACKS: usize = 100_000;
/// Functions with three lines each, in packages of which one in five is one's own.
const FUNCTIONS: u64 = 20_000;
const LINES: u64 = 3;
const PERIOD_NS: u64 = 2_004_008;
const MOST_FRAMES: usize = 70;

pub fn recording() -> Vec<u8> {
    let mut file = File::default();
    file.string("");
    for (kind, unit) in [("samples", "count"), ("cpu", "nanoseconds")] {
        file.pair(1, kind, unit);
    }
    let python = [number(1, 1), number(5, file.string("[python]")), number(7, 1)].concat();
    file.message(3, &python);
    for function in 0..FUNCTIONS {
        let name = file.string(&format!("Class{}.method_{function}", function % 700));
        let path = match function % 5 {
            0 => format!("/srv/app/shop/mod{}.py", function % 500),
            _ => format!(
                "/srv/venv/lib/python3.12/site-packages/pkg{}/mod{}.py",
                function % 60,
                function % 500
            ),
        };
        let path = file.string(&path);
        let told = [number(1, function + 1), number(2, name), number(4, path), number(5, 10)];
        file.message(5, &told.concat());
        for line in 0..LINES {
            let place = [number(1, function + 1), number(2, 11 + line)].concat();
            let id = number(1, function * LINES + line + 1);
            let location = [id, number(2, 1), field(4, &place)].concat();
            file.message(4, &location);
        }
    }
    let mut random = Random(1);
    let stacks = stacks(&mut random);
    let mut weights = vec![1_u64; stacks.len()];
    for _ in 0..SAMPLES - STACKS as u64 {
        // Some stacks have much more than others.
        let at = random.below(stacks.len() as u64) * random.below(1024) / 1024;
        weights[at as usize] += 1;
    }
    let keys = ["pid", "tid", "comm", "thread", "command"].map(|key| file.string(key));
    let words = ["python", "gunicorn shop"].map(|word| file.string(word));
    for (at, (stack, weight)) in (0_u64..).zip(stacks.iter().zip(weights)) {
        let thread = file.string(&format!("worker-{}", at % 4));
        let pid = 100 + at % 8;
        let leaf_first: Vec<u8> = stack.iter().rev().flat_map(|id| varint(*id)).collect();
        let values = [varint(weight), varint(weight * PERIOD_NS)].concat();
        let mut sample = [field(1, &leaf_first), field(2, &values)].concat();
        for (key, tag, value) in [
            (keys[0], 3, pid),
            (keys[1], 3, pid + at % 4),
            (keys[2], 2, words[0]),
            (keys[3], 2, thread),
            (keys[4], 2, words[1]),
        ] {
            sample.extend(field(3, &[number(1, key), number(tag, value)].concat()));
        }
        file.message(2, &sample);
    }
    file.pair(11, "cpu", "nanoseconds");
    let cpu = file.string("cpu");
    let end = [
        number(9, 1_795_990_000_000_000_000),
        number(10, 60_000_000_000),
        number(12, PERIOD_NS),
        number(14, cpu),
    ];
    file.bytes.extend(end.concat());
    for string in std::mem::take(&mut file.strings) {
        file.message(6, string.as_bytes());
    }
    file.bytes
}

/// Root first.
fn stacks(random: &mut Random) -> Vec<Vec<u64>> {
    let location = |random: &mut Random| 1 + random.below(FUNCTIONS * LINES);
    let mut stacks: Vec<Vec<u64>> = (0..20).map(|_| (0..30).map(|_| location(random)).collect()).collect();
    let mut known: HashSet<Vec<u64>> = stacks.iter().cloned().collect();
    while stacks.len() < STACKS {
        let mut stack = stacks[random.below(stacks.len() as u64) as usize].clone();
        stack.truncate(stack.len().saturating_sub(1 + random.below(6) as usize).max(8));
        for _ in 0..=random.below(6) {
            stack.push(location(random));
        }
        if stack.len() < MOST_FRAMES && known.insert(stack.clone()) {
            stacks.push(stack);
        }
    }
    stacks
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    strings: Vec<String>,
    known: HashMap<String, u64>,
}

impl File {
    fn string(&mut self, string: &str) -> u64 {
        if let Some(known) = self.known.get(string) {
            return *known;
        }
        let number = self.strings.len() as u64;
        self.strings.push(string.to_owned());
        self.known.insert(string.to_owned(), number);
        number
    }

    fn message(&mut self, tag: u64, bytes: &[u8]) {
        self.bytes.extend(field(tag, bytes));
    }

    /// A type of values.
    fn pair(&mut self, tag: u64, kind: &str, unit: &str) {
        let told = [number(1, self.string(kind)), number(2, self.string(unit))].concat();
        self.message(tag, &told);
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn number(tag: u64, value: u64) -> Vec<u8> {
    [varint(tag << 3), varint(value)].concat()
}

fn field(tag: u64, bytes: &[u8]) -> Vec<u8> {
    [&varint(tag << 3 | 2)[..], &varint(bytes.len() as u64)[..], bytes].concat()
}

/// Always the same numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % end.max(1)
    }
}
