//! What the simulated disk was before each operation that changed it, and what a power cut may
//! leave of that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use nat64handoff::disk::fs::TEMPORARY;

use super::{Edit, Inode, Node, SimDisk, State, remove_unreachable};

/// What a disk was when an operation began that changes it, and what a power cut may leave of it.
#[derive(Debug, Clone)]
pub struct Moment {
    /// What was [marked](SimDisk::mark) last.
    pub mark: usize,
    state: State,
}

/// The names of a disk: a directory has no inode.
pub type Names = BTreeMap<PathBuf, Option<usize>>;

impl State {
    /// Keeps what there is before it changes.
    pub(super) fn keep_moment(&mut self) {
        if let Some(mut moments) = self.moments.take() {
            let mut state = self.clone();
            // What has no name any more comes back in no way.
            let named = |names: &BTreeMap<PathBuf, Node>, inode: usize| {
                names.values().any(|node| node.is(inode))
            };
            for inode in 0..state.inodes.len() {
                let later = state.unsynced.iter().any(|edit| edit.has(inode));
                if !named(&state.now, inode) && !named(&state.synced, inode) && !later {
                    state.inodes[inode] = Inode::default();
                }
            }
            moments.push(Moment { mark: self.mark, state });
            self.moments = Some(moments);
        }
    }

    /// Whether a file is to be synced later.
    pub(super) fn is_late(&mut self, inode: usize) -> bool {
        let Some(late) = &mut self.late else { return false };
        let mut names = self.now.iter().filter(|(_, node)| node.is(inode));
        let temporary = names.any(|(path, _)| path.to_string_lossy().ends_with(TEMPORARY));
        if temporary {
            late.push(inode);
        }
        temporary
    }

    pub(super) fn sync_late_ones(&mut self) {
        for inode in self.late.as_mut().map(std::mem::take).unwrap_or_default() {
            self.keep_moment();
            self.inodes[inode].sync();
        }
    }
}

impl Moment {
    /// The run of the machine.
    pub fn boots(&self) -> u8 {
        self.state.boots
    }

    /// The names that there are.
    pub fn names(&self) -> Names {
        Self::names_of(&self.state.now)
    }

    /// How many changes of names are not synced.
    pub fn unsynced_names(&self) -> usize {
        self.state.unsynced.len()
    }

    /// The names that a power cut leaves where it takes all changes but these.
    pub fn names_left(&self, kept: impl Fn(usize) -> bool) -> Names {
        let mut names = self.state.synced.clone();
        for (index, edit) in self.state.unsynced.iter().enumerate() {
            if kept(index) {
                edit.apply(&mut names);
            }
        }
        remove_unreachable(&mut names);
        Self::names_of(&names)
    }

    fn names_of(names: &BTreeMap<PathBuf, Node>) -> Names {
        let inode = |node: &Node| match *node {
            Node::Directory => None,
            Node::File(inode) => Some(inode),
        };
        names.iter().map(|(path, node)| (path.clone(), inode(node))).collect()
    }

    /// The contents that a file had since it was synced: first what is synced, last what it has.
    pub fn versions(&self, inode: usize) -> Vec<Vec<u8>> {
        let Inode { synced, unsynced, .. } = &self.state.inodes[inode];
        let mut versions = vec![synced.clone()];
        for edit in unsynced {
            let mut next = versions[versions.len() - 1].clone();
            edit.apply(&mut next);
            versions.push(next);
        }
        versions
    }

    /// All files that there were.
    pub fn inodes(&self) -> std::ops::Range<usize> {
        0..self.state.inodes.len()
    }

    /// What a file has.
    pub fn content(&self, inode: usize) -> &[u8] {
        &self.state.inodes[inode].now
    }

    /// The inode, offset and octets of the write that came between `before` and this.
    pub fn written_since(&self, before: &Moment) -> Option<(usize, usize, &[u8])> {
        let pairs = self.state.inodes.iter().zip(&before.state.inodes).enumerate();
        let mut longer = pairs.filter(|(_, (now, then))| now.unsynced.len() > then.unsynced.len());
        let (inode, (Inode { unsynced, .. }, _)) = longer.next()?;
        match unsynced.last()? {
            Edit::Write(at, octets) => Some((inode, *at, octets)),
            Edit::Truncate(_) => None,
        }
    }
}

impl SimDisk {
    /// A disk with these files and directories, all of them synced.
    pub fn of(files: &BTreeMap<PathBuf, Option<Vec<u8>>>, boots: u8) -> Self {
        let mut state = State { boots, ..State::default() };
        for (path, content) in files {
            let node = match content {
                None => Node::Directory,
                Some(content) => {
                    let (synced, now) = (content.clone(), content.clone());
                    state.inodes.push(Inode { synced, now, unsynced: Vec::new() });
                    Node::File(state.inodes.len() - 1)
                }
            };
            state.now.insert(path.clone(), node);
        }
        state.synced = state.now.clone();
        Self(Arc::new(Mutex::new(state)))
    }

    /// The canary: a file that has its temporary name is synced only after it was renamed.
    pub fn sync_late(&self) {
        self.lock().late = Some(Vec::new());
    }

    /// Keeps all moments from now on.
    pub fn keep_moments(&self) {
        self.lock().moments = Some(Vec::new());
    }

    /// The moments since they are kept, the last of which is now.
    pub fn take_moments(&self) -> Vec<Moment> {
        let mut state = self.lock();
        state.keep_moment();
        state.moments.take().unwrap_or_default()
    }

    /// What the moments from now on are marked with.
    pub fn mark(&self, mark: usize) {
        self.lock().mark = mark;
    }
}
