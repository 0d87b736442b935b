//! Asks the server over HTTP, octet by octet: at its admin socket, or over TCP.

use crate::judge::PATIENCE;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// An answer: its code, its header lines in lower case, and its body.
#[derive(Debug, Clone)]
pub struct Answered {
    pub code: u16,
    pub headers: String,
    pub body: String,
}

impl Answered {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A connection on which something can be asked.
pub trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

pub fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `METHOD PATH` with these header lines, and reads what comes until the end.
pub fn ask(stream: impl Stream, what: &str, headers: &[&str]) -> Answered {
    try_ask(stream, what, headers).unwrap_or_else(|| panic!("{what}: no answer"))
}

/// The same; nothing where the connection ends without an answer.
pub fn try_ask(mut stream: impl Stream, what: &str, headers: &[&str]) -> Option<Answered> {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    stream.write_all(format!("{what} HTTP/1.1\r\n{lines}\r\n").as_bytes()).ok()?;
    let mut octets = Vec::new();
    stream.read_to_end(&mut octets).ok()?;
    let text = String::from_utf8(octets).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let code = first.split(' ').nth(1).unwrap().parse().unwrap();
    Some(Answered { code, headers: headers.to_ascii_lowercase(), body: body.to_owned() })
}

/// As the commands do, at an admin socket.
pub fn get(path: &Path, what: &str) -> Answered {
    let answer = ask(unix(path), &format!("GET {what}"), &["Host: localhost"]);
    assert!(answer.headers.contains("cache-control: no-store"), "{answer:?}");
    answer
}
