//! The flame graph: one self-contained SVG with search and zoom. The one place that names inferno.
//!
//! Roots are at the top, so that a deep graph opens at its beginning. A frame's hue says what kind of code it is, and
//! the legend says which hue is which; its shade comes from its name without the line, so that one function keeps one
//! shade everywhere and two runs of one program look alike.

use std::{fmt::Write as _, io::Write};

use anyhow::{Context as _, bail};
use inferno::flamegraph::{
    self, Direction, Options, TextTruncateDirection,
    color::{BackgroundColor, Color, PaletteMap},
};

use super::{
    View, Writer,
    fold::{Fold, Part, fold},
};
use crate::{
    humanize,
    profile::{FrameKind, Profile, ValueType},
    shown::acts,
};

mod difference;

pub use difference::write_difference;

#[derive(Clone, Copy, Debug)]
pub struct FlameGraph;

impl Writer for FlameGraph {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let value_type = view.value_type(profile)?;
        let mut fold = fold(profile, view);
        // A negative value has no width.
        fold.lines.retain(|line| line.value > 0);
        let svg = if fold.lines.is_empty() {
            empty(profile, view, value_type)
        } else {
            draw(profile, view, value_type, &fold)?
        };
        out.write_all(svg.as_bytes())?;
        Ok(())
    }
}

/// What inferno's script does not do.
const SCRIPT: &str = include_str!("flamegraph.js");
const FONT_SIZE: usize = 12;
/// Frames below this share of the whole, in percent, are not drawn: an eighth of a pixel, were the image 1200 wide.
const MIN_WIDTH: f64 = 0.01;
/// What inferno takes for the width where JavaScript does not run; with it the graph fills the window.
const WIDTH: usize = 1200;
/// Height of the row that holds the legend.
const LEGEND_HEIGHT: usize = 22;
const BACKGROUND: Color = Color {
    r: 0xfc,
    g: 0xfc,
    b: 0xfa,
};

/// The kinds of frames, in the legend's order, each with its lightest colour.
///
/// Amber, blue and red stay apart in the common kinds of colour blindness because they differ in lightness as well.
const KINDS: [Kind; 5] = [
    Kind {
        part: Part::Code(FrameKind::Python),
        name: "Python",
        lightest: Color { r: 255, g: 205, b: 96 },
    },
    Kind {
        part: Part::Code(FrameKind::Native),
        name: "native",
        lightest: Color { r: 150, g: 200, b: 240 },
    },
    Kind {
        part: Part::Code(FrameKind::Kernel),
        name: "kernel",
        lightest: Color { r: 240, g: 142, b: 120 },
    },
    Kind {
        part: Part::Code(FrameKind::Marker),
        name: "frames missing",
        lightest: Color { r: 205, g: 178, b: 226 },
    },
    Kind {
        part: Part::Root,
        name: "process, thread",
        lightest: Color { r: 214, g: 214, b: 210 },
    },
];

struct Kind {
    part: Part,
    name: &'static str,
    lightest: Color,
}

/// inferno 0.12.8 takes one trailing `_[k]` (or `w`, `i`, `j`) off every name before it shows it
/// (`flamegraph::deannotate`); a kernel frame's own must stay, so each name gets one to lose. It also keeps a name that
/// ends in a number from being read as a second value, and makes names that begin alike sort apart, which inferno
/// needs to merge neighbours.
const ANNOTATION: &str = "_[k]";

fn draw(profile: &Profile, view: &View, value_type: ValueType, fold: &Fold) -> anyhow::Result<String> {
    let total = fold
        .lines
        .iter()
        .try_fold(0_i64, |sum, line| sum.checked_add(line.value));
    let Some(total) = total else {
        bail!("the values of this profile are too large to add up")
    };

    let mut palette = PaletteMap::default();
    // The frame under everything, which inferno calls `all`.
    palette.insert("", colour(Part::Root, "all"));
    let mut names = Vec::with_capacity(fold.names.len());
    for (name, part) in &fold.names {
        let annotated = format!("{name}{ANNOTATION}");
        palette.insert(&annotated, colour(*part, name));
        names.push(annotated);
    }
    let lines: Vec<String> = fold
        .lines
        .iter()
        .map(|line| {
            let mut text = String::new();
            for name in &line.names {
                if !text.is_empty() {
                    text.push(';');
                }
                text.push_str(&names[*name as usize]);
            }
            // Writing to a string cannot fail.
            let _ = write!(text, " {}", line.value);
            text
        })
        .collect();

    let mut options = options(view, count(value_type, total));
    options.palette_map = Some(&mut palette);

    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .context("cannot draw the flame graph")?;
    let mut svg = String::from_utf8(svg).context("cannot draw the flame graph")?;
    if value_type.unit == "bytes" {
        svg = with_binary_units(&svg);
    }
    svg = with_script(svg);
    // Were inferno to change what it writes, a graph without a legend is better than none (and a test fails).
    Ok(with_legend(&svg, profile, view, &legend(fold, value_type, total)).unwrap_or(svg))
}

/// What all our graphs have in common.
fn options(view: &View, (count_name, factor): (String, f64)) -> Options<'static> {
    let subtitle = printable(&view.subtitle);
    let mut options = Options::default();
    options.title = printable(&view.title);
    options.subtitle = (!subtitle.is_empty()).then_some(subtitle);
    options.bgcolors = Some(BackgroundColor::Flat(BACKGROUND));
    options.direction = Direction::Inverted;
    // A frame too narrow for its text keeps the beginning: the function's name.
    options.text_truncate_direction = TextTruncateDirection::Right;
    options.font_type = "monospace".to_owned();
    options.font_size = FONT_SIZE;
    // DejaVu Sans Mono has 0.602; with inferno's 0.59, text runs over where JavaScript does not measure it.
    options.font_width = 0.61;
    options.min_width = MIN_WIDTH;
    options.name_type = "Frame:".to_owned();
    options.count_name = count_name;
    options.factor = factor;
    options
}

/// What values are counted in, and by what to multiply them.
///
/// inferno rounds to whole numbers and computes percentages from those, so time is shown in a unit in which the total
/// has at least four digits, and three of rounding's are not seen.
fn count(value_type: ValueType, total: i64) -> (String, f64) {
    match (value_type.unit, total) {
        ("nanoseconds", 10_000_000_000..) => ("ms".to_owned(), 1e-6),
        ("nanoseconds", 10_000_000..) => ("µs".to_owned(), 1e-3),
        ("nanoseconds", _) => ("ns".to_owned(), 1.0),
        ("count", _) => (printable(value_type.kind), 1.0),
        (unit, _) => (printable(unit), 1.0),
    }
}

fn colour(part: Part, name: &str) -> Color {
    let lightest = KINDS
        .iter()
        .find(|kind| kind.part == part)
        .map_or(BACKGROUND, |kind| kind.lightest);
    // Up to an eighth darker, and roots all alike.
    let darker = if part == Part::Root { 0 } else { u32::from(shade(name)) };
    let darken = |channel: u8| (u32::from(channel) * (8 * 255 - darker) / (8 * 255)) as u8;
    Color {
        r: darken(lightest.r),
        g: darken(lightest.g),
        b: darken(lightest.b),
    }
}

/// A number for a name that is the same in every run and on every machine: FNV-1a, folded to eight bits.
fn shade(name: &str) -> u8 {
    let function = match name.rsplit_once(':') {
        Some((function, line)) if line.trim_end_matches(')').bytes().all(|byte| byte.is_ascii_digit()) => function,
        _ => name,
    };
    let hash = function.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash.to_le_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

/// The legend's row, in coordinates of its own: only the kinds that occur, and a word about what is not drawn.
fn legend(fold: &Fold, value_type: ValueType, total: i64) -> String {
    let mut row = String::new();
    let mut x = 0;
    // Monospace text at 12 pixels is about 7.2 wide per character.
    let mut item = |square: Option<&str>, text: &str| {
        if let Some(fill) = square {
            let _ = write!(row, r#"<rect x="{x}" y="-9" width="11" height="11" fill="{fill}"/>"#);
            x += 16;
        }
        let _ = write!(row, r#"<text x="{x}" y="0">{}</text>"#, escape(text));
        x += text.chars().count() * 73 / 10 + 18;
    };
    for Kind {
        part,
        name,
        lightest: Color { r, g, b },
    } in KINDS
    {
        if fold.names.iter().any(|(_, other)| *other == part) {
            let name = match (part, value_type.unit) {
                // What an allocator keeps is memory without a stack, and none is missing.
                (Part::Code(FrameKind::Marker), "bytes") => "not code",
                _ => name,
            };
            item(Some(&format!("rgb({r},{g},{b})")), name);
        }
    }
    // inferno drops what is narrower; a line this small may hold such a frame.
    let narrow = total as f64 * MIN_WIDTH / 100.0;
    if fold.lines.iter().any(|line| (line.value as f64) < narrow) {
        item(None, &format!("(frames below {MIN_WIDTH} % are not drawn)"));
    }
    row
}

/// Writes the bytes of each frame's description in binary units: `f (a.py:3) (1,572,864 bytes, 12.34%)` as
/// `f (a.py:3) (1.5 MiB, 12.34%)`. inferno counts in whole numbers of one unit, in which a gibibyte and a page do not
/// both read well; its percentages are those of the exact bytes. What does not look as expected stays as it is, and its
/// JavaScript reads of a description only where the last parenthesis begins.
fn with_binary_units(svg: &str) -> String {
    let mut text = String::with_capacity(svg.len());
    for part in svg.split_inclusive("</title>") {
        match binary_units(part) {
            Some((before, size, after)) => {
                text.push_str(before);
                text.push_str(&size);
                text.push_str(after);
            }
            None => text.push_str(part),
        }
    }
    text
}

/// What is before the bytes of a description that ends here, the bytes in binary units, and what is after them.
fn binary_units(described: &str) -> Option<(&str, String, &str)> {
    const UNIT: &str = " bytes, ";
    let ending = described.strip_suffix("%)</title>")?;
    let start = ending.rfind('(')? + 1;
    let (number, _) = ending[start..].split_once(UNIT)?;
    let bytes = number.replace(',', "").parse().ok()?;
    let after = start + number.len() + UNIT.len() - ", ".len();
    Some((&described[..start], humanize::bytes(bytes), &described[after..]))
}

/// Adds our script behind everything, so that inferno's has run.
fn with_script(mut svg: String) -> String {
    if let Some(end) = svg.rfind("</svg>") {
        svg.insert_str(
            end,
            &format!("<script type=\"text/ecmascript\"><![CDATA[\n{SCRIPT}]]></script>"),
        );
    }
    svg
}

/// Puts the legend between the subtitle and the line that describes the frame under the pointer, moves the result of a
/// search up to that line (below the graph nobody finds it), and adds title and notes for the browser's tab and for
/// other programs. Only what comes before the frames is touched; `None` if it does not look as expected.
fn with_legend(svg: &str, profile: &Profile, view: &View, legend: &str) -> Option<String> {
    let (head, frames) = svg.split_at(svg.find(r#"<svg id="frames""#)?);
    let frames = frames.strip_prefix("<svg ")?;
    let height: usize = head.split_once(r#" height=""#)?.1.split_once('"')?.0.parse().ok()?;
    let taller = height + LEGEND_HEIGHT;
    // inferno 0.12.8, `Options::ypad1` and `svg::write_prelude`, for inverted graphs.
    let top = FONT_SIZE * 4 + 4 + if view.subtitle.is_empty() { 0 } else { FONT_SIZE * 2 };
    let details = top - FONT_SIZE;
    let matched = height.checked_sub((FONT_SIZE + 10) / 2)?;

    let mut head = head.to_owned();
    let mut replace = |from: &str, to: &str| {
        let at = head.find(from)?;
        head.replace_range(at..at + from.len(), to);
        Some(())
    };
    replace(&format!(r#" height="{height}""#), &format!(r#" height="{taller}""#))?;
    replace(
        &format!(r#"viewBox="0 0 {WIDTH} {height}""#),
        &format!(r#"viewBox="0 0 {WIDTH} {taller}""#),
    )?;
    replace(
        &format!(r#"height="{height}" fill="url(#background)""#),
        &format!(r#"height="{taller}" fill="url(#background)""#),
    )?;
    let lower = format!(r#"y="{}.00""#, details + LEGEND_HEIGHT);
    replace(&format!(r#"x="10" y="{details}.00""#), &format!(r#"x="10" {lower}"#))?;
    replace(&format!(r#"y="{matched}.00""#), &lower)?;
    replace("<!--NOTES: -->", &about(profile, view))?;
    // At inferno's opacity of a tenth nobody finds it.
    replace("</style>", "#search { opacity:0.7; }\n</style>")?;
    let _ = write!(
        head,
        r#"<g id="legend" transform="translate(10,{})">{legend}</g>"#,
        details + 2
    );
    Some(format!(r#"{head}<svg y="{LEGEND_HEIGHT}" {frames}"#))
}

/// The document's title, and the profile's notes where a program finds them.
fn about(profile: &Profile, view: &View) -> String {
    let mut about = format!("<title>{}</title>", escape(&printable(&view.title)));
    if !profile.comments.is_empty() {
        let notes: Vec<_> = profile.comments.iter().map(|line| escape(&printable(line))).collect();
        let _ = write!(about, "<desc>{}</desc>", notes.join("\n"));
    }
    about
}

/// What a viewer shows of a profile without samples.
pub(super) fn nothing(value_type: ValueType) -> &'static str {
    match value_type.unit {
        "bytes" => "no memory to show",
        _ => "no samples were taken",
    }
}

/// inferno makes an error of a graph without samples; a user who recorded an idle process made none.
fn empty(profile: &Profile, view: &View, value_type: ValueType) -> String {
    let Color { r, g, b } = BACKGROUND;
    let line = |y: usize, size: usize, text: &str| {
        format!(
            r#"<text x="50%" y="{y}" font-size="{size}">{}</text>"#,
            escape(&printable(text))
        )
    };
    [
        r#"<?xml version="1.0" standalone="no"?>"#.to_owned(),
        r#"<svg version="1.1" width="100%" height="110" xmlns="http://www.w3.org/2000/svg">"#.to_owned(),
        about(profile, view),
        format!(r#"<rect width="100%" height="100%" fill="rgb({r},{g},{b})"/>"#),
        r#"<g font-family="monospace" text-anchor="middle">"#.to_owned(),
        line(2 * FONT_SIZE, FONT_SIZE + 5, &view.title),
        line(4 * FONT_SIZE, FONT_SIZE, &view.subtitle),
        line(84, FONT_SIZE + 2, nothing(value_type)),
        "</g></svg>\n".to_owned(),
    ]
    .join("\n")
}

/// Takes out what XML 1.0 cannot hold. Frames are clean already (`label`); titles and notes come from elsewhere.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if acts(c) || matches!(c, '\u{fffe}' | '\u{ffff}') {
                ' '
            } else {
                c
            }
        })
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_keeps_its_shade_on_every_line() {
        assert_eq!(shade("f (a.py:3)"), shade("f (a.py:40)"));
        assert_ne!(shade("f (a.py:3)"), shade("g (a.py:3)"));
        assert_eq!(shade("std::vector"), shade("std::vector"));
    }

    #[test]
    fn time_is_shown_in_a_unit_that_keeps_percentages_exact() {
        let time = ValueType {
            kind: "cpu",
            unit: "nanoseconds",
        };
        assert_eq!(count(time, 30_000_000_000), ("ms".to_owned(), 1e-6));
        assert_eq!(count(time, 30_303_030), ("µs".to_owned(), 1e-3));
        assert_eq!(count(time, 5), ("ns".to_owned(), 1.0));
        assert_eq!(
            count(
                ValueType {
                    kind: "samples",
                    unit: "count"
                },
                5
            )
            .0,
            "samples"
        );
        assert_eq!(
            count(
                ValueType {
                    kind: "space",
                    unit: "bytes"
                },
                5
            )
            .0,
            "bytes"
        );
    }

    #[test]
    fn our_script_ends_no_document() {
        assert!(!SCRIPT.contains("]]>") && !SCRIPT.contains("</script"));
    }

    #[test]
    fn bytes_are_shown_in_binary_units() {
        let before = "<g><title>f (1 bytes, 2%) (a.py:3) (1,572,864 bytes, 12.34%)</title><rect/>\
                      <title>all (7 bytes, 100%)</title></g><title>x (5 bytes)</title>";
        let after = "<g><title>f (1 bytes, 2%) (a.py:3) (1.5 MiB, 12.34%)</title><rect/>\
                     <title>all (7 B, 100%)</title></g><title>x (5 bytes)</title>";
        assert_eq!(with_binary_units(before), after);
    }

    #[test]
    fn kinds_are_told_apart_whatever_the_shade() {
        let colours = KINDS.map(|kind| kind.lightest);
        for (index, one) in colours.iter().enumerate() {
            for other in &colours[index + 1..] {
                let distance: i32 = [(one.r, other.r), (one.g, other.g), (one.b, other.b)]
                    .map(|(a, b)| (i32::from(a) - i32::from(b)).abs())
                    .iter()
                    .sum();
                // An eighth of three channels darker is at most 75 away.
                assert!(distance > 60, "{one:?} {other:?}");
            }
        }
    }
}
