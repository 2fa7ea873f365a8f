//! OTLP over HTTP: `POST …/v1development/profiles`, a gzipped protobuf message.

use std::collections::BTreeMap;

use super::{
    courier::{Receiver, Refusal},
    http::Poster,
};
use crate::report;

const PATH: &str = "/v1development/profiles";

pub struct Otlp(Poster);

impl Otlp {
    /// `url`: of the receiver (`http://collector:4318`), or with the whole path.
    pub fn new(url: &str, headers: &BTreeMap<String, String>) -> Self {
        let base = url.trim_end_matches('/');
        // A receiver that has its own path for profiles (`/api/org/v1/profiles`) is named with it.
        let url = match base.ends_with("/profiles") {
            true => base.to_owned(),
            false => format!("{base}{PATH}"),
        };
        let ours = [("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];
        Self(Poster::new(url, &ours, headers))
    }
}

impl Receiver for Otlp {
    fn deliver(&mut self, message: &[u8]) -> Result<(), Refusal> {
        answered(&self.0.post(message)?)
    }
}

/// What an answer says of what was taken. The rest is not to be sent again (docs/specification.md, "Partial Success").
pub fn answered(answer: &[u8]) -> Result<(), Refusal> {
    match report::otlp::refused(answer) {
        Some((1.., why)) => Err(Refusal::Never {
            why: format!("some profiles were rejected: {}", super::one_line(&why)),
        }),
        _ => Ok(()),
    }
}
