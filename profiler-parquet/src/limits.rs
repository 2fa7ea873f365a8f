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
    /// Memory that a message may take when it is unpacked.
    pub unpacked_bytes: usize,
    /// Rows of frames that are written for one message: a stack's, once for each hour and service that have it. Stacks can
    /// share locations, and services stacks, so a few bytes could ask for very many: see `Limits::frames_for`.
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
    /// Memory that rows may take while one set is made of many. A set that reaches it is not read again.
    pub set_bytes: usize,
}

impl Limits {
    /// Rows of frames that a message of so many bytes may have: few for few bytes, so that what a sender costs is what its
    /// quota counts. In real messages a frame of a stack is two bytes and more, and a stack is of one service.
    pub(crate) fn frames_for(&self, message: usize) -> usize {
        self.frames
            .min(message.saturating_mul(4).saturating_add(4 * self.depth.min(4096)))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 64 << 20,
            entries: 2 << 20,
            profiles: 64 << 10,
            unpacked_bytes: 256 << 20,
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
            set_bytes: 96 << 20,
        }
    }
}
