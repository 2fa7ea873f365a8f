//! CSV with the columns of `memray transform csv` (memray 1.20: `memray/reporters/transform.py`), so that what people have
//! written for those reads ours.
//!
//! memray counts allocations; a recording of ours has pages, or blocks where it was made with `--exact`, and says which in
//! the column of the allocator. Innermost frames come first there: `function;file;line`, and `|` between them.

use std::io::Write;

use anyhow::bail;

use super::{View, Writer, label, machinery::Machinery, rows::shown_of};
use crate::{
    profile::{FrameKind, Profile},
    shown::csv_field,
};

#[derive(Clone, Copy, Debug)]
pub struct Memray;

impl Writer for Memray {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let value_type = view.value_type(profile)?;
        let counts = value_type.kind.strip_suffix("_space").and_then(|which| {
            let types = profile.sample_types.iter();
            types
                .map(|of| of.kind)
                .position(|kind| kind.strip_suffix("_objects") == Some(which))
        });
        let (Some(counts), "bytes") = (counts, value_type.unit) else {
            bail!(
                "memray's table is of bytes and how many allocations they are, and {} has none; choose --value inuse_space or \
                 alloc_space of a recording of memory",
                value_type.kind
            );
        };
        let allocator = match profile.period {
            Some((space, 1)) if space.unit == "bytes" => "BLOCKS",
            Some((space, _)) if space.unit == "bytes" => "PAGES",
            _ => "",
        };
        let mut machinery = Machinery::new(profile, view.interpreter);
        let mut shown = Vec::new();
        writeln!(out, "allocator,num_allocations,size,tid,thread_name,stack_trace")?;
        for (key, values) in profile.samples() {
            if values[view.value] == 0 {
                continue;
            }
            shown_of(profile, key, &mut machinery, &mut shown);
            let frames: Vec<String> = (shown.iter().rev())
                .map(|id| {
                    let frame = profile.frame(*id);
                    let (function, file) = match frame.kind {
                        FrameKind::Python => (profile.string(frame.function), profile.string(frame.file)),
                        _ => ("", ""),
                    };
                    match function {
                        "" => format!("{};;0", label::frame(profile, frame)),
                        function => format!(
                            "{};{};{}",
                            label::clean(function.to_owned()),
                            label::clean(file.to_owned()),
                            frame.line
                        ),
                    }
                })
                .collect();
            let thread = profile.string(key.labels.thread);
            let tid = key.labels.tid;
            let thread = match thread {
                "" => format!("{tid:#x}"),
                thread => format!("{tid:#x} ({thread})"),
            };
            writeln!(
                out,
                "{allocator},{},{},{tid},{},{}",
                values[counts],
                values[view.value],
                csv_field(&thread),
                csv_field(&frames.join("|")),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diff::made,
        report::memory::{Shown, heap_profile},
    };

    #[test]
    fn it_has_the_columns_of_memray_and_the_innermost_frame_first() {
        let mut profile = heap_profile(Shown::Live, true, 4096);
        made::add(&mut profile, 7, 12, &["make \"it\"", "main"]);
        let mut out = Vec::new();
        let view = View {
            value: 3,
            ..View::default()
        };
        Memray.write(&profile, &view, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                "allocator,num_allocations,size,tid,thread_name,stack_trace\n",
                "BLOCKS,12,12,7,0x7,\"make \"\"it\"\";/srv/shop/app/orders.py;10|main;/srv/shop/app/orders.py;10\"\n",
            )
        );
    }

    #[test]
    fn what_is_no_memory_is_refused_with_what_to_choose() {
        let profile = made::cpu(1, &[(3, &["f"])]);
        let error = Memray.write(&profile, &View::default(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("--value inuse_space"), "{error}");
    }
}
