//! How much a message is, before it is unpacked: an entry can be two bytes on the wire and a hundred and more in memory, a
//! number one byte and eight.
//!
//! This walks protobuf's wire format and only counts. What it does not understand it refuses: `prost` takes groups that it does
//! not know, and would unpack what follows them uncounted.

use std::cell::Cell;

use crate::limits::Limits;

/// More of something than a message may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {most} {what}")]
pub struct TooMuch {
    pub what: &'static str,
    pub most: usize,
}

/// What a message has many of, added up.
#[derive(Default)]
struct Weight {
    profiles: usize,
    entries: usize,
    /// What it is when it is unpacked, at most.
    bytes: usize,
    /// Something was met that is not counted.
    unreadable: Cell<bool>,
}

impl Weight {
    fn fields<'a, 'b>(&'b self, message: &'a [u8]) -> Fields<'a, 'b> {
        Fields {
            rest: message,
            unreadable: &self.unreadable,
        }
    }
}

/// An entry in memory, with what its short lists take: a sample has three of them.
const SAMPLE: usize = 160;
const LOCATION: usize = 128;
/// Of any other table, or a resource's attribute; of texts, their bytes besides.
const ENTRY: usize = 64;
const LINE: usize = 24;
/// Of a list of numbers.
const NUMBER: usize = 8;
/// Fewer bytes are a short list.
const SHORT: usize = 64;

/// At most how much memory the message takes when it is unpacked.
pub fn check(message: &[u8], limits: &Limits) -> Result<usize, TooMuch> {
    if message.len() > limits.message_bytes {
        return Err(TooMuch {
            what: "bytes",
            most: limits.message_bytes,
        });
    }
    let weight = weigh(message);
    if weight.unreadable.get() {
        return Err(TooMuch {
            what: "that this program knows: groups, or a length beyond the message's end",
            most: 0,
        });
    }
    if weight.profiles > limits.profiles {
        return Err(TooMuch {
            what: "profiles and resources",
            most: limits.profiles,
        });
    }
    if weight.entries > limits.entries {
        return Err(TooMuch {
            what: "samples and dictionary entries",
            most: limits.entries,
        });
    }
    let unpacked = message.len() + weight.profiles * SAMPLE + weight.bytes;
    if unpacked > limits.unpacked_bytes {
        return Err(TooMuch {
            what: "bytes when it is unpacked; send shorter windows",
            most: limits.unpacked_bytes,
        });
    }
    Ok(unpacked)
}

/// What the numbers in these bytes take, packed or not, at most: each ends with a byte below 128.
fn numbers(bytes: &[u8]) -> usize {
    match bytes.len() <= SHORT {
        true => 0,
        false => bytes.iter().filter(|byte| **byte < 0x80).count() * NUMBER,
    }
}

fn weigh(message: &[u8]) -> Weight {
    let mut weight = Weight::default();
    let fields: Vec<_> = weight.fields(message).collect();
    for (tag, body) in fields {
        match tag {
            1 => {
                weight.profiles += 1;
                resource_profiles(body, &mut weight);
            }
            2 => dictionary(body, &mut weight),
            _ => {}
        }
    }
    weight
}

fn resource_profiles(message: &[u8], weight: &mut Weight) {
    let (mut profiles, mut entries, mut bytes) = (0, 0, 0);
    for (tag, body) in weight.fields(message) {
        match tag {
            1 => {
                let attributes = weight.fields(body).count();
                entries += attributes;
                bytes += attributes * 2 * ENTRY;
            }
            2 => {
                profiles += 1;
                for (_, body) in weight.fields(body).filter(|(tag, _)| *tag == 2) {
                    profiles += 1;
                    for (tag, body) in weight.fields(body) {
                        let is_sample = usize::from(tag == 2);
                        entries += is_sample;
                        bytes += is_sample * SAMPLE + numbers(body);
                    }
                }
            }
            _ => {}
        }
    }
    weight.profiles += profiles;
    weight.entries += entries;
    weight.bytes += bytes;
}

fn dictionary(message: &[u8], weight: &mut Weight) {
    let (mut entries, mut bytes) = (0, 0);
    for (tag, body) in weight.fields(message) {
        entries += 1;
        bytes += match tag {
            2 => LOCATION + numbers(body),
            // Texts and attributes have few numbers, and their bytes are the message's.
            5 | 6 => 2 * ENTRY,
            _ => ENTRY + numbers(body),
        };
        // Lines of a location.
        if tag == 2 {
            let lines = weight.fields(body).filter(|(tag, _)| *tag == 3).count();
            entries += lines;
            bytes += lines * LINE;
        }
    }
    weight.entries += entries;
    weight.bytes += bytes;
}

/// Fields that have a length, with their numbers.
struct Fields<'a, 'b> {
    rest: &'a [u8],
    unreadable: &'b Cell<bool>,
}

impl<'a> Iterator for Fields<'a, '_> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            match field(&mut self.rest) {
                Some(Some(field)) => return Some(field),
                Some(None) => {}
                None => {
                    self.unreadable.set(true);
                    self.rest = &[];
                }
            }
        }
        None
    }
}

/// The next field, with its number if it has a length; `None` if it is none that we know.
fn field<'a>(rest: &mut &'a [u8]) -> Option<Option<(u64, &'a [u8])>> {
    let key = varint(rest)?;
    match key & 7 {
        0 => _ = varint(rest)?,
        1 => *rest = rest.get(8..)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (body, after) = rest.split_at_checked(length)?;
            *rest = after;
            return Some(Some((key >> 3, body)));
        }
        5 => *rest = rest.get(4..)?,
        _ => return None,
    }
    Some(None)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `profiles` empty profiles and `samples` empty samples in each.
    fn message(profiles: usize, samples: usize) -> Vec<u8> {
        use prost::Message as _;
        let profile = profiler_otlp::Profile {
            samples: vec![profiler_otlp::Sample::default(); samples],
            ..Default::default()
        };
        let scope = profiler_otlp::ScopeProfiles {
            scope: None,
            profiles: vec![profile; profiles],
        };
        let resource = profiler_otlp::ResourceProfiles {
            resource: None,
            scope_profiles: vec![scope],
        };
        profiler_otlp::ProfilesData {
            resource_profiles: vec![resource],
            dictionary: None,
        }
        .encode_to_vec()
    }

    #[test]
    fn samples_of_two_bytes_are_counted_before_they_are_a_hundred() {
        let limits = Limits {
            entries: 1000,
            ..Limits::default()
        };
        assert!(check(&message(10, 100), &limits).is_ok());
        let error = check(&message(10, 101), &limits).unwrap_err();
        assert_eq!(error.to_string(), "more than 1000 samples and dictionary entries");
    }

    #[test]
    fn numbers_of_one_byte_are_counted_as_they_are_in_memory() {
        use prost::Message as _;
        let stack = profiler_otlp::Stack {
            location_indices: vec![1; 1 << 20],
        };
        let message = profiler_otlp::ProfilesData {
            resource_profiles: Vec::new(),
            dictionary: Some(profiler_otlp::Dictionary {
                stack_table: vec![stack],
                ..Default::default()
            }),
        }
        .encode_to_vec();
        let unpacked = check(&message, &Limits::default()).unwrap();
        assert!(unpacked > 8 << 20, "{unpacked}");
        let limits = Limits {
            unpacked_bytes: 8 << 20,
            ..Limits::default()
        };
        assert!(check(&message, &limits).is_err());
    }

    #[test]
    fn what_hides_the_rest_from_counting_is_refused() {
        // An empty group with a number that nobody knows, and one that never ends.
        for start in [&[0x7b, 0x7c][..], &[0x7b], &[0x0a, 0xff]] {
            let hidden = [start, &message(1, 10)].concat();
            assert!(check(&hidden, &Limits::default()).is_err(), "{start:x?}");
            let within = [&[0x12, hidden.len() as u8][..], &hidden].concat();
            assert!(check(&within, &Limits::default()).is_err(), "{start:x?}");
        }
    }

    #[test]
    fn profiles_are_counted_with_their_resources() {
        let limits = Limits {
            profiles: 100,
            ..Limits::default()
        };
        assert!(check(&message(98, 0), &limits).is_ok());
        assert!(check(&message(99, 0), &limits).is_err());
    }
}
