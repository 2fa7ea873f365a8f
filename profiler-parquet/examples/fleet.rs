//! Profiles that nobody recorded, of as many hosts as are wanted: what a store of a fleet takes.
//!
//! `fleet store DIR HOSTS SERVICES MINUTES RATE` writes into a store, as `profiler-store ingest` would: one set for each
//! minute. `fleet send ADDRESS HOSTS SERVICES MINUTES RATE` sends to a receiver, one message for each host and minute, as fast
//! as it takes them. `fleet compact DIR` and `fleet roll-up DIR` do that to all hours. `fleet append DIR FILE…` appends recordings (`profiler record -f otlp`).
//!
//! Each service has its own functions and 3,000 stacks; how often one is met falls as its number grows (Zipf), so that few
//! stacks have most samples, as in real services, and new ones are met all day. Each host runs three services with two
//! processes each, of eight threads.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::{Instant, SystemTime},
};

use profiler_otlp as otlp;
use profiler_parquet::{Limits, Rows, Store};
use prost::Message as _;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(|word| &**word).collect();
    match words[..] {
        ["compact", directory] => compact(directory, false),
        ["roll-up", directory] => compact(directory, true),
        ["append", directory, ref files @ ..] => append(directory, files),
        [what @ ("store" | "send"), to, hosts, services, minutes, rate] => {
            let fleet = Fleet {
                hosts: hosts.parse()?,
                services: services.parse()?,
                minutes: minutes.parse()?,
                rate: rate.parse()?,
            };
            if what == "store" {
                fleet.store(to)
            } else {
                fleet.send(to)
            }
        }
        _ => Err("fleet store DIR | send ADDRESS, HOSTS SERVICES MINUTES RATE; fleet append DIR FILE…".into()),
    }
}

fn append(directory: &str, files: &[&str]) -> Result<()> {
    let store = Store::open(Path::new(directory))?;
    for file in files {
        let bytes = std::fs::read(file)?;
        let start = Instant::now();
        let appended = store.append(&bytes)?;
        println!(
            "{file}: {} bytes, {} samples, {} bytes in the store, {:?}, {:?}",
            bytes.len(),
            appended.samples,
            appended.bytes,
            appended.lost,
            start.elapsed()
        );
    }
    Ok(())
}

fn compact(directory: &str, rolled_up: bool) -> Result<()> {
    let store = Store::open(Path::new(directory))?;
    for hour in store.hours()? {
        let start = Instant::now();
        println!("{hour}: {:?}, {:?}", store.compact(hour, rolled_up)?, start.elapsed());
    }
    Ok(())
}

struct Fleet {
    hosts: u32,
    services: u32,
    minutes: u32,
    /// Samples a second and host.
    rate: u32,
}

const STACKS: u32 = 3000;
const MINUTE_NS: u64 = 60_000_000_000;

impl Fleet {
    /// The beginning of the first whole hour such that all is in the past.
    fn start(&self) -> u64 {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        (now - u64::from(self.minutes) * 60) / 3600 * 3_600_000_000_000
    }

    fn store(&self, directory: &str) -> Result<()> {
        let store = Store::open(Path::new(directory))?;
        let (mut samples, mut bytes, mut sent, mut unpacking, mut writing) = (0, 0, 0, 0.0, 0.0);
        for minute in 0..self.minutes {
            let mut rows = Rows::default();
            for host in 0..self.hosts {
                let message = self.message(host, minute);
                sent += message.len();
                let start = Instant::now();
                rows.add(&message, &Limits::default())?;
                unpacking += start.elapsed().as_secs_f64();
            }
            let start = Instant::now();
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&minute.to_le_bytes());
            let appended = store.write(&rows, hash)?;
            writing += start.elapsed().as_secs_f64();
            samples += appended.samples;
            bytes += appended.bytes;
        }
        println!("{samples} rows, {sent} bytes as messages, {bytes} bytes in the store");
        println!("unpacked in {unpacking:.1} s, written in {writing:.1} s");
        Ok(())
    }

    fn send(&self, address: &str) -> Result<()> {
        let start = Instant::now();
        let (mut sent, mut messages) = (0, 0);
        for minute in 0..self.minutes {
            // Each answer comes when the set is written: hosts do not wait for each other.
            std::thread::scope(|scope| -> Result<()> {
                let mut waiting = Vec::new();
                for host in 0..self.hosts {
                    let message = self.message(host, minute);
                    sent += message.len();
                    messages += 1;
                    let answer = move || post(address, &message).map_err(|error| error.to_string());
                    waiting.push(scope.spawn(answer));
                }
                for answer in waiting {
                    answer.join().map_err(|_| "a sender panicked")??;
                }
                Ok(())
            })?;
        }
        let took = start.elapsed().as_secs_f64();
        println!(
            "{messages} messages, {sent} bytes, in {took:.1} s: {:.1} messages/s",
            f64::from(messages) / took
        );
        Ok(())
    }

    /// What a host sends of one minute.
    fn message(&self, host: u32, minute: u32) -> Vec<u8> {
        let mut chance = Chance(u64::from(host) << 32 | u64::from(minute) | 1 << 63);
        let mut dictionary = Tables::default();
        let mut resources = Vec::new();
        let per_process = self.rate * 60 / 6;
        for process in 0..6 {
            let service = (host * 3 + process / 2) % self.services;
            let mut counts: HashMap<(u32, u32), i64> = HashMap::new();
            for _ in 0..per_process {
                *counts.entry((chance.zipf(STACKS), chance.below(8))).or_default() += 1;
            }
            let mut counts: Vec<_> = counts.into_iter().collect();
            counts.sort_unstable();
            let samples = counts.iter().map(|((stack, thread), count)| otlp::Sample {
                stack_index: dictionary.stack(service, *stack),
                attribute_indices: dictionary.thread(process * 100 + thread),
                link_index: 0,
                values: vec![*count],
                timestamps_unix_nano: Vec::new(),
            });
            let samples: Vec<_> = samples.collect();
            let value = |dictionary: &mut Tables, kind, unit| otlp::ValueType {
                type_strindex: dictionary.string(kind),
                unit_strindex: dictionary.string(unit),
            };
            let profile = otlp::Profile {
                sample_type: Some(value(&mut dictionary, "samples", "count")),
                samples,
                time_unix_nano: self.start() + u64::from(minute) * MINUTE_NS,
                duration_nano: MINUTE_NS,
                period_type: Some(value(&mut dictionary, "cpu", "nanoseconds")),
                period: 52_631_578,
                profile_id: Vec::new(),
                attribute_indices: Vec::new(),
            };
            let text = |key: &str, text: String| otlp::KeyValue {
                key: key.to_owned(),
                value: Some(otlp::AnyValue {
                    value: Some(otlp::Value::Text(text)),
                }),
                key_strindex: 0,
            };
            let attributes = vec![
                text("service.name", format!("service-{service:03}")),
                text("host.name", format!("host-{host:04}")),
                text("process.pid", (1000 + process).to_string()),
                text("process.executable.name", "python3.12".to_owned()),
                text("k8s.pod.name", format!("service-{service:03}-{host:04}-{process}")),
                text("k8s.namespace.name", format!("team-{}", service % 7)),
            ];
            resources.push(otlp::ResourceProfiles {
                resource: Some(otlp::Resource { attributes }),
                scope_profiles: vec![otlp::ScopeProfiles {
                    scope: None,
                    profiles: vec![profile],
                }],
            });
        }
        otlp::ProfilesData {
            resource_profiles: resources,
            dictionary: Some(dictionary.done()),
        }
        .encode_to_vec()
    }
}

/// Numbers that are always the same: xorshift.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: u32) -> u32 {
        u32::try_from(self.next() % u64::from(most)).unwrap_or(0)
    }

    /// About Zipf with exponent 1: the logarithm of the rank is uniform.
    fn zipf(&mut self, most: u32) -> u32 {
        let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (f64::from(most).powf(uniform) as u32).clamp(1, most) - 1
    }
}

/// A dictionary that grows.
struct Tables {
    dictionary: otlp::Dictionary,
    strings: HashMap<String, i32>,
    frames: HashMap<(u32, u32), i32>,
    stacks: HashMap<(u32, u32), i32>,
    threads: HashMap<u32, Vec<i32>>,
    python: i32,
}

impl Default for Tables {
    fn default() -> Self {
        let mut tables = Self {
            dictionary: otlp::Dictionary {
                mapping_table: vec![otlp::Mapping::default()],
                location_table: vec![otlp::Location::default()],
                function_table: vec![otlp::Function::default()],
                link_table: vec![otlp::Link::default()],
                string_table: vec![String::new()],
                attribute_table: vec![otlp::Attribute::default()],
                stack_table: vec![otlp::Stack::default()],
            },
            strings: HashMap::new(),
            frames: HashMap::new(),
            stacks: HashMap::new(),
            threads: HashMap::new(),
            python: 0,
        };
        tables.python = tables.attribute("profile.frame.type", otlp::Value::Text("cpython".to_owned()));
        tables
    }
}

fn last<T>(table: &[T]) -> i32 {
    i32::try_from(table.len() - 1).unwrap_or(0)
}

impl Tables {
    fn done(self) -> otlp::Dictionary {
        self.dictionary
    }

    fn string(&mut self, text: &str) -> i32 {
        if let Some(at) = self.strings.get(text) {
            return *at;
        }
        self.dictionary.string_table.push(text.to_owned());
        let at = last(&self.dictionary.string_table);
        self.strings.insert(text.to_owned(), at);
        at
    }

    fn attribute(&mut self, key: &str, value: otlp::Value) -> i32 {
        let key_strindex = self.string(key);
        let value = Some(otlp::AnyValue { value: Some(value) });
        self.dictionary
            .attribute_table
            .push(otlp::Attribute { key_strindex, value });
        last(&self.dictionary.attribute_table)
    }

    fn thread(&mut self, tid: u32) -> Vec<i32> {
        if let Some(known) = self.threads.get(&tid) {
            return known.clone();
        }
        let attributes = vec![
            self.attribute("thread.id", otlp::Value::Number(tid.into())),
            self.attribute("thread.name", otlp::Value::Text(format!("worker-{}", tid % 100))),
        ];
        self.threads.insert(tid, attributes.clone());
        attributes
    }

    /// From 15 to 54 frames: the root is the same for all of a service, and what is near the leaf is of a few hundred functions.
    fn stack(&mut self, service: u32, number: u32) -> i32 {
        if let Some(known) = self.stacks.get(&(service, number)) {
            return *known;
        }
        let depth = 15 + number * 7 % 40;
        let frames = (0..depth).rev().map(|depth| match depth {
            0..8 => depth,
            _ => 8 + (number / 3 * 31 + depth * (1 + number % 3)) % 600,
        });
        let location_indices = frames.map(|frame| self.frame(service, frame)).collect();
        self.dictionary.stack_table.push(otlp::Stack { location_indices });
        let at = last(&self.dictionary.stack_table);
        self.stacks.insert((service, number), at);
        at
    }

    fn frame(&mut self, service: u32, number: u32) -> i32 {
        if let Some(known) = self.frames.get(&(service, number)) {
            return *known;
        }
        let function = otlp::Function {
            name_strindex: self.string(&format!("Handler{}.process_step_{number}", number % 40)),
            filename_strindex: self.string(&format!("/srv/service-{service:03}/app/module_{}.py", number % 60)),
            start_line: i64::from(number * 13 % 900),
        };
        self.dictionary.function_table.push(function);
        self.dictionary.location_table.push(otlp::Location {
            mapping_index: 0,
            address: 0,
            lines: vec![otlp::Line {
                function_index: last(&self.dictionary.function_table),
                line: i64::from(number * 13 % 900 + 5),
            }],
            attribute_indices: vec![self.python],
        });
        let at = last(&self.dictionary.location_table);
        self.frames.insert((service, number), at);
        at
    }
}

fn post(address: &str, message: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "POST /v1development/profiles HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/x-protobuf\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        message.len()
    )?;
    stream.write_all(message)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    match answer.starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&answer).into()),
    }
}
