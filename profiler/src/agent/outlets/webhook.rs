//! Alerts to a webhook: one JSON object in each request.

use std::collections::BTreeMap;

use super::{
    courier::{Receiver, Refusal},
    http::Poster,
};

pub struct Webhook(Poster);

impl Webhook {
    pub fn new(url: &str) -> Self {
        let ours = [("content-type", "application/json")];
        Self(Poster::new(url.to_owned(), &ours, &BTreeMap::new()))
    }
}

impl Receiver for Webhook {
    fn deliver(&mut self, message: &[u8]) -> Result<(), Refusal> {
        self.0.post(message).map(drop)
    }
}
