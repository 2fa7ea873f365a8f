//! A pprof file as text, for golden files: what is on the wire, ids and all, and nothing of how we read it.

use std::fmt::Write as _;

use prost::Message as _;

use super::proto;

pub(in crate::report) fn dump(compressed: &[u8]) -> String {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(compressed), &mut bytes).unwrap();
    let proto::Profile {
        sample_type,
        sample,
        mapping,
        location,
        function,
        string_table,
        time_nanos,
        duration_nanos,
        period_type,
        period,
        comment,
        default_sample_type,
        slice_nanos,
        source,
    } = proto::Profile::decode(&*bytes).unwrap();
    let string = |index: i64| &string_table[usize::try_from(index).unwrap()];
    let value_type = |value: &proto::ValueType| format!("{}/{}", string(value.r#type), string(value.unit));

    let mut text = String::new();
    let types: Vec<_> = sample_type.iter().map(value_type).collect();
    let _ = writeln!(
        text,
        "sample types {}, default {}",
        types.join(" "),
        string(default_sample_type)
    );
    let _ = writeln!(
        text,
        "period {period} {}",
        period_type.as_ref().map(value_type).unwrap_or_default()
    );
    let _ = writeln!(text, "time {time_nanos} for {duration_nanos}");
    if slice_nanos != 0 {
        let _ = writeln!(text, "slices of {slice_nanos}");
    }
    for line in comment {
        let _ = writeln!(text, "comment {:?}", string(line));
    }
    for proto::Source { filename, text: lines } in source {
        let _ = writeln!(text, "source {:?} {lines:?}", string(filename));
    }
    for proto::Sample {
        location_id,
        value,
        label,
        slices,
    } in sample
    {
        let labels: Vec<_> = label
            .iter()
            .map(|proto::Label { key, str, num }| match *str {
                0 => format!("{}={num}", string(*key)),
                str => format!("{}={:?}", string(*key), string(str)),
            })
            .collect();
        let when = match &*slices {
            [] => String::new(),
            slices => format!(" in {slices:?}"),
        };
        let _ = writeln!(text, "sample {value:?} at {location_id:?} {}{when}", labels.join(" "));
    }
    for mapping in mapping {
        let (path, build_id) = (string(mapping.filename), string(mapping.build_id));
        let flags = [
            mapping.has_functions,
            mapping.has_filenames,
            mapping.has_line_numbers,
            mapping.has_inline_frames,
        ];
        let _ = writeln!(
            text,
            "mapping {} {path:?} {:#x}..{:#x} build id {build_id:?}, symbolized {}",
            mapping.id,
            mapping.memory_start,
            mapping.memory_limit,
            flags == [true; 4]
        );
    }
    for proto::Location {
        id,
        mapping_id,
        address,
        line,
    } in location
    {
        let lines: Vec<_> = line
            .iter()
            .map(|line| format!("{}:{}", line.function_id, line.line))
            .collect();
        let _ = writeln!(
            text,
            "location {id} in {mapping_id} at {address:#x} [{}]",
            lines.join(" ")
        );
    }
    for proto::Function {
        id,
        name,
        system_name,
        filename,
        start_line,
    } in function
    {
        assert_eq!(system_name, 0);
        let _ = writeln!(
            text,
            "function {id} {:?} {:?}:{start_line}",
            string(name),
            string(filename)
        );
    }
    text
}
