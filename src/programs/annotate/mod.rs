//! `nat64handoff annotate`: an access log with the client in the place of each NAT64.
#![doc = include_str!("../../ANNOTATE.md")]

mod copy;
mod found;
mod known;
mod names;
mod older;
mod ports;
mod records;
mod report;
mod shape;
mod times;

use std::fmt::Write as _;
use std::fs::{File, Metadata};
use std::io::{self, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use ipnet::Ipv6Net;
use jiff::tz::TimeZone;

use crate::disk::history::HistoryPlace;
use crate::handoff::change::Timestamp;
use crate::handoff::names::client_text;
use crate::kernel::clock;
use crate::kernel::stderr::warn;
use crate::programs::annotate::copy::{CopyError, Copying};
use crate::programs::annotate::found::HadBy;
use crate::programs::annotate::known::{ANNOTATING, KnownPorts, LogTrouble};
use crate::programs::annotate::records::ClientPort;
use crate::programs::annotate::report::{Tally, Unnamed};
use crate::programs::annotate::shape::{AccessLine, ClientPart, LineFinder, LinePattern};
use crate::programs::annotate::times::TimeReader;
use crate::programs::exit::ExitError;
use crate::programs::log_place::LogPlaces;
use crate::programs::options::AnnotateOptions;
use crate::programs::progress::Progress;
use crate::programs::who::when::TimeSpan;

/// From one time that something is told to the next.
const TELL_INTERVAL: u64 = 60_000_000;

/// Copies access logs to standard output.
///
/// # Errors
/// Where a file, or the event log, cannot be read, or standard output not be written.
pub fn run(options: &AnnotateOptions) -> Result<(), ExitError> {
    let AnnotateOptions { log, history, config, .. } = options;
    let LogPlaces { log, history } =
        LogPlaces::find(log.as_deref(), history.as_deref(), config.as_deref())?;
    let Some(log) = log else {
        return Err(ExitError::usage("--log: it must be a file, as it is read as it grows"));
    };
    let history = history.map(|folder| HistoryPlace::new(folder, log.clone()));
    // Lines on the same terminal, or another program there, would be drawn over.
    let progress = match is_file(&io::stdout()) {
        true => Progress::begin(ANNOTATING, octets_of(&options.files)),
        false => Progress::hidden(),
    };
    let is_of_files = !options.files.is_empty() || is_file(&io::stdin());
    let known = KnownPorts::open(&log, history, is_of_files, progress.teller());
    let annotator = Annotator::new(options, known.map_err(ExitError::failed)?)?;
    let mut copying = Copying::new(annotator, progress.teller());
    let done = match options.files.is_empty() {
        true => copying.copy(io::stdin().lock(), &io::stdin()),
        false => options.files.iter().try_for_each(|path| copy_file(&mut copying, path)),
    };
    match done {
        // Its reader has read enough.
        Err(CopyError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => {
            drop(progress);
            let asked = copying.end();
            done.map_err(ExitError::failed)?;
            asked.map_err(|trouble| {
                ExitError::failed(format_args!(
                    "{trouble}; lines from then on came out as they are"
                ))
            })
        }
    }
}

fn copy_file(copying: &mut Copying, path: &Path) -> Result<(), CopyError> {
    let failed = |cause| CopyError::Read { name: path.display().to_string(), cause };
    let file = File::open(path).map_err(failed)?;
    let position = file.try_clone().map_err(failed)?;
    match path.extension().is_some_and(|extension| extension == "gz") {
        true => copying.copy(MultiGzDecoder::new(BufReader::new(file)), &position),
        false => copying.copy(file, &position),
    }
    .map_err(|error| match error {
        CopyError::Read { cause, .. } => failed(cause),
        error => error,
    })
}

fn is_file(what: &impl AsFd) -> bool {
    let copy = what.as_fd().try_clone_to_owned().map(File::from);
    copy.and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.is_file())
}

/// As many as there are now, of those that are regular files.
fn octets_of(files: &[PathBuf]) -> u64 {
    let octets = |metadata: Metadata| if metadata.is_file() { metadata.len() } else { 0 };
    match files {
        [] => {
            let stdin = io::stdin().as_fd().try_clone_to_owned().map(File::from);
            stdin.and_then(|file| file.metadata()).map_or(0, octets)
        }
        files => files.iter().filter_map(|path| path.metadata().ok()).map(octets).sum(),
    }
}

/// Makes of a line what comes out.
pub struct Annotator {
    finder: LineFinder,
    known: KnownPorts,
    tally: Tally,
    told: Timestamp,
    now: Timestamp,
    append: bool,
    newcomer: bool,
    /// Whether lines without a time are of now.
    is_now: bool,
    to: Option<Ipv4Addr>,
    /// Why the event log is not asked any more.
    trouble: Option<LogTrouble>,
    /// The client of the last line, as text.
    address: String,
}

impl Annotator {
    fn new(options: &AnnotateOptions, known: KnownPorts) -> Result<Self, ExitError> {
        let pattern = options.pattern.as_deref().map(LinePattern::new).transpose();
        let pattern =
            pattern.map_err(|error| ExitError::usage(format_args!("--pattern: {error}")))?;
        let is_now = options.now || pattern.as_ref().is_some_and(|pattern| !pattern.has_time());
        Ok(Self {
            finder: LineFinder::new(pattern, TimeReader::new(TimeZone::system())),
            known,
            tally: Tally::default(),
            told: clock::wall(),
            now: Timestamp::default(),
            append: options.append,
            newcomer: options.newcomer,
            is_now,
            to: options.to,
            trouble: None,
            address: String::new(),
        })
    }

    /// What comes next was read just now.
    pub fn begin(&mut self) {
        self.now = clock::wall();
        self.known.set_now(self.now);
        self.finder.times.set_now(self.now);
        if self.now.as_micros().saturating_sub(self.told.as_micros()) > TELL_INTERVAL {
            self.told = self.now;
            self.tally.tell().iter().for_each(|line| warn(format_args!("{line}")));
        }
    }

    fn end(mut self) -> Result<(), LogTrouble> {
        self.tally.tell_last().iter().for_each(|line| warn(format_args!("{line}")));
        self.trouble.map_or(Ok(()), Err)
    }

    /// Appends what comes out of a line, which has no end here. Where the event log cannot be read,
    /// that is the line as it is.
    pub fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        let found = self.finder.find(text);
        self.tally.line(found.is_some());
        let client = match found {
            Some(found) if self.trouble.is_none() => self.client(found).unwrap_or_else(|trouble| {
                self.trouble = Some(trouble);
                None
            }),
            _ => None,
        };
        match client {
            None => out.extend(line),
            Some(client) if self.append => {
                append(text, client, out);
                out.extend(&line[text.len()..]);
            }
            Some(client) => {
                self.address.clear();
                // A text takes whatever is written to it.
                let _ = write!(self.address, "{}", client_text(client.net));
                let mut at = 0;
                for edit in &self.finder.edits {
                    out.extend_from_slice(&line[at..edit.range.start]);
                    match edit.part {
                        ClientPart::Address => out.extend_from_slice(self.address.as_bytes()),
                        ClientPart::InBrackets => {
                            out.push(b'[');
                            out.extend_from_slice(self.address.as_bytes());
                            out.push(b']');
                        }
                        ClientPart::Port => match client.port {
                            Some(port) => push_port(port, out),
                            // It is the client's own.
                            None => out.extend_from_slice(&line[edit.range.clone()]),
                        },
                    }
                    at = edit.range.end;
                }
                out.extend_from_slice(&line[at..]);
            }
        }
    }

    /// The client that the line is about, where it is a NAT64's or an address of the pool stands
    /// for it, and sure.
    fn client(&mut self, found: AccessLine) -> Result<Option<FoundClient>, LogTrouble> {
        let time = found.time.or_else(|| self.is_now.then(|| TimeSpan::moment(self.now)));
        let (Some(port), Some(time)) = (found.port, time) else {
            if let Some(time) = time
                && !self.known.knows(found.address, Some(time))?
            {
                return self.of_pool(found.address, time);
            }
            if self.known.knows(found.address, time)? {
                self.tally.unnamed(match found.port {
                    None => Unnamed::NoPort(found.writer),
                    Some(_) => Unnamed::NoTime,
                });
            }
            return Ok(None);
        };
        let why = match self.known.had_by(SocketAddrV4::new(found.address, port), self.to, time)? {
            HadBy::Client(client) => return Ok(Some(client.into())),
            HadBy::Several(client) if self.newcomer => return Ok(Some(client.into())),
            // What there is of that time was read just now.
            HadBy::Stranger if !self.known.has_pool(found.address) => return Ok(None),
            HadBy::Stranger => return self.of_pool(found.address, time),
            HadBy::Nobody => Unnamed::Nobody,
            HadBy::Several(_) => Unnamed::Several,
            HadBy::Doubtful => Unnamed::Doubtful,
            HadBy::Past => Unnamed::Past,
        };
        self.tally.unnamed(why);
        Ok(None)
    }

    /// The client that an address of the pool stands for, if it is one.
    fn of_pool(
        &mut self,
        address: Ipv4Addr,
        time: TimeSpan,
    ) -> Result<Option<FoundClient>, LogTrouble> {
        let why = match self.known.named(address, time)? {
            HadBy::Client(net) => return Ok(Some(FoundClient { net, port: None })),
            HadBy::Several(net) if self.newcomer => {
                return Ok(Some(FoundClient { net, port: None }));
            }
            HadBy::Stranger => return Ok(None),
            HadBy::Nobody => Unnamed::PoolNobody,
            HadBy::Several(_) | HadBy::Doubtful => Unnamed::PoolDoubtful,
            HadBy::Past => Unnamed::Past,
        };
        self.tally.unnamed(why);
        Ok(None)
    }
}

/// Whom a line is about.
#[derive(Debug, Clone, Copy)]
struct FoundClient {
    /// The client; or the network that it is in, where an address of the pool stands for all of it.
    net: Ipv6Net,
    /// None where the line has it already.
    port: Option<u16>,
}

impl From<ClientPort> for FoundClient {
    fn from((address, port): ClientPort) -> Self {
        Self { net: address.into(), port: Some(port) }
    }
}

/// In decimal.
fn push_port(port: u16, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 5];
    let (mut rest, mut first) = (port, digits.len());
    while rest > 0 || first == digits.len() {
        first -= 1;
        digits[first] += (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[first..]);
}

/// The line, and the client behind it: in an object, as two more members of it.
fn append(line: &[u8], FoundClient { net, port }: FoundClient, out: &mut Vec<u8>) {
    let address = client_text(net);
    match line.trim_ascii_end().strip_suffix(b"}") {
        Some(members) if line.trim_ascii_start().starts_with(b"{") => {
            out.extend(members);
            out.extend(format!(",\"nat64_client\":\"{address}\"").bytes());
            let port = port.map_or(String::new(), |port| format!(",\"nat64_client_port\":{port}"));
            out.extend(port.bytes());
            out.extend(&line[members.len()..]);
        }
        _ => {
            out.extend(line);
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            out.extend(format!(" [{address}]{port}").bytes());
        }
    }
}
