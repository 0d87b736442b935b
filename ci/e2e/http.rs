//! A connection to nginx that is kept, and asked again later.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::field::{SERVICE6, Site};
use crate::process::PATIENCE;

/// How long a connection that may be dead is listened to.
const DEAD_AFTER: Duration = Duration::from_secs(4);

pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// From the client of that site.
    pub fn open(site: &Site) -> Connection {
        let address = SocketAddr::from((SERVICE6, 80));
        let stream = site.client.inside(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
        Connection { stream: BufReader::new(stream) }
    }

    /// The client's port.
    pub fn port(&self) -> u16 {
        self.stream.get_ref().local_addr().unwrap().port()
    }

    /// Gets a file, for which there must be an answer.
    pub fn get(&mut self, file: &str) -> Vec<u8> {
        self.try_get(file, PATIENCE).unwrap_or_else(|error| panic!("GET {file}: {error}"))
    }

    /// Whether there is no answer: the connection was reset, or nothing comes for a time in which a
    /// request is repeated several times.
    pub fn is_dead(&mut self) -> bool {
        self.try_get("hello", DEAD_AFTER).is_err()
    }

    fn try_get(&mut self, file: &str, patience: Duration) -> io::Result<Vec<u8>> {
        let stream = self.stream.get_mut();
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "GET /{file} HTTP/1.1\r\nHost: service\r\n\r\n")?;
        let mut length = None;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = Some(value.trim().parse().unwrap());
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length.expect("nginx says how long a file is")];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }
}
