//! The images that a moment leaves: after a kill all that was written, after a power cut any part
//! of what was not synced.
//!
//! A file that was written to since its last sync has, after a power cut, the length that it had at
//! some time since then, and each of its sectors as it was at some time since then: so sectors come
//! in any order, and what is missing before the end is zeros. Names that were not synced with their
//! directory are there or not. Where all that is few images, they are all made; else they are
//! drawn, with sectors of 512 or 4096 octets, and one of them torn in the middle.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use nat64handoff::handoff::random::Random;

use crate::sim::{Moment, Names, SimDisk};

const SECTOR: usize = 512;
const SECTORS: [usize; 2] = [SECTOR, 4096];

/// All that is on a disk.
#[derive(Debug, Clone)]
pub struct Image {
    /// A directory has no content.
    pub files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// The run of the machine.
    pub boots: u8,
}

/// How many images are made of a moment.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// As many are all made.
    pub all_max: usize,
    /// Of more, these are drawn.
    pub drawn: usize,
    /// Beginnings of a write that is cut off by a kill.
    pub parts: usize,
}

impl Image {
    fn of(names: &Names, boots: u8, content: impl Fn(usize) -> Vec<u8>) -> Self {
        let files = names.iter().map(|(path, inode)| (path.clone(), inode.map(&content))).collect();
        Self { files, boots }
    }

    pub fn disk(&self) -> SimDisk {
        SimDisk::of(&self.files, self.boots)
    }

    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.boots.hash(&mut hasher);
        for (path, content) in &self.files {
            path.as_os_str().as_encoded_bytes().hash(&mut hasher);
            content.hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// What a kill leaves: all that was written, and of the write that comes `next` any beginning.
pub fn kills(moment: &Moment, next: Option<&Moment>, effort: Effort) -> Vec<Image> {
    let (names, boots) = (moment.names(), moment.boots());
    let whole = Image::of(&names, boots, |inode| moment.content(inode).to_vec());
    let mut images = vec![whole];
    let Some((written, at, octets)) = next.and_then(|next| next.written_since(moment)) else {
        return images;
    };
    let step = octets.len().div_ceil(effort.parts.max(1)).max(1);
    let first = octets.len() % step;
    for length in (first.max(1)..octets.len()).step_by(step) {
        images.push(Image::of(&names, boots, |inode| {
            let mut content = moment.content(inode).to_vec();
            if inode == written {
                content.resize(content.len().max(at + length), 0);
                content[at..at + length].copy_from_slice(&octets[..length]);
            }
            content
        }));
    }
    images
}

/// A file with what is not synced.
struct Unsynced {
    inode: usize,
    versions: Vec<Vec<u8>>,
    lengths: Vec<usize>,
    /// The contents that each sector had.
    sectors: Vec<Vec<Vec<u8>>>,
}

/// What stands in a part of a file; zeros behind its end.
fn part(content: &[u8], start: usize, length: usize) -> Vec<u8> {
    let from = &content[start.min(content.len())..];
    let mut part = from[..length.min(from.len())].to_vec();
    part.resize(length, 0);
    part
}

fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}

impl Unsynced {
    fn of(moment: &Moment, inode: usize) -> Option<Self> {
        let versions = moment.versions(inode);
        let longest = versions.iter().map(Vec::len).max()?;
        let lengths = distinct(versions.iter().map(Vec::len));
        let sector = |start| distinct(versions.iter().map(|content| part(content, start, SECTOR)));
        let sectors = (0..longest).step_by(SECTOR).map(sector).collect();
        (versions.len() > 1).then_some(Self { inode, versions, lengths, sectors })
    }

    /// In how many ways it can be left, for each choice.
    fn choices(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.lengths.len()).chain(self.sectors.iter().map(Vec::len))
    }

    fn chosen(&self, choices: &[usize]) -> Vec<u8> {
        let parts = self.sectors.iter().zip(&choices[1..]);
        let mut content: Vec<u8> = parts.flat_map(|(parts, &which)| parts[which].clone()).collect();
        content.resize(self.lengths[choices[0]], 0);
        content
    }

    fn drawn(&self, random: &mut Random) -> Vec<u8> {
        let (oldest, newest) = (&self.versions[0], &self.versions[self.versions.len() - 1]);
        let any = |random: &mut Random| random.below(self.versions.len() as u32) as usize;
        match random.below(6) {
            0 => return newest.clone(),
            1 => return oldest.clone(),
            2 => return self.versions[any(random)].clone(),
            _ => {}
        }
        let sector = SECTORS[random.below(2) as usize];
        let longest = self.versions.iter().map(Vec::len).max().unwrap_or(0);
        let count = longest.div_ceil(sector);
        let in_order = random.below(2) == 0;
        let (border, torn) = (random.below(count as u32 + 1), random.below(2 * count as u32 + 1));
        let mut content = Vec::with_capacity(longest);
        for index in 0..count {
            let start = index * sector;
            let which = match in_order {
                true if index < border as usize => self.versions.len() - 1,
                true => 0,
                false => any(random),
            };
            let mut octets = part(&self.versions[which], start, sector);
            if index == torn as usize {
                let other = part(&self.versions[any(random)], start, sector);
                let at = random.below(sector as u32) as usize;
                octets[at..].copy_from_slice(&other[at..]);
            }
            content.extend(octets);
        }
        content.resize(self.lengths[random.below(self.lengths.len() as u32) as usize], 0);
        content
    }
}

/// What a power cut leaves.
pub fn cuts(moment: &Moment, effort: Effort, random: &mut Random) -> Vec<Image> {
    let boots = moment.boots() + 1;
    let files: Vec<Unsynced> =
        moment.inodes().filter_map(|inode| Unsynced::of(moment, inode)).collect();
    let names = moment.unsynced_names();
    let image = |kept: &[usize], contents: &[Vec<u8>]| {
        let names = moment.names_left(|index| kept[index] == 1);
        Image::of(&names, boots, |inode| match files.iter().position(|file| file.inode == inode) {
            Some(index) => contents[index].clone(),
            None => moment.content(inode).to_vec(),
        })
    };
    let mut radices = vec![2; names];
    radices.extend(files.iter().flat_map(Unsynced::choices));
    let all = radices.iter().try_fold(1_usize, |all, &radix| all.checked_mul(radix));
    if all.is_none_or(|all| all > effort.all_max) {
        let draw = |_| {
            let kept: Vec<usize> = (0..names).map(|_| random.below(2) as usize).collect();
            let contents: Vec<Vec<u8>> = files.iter().map(|file| file.drawn(random)).collect();
            image(&kept, &contents)
        };
        return (0..effort.drawn).map(draw).collect();
    }
    let mut images = Vec::new();
    for mut number in 0..all.unwrap_or(0) {
        let digits: Vec<usize> = radices
            .iter()
            .map(|&radix| {
                let digit = number % radix;
                number /= radix;
                digit
            })
            .collect();
        let (kept, mut rest) = digits.split_at(names);
        let contents = files.iter().map(|file| {
            let (own, others) = rest.split_at(1 + file.sectors.len());
            rest = others;
            file.chosen(own)
        });
        images.push(image(kept, &contents.collect::<Vec<_>>()));
    }
    images
}
