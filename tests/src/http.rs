//! A page of a service on this machine.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Asks for a page, by its path without the first slash, and returns what it says as JSON.
pub fn ask(port: u16, page: &str) -> Result<Value> {
    let answer = text(port, page, "x")?;
    serde_json::from_str(&answer.body).with_context(|| format!("not JSON: {}", answer.body))
}

/// An answer: its status and headers, and what it is.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: String,
    pub body: String,
}

/// Asks for a page under a host's name.
pub fn text(port: u16, page: &str, host: &str) -> Result<Answer> {
    asked(TcpStream::connect(("127.0.0.1", port))?, page, host)
}

/// The same of a service at a socket.
pub fn from(socket: &Path, page: &str) -> Result<Answer> {
    asked(UnixStream::connect(socket)?, page, "localhost")
}

fn asked(mut stream: impl Read + Write, page: &str, host: &str) -> Result<Answer> {
    write!(
        stream,
        "GET /{page} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no body")?;
    Ok(Answer {
        head: head.to_owned(),
        body: body.to_owned(),
    })
}
