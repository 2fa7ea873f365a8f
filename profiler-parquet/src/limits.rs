//! How much one message may ask for. A sender can be anybody.

/// What a message is held to. What is more is refused where it would cost us, and cut and counted where only its text is
/// long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the message as it arrives, unpacked.
    pub message_bytes: usize,
    /// Of each kind of thing a message has many of: samples, stacks, locations, strings and so on. A sample of two bytes is
    /// more than a hundred in memory.
    pub entries: usize,
    /// Profiles and resources are few, and each has text of its own.
    pub profiles: usize,
    /// Rows of frames that all stacks of one message come to: they can share locations, and so be more than its bytes.
    pub frames: usize,
    /// Deeper stacks are cut at the root.
    pub depth: usize,
    /// Attributes that are looked at of one thing: a sample, a profile, a location, a mapping.
    pub attributes: usize,
    /// Labels of one sample.
    pub labels: usize,
    /// Different values that one label may have in one set. What comes later is `[other]`.
    pub values_per_label: usize,
    /// Labels of different names in one set.
    pub keys: usize,
    /// Of a name of a function or file. What is longer is cut.
    pub text_bytes: usize,
    /// Of a label's value, a service's or host's name.
    pub label_bytes: usize,
    /// Different hours that the profiles of one message may be of: each is two files.
    pub hours: usize,
    /// Profiles that begin earlier are left out, and those that do later: clocks are wrong sometimes, and old windows would
    /// come into hours that have long been compacted.
    pub from_us: i64,
    pub to_us: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 64 << 20,
            entries: 2 << 20,
            profiles: 64 << 10,
            frames: 4 << 20,
            depth: 4096,
            attributes: 64,
            labels: 32,
            values_per_label: 10_000,
            keys: 256,
            text_bytes: 1024,
            label_bytes: 256,
            hours: 48,
            from_us: i64::MIN,
            to_us: i64::MAX,
        }
    }
}
