//! What an operator does to a process: bans, questions, signals.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::Ipv6Net;
use nat64handoff::disk::bans;
use nat64handoff::programs::serve::bans::BanBook;
use nat64handoff::programs::serve::inquiry::{Inquiry, NoAnswer, Question};

use super::Process;

impl Process {
    /// SIGHUP: the path of the log is opened anew.
    pub fn reopen_log(&self) {
        if let Some(recorded) = &self.recorded {
            recorded.log.reopen();
        }
    }

    /// No compaction begins, as while a successor reads ahead.
    pub fn hold_compaction(&self, held: bool) {
        if let Some(recorded) = &self.recorded {
            recorded.storage.hold_compaction(held);
        }
    }

    /// Bans clients for this time, or for good.
    pub fn ban(&mut self, net: Ipv6Net, length: Option<Duration>) -> Result<(), String> {
        let now = self.clock.now();
        self.change_bans(|book| book.ban(net, length, now).map(drop).map_err(|e| e.to_string()))
    }

    /// Bans them no more.
    pub fn unban(&mut self, net: Ipv6Net) -> Result<(), String> {
        self.change_bans(|book| book.unban(net).map(drop).map_err(|error| error.to_string()))
    }

    fn change_bans(
        &mut self,
        change: impl FnOnce(&mut BanBook) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut book = self.book.clone();
        book.pass(self.clock.now());
        change(&mut book)?;
        bans::write(&*self.place.disk, &self.place.root, &book.file())
            .map_err(|error| error.to_string())?;
        self.book = book;
        self.bring_bans();
        Ok(())
    }

    /// Those that count now are written, and brought to all reactors; else it is tried again.
    pub(super) fn keep_bans(&mut self) {
        let written = bans::write(&*self.place.disk, &self.place.root, &self.book.file());
        self.bring_bans();
        self.are_bans_late |= written.is_err();
    }

    fn bring_bans(&mut self) {
        let bans = self.book.bans();
        self.are_bans_late = false;
        for seat in &self.seats {
            self.are_bans_late |= seat.desk.put(Question::Bans, bans.clone()).is_err();
            seat.woken.store(true, Ordering::Relaxed);
        }
    }

    /// Asks a reactor, which answers with its next turn but one.
    pub fn ask(&self, reactor: usize, question: Question) -> Result<(), NoAnswer> {
        self.seats[reactor].woken.store(true, Ordering::Relaxed);
        self.seats[reactor].desk.put(question, None)
    }

    /// The answer to what a reactor was asked last, if it has answered.
    pub fn answer<T>(&self, reactor: usize, read: impl FnOnce(&Inquiry) -> T) -> Option<T> {
        self.seats[reactor].desk.answered(read)
    }
}
