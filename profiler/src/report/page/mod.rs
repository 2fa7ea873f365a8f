//! The page: one HTML file in which a browser shows a recording from all sides, without a network.
//!
//! What is in it is markup, a style sheet and a program of ours, always the same, and the recording as one block of
//! base64 ([`data`]), in which no name of a target's can be markup. The program sets what it reads as text. Its policy
//! lets nothing run but this program, and nothing be loaded: it is named by its hash.
//!
//! `page/*.js`, `page.css` and `page.html` are the sources, and are put together as they are: there is nothing to build.

use std::io::Write;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

pub use self::compare::write_difference;
use self::data::Data;
use super::{View, Writer};
use crate::profile::Profile;

mod cause;
mod compare;
mod data;
mod encode;
mod findings;
mod times;

#[cfg(test)]
mod tests;

#[derive(Clone, Copy, Debug)]
pub struct Page;

impl Writer for Page {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        view.value_type(profile)?;
        written(&Data::new(profile, view), out)
    }
}

/// The page with all that is in it.
fn written(data: &Data, out: &mut dyn Write) -> anyhow::Result<()> {
    let script = script();
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
        hash(&script),
        hash(STYLE)
    );
    let data = STANDARD.encode(encode::encode(data)?);
    let mut rest = FRAME;
    // The parts are in the order in which the frame names them, and none is looked for in another.
    for (mark, part) in [
        ("{policy}", &*policy),
        ("{style}", STYLE),
        ("{data}", &*data),
        ("{script}", &*script),
    ] {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        out.write_all(before.as_bytes())?;
        out.write_all(part.as_bytes())?;
        rest = after;
    }
    out.write_all(rest.as_bytes())?;
    Ok(())
}

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// In the order in which they need each other.
const MODULES: [&str; 14] = [
    include_str!("text.js"),
    include_str!("data.js"),
    include_str!("tree.js"),
    include_str!("sums.js"),
    include_str!("flame.js"),
    include_str!("table.js"),
    include_str!("compare.js"),
    include_str!("findings.js"),
    include_str!("sandwich.js"),
    include_str!("source.js"),
    include_str!("places.js"),
    include_str!("summary.js"),
    include_str!("timeline.js"),
    include_str!("main.js"),
];

/// The modules in one scope of their own.
fn script() -> String {
    format!("(() => {{\n'use strict';\n{}}})();\n", MODULES.join("\n"))
}

/// How a policy names an element by what is in it.
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}
