//! Every octet of the files of a state is changed, to another bit and to another value: the change
//! is found, or what it hit is not read.

use std::path::Path;

use crc32c::{crc32c, crc32c_append};

use nat64handoff::disk::bans::{self, BANS_FILE};
use nat64handoff::disk::journal::{HEADER_LENGTH, Header, RECORD_HEADER_LENGTH};
use nat64handoff::disk::storage::Cut;
use nat64handoff::handoff::random::Random;

use super::check::{find, recover};
use super::cuts::Image;
use super::workload::{ROOT, Workload};
use crate::model::Model;

/// What became of the octets that were changed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flips {
    /// The start is refused, and names file and offset.
    pub refused: u64,
    /// It is at the end of a journal, which is cut off there, and that is said.
    pub cut: u64,
    /// Of the file of bans, which is put aside.
    pub aside: u64,
    /// Of a file that another one has replaced.
    pub unread: u64,
}

impl Flips {
    pub fn all(&self) -> u64 {
        self.refused + self.cut + self.aside + self.unread
    }

    pub fn add(&mut self, other: Self) {
        self.refused += other.refused;
        self.cut += other.cut;
        self.aside += other.aside;
        self.unread += other.unread;
    }
}

/// A state whose octets are changed.
pub struct Flipped<'a> {
    pub workload: &'a Workload,
    pub life: usize,
    pub image: Image,
    model: Model,
    pub flips: Flips,
}

impl<'a> Flipped<'a> {
    pub fn new(workload: &'a Workload, life: usize, image: Image) -> Result<Self, String> {
        let disk = image.disk();
        let (model, _) = recover(&disk, 1, workload)?;
        find(workload, &model, &disk, life)?;
        Ok(Self { workload, life, image, model, flips: Flips::default() })
    }

    /// Each octet of each file.
    pub fn check_all(&mut self, random: &mut Random) -> Result<(), String> {
        let files: Vec<_> = self.image.files.clone().into_iter().collect();
        for (path, content) in files {
            for at in 0..content.as_ref().map_or(0, Vec::len) {
                let bit = 1 << random.below(8);
                for change in [bit, 1 + random.below(255) as u8] {
                    let mut octets = content.clone().unwrap_or_default();
                    octets[at] ^= change;
                    self.check(&path, at, octets)
                        .map_err(|what| format!("{}, octet {at}: {what}", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// A file has these octets, which are other ones at one place.
    pub fn check(&mut self, path: &Path, at: usize, octets: Vec<u8>) -> Result<(), String> {
        let whole = self.image.files.insert(path.to_owned(), Some(octets));
        let disk = self.image.disk();
        self.image.files.insert(path.to_owned(), whole.flatten());
        if path.ends_with(BANS_FILE) {
            let read = bans::read(&disk, Path::new(ROOT));
            self.flips.aside += 1;
            let error = read.err().ok_or("other bans are kept")?.to_string();
            return if error.contains("is damaged") { Ok(()) } else { Err(error) };
        }
        let (model, cuts) = match recover(&disk, 1, self.workload) {
            Ok(recovered) => recovered,
            Err(error) => {
                self.flips.refused += 1;
                return names(&error, path, at);
            }
        };
        match cuts.iter().find(|cut| cut.file == path) {
            Some(Cut { offset, .. }) if *offset <= at as u64 => {
                self.flips.cut += 1;
                find(self.workload, &model, &disk, self.life)?;
                Ok(())
            }
            _ if model == self.model => {
                self.flips.unread += 1;
                Ok(())
            }
            _ => Err("silently another state".into()),
        }
    }
}

/// The error names the file, and where the octet is or what stands before it.
fn names(error: &str, path: &Path, at: usize) -> Result<(), String> {
    let file = format!("refused: {}, offset ", path.display());
    let offset = error.strip_prefix(&file).and_then(|rest| rest.split_once(':')?.0.parse().ok());
    match offset {
        Some(offset) if at >= offset => Ok(()),
        _ => Err(error.into()),
    }
}

/// Writes the checksums of a record anew, as if nobody looked at them, where its body has the octet
/// `at`. Returns whether it has.
pub fn seal_again(octets: &mut [u8], at: usize) -> bool {
    let Ok(header) = Header::decode(octets) else { return false };
    let mut sealed = vec![header.id.kind as u8];
    sealed.extend(header.id.shard.to_be_bytes());
    sealed.extend(header.id.epoch.to_be_bytes());
    sealed.extend(header.id.number.to_be_bytes());
    sealed.extend(header.boot);
    let seal = crc32c(&sealed);
    let mut start = HEADER_LENGTH;
    while let Some(head) = octets.get(start..start + RECORD_HEADER_LENGTH) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let body = start + RECORD_HEADER_LENGTH;
        if (body..body + length).contains(&at) && body + length <= octets.len() {
            let checksum = crc32c(&octets[body..body + length]);
            octets[start + 36..start + 40].copy_from_slice(&checksum.to_be_bytes());
            let checksum = crc32c_append(seal, &octets[start..start + 40]);
            octets[start + 40..body].copy_from_slice(&checksum.to_be_bytes());
            return true;
        }
        start = body + length;
    }
    false
}
