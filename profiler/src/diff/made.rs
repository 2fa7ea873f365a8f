//! Profiles that are made up, for tests.

use crate::profile::{Frame, FrameKind, Labels, Profile, SampleKey, ValueType};

pub const PERIOD_NS: i64 = 2_000_000;
pub const SAMPLES: ValueType = ValueType {
    kind: "samples",
    unit: "count",
};
pub const CPU: ValueType = ValueType {
    kind: "cpu",
    unit: "nanoseconds",
};
pub const SPACE: ValueType = ValueType {
    kind: "inuse_space",
    unit: "bytes",
};

/// A recording of one thread at 500 Hz: numbers of samples of stacks, leaf first.
pub fn cpu(seconds: i64, stacks: &[(i64, &[&str])]) -> Profile {
    let mut profile = Profile::new(vec![SAMPLES, CPU], Some((CPU, PERIOD_NS)));
    profile.default_type = 1;
    profile.duration_ns = seconds * 1_000_000_000;
    for (count, stack) in stacks {
        add(&mut profile, 1, *count, stack);
    }
    profile
}

/// More samples, of this process.
pub fn add(profile: &mut Profile, pid: u32, count: i64, stack: &[&str]) {
    add_in("/srv/shop/app/orders.py", profile, pid, count, stack);
}

/// The same in another file.
pub fn add_in(file: &str, profile: &mut Profile, pid: u32, count: i64, stack: &[&str]) {
    let stack: Vec<_> = stack
        .iter()
        .map(|name| {
            let frame = Frame {
                kind: FrameKind::Python,
                function: profile.intern_string(name),
                file: profile.intern_string(file),
                line: 10,
                first_line: 1,
                mapping: None,
                address: 0,
                inlined: false,
            };
            profile.intern_frame(frame)
        })
        .collect();
    let key = SampleKey {
        stack: profile.intern_stack(&stack),
        labels: Labels {
            pid,
            tid: pid,
            comm: Profile::EMPTY,
            command: Profile::EMPTY,
            thread: Profile::EMPTY,
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: Profile::EMPTY,
        },
    };
    let values: Vec<i64> = (profile.sample_types.iter())
        .map(|value| {
            if value.unit == "nanoseconds" {
                count * PERIOD_NS
            } else {
                count
            }
        })
        .collect();
    profile.add(key, &values);
}
