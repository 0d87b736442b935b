//! Copies in a bucket of S3, or of what speaks as S3 does. Endpoint, region and credentials are
//! those of the variables AWS_*, as other programs have them; TLS is etcd's, and the authorities
//! that are trusted are the system's (`SSL_CERT_FILE` names others).
//!
//! Of a file that is asked about the blocks are brought that are read, or all of it, once, into a
//! file without a name that is gone with the process. What is larger than a part goes there in
//! parts, which are a file only when all have arrived.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    BackoffConfig, Error, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt,
    RetryConfig,
};
use tokio::runtime::{Builder, Runtime};

use super::{CopiedFile, CopyStore};

/// Octets of a part of an upload: so many are in memory. S3 wants 5 MiB at least, and at most
/// 10,000 parts: a file may have 80 GiB.
const PART_OCTETS: usize = 8 << 20;
/// How often what fails is tried again, and up to when: a timer comes again.
const RETRIES: usize = 5;
const RETRY_FOR: Duration = Duration::from_secs(30);
/// Files that are kept of those that were brought: what is asked for again is mostly among them.
const BROUGHT_MAX: usize = 64;
/// Octets that are brought at once, where a few are read.
const BLOCK_OCTETS: u64 = 256 << 10;
/// Blocks that are kept: 64 MiB. What is asked for again is mostly among them.
const BLOCKS_MAX: usize = 256;
/// Octets of an answer that are told.
const SAID_MAX: usize = 200;

/// A bucket, and where in it the folders of hosts are.
pub struct CopyBucket {
    runtime: Runtime,
    store: AmazonS3,
    name: String,
    prefix: Path,
    /// What was listed, by folder.
    listed: Mutex<HashMap<String, Vec<CopiedFile>>>,
    /// What was brought, by path.
    brought: Mutex<HashMap<String, File>>,
    /// Blocks that were brought, by path and number.
    blocks: Mutex<HashMap<(String, u64), Vec<u8>>>,
}

impl CopyBucket {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// Where a variable is wrong.
    pub fn new(bucket: &str, prefix: &str) -> io::Result<Self> {
        // Nobody has chosen another one: it is etcd's.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        if named_endpoint()?.is_some_and(|scheme| scheme == "http") {
            // It was said.
            builder = builder.with_allow_http(true);
        }
        let backoff = BackoffConfig::default();
        let retry = RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_FOR };
        let store = builder.with_retry(retry).build().map_err(|error| failed(&error))?;
        let prefix = Path::parse(prefix.trim_matches('/')).map_err(io::Error::other)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let name = match prefix.as_ref() {
            "" => format!("s3://{bucket}"),
            prefix => format!("s3://{bucket}/{prefix}"),
        };
        let (listed, brought, blocks) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { runtime, store, name, prefix, listed, brought, blocks })
    }

    fn range(&self, path: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let range = Some(GetRange::Bounded(range));
        let options = GetOptions { range, ..GetOptions::default() };
        let location = self.path(path);
        let got = self
            .runtime
            .block_on(async { self.store.get_opts(&location, options).await?.bytes().await });
        got.map(|octets| octets.to_vec()).map_err(|error| failed(&error))
    }

    /// Fills a buffer with what a block has from a place on; how many octets these are.
    fn read_block(&self, path: &str, buffer: &mut [u8], begin: u64) -> io::Result<usize> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, offset) = (begin / BLOCK_OCTETS, begin % BLOCK_OCTETS);
        let key = (path.to_owned(), number);
        if !blocks.contains_key(&key) {
            if blocks.len() >= BLOCKS_MAX {
                blocks.clear();
            }
            let first = number * BLOCK_OCTETS;
            let brought = self.range(path, first..first + BLOCK_OCTETS)?;
            blocks.insert(key.clone(), brought);
        }
        let block = blocks.get(&key).map_or(&[][..], Vec::as_slice);
        let there = block.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    fn path(&self, path: &str) -> Path {
        path.split('/').fold(self.prefix.clone(), |folder, part| folder.join(part))
    }

    async fn put_parts(&self, path: &Path, content: &File, octets: u64) -> Result<(), Error> {
        let read = |begin: u64| -> Result<Vec<u8>, Error> {
            let left = usize::try_from(octets - begin).unwrap_or(usize::MAX);
            let mut part = vec![0; left.min(PART_OCTETS)];
            let read = content.read_exact_at(&mut part, begin);
            read.map_err(|error| Error::Generic { store: "file", source: Box::new(error) })?;
            Ok(part)
        };
        if octets <= PART_OCTETS as u64 {
            return self.store.put(path, read(0)?.into()).await.map(drop);
        }
        let mut upload = self.store.put_multipart(path).await?;
        match parts(&mut *upload, octets, read).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // What cannot be taken back is no file, and the bucket's rules remove it.
                drop(upload.abort().await);
                Err(error)
            }
        }
    }
}

async fn parts(
    upload: &mut dyn MultipartUpload,
    octets: u64,
    read: impl Fn(u64) -> Result<Vec<u8>, Error>,
) -> Result<(), Error> {
    for begin in (0..octets).step_by(PART_OCTETS) {
        upload.put_part(read(begin)?.into()).await?;
    }
    upload.complete().await.map(drop)
}

impl fmt::Debug for CopyBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CopyBucket").field(&self.name).finish()
    }
}

impl fmt::Display for CopyBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl CopyStore for CopyBucket {
    fn hosts(&self) -> io::Result<Vec<String>> {
        let prefix = Some(&self.prefix).filter(|prefix| !prefix.as_ref().is_empty());
        let listed = self.runtime.block_on(self.store.list_with_delimiter(prefix));
        let folders = listed.map_err(|error| failed(&error))?.common_prefixes;
        Ok(folders.iter().filter_map(|folder| Some(folder.filename()?.to_owned())).collect())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<CopiedFile>> {
        let mut known = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = known.get(folder) {
            return Ok(files.clone());
        }
        let path = self.path(folder);
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&path)));
        let objects = listed.map_err(|error| failed(&error))?.objects;
        let files = objects.into_iter().filter_map(|object| {
            let modified = object.last_modified.timestamp_micros();
            Some(CopiedFile {
                name: object.location.filename()?.to_owned(),
                octets: object.size,
                modified: u64::try_from(modified).unwrap_or(0),
            })
        });
        let files: Vec<_> = files.collect();
        known.insert(folder.to_owned(), files.clone());
        Ok(files)
    }

    fn forget(&self) {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.brought.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn read(&self, path: &str, buffer: &mut [u8], begin: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_block(path, &mut buffer[done..], begin + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<File> {
        let mut brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = brought.get(path) {
            return opened_again(file);
        }
        let mut file = tempfile::tempfile()?;
        let location = self.path(path);
        self.runtime.block_on(async {
            let got = self.store.get(&location).await.map_err(|error| failed(&error))?;
            let mut octets = got.into_stream();
            while let Some(octets) = octets.next().await {
                file.write_all(&octets.map_err(|error| failed(&error))?)?;
            }
            io::Result::Ok(())
        })?;
        let again = opened_again(&file)?;
        if brought.len() >= BROUGHT_MAX {
            brought.clear();
        }
        brought.insert(path.to_owned(), file);
        Ok(again)
    }

    fn begin(&self, path: &str, octets: u64) -> io::Result<Vec<u8>> {
        self.range(path, 0..octets)
    }

    fn put(&self, path: &str, content: &File) -> io::Result<()> {
        let octets = content.metadata()?.len();
        let path = self.path(path);
        let put = self.put_parts(&path, content, octets);
        self.runtime.block_on(put).map_err(|error| failed(&error))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.path(path);
        self.runtime.block_on(self.store.delete(&path)).map_err(|error| failed(&error))
    }
}

/// How an endpoint is spoken to that a variable names. It and the region become part of addresses,
/// which are made of anything later.
fn named_endpoint() -> io::Result<Option<String>> {
    let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        let region = std::env::var(name).unwrap_or_default();
        if !region.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-') {
            return wrong(format!("{name} is {region:?}, and not like us-east-1"));
        }
    }
    let mut scheme = None;
    for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"] {
        let Ok(endpoint) = std::env::var(name) else { continue };
        let parsed = endpoint.parse::<hyper::Uri>().ok();
        let its =
            parsed.as_ref().filter(|uri| uri.host().is_some()).and_then(hyper::Uri::scheme_str);
        match its {
            Some(its @ ("http" | "https")) => scheme = scheme.or(Some(its.to_owned())),
            _ => {
                return wrong(format!(
                    "{name} is {endpoint:?}, and not like https://s3.example.org"
                ));
            }
        }
    }
    Ok(scheme)
}

/// Each who reads a file has a place in it of their own.
fn opened_again(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// What the bucket said, in one line: its code and message, or why it was not reached.
fn failed(error: &Error) -> io::Error {
    let mut causes = vec![error as &dyn std::error::Error];
    while let Some(cause) = causes.last().and_then(|error| error.source()) {
        causes.push(cause);
    }
    let said = causes.iter().map(|cause| cause.to_string()).find_map(|text| answer_in(&text));
    let code = said.as_deref().and_then(|said| said.split(':').next());
    let kind = match (error, code) {
        (_, Some("AccessDenied" | "ExpiredToken" | "InvalidAccessKeyId" | "InvalidToken"))
        | (_, Some("SignatureDoesNotMatch"))
        | (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) => {
            io::ErrorKind::PermissionDenied
        }
        (Error::NotFound { .. }, _) | (_, Some("NoSuchBucket")) => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    let cause = said.or_else(|| causes.last().map(|cause| first_of(&cause.to_string())));
    io::Error::new(kind, cause.unwrap_or_default())
}

/// Code and message of an answer of S3 that stands in a text.
fn answer_in(text: &str) -> Option<String> {
    let within = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(first_of(rest.split_once(&format!("</{name}>"))?.0))
    };
    let code = within("Code")?;
    Some(within("Message").map_or(code.clone(), |message| format!("{code}: {message}")))
}

/// The beginning of a text, in one line.
fn first_of(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(SAID_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_line() {
        let said = |text: &str| {
            let source = Box::new(io::Error::other(text.to_owned()));
            let error = failed(&Error::Generic { store: "S3", source });
            (error.kind(), error.to_string())
        };
        let (denied, other) = (io::ErrorKind::PermissionDenied, io::ErrorKind::Other);
        let answer = "Error performing PUT http://192.0.2.1/x in 1ms - Server returned non-2xx status code: 403: \
                      <?xml version=\"1.0\"?>\n<Error>\n<Code>InvalidAccessKeyId</Code>\n<Message>The key\n does not \
                      exist.</Message></Error>";
        let expected = "InvalidAccessKeyId: The key does not exist.";
        assert_eq!(said(answer), (denied, expected.to_owned()));
        let missing = "404: <Code>NoSuchBucket</Code>";
        assert_eq!(said(missing), (io::ErrorKind::NotFound, "NoSuchBucket".to_owned()));
        assert_eq!(said("no\n route"), (other, "no route".to_owned()));
        assert_eq!(said(&"x".repeat(1000)).1.len(), SAID_MAX);
    }
}
