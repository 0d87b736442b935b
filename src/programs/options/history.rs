//! Where the history is kept, `--history`, and where those of several hosts are: `--to`, `--fleet`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use super::HistoryOptions;

/// Where the history of the event log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryDestination {
    /// There is none.
    Off,
    /// In this folder.
    Folder(PathBuf),
}

impl HistoryDestination {
    pub(super) fn of(path: PathBuf) -> Self {
        if path == Path::new("off") { Self::Off } else { Self::Folder(path) }
    }

    /// As it is written.
    pub fn path(&self) -> &Path {
        match self {
            Self::Off => Path::new("off"),
            Self::Folder(folder) => folder,
        }
    }
}

/// Where the histories of several hosts are, a folder for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyPlace {
    /// In a directory.
    Folder(PathBuf),
    /// In a bucket, as `s3://bucket/prefix`: its name, and what the names of all files begin with.
    Bucket(String, String),
}

impl FromStr for CopyPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "write a directory, or s3://BUCKET/PREFIX";
        match text.split_once("://") {
            None if text.is_empty() => Err(wanted.to_owned()),
            None => Ok(Self::Folder(text.into())),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::Folder(path.into())),
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let prefix = prefix.trim_end_matches('/');
                let is_fine = |part: &str| !["", ".", ".."].contains(&part);
                let is_fine = prefix.is_empty() || prefix.split('/').all(is_fine);
                let octet = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
                match !bucket.is_empty() && bucket.bytes().all(octet) && is_fine {
                    true => Ok(Self::Bucket(bucket.to_owned(), prefix.to_owned())),
                    false => Err(wanted.to_owned()),
                }
            }
            Some((scheme, _)) => Err(format!("{scheme}:// is not known: {wanted}")),
        }
    }
}

impl fmt::Display for CopyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(bucket, prefix) if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket(bucket, prefix) => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Options of `history copy`.
#[derive(Debug, Args)]
pub struct CopyOptions {
    /// Where to: a directory, or a bucket as s3://BUCKET/PREFIX
    #[arg(long, value_name = "DIR|s3://BUCKET/PREFIX")]
    pub to: CopyPlace,
    /// The folder there that is this host's alone [default: the name of this machine]
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub host: Option<String>,
    /// Remove files there that the history here does not have any more
    #[arg(long)]
    pub delete: bool,
    /// Which history.
    #[command(flatten)]
    pub history: HistoryOptions,
}

/// The longest name of a folder.
const HOST_MAX: usize = 255;

/// A name that a host's folder may have.
///
/// # Errors
/// What it has to be.
pub fn host_name(text: &str) -> Result<String, String> {
    let is_fine = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
    let fits = (1..=HOST_MAX).contains(&text.len()) && !text.starts_with('.');
    match fits && text.bytes().all(is_fine) {
        true => Ok(text.to_owned()),
        false => {
            Err("write letters, digits, - and _, or a name with dots in it, like host1.example.org"
                .to_owned())
        }
    }
}

/// What `history copy --help` says at its end.
pub(super) const COPY: &str = "\
What is there already is not sent again, and nothing is removed there without --delete; the server may
run. So a timer may do it at any time, and who --fleet asks all hosts together. A bucket is asked as the
variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL say.

  nat64handoff history copy --to /srv/histories
  nat64handoff history copy --to s3://histories/site1
  nat64handoff who 192.0.2.7:3719 --at '2019-03-18 12:00' --fleet s3://histories/site1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_copies_are() {
        let place = |text: &str| text.parse::<CopyPlace>();
        for (text, shown) in [
            ("copies", "copies"),
            ("/srv/copies/", "/srv/copies/"),
            ("file:///srv/copies", "/srv/copies"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/one/two/", "s3://bucket/one/two"),
        ] {
            assert_eq!(place(text).unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "s3://",
            "s3:///x",
            "s3://a b",
            "s3://a//b",
            "s3://a/../b",
            "file://srv",
            "gs://a/b",
        ] {
            assert!(place(wrong).unwrap_err().contains("write a directory, or s3://"), "{wrong}");
        }
    }

    #[test]
    fn which_names_folders_have() {
        for name in ["a", "host-1.example.org", "A_b"] {
            assert_eq!(host_name(name).unwrap(), name);
        }
        for name in ["", ".", "..", ".a", "a/b", "a b", "ä", &"x".repeat(HOST_MAX + 1)] {
            assert!(host_name(name).is_err(), "{name}");
        }
    }
}
