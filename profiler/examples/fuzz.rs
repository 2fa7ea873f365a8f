//! Tries a parser of foreign bytes with damaged ones: `fuzz TARGET SECONDS`. `cargo xtask fuzz` runs it for each target.
//!
//! Bytes that are understood are damaged at a few places, mostly where they say how many and where: in the beginning, at the
//! end, and anywhere. A panic, or more than [`SLOW`] for one input, ends it with status 1, and the input is kept.

use std::{
    env, fs,
    hash::{BuildHasher as _, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use profiler::fuzzed::{TARGETS, Target};

/// Longer than the largest file takes, on a busy machine, without optimisation.
const SLOW: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    let Some(name) = words.next() else {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return ExitCode::SUCCESS;
    };
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        eprintln!("there is no target {name}");
        return ExitCode::FAILURE;
    };
    if let Some(path) = words.next().filter(|word| word.contains('/')) {
        // What was kept, once more.
        (target.parse)(&fs::read(path).expect("a file to read"));
        return ExitCode::SUCCESS;
    }
    let seconds = env::args().nth(2).and_then(|word| word.parse().ok()).unwrap_or(10);
    let seed = env::var("FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8));
    // A size that is believed is an error of this process, and not the end of the machine.
    let most = libc::rlimit {
        rlim_cur: 8 << 30,
        rlim_max: 8 << 30,
    };
    // SAFETY: `most` is live, and only read.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const most) };
    match run(target, Duration::from_secs(seconds), Random(seed)) {
        Ok(inputs) => {
            println!("{name}: {inputs} inputs in {seconds} s, seed {seed}");
            ExitCode::SUCCESS
        }
        Err((bytes, what)) => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/fuzz-{name}-{seed}"));
            let kept = fs::write(&path, bytes).map_or_else(|error| error.to_string(), |()| path.display().to_string());
            println!("{name}: {what}, seed {seed}; the input: {kept}");
            ExitCode::FAILURE
        }
    }
}

fn run(target: &Target, time: Duration, mut random: Random) -> Result<u64, (Vec<u8>, String)> {
    let mut seeds = (target.seeds)();
    let started = Instant::now();
    let mut inputs = 0;
    while started.elapsed() < time {
        let at = random.below(seeds.len());
        let bytes = &mut seeds[at];
        let undo = damage(bytes, &mut random);
        let length = match random.below(8) {
            0 => random.below(bytes.len() + 1),
            _ => bytes.len(),
        };
        let one = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.parse)(&bytes[..length])));
        if outcome.is_err() || one.elapsed() > SLOW {
            let what = if outcome.is_err() { "a panic" } else { "too slow" };
            return Err((bytes[..length].to_vec(), format!("{what} at input {inputs}")));
        }
        // Small ones may grow worse and worse; large ones are put back.
        if bytes.len() > 4096 || random.below(64) == 0 {
            undo.into_iter().rev().for_each(|(at, byte)| bytes[at] = byte);
        }
        inputs += 1;
        if inputs % 4096 == 0 && seeds.iter().all(|seed| seed.len() <= 4096) {
            seeds = (target.seeds)();
        }
    }
    Ok(inputs)
}

/// Changes a few places. Returns what was there, in order.
fn damage(bytes: &mut [u8], random: &mut Random) -> Vec<(usize, u8)> {
    const ODD: [u64; 10] = [
        0,
        1,
        0x7f,
        0xff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
    ];
    let mut undo = Vec::new();
    for _ in 0..=random.below(8) {
        let near = 4096.min(bytes.len());
        let at = match random.below(4) {
            0 => random.below(64.min(bytes.len()) + 1),
            1 => random.below(near + 1),
            2 => bytes.len() - random.below(near + 1),
            _ => random.below(bytes.len() + 1),
        };
        let value = match random.below(4) {
            0 => ODD[random.below(ODD.len())],
            1 => random.next() >> random.below(64),
            2 => bytes.len() as u64 + random.below(9) as u64 - 4,
            _ => bytes.get(at).copied().unwrap_or(0).into(),
        };
        let value = if random.below(3) == 0 {
            value ^ 1 << random.below(8)
        } else {
            value
        };
        let width = [1, 2, 4, 8][random.below(4)];
        for (at, byte) in (at..bytes.len()).zip(value.to_le_bytes()).take(width) {
            undo.push((at, bytes[at]));
            bytes[at] = byte;
        }
    }
    undo
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }
}
