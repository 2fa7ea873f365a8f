//! What Rust programs do: generic code, trait objects, closures, sorting, maps, strings, threads, panics that are
//! caught.
use std::{collections::HashMap, fmt::Write as _, hint::black_box, panic, thread};

trait Shape {
    fn area(&self, turns: u64) -> u64;
}

struct Square(u64);
struct Circle(u64);

impl Shape for Square {
    #[inline(never)]
    fn area(&self, turns: u64) -> u64 {
        (0..turns).fold(self.0, |sum, n| black_box(sum.wrapping_mul(31) ^ n))
    }
}

impl Shape for Circle {
    #[inline(never)]
    fn area(&self, turns: u64) -> u64 {
        (0..turns).fold(self.0, |sum, n| black_box(sum.rotate_left(3) ^ n))
    }
}

#[inline(never)]
fn shapes(shapes: &[Box<dyn Shape>]) -> u64 {
    let sum: u64 = shapes.iter().map(|shape| shape.area(5000) & 1).sum();
    black_box(sum)
}

#[inline(never)]
fn sorting(numbers: &[u64]) -> u64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_by(|a, b| black_box(a).cmp(black_box(b)));
    numbers.sort_unstable_by_key(|n| n % 1000);
    black_box(numbers[0])
}

#[inline(never)]
fn maps(numbers: &[u64]) -> u64 {
    let mut map: HashMap<String, Vec<u64>> = HashMap::new();
    let mut name = String::new();
    for n in numbers {
        name.clear();
        write!(name, "key {}", n % 100).unwrap();
        map.entry(name.clone()).or_default().push(*n);
    }
    black_box(map.len() as u64)
}

#[inline(never)]
fn deep_panic(depth: u32) -> u64 {
    if black_box(depth) == 0 {
        panic!("at the bottom");
    }
    let name = format!("level {depth}");
    deep_panic(depth - 1) + black_box(name.len() as u64)
}

#[inline(never)]
fn panics() -> u64 {
    u64::from(panic::catch_unwind(|| deep_panic(20)).is_err())
}

#[inline(never)]
fn outer(numbers: &[u64], all: &[Box<dyn Shape>]) -> u64 {
    let mut sum = 0;
    for _ in 0..20 {
        sum ^= shapes(all);
    }
    black_box(sum ^ sorting(numbers) ^ maps(numbers) ^ panics())
}

#[inline(never)]
fn work() {
    let numbers: Vec<u64> = (0..3000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).collect();
    let all: Vec<Box<dyn Shape>> = vec![Box::new(Square(3)), Box::new(Circle(4)), Box::new(Square(5))];
    loop {
        black_box(outer(&numbers, &all));
    }
}

fn main() {
    panic::set_hook(Box::new(|_| {}));
    let worker = thread::spawn(work);
    println!("READY");
    work();
    worker.join().unwrap();
}
