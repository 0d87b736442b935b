//! Asks a running server at its admin socket, over HTTP.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::programs::exit::ExitError;
use crate::programs::options::{AdminPlace, AskOptions, Cli, Command, Environment};
use crate::programs::report::ErrorReport;

/// Where the services of `install` and of the Debian package have it.
const SERVICE_SOCKET: &str = "/run/nat64handoff/admin.sock";
/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// How something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    /// Changes something.
    Post,
}

/// A server that can be asked.
#[derive(Debug)]
pub struct AskedServer {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl AskedServer {
    /// The one that these options name, or the configuration that `serve` would have here.
    ///
    /// # Errors
    /// Where the configuration is wrong, or says that nobody can be asked.
    pub fn of(options: &AskOptions) -> Result<Self, ExitError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ExitError::failed)?;
        Ok(Self { socket: place(options)?, runtime })
    }

    /// Asks for `path`, and returns the answer's body.
    ///
    /// # Errors
    /// Where there is no answer, or it says what is wrong.
    pub fn ask(&self, method: Method, path: &str) -> Result<Vec<u8>, ExitError> {
        self.ask_within(ANSWER_WAIT, method, path)
    }

    /// As [`AskedServer::ask`], for an answer that takes no longer than this.
    ///
    /// # Errors
    /// As there.
    pub fn ask_within(
        &self,
        wait: Duration,
        method: Method,
        path: &str,
    ) -> Result<Vec<u8>, ExitError> {
        let shown = self.socket.display();
        let asked = async { tokio::time::timeout(wait, ask(&self.socket, method, path)).await };
        let (status, octets) = match self.runtime.block_on(asked) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(not_asked(&self.socket, &error)),
            Err(_) => {
                return Err(ExitError::failed(format_args!(
                    "the server at {shown} does not answer within {wait:?}; see what keeps this machine busy"
                )));
            }
        };
        if status == StatusCode::OK {
            return Ok(octets);
        }
        let report = serde_json::from_slice::<ErrorReport>(&octets).map(|report| report.error);
        let text = report.unwrap_or_else(|_| String::from_utf8_lossy(&octets).trim().to_owned());
        let older = if status == StatusCode::NOT_FOUND && text.is_empty() {
            "not known there"
        } else {
            &text
        };
        Err(ExitError::failed(older))
    }
}

async fn ask(socket: &Path, method: Method, path: &str) -> io::Result<(StatusCode, Vec<u8>)> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends when the answer is there, or by an error that the sender tells.
    let connection = tokio::spawn(connection);
    let name = match method {
        Method::Get => "GET",
        Method::Post => "POST",
    };
    let request = Request::builder().method(name).uri(path).header(HOST, "localhost");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(io::Error::other)?;
    connection.abort();
    Ok((status, body.to_bytes().to_vec()))
}

/// Why nobody answers, and what to do.
fn not_asked(socket: &Path, error: &io::Error) -> ExitError {
    let shown = socket.display();
    ExitError::failed(match error.kind() {
        ErrorKind::NotFound => format!(
            "no server can be asked at {shown}: start one (systemctl start nat64handoff), or name its \
             socket by --admin"
        ),
        ErrorKind::ConnectionRefused => format!(
            "no server runs at {shown} any more: start it (systemctl start nat64handoff), or name \
             another socket by --admin"
        ),
        ErrorKind::PermissionDenied => format!(
            "this user may not ask the server at {shown}: use sudo, or become a member of the group nat64ho"
        ),
        _ => format!(
            "the server at {shown} does not answer: {error}; see what it says (journalctl -u nat64handoff)"
        ),
    })
}

/// The admin socket that is meant.
fn place(options: &AskOptions) -> Result<PathBuf, ExitError> {
    if let Some(path) = &options.admin {
        return Ok(path.clone());
    }
    let mut words = vec!["nat64handoff".into(), "serve".into()];
    if let Some(config) = &options.config {
        words.extend(["--config".into(), config.clone().into_os_string()]);
    }
    let serve = match Cli::try_parse_from(words).map(|cli| cli.command) {
        Ok(Command::Serve(serve)) => serve,
        Ok(_) => return Err(ExitError::failed("name the socket by --admin")),
        Err(error) => return Err(ExitError::usage(error)),
    };
    let config = serve.resolve(&Environment::of_process()).map_err(ExitError::usage)?;
    match config.admin {
        AdminPlace::Off => Err(ExitError::failed(
            "the configuration says admin = \"off\": this server cannot be asked",
        )),
        AdminPlace::At(path) => Ok(path),
        AdminPlace::Default(path) => {
            let service = Path::new(SERVICE_SOCKET);
            Ok(if !may_be(&path) && may_be(service) { service.to_owned() } else { path })
        }
    }
}

/// Whether there is something, as far as this user may know.
fn may_be(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}
