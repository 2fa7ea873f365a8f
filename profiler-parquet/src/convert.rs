//! A message of OpenTelemetry's profiles as rows.
//!
//! The message is an allegation: its indices may point nowhere, its times may be nonsense, its stacks may share locations
//! until they are more than its bytes. What refers to nothing is left out and counted, and a message that asks for too much
//! is refused as a whole, before the rows have changed.

use std::borrow::Cow;

use profiler_otlp as otlp;
use prost::Message as _;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    limits::Limits,
    rows::{EMPTY, Frame, Lost, Rows, Sample, Text},
    weigh,
    when::Hour,
};

/// A sample that says it stands for more is not believed: sums of what it had would be nobody's.
const MOST_WEIGHT: f64 = 1e9;

/// Why nothing of a message was taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the message has {0}")]
    TooMuch(#[from] weigh::TooMuch),
    #[error("the message is not ExportProfilesServiceRequest of opentelemetry-proto 1.10: {0}")]
    Damaged(#[from] prost::DecodeError),
    #[error("the message has no dictionary: its sender is older than opentelemetry-proto 1.10")]
    NoDictionary,
}

/// What of a message became rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub profiles: u64,
    pub samples: u64,
    pub lost: Lost,
}

impl Rows {
    /// Adds what a message says: all of it that can be true, or nothing if the message is refused.
    pub fn add(&mut self, message: &[u8], limits: &Limits) -> Result<Taken, Refused> {
        weigh::check(message, limits)?;
        let frames = limits.frames_for(message.len());
        let message = otlp::ProfilesData::decode(message)?;
        if message.resource_profiles.is_empty() {
            return Ok(Taken::default());
        }
        let dictionary = message.dictionary.as_ref().ok_or(Refused::NoDictionary)?;
        let samples = self.samples.len();
        let mut reader = Reader {
            rows: self,
            limits,
            dictionary,
            taken: Taken::default(),
            locations: FxHashMap::default(),
            stacks: FxHashMap::default(),
            written: FxHashSet::default(),
            most_frames: frames,
            frames,
            hours: Vec::new(),
        };
        let became = reader.message(&message);
        let taken = reader.taken;
        match became {
            Ok(()) => {
                self.lost.add(&taken.lost);
                Ok(taken)
            }
            Err(refused) => {
                // Texts and stacks of it that nothing refers to are not written.
                self.samples.truncate(samples);
                Err(refused.into())
            }
        }
    }
}

/// Whose samples these are.
#[derive(Clone, Debug, Default)]
struct Whose {
    service: Option<Text>,
    host: Text,
    process: Text,
    pid: i64,
    thread: Text,
    tid: i64,
    weight: Option<f64>,
    labels: Vec<(Text, Text)>,
}

struct Reader<'a> {
    rows: &'a mut Rows,
    limits: &'a Limits,
    dictionary: &'a otlp::Dictionary,
    taken: Taken,
    /// Frames of the locations that were met, leaf first.
    locations: FxHashMap<i32, Box<[u32]>>,
    stacks: FxHashMap<i32, u32>,
    /// Stacks that will be written, each with the hour and the service for which it will be.
    written: FxHashSet<(Hour, Text, u32)>,
    /// So many rows of frames it may have, and so many of them are left.
    most_frames: usize,
    frames: usize,
    hours: Vec<Hour>,
}

/// An entry of a table; entry 0 is "none", and so is what is not there.
fn entry<T>(table: &[T], index: i32) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)
}

impl<'a> Reader<'a> {
    fn message(&mut self, message: &'a otlp::ProfilesData) -> Result<(), weigh::TooMuch> {
        for resource in &message.resource_profiles {
            let mut whose = Whose::default();
            for attribute in resource.resource.iter().flat_map(|resource| &resource.attributes) {
                let key = match &*attribute.key {
                    "" => self.string(attribute.key_strindex),
                    key => key,
                };
                self.attribute(&mut whose, key, attribute.value.as_ref());
            }
            for profile in resource.scope_profiles.iter().flat_map(|scope| &scope.profiles) {
                let mut whose = whose.clone();
                self.attributes(&mut whose, &profile.attribute_indices);
                self.profile(&whose, profile)?;
            }
        }
        Ok(())
    }

    fn profile(&mut self, whose: &Whose, profile: &'a otlp::Profile) -> Result<(), weigh::TooMuch> {
        let start_us = i64::try_from(profile.time_unix_nano / 1000).unwrap_or(i64::MAX);
        let duration_us = i64::try_from(profile.duration_nano / 1000).unwrap_or(i64::MAX);
        let kind = profile.sample_type.unwrap_or_default();
        let name = self.string(kind.type_strindex);
        let in_time = (self.limits.from_us..self.limits.to_us).contains(&start_us);
        let may_be = |hour: &Hour| in_time && self.may_be_of(*hour) && !name.is_empty();
        let Some(hour) = Hour::of(start_us).filter(may_be) else {
            self.taken.lost.profiles += 1;
            self.taken.lost.samples += profile.samples.len() as u64;
            return Ok(());
        };
        if !self.hours.contains(&hour) {
            self.hours.push(hour);
        }
        self.taken.profiles += 1;
        let period = profile.period_type.unwrap_or_default();
        let type_text = |reader: &mut Self, index| {
            let text = reader.string(index);
            reader.cut(text, reader.limits.label_bytes)
        };
        let (kind, unit) = (type_text(self, kind.type_strindex), type_text(self, kind.unit_strindex));
        let (period_kind, period_unit) = (
            type_text(self, period.type_strindex),
            type_text(self, period.unit_strindex),
        );
        let mut of: FxHashMap<&[i32], (Whose, Text, u32)> = FxHashMap::default();
        for sample in &profile.samples {
            let Some(stack) = self.stack(sample.stack_index)? else {
                self.taken.lost.samples += 1;
                continue;
            };
            if !of.contains_key(&sample.attribute_indices[..]) {
                let mut whose = whose.clone();
                self.attributes(&mut whose, &sample.attribute_indices);
                let service = self.service(&whose);
                let labels = self.rows.label_set(std::mem::take(&mut whose.labels));
                of.insert(&sample.attribute_indices, (whose, service, labels));
            }
            let Some((whose, service, labels)) = of.get(&sample.attribute_indices[..]) else {
                continue;
            };
            self.will_write(hour, *service, stack)?;
            let (trace_id, span_id) = self.link(sample.link_index);
            let value = match &sample.values[..] {
                // Each time is one.
                [] => i64::try_from(sample.timestamps_unix_nano.len()).ok(),
                values => values.iter().try_fold(0_i64, |sum, value| sum.checked_add(*value)),
            };
            // A sum that no number has is not a number that is near it.
            let Some(value) = value else {
                self.taken.lost.samples += 1;
                continue;
            };
            self.rows.samples.push(Sample {
                start_us,
                end_us: start_us.saturating_add(duration_us),
                service: *service,
                host: whose.host,
                process: whose.process,
                pid: whose.pid,
                thread: whose.thread,
                tid: whose.tid,
                trace_id,
                span_id,
                labels: *labels,
                kind,
                unit,
                period_kind,
                period_unit,
                period: profile.period,
                value,
                weight: whose.weight.unwrap_or(1.0),
                stack,
            });
            self.taken.samples += 1;
        }
        Ok(())
    }

    /// Counts the frames of a stack that will be written for this hour and service, if it is the first time.
    fn will_write(&mut self, hour: Hour, service: Text, stack: u32) -> Result<(), weigh::TooMuch> {
        if !self.written.insert((hour, service, stack)) {
            return Ok(());
        }
        let stacks = &self.rows.stacks;
        let frames = stacks.get_index(stack as usize).map_or(0, |(_, frames)| frames.len());
        self.frames = self.frames.checked_sub(frames).ok_or(weigh::TooMuch {
            what: "frames in its stacks, over all services and hours",
            most: self.most_frames,
        })?;
        Ok(())
    }

    /// Each hour is files of its own: a message is of few.
    fn may_be_of(&self, hour: Hour) -> bool {
        self.hours.contains(&hour) || self.hours.len() < self.limits.hours
    }

    fn string(&self, index: i32) -> &'a str {
        entry(&self.dictionary.string_table, index).map_or("", |text| text)
    }

    /// A text of the rows, with at most so many bytes of it.
    fn cut(&mut self, text: &str, most: usize) -> Text {
        let mut end = text.len().min(most);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.taken.lost.texts += u64::from(end < text.len());
        self.rows.text(&text[..end])
    }

    /// As Pyroscope names what has no `service.name`.
    fn service(&mut self, whose: &Whose) -> Text {
        if let Some(service) = whose.service {
            return service;
        }
        let name = match self.rows.str(whose.process) {
            "" => "unknown_service".to_owned(),
            process => format!("unknown_service:{process}"),
        };
        self.rows.text(&name)
    }

    fn link(&mut self, index: i32) -> (Text, Text) {
        let Some(link) = entry(&self.dictionary.link_table, index).filter(|_| index > 0) else {
            return (EMPTY, EMPTY);
        };
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let of = |bytes: &[u8], length| match bytes.len() == length {
            true => hex(bytes),
            false => String::new(),
        };
        let (trace, span) = (of(&link.trace_id, 16), of(&link.span_id, 8));
        (self.rows.text(&trace), self.rows.text(&span))
    }

    fn attributes(&mut self, whose: &mut Whose, indices: &[i32]) {
        let most = self.limits.attributes;
        self.taken.lost.labels += indices.len().saturating_sub(most) as u64;
        for index in indices.iter().take(most).filter(|index| **index != 0) {
            if let Some(attribute) = entry(&self.dictionary.attribute_table, *index) {
                let key = self.string(attribute.key_strindex);
                self.attribute(whose, key, attribute.value.as_ref());
            }
        }
    }

    fn attribute(&mut self, whose: &mut Whose, key: &str, value: Option<&otlp::AnyValue>) {
        let Some(value) = value.and_then(|value| value.value.as_ref()).filter(|_| !key.is_empty()) else {
            return;
        };
        // One text of megabytes can be said of millions of samples: it is not copied before it is cut.
        let text: Cow<'_, str> = match value {
            otlp::Value::Text(text) => Cow::Borrowed(text),
            otlp::Value::TextIndex(index) => Cow::Borrowed(self.string(*index)),
            otlp::Value::Number(number) => number.to_string().into(),
            otlp::Value::Truth(truth) => truth.to_string().into(),
            otlp::Value::Double(bits) => f64::from_bits(*bits).to_string().into(),
        };
        let number = || text.parse::<i64>().unwrap_or(0);
        let most = self.limits.label_bytes;
        match key {
            "service.name" if !text.is_empty() => whose.service = Some(self.cut(&text, most)),
            "host.name" => whose.host = self.cut(&text, most),
            "process.executable.name" => whose.process = self.cut(&text, most),
            "process.pid" => whose.pid = number(),
            "thread.name" => whose.thread = self.cut(&text, most),
            "thread.id" => whose.tid = number(),
            crate::schema::WEIGHT => {
                whose.weight = text
                    .parse()
                    .ok()
                    .filter(|weight: &f64| (1e-9..=MOST_WEIGHT).contains(weight));
            }
            _ => self.label(whose, key, &text),
        }
    }

    /// What a sample says overrides what its resource says.
    fn label(&mut self, whose: &mut Whose, key: &str, value: &str) {
        let key = self.cut(key, 64);
        let told = whose.labels.iter().position(|(told, _)| *told == key);
        let known = self.rows.values.contains_key(&key);
        let full = whose.labels.len() >= self.limits.labels;
        if told.is_none() && full || !known && self.rows.values.len() >= self.limits.keys {
            self.taken.lost.labels += 1;
            return;
        }
        let text = self.cut(value, self.limits.label_bytes);
        let values = self.rows.values.entry(key).or_default();
        let value = if values.contains(&text) || values.len() < self.limits.values_per_label {
            values.insert(text);
            text
        } else {
            self.taken.lost.label_values += 1;
            self.rows.text("[other]")
        };
        match told {
            Some(at) => whose.labels[at].1 = value,
            None => whose.labels.push((key, value)),
        }
    }

    /// The number of a stack; none where the message has no such stack, or it refers to no such location.
    fn stack(&mut self, index: i32) -> Result<Option<u32>, weigh::TooMuch> {
        if let Some(known) = self.stacks.get(&index) {
            return Ok(Some(*known));
        }
        let Some(stack) = entry(&self.dictionary.stack_table, index) else {
            return Ok(None);
        };
        let mut frames = Vec::new();
        for location in &stack.location_indices {
            if frames.len() >= self.limits.depth {
                self.taken.lost.frames += 1;
                continue;
            }
            if !self.locations.contains_key(location) {
                let Some(of) = self.location(*location) else {
                    return Ok(None);
                };
                self.locations.insert(*location, of);
            }
            frames.extend(self.locations.get(location).into_iter().flatten());
        }
        self.taken.lost.frames += frames.len().saturating_sub(self.limits.depth) as u64;
        frames.truncate(self.limits.depth);
        if frames.is_empty() {
            // So that whoever joins samples with frames misses none.
            let function = self.rows.text(crate::schema::NO_STACK);
            frames.push(self.rows.frame(Frame {
                function,
                file: EMPTY,
                line: 0,
                first_line: 0,
                kind: EMPTY,
                binary: EMPTY,
                build_id: EMPTY,
                address: 0,
                inlined: false,
            }));
        }
        let number = self.rows.stack(&frames);
        self.stacks.insert(index, number);
        Ok(Some(number))
    }

    /// The frames of one location: what was inlined there, then what it was inlined into.
    fn location(&mut self, index: i32) -> Option<Box<[u32]>> {
        let location = entry(&self.dictionary.location_table, index).filter(|_| index > 0)?;
        let (mut binary, mut build_id, mut kind) = (EMPTY, EMPTY, EMPTY);
        if location.mapping_index != 0 {
            let mapping = entry(&self.dictionary.mapping_table, location.mapping_index)?;
            let path = self.string(mapping.filename_strindex);
            binary = self.cut(path, self.limits.text_bytes);
            build_id = self.named(&mapping.attribute_indices, |key| {
                key.starts_with("process.executable.build_id.")
            });
        }
        if !location.attribute_indices.is_empty() {
            kind = self.named(&location.attribute_indices, |key| key == "profile.frame.type");
        }
        let base = Frame {
            function: EMPTY,
            file: EMPTY,
            line: 0,
            first_line: 0,
            kind,
            binary,
            build_id,
            address: location.address,
            inlined: false,
        };
        if location.lines.is_empty() {
            return Some(Box::new([self.rows.frame(base)]));
        }
        let mut frames = Vec::with_capacity(location.lines.len().min(self.limits.depth));
        // What is deeper than any stack may be would be cut there.
        for (at, line) in location.lines.iter().enumerate().take(self.limits.depth) {
            let function = entry(&self.dictionary.function_table, line.function_index)?;
            let (name, file) = (
                self.string(function.name_strindex),
                self.string(function.filename_strindex),
            );
            let frame = Frame {
                function: self.cut(name, self.limits.text_bytes),
                file: self.cut(file, self.limits.text_bytes),
                line: line.line,
                first_line: function.start_line,
                inlined: at + 1 < location.lines.len(),
                ..base
            };
            frames.push(self.rows.frame(frame));
        }
        Some(frames.into())
    }

    /// The text of the first attribute with such a name.
    fn named(&mut self, indices: &[i32], is: impl Fn(&str) -> bool) -> Text {
        let dictionary = self.dictionary;
        let attributes = indices
            .iter()
            .take(self.limits.attributes)
            .filter_map(|index| entry(&dictionary.attribute_table, *index));
        let mut found = attributes.filter(|attribute| is(self.string(attribute.key_strindex)));
        let value = found.find_map(|attribute| match attribute.value.as_ref()?.value.as_ref()? {
            otlp::Value::Text(text) => Some(&**text),
            otlp::Value::TextIndex(index) => Some(self.string(*index)),
            _ => None,
        });
        match value {
            Some(text) => self.cut(text, self.limits.label_bytes),
            None => EMPTY,
        }
    }
}
