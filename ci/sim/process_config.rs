//! What a simulated process is started with.

use std::sync::Arc;
use std::time::Duration;

use nat64handoff::disk::storage::{StorageConfig, SyncPolicy};
use nat64handoff::handoff::change::LogFormat;
use nat64handoff::handoff::server::{AccessList, Budget, CREATE_RATE_DEFAULT, ServerConfig};
use nat64handoff::handoff::table::TableLimits;
use nat64handoff::handoff::validation::ValidationRate;
use nat64handoff::kernel::backend::BATCH_MAX;

use super::log_disk::LogDisk;

/// What an operator configures, and what the kernel gives.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    pub reactors: usize,
    pub handoff_port: u16,
    pub sync: SyncPolicy,
    pub format: LogFormat,
    /// Days that files of the log are kept; 0: for ever.
    pub keep_days: u32,
    pub nat64s_max: usize,
    pub entries_max: usize,
    pub limits: TableLimits,
    pub create_rate: u32,
    pub validation_rate: u32,
    pub access: AccessList,
    /// Bounds of the journal: see [`StorageConfig`].
    pub segment_max: u64,
    pub compact_min: u64,
    pub segments_max: usize,
    pub journal_max: u64,
    /// Whether others may come between two operations of the disk of who works for the journal.
    /// It costs threads.
    pub interleaves: bool,
    /// What the log's file is on.
    pub log_disk: LogDisk,
    /// Whether names that are found are compared with the tables. Without that, it is a canary.
    pub fills_names: bool,
    /// Datagrams that a socket holds.
    pub queue_max: usize,
    /// The most datagrams that a reactor takes in a turn, at most [`BATCH_MAX`].
    pub batch_max: usize,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        let sync = SyncPolicy::Interval(Duration::from_millis(100));
        let storage = StorageConfig::new(1, 64064, sync);
        Self {
            reactors: 2,
            handoff_port: 64064,
            sync,
            format: LogFormat::Full,
            keep_days: 0,
            nat64s_max: 1000,
            entries_max: 100_000,
            limits: TableLimits::default(),
            create_rate: CREATE_RATE_DEFAULT,
            validation_rate: 10_000,
            access: AccessList::default(),
            segment_max: storage.segment_max,
            compact_min: storage.compact_min,
            segments_max: storage.segments_max,
            journal_max: storage.journal_max,
            interleaves: false,
            log_disk: LogDisk::default(),
            fills_names: true,
            queue_max: 256,
            batch_max: BATCH_MAX,
        }
    }
}

impl ProcessConfig {
    pub(super) fn storage(&self) -> StorageConfig {
        StorageConfig {
            segment_max: self.segment_max,
            compact_min: self.compact_min,
            segments_max: self.segments_max,
            journal_max: self.journal_max,
            threads: false,
            ..StorageConfig::new(self.reactors, self.handoff_port, self.sync)
        }
    }

    pub(super) fn server(&self) -> ServerConfig {
        ServerConfig {
            handoff_port: self.handoff_port,
            limits: self.limits,
            validation_rate: Arc::new(ValidationRate::new(self.validation_rate)),
            create_rate: self.create_rate,
            budget: Arc::new(Budget::new(self.nat64s_max, self.entries_max)),
            access: Arc::new(self.access.clone()),
        }
    }
}
