//! A page of a service on this machine.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Asks for a page, by its path without the first slash, and returns what it says as JSON.
pub fn ask(port: u16, page: &str) -> Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET /{page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split("\r\n\r\n").nth(1).context("no body")?;
    serde_json::from_str(body).with_context(|| format!("not JSON: {text}"))
}
