//! A disk in memory: it can fail at any operation, and forgets at a power cut what was not synced,
//! as a whole, by pages or in the middle of a write. Names that were not synced with their
//! directory come and go alike.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use nat64handoff::disk::fs::{Boot, Disk, DiskFile};
use nat64handoff::handoff::random::Random;

#[path = "moments.rs"]
mod moments;

pub use moments::{Moment, Names};

const PAGE: usize = 4096;

/// What an operation does instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    InputOutput,
    NoSpace,
    /// A write takes one octet; anything else works.
    Short,
    /// The power goes: this and all further operations fail.
    Crash,
}

/// What tests let happen at each operation in turn, and whether it stays so.
pub const FAULTS: [(Fault, bool); 6] = [
    (Fault::InputOutput, false),
    (Fault::InputOutput, true),
    (Fault::NoSpace, false),
    (Fault::NoSpace, true),
    (Fault::Short, true),
    (Fault::Crash, true),
];

#[derive(Debug, Clone, Default)]
struct Inode {
    synced: Vec<u8>,
    now: Vec<u8>,
    unsynced: Vec<Edit>,
}

#[derive(Debug, Clone)]
enum Edit {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Debug, Clone, Copy)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Debug, Clone)]
enum NameEdit {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

#[derive(Debug, Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    now: BTreeMap<PathBuf, Node>,
    synced: BTreeMap<PathBuf, Node>,
    unsynced: Vec<NameEdit>,
    boots: u8,
    operations: u64,
    fault: Option<(u64, Fault, bool)>,
    crashed: bool,
    ignores_sync: bool,
    /// What it was before each operation that changed it, where that is kept.
    moments: Option<Vec<Moment>>,
    /// Of the moments that come.
    mark: usize,
    /// The files that are synced after they were renamed, where that is so.
    late: Option<Vec<usize>>,
}

/// See above.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone)]
struct SimFile(SimDisk, usize);

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.1)
    }
}

impl Node {
    fn is(&self, inode: usize) -> bool {
        matches!(self, Node::File(file) if *file == inode)
    }
}

impl Edit {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Edit::Write(at, octets) => {
                let end = at + octets.len();
                content.resize(content.len().max(end), 0);
                content[*at..end].copy_from_slice(octets);
            }
            Edit::Truncate(length) => content.resize(*length, 0),
        }
    }
}

impl NameEdit {
    fn has(&self, inode: usize) -> bool {
        let (NameEdit::Add(_, node) | NameEdit::Rename(_, _, node)) = self else { return false };
        node.is(inode)
    }

    fn directory(&self) -> &Path {
        let (NameEdit::Add(path, _) | NameEdit::Remove(path) | NameEdit::Rename(path, ..)) = self;
        path.parent().unwrap()
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameEdit::Add(path, node) => drop(names.insert(path.clone(), *node)),
            NameEdit::Remove(path) => drop(names.remove(path)),
            NameEdit::Rename(from, to, node) => {
                let inside: Vec<_> =
                    names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in inside {
                    let node = names.remove(&path).unwrap();
                    if path != *from {
                        names.insert(to.join(path.strip_prefix(from).unwrap()), node);
                    }
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// What is in a directory that is not there is not there.
fn remove_unreachable(names: &mut BTreeMap<PathBuf, Node>) {
    let directories = names.clone();
    names.retain(|path, _| {
        path.components().count() <= 2 || directories.contains_key(path.parent().unwrap())
    });
}

/// Writes some of the pages of a write.
fn write_pages(kept: &mut Vec<u8>, at: usize, octets: &[u8], random: &mut Random) {
    let mut start = 0;
    while start < octets.len() {
        let page_end = (at + start) / PAGE * PAGE + PAGE;
        let end = octets.len().min(page_end - at);
        if random.below(2) == 0 {
            Edit::Write(at + start, octets[start..end].to_vec()).apply(kept);
        }
        start = end;
    }
}

impl Inode {
    fn sync(&mut self) {
        self.synced = self.now.clone();
        self.unsynced.clear();
    }

    fn crash(&mut self, random: &mut Random) {
        let mut kept = self.synced.clone();
        match random.below(4) {
            0 => kept = self.now.clone(),
            1 => {}
            2 => {
                for edit in &self.unsynced {
                    match edit {
                        Edit::Truncate(_) if random.below(2) == 0 => edit.apply(&mut kept),
                        Edit::Truncate(_) => {}
                        Edit::Write(at, octets) => write_pages(&mut kept, *at, octets, random),
                    }
                }
            }
            _ => {
                let whole = random.below(self.unsynced.len() as u32 + 1) as usize;
                self.unsynced[..whole].iter().for_each(|edit| edit.apply(&mut kept));
                if let Some(Edit::Write(at, octets)) = self.unsynced.get(whole) {
                    let part = random.below(octets.len() as u32 + 1) as usize;
                    Edit::Write(*at, octets[..part].to_vec()).apply(&mut kept);
                }
            }
        }
        *self = Inode { synced: kept.clone(), now: kept, unsynced: Vec::new() };
    }
}

impl SimDisk {
    pub fn new(root: &Path) -> Self {
        let disk = Self::default();
        disk.lock().now.insert(root.to_owned(), Node::Directory);
        disk.lock().synced.insert(root.to_owned(), Node::Directory);
        disk.lock().boots = 1;
        disk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Operation number `at` from now on goes wrong, and `for_good` all after it.
    pub fn fail(&self, at: u64, fault: Fault, for_good: bool) {
        let mut state = self.lock();
        let at = state.operations + at;
        state.fault = Some((at, fault, for_good));
    }

    pub fn heal(&self) {
        self.lock().fault = None;
    }

    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The canary: nothing that is synced is.
    pub fn ignore_sync(&self) {
        self.lock().ignores_sync = true;
    }

    /// What a power cut leaves.
    pub fn power_cut(&self, random: &mut Random) {
        let mut state = self.lock();
        state.keep_moment();
        state.inodes.iter_mut().for_each(|inode| inode.crash(random));
        let edits = std::mem::take(&mut state.unsynced);
        for edit in edits {
            if random.below(2) == 0 {
                edit.apply(&mut state.synced);
            }
        }
        remove_unreachable(&mut state.synced);
        state.now = state.synced.clone();
        state.crashed = false;
        state.fault = None;
        state.boots += 1;
    }

    /// The content of a file, to look at or to damage.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.lock();
        let Some(Node::File(inode)) = state.now.get(path) else { panic!("{path:?}") };
        state.inodes[*inode].now.clone()
    }

    pub fn set_content(&self, path: &Path, content: Vec<u8>) {
        let mut state = self.lock();
        let Some(&Node::File(inode)) = state.now.get(path) else { panic!("{path:?}") };
        state.inodes[inode] = Inode { synced: content.clone(), now: content, unsynced: Vec::new() };
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.lock();
        let is_file = |node: &Node| matches!(node, Node::File(_));
        state.now.iter().filter(|(_, node)| is_file(node)).map(|(path, _)| path.clone()).collect()
    }

    /// A disk with the same content, everything of it synced.
    pub fn copy(&self) -> Self {
        let state = self.lock();
        let mut inodes = state.inodes.clone();
        for inode in &mut inodes {
            inode.synced = inode.now.clone();
            inode.unsynced.clear();
        }
        let (now, boots) = (state.now.clone(), state.boots);
        let synced = now.clone();
        Self(Arc::new(Mutex::new(State { inodes, now, synced, boots, ..State::default() })))
    }

    fn operate(&self) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.lock();
        let number = state.operations;
        state.operations += 1;
        if state.crashed {
            return Err(io::Error::from_raw_os_error(5));
        }
        let hit = state
            .fault
            .filter(|&(at, _, for_good)| number == at || for_good && number > at)
            .map(|(_, fault, _)| fault);
        match hit {
            None => Ok((state, false)),
            Some(Fault::Short) => Ok((state, true)),
            Some(Fault::InputOutput) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::NoSpace) => Err(io::Error::from_raw_os_error(28)),
            Some(Fault::Crash) => {
                state.crashed = true;
                Err(io::Error::from_raw_os_error(5))
            }
        }
    }

    fn name(state: &mut State, edit: NameEdit) {
        state.keep_moment();
        edit.apply(&mut state.now);
        state.unsynced.push(edit);
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let (state, _) = self.operate()?;
        state.now.get(directory).ok_or_else(not_found)?;
        // Paths are compared by their octets: by their components it would take long.
        let inside = state.now.keys().filter_map(|path| {
            let path = path.as_os_str().as_bytes();
            let rest = path.strip_prefix(directory.as_os_str().as_bytes())?;
            let name = rest.strip_prefix(b"/")?;
            (!name.contains(&b'/')).then(|| OsStr::from_bytes(name).to_owned())
        });
        Ok(inside.collect())
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        let (mut state, _) = self.operate()?;
        if state.now.contains_key(directory) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Self::name(&mut state, NameEdit::Add(directory.to_owned(), Node::Directory));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let (mut state, _) = self.operate()?;
        state.now.get(path.parent().unwrap()).ok_or_else(not_found)?;
        // A file that is emptied is another one here: nothing relies on the old content.
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        Self::name(&mut state, NameEdit::Add(path.to_owned(), Node::File(inode)));
        Ok(Arc::new(SimFile(self.clone(), inode)))
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn DiskFile>> {
        let (state, _) = self.operate()?;
        match state.now.get(path) {
            Some(&Node::File(inode)) => Ok(Arc::new(SimFile(self.clone(), inode))),
            _ => Err(not_found()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, _) = self.operate()?;
        let node = *state.now.get(from).ok_or_else(not_found)?;
        Self::name(&mut state, NameEdit::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, _) = self.operate()?;
        state.now.get(path).ok_or_else(not_found)?;
        Self::name(&mut state, NameEdit::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_dir(&self, directory: &Path) -> io::Result<()> {
        self.remove(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let (mut state, _) = self.operate()?;
        if state.ignores_sync {
            return Ok(());
        }
        state.keep_moment();
        let edits = std::mem::take(&mut state.unsynced);
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            edits.into_iter().partition(|edit| edit.directory() == directory);
        here.iter().for_each(|edit| edit.apply(&mut state.synced));
        state.unsynced = elsewhere;
        state.sync_late_ones();
        Ok(())
    }

    fn boot(&self) -> Boot {
        [self.lock().boots; 16]
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (state, _) = self.0.operate()?;
        let rest = state.inodes[self.1].now.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, octets: &[u8], offset: u64) -> io::Result<usize> {
        let (mut state, short) = self.0.operate()?;
        let octets = if short { &octets[..1] } else { octets };
        state.keep_moment();
        let edit = Edit::Write(offset as usize, octets.to_vec());
        edit.apply(&mut state.inodes[self.1].now);
        state.inodes[self.1].unsynced.push(edit);
        Ok(octets.len())
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, _) = self.0.operate()?;
        if state.ignores_sync || state.is_late(self.1) {
            return Ok(());
        }
        state.keep_moment();
        state.inodes[self.1].sync();
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let (mut state, _) = self.0.operate()?;
        state.keep_moment();
        let edit = Edit::Truncate(length as usize);
        edit.apply(&mut state.inodes[self.1].now);
        state.inodes[self.1].unsynced.push(edit);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let (state, _) = self.0.operate()?;
        Ok(state.inodes[self.1].now.len() as u64)
    }
}
