//! How much a message is, before it is unpacked: an entry can be two bytes on the wire and a hundred and more in memory.
//!
//! This walks protobuf's wire format and only counts. What it does not understand is left to `prost`, which refuses it.

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
}

pub fn check(message: &[u8], limits: &Limits) -> Result<(), TooMuch> {
    if message.len() > limits.message_bytes {
        return Err(TooMuch {
            what: "bytes",
            most: limits.message_bytes,
        });
    }
    let weight = weigh(message);
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
    Ok(())
}

fn weigh(message: &[u8]) -> Weight {
    let mut weight = Weight::default();
    for (tag, body) in Fields(message) {
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
    for (tag, body) in Fields(message) {
        match tag {
            1 => weight.entries += Fields(body).count(),
            2 => {
                weight.profiles += 1;
                for (_, body) in Fields(body).filter(|(tag, _)| *tag == 2) {
                    weight.profiles += 1;
                    weight.entries += Fields(body).filter(|(tag, _)| *tag == 2).count();
                }
            }
            _ => {}
        }
    }
}

fn dictionary(message: &[u8], weight: &mut Weight) {
    for (tag, body) in Fields(message) {
        weight.entries += 1;
        // Lines of a location.
        if tag == 2 {
            weight.entries += Fields(body).filter(|(tag, _)| *tag == 3).count();
        }
    }
}

/// Fields that have a length, with their numbers; up to what cannot be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = varint(&mut self.0)?;
            match key & 7 {
                0 => _ = varint(&mut self.0)?,
                1 => self.0 = self.0.get(8..)?,
                2 => {
                    let length = usize::try_from(varint(&mut self.0)?).ok()?;
                    let (body, rest) = self.0.split_at_checked(length)?;
                    self.0 = rest;
                    return Some((key >> 3, body));
                }
                5 => self.0 = self.0.get(4..)?,
                _ => return None,
            }
        }
    }
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
    fn profiles_are_counted_with_their_resources() {
        let limits = Limits {
            profiles: 100,
            ..Limits::default()
        };
        assert!(check(&message(98, 0), &limits).is_ok());
        assert!(check(&message(99, 0), &limits).is_err());
    }
}
