//! Pyroscope's own way: `POST /push.v1.PusherService/Push` (Connect), JSON with pprof profiles in it, one for each service
//! and kind of value.

use std::collections::BTreeMap;

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::{
    courier::{Receiver, Refusal},
    http::Poster,
};

const PATH: &str = "/push.v1.PusherService/Push";

pub struct Pyroscope(Poster);

impl Pyroscope {
    pub fn new(url: &str, headers: &BTreeMap<String, String>) -> Self {
        let url = format!("{}{PATH}", url.trim_end_matches('/'));
        let ours = [("content-type", "application/json"), ("content-encoding", "gzip")];
        Self(Poster::new(url, &ours, headers))
    }
}

impl Receiver for Pyroscope {
    fn deliver(&mut self, message: &[u8]) -> Result<(), Refusal> {
        self.0.post(message).map(drop)
    }
}

/// One service's profile.
pub struct Series {
    /// What Pyroscope calls it: `process_cpu`, `memory`.
    pub name: &'static str,
    pub service: String,
    pub labels: BTreeMap<String, String>,
    /// Gzipped.
    pub pprof: Vec<u8>,
}

#[derive(Serialize)]
struct Request {
    series: Vec<Raw>,
}

#[derive(Serialize)]
struct Raw {
    labels: Vec<Pair>,
    samples: Vec<Sample>,
}

#[derive(Serialize)]
struct Pair {
    name: String,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    raw_profile: String,
}

/// The body of a request, not yet compressed.
pub fn body(series: Vec<Series>) -> anyhow::Result<Vec<u8>> {
    let series = (series.into_iter())
        .map(|one| Raw {
            labels: [("__name__", one.name.to_owned()), ("service_name", one.service)]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .chain(one.labels.into_iter().map(|(name, value)| (label(&name), value)))
                .map(|(name, value)| Pair { name, value })
                .collect(),
            samples: vec![Sample {
                raw_profile: STANDARD.encode(&one.pprof),
            }],
        })
        .collect();
    serde_json::to_vec(&Request { series }).context("failed to write a request for Pyroscope")
}

/// Labels are Prometheus': letters, digits and `_`.
fn label(name: &str) -> String {
    let name: String = (name.chars())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("_{name}"),
        false => name,
    }
}
