//! Lines of the event log for whoever watches them as they are written.
//!
//! The log's thread never waits for a watcher: it copies what there is room for into a ring, and
//! counts the lines that there is none for. While nobody watches, it looks at a flag once a batch;
//! and the watcher, who is told once until it reads, bounds by its pauses what is copied in a
//! second.
//!
//! Not here: lines of the past, and a reader that must have every line. The files have them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use memchr::{memchr_iter, memrchr};
use rtrb::{Consumer, Producer, RingBuffer};

/// Octets that wait for the watcher: some 900 lines.
pub const TAP_OCTETS: usize = 64 * 1024;

#[derive(Debug, Default)]
struct TapShared {
    /// Somebody watches.
    wanted: AtomicBool,
    /// Lines that found no room.
    missed: AtomicU64,
    /// The watcher was told since it read.
    told: AtomicBool,
}

/// The log's end.
pub struct LogTap {
    shared: Arc<TapShared>,
    /// Of the log's thread alone.
    ring: Mutex<Producer<u8>>,
    tell: Box<dyn Fn() + Send + Sync>,
}

/// The watcher's end.
pub struct TapReader {
    shared: Arc<TapShared>,
    ring: Consumer<u8>,
}

/// Both ends. `tell` is called on the log's thread when there are lines for the first time since
/// they were read, and must not wait.
pub fn log_tap(tell: impl Fn() + Send + Sync + 'static) -> (LogTap, TapReader) {
    let (producer, ring) = RingBuffer::new(TAP_OCTETS);
    let shared = Arc::<TapShared>::default();
    let tap =
        LogTap { shared: Arc::clone(&shared), ring: Mutex::new(producer), tell: Box::new(tell) };
    (tap, TapReader { shared, ring })
}

impl LogTap {
    /// Whole lines that were written, for the watcher if there is one.
    pub(super) fn offer(&self, lines: &[u8]) {
        if !self.shared.wanted.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut ring) = self.ring.try_lock() else { return };
        let room = ring.slots().min(lines.len());
        let end = memrchr(b'\n', &lines[..room]).map_or(0, |end| end + 1);
        let (fitting, others) = lines.split_at(end);
        // There is room for it, as nobody else writes.
        if let Ok(mut chunk) = ring.write_chunk(fitting.len()) {
            let (first, second) = chunk.as_mut_slices();
            let (begin, rest) = fitting.split_at(first.len());
            first.copy_from_slice(begin);
            second.copy_from_slice(rest);
            chunk.commit_all();
        }
        if !others.is_empty() {
            let missed = memchr_iter(b'\n', others).count() as u64;
            self.shared.missed.fetch_add(missed, Ordering::Relaxed);
        }
        // After the lines, as the watcher looks for them after it has cleared this.
        if !self.shared.told.swap(true, Ordering::AcqRel) {
            (self.tell)();
        }
    }
}

impl TapReader {
    /// Whether somebody watches. What was written while nobody did is not there.
    pub fn set_wanted(&mut self, wanted: bool) {
        self.shared.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Appends the lines that have come, and returns how many are missing after them, as they came
    /// faster than they were read.
    pub fn read(&mut self, lines: &mut Vec<u8>) -> u64 {
        self.shared.told.swap(false, Ordering::AcqRel);
        let missed = self.shared.missed.swap(0, Ordering::Relaxed);
        if let Ok(chunk) = self.ring.read_chunk(self.ring.slots()) {
            let (first, second) = chunk.as_slices();
            lines.extend_from_slice(first);
            lines.extend_from_slice(second);
            chunk.commit_all();
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn what_is_too_much_is_counted_in_whole_lines() {
        let told = Arc::new(AtomicUsize::new(0));
        let tell = Arc::clone(&told);
        let count = move || {
            tell.fetch_add(1, Ordering::Relaxed);
        };
        let (tap, mut reader) = log_tap(count);
        let mut read = Vec::new();
        tap.offer(b"before\n");
        assert_eq!((reader.read(&mut read), read.len()), (0, 0), "nobody watched");
        reader.set_wanted(true);
        tap.offer(b"first\nsecond\n");
        assert_eq!((reader.read(&mut read), &read[..]), (0, &b"first\nsecond\n"[..]));
        read.clear();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let many = line.repeat(TAP_OCTETS / 100 + 7);
        tap.offer(&many);
        assert_eq!(reader.read(&mut read), 7);
        assert_eq!(read, line.repeat(TAP_OCTETS / 100));
        assert_eq!(told.load(Ordering::Relaxed), 2);
        tap.offer(b"third\n");
        tap.offer(b"fourth\n");
        assert_eq!(told.load(Ordering::Relaxed), 3, "once until it is read");
        read.clear();
        assert_eq!((reader.read(&mut read), &read[..]), (0, &b"third\nfourth\n"[..]));
    }
}
