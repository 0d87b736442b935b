//! The programs that `nat64handoff` is: serve, gateway, demo, and the command line that they share.

pub mod accounts;
pub mod annotate;
pub mod ask;
pub mod ban_set;
mod copies;
pub mod deliver_device;
pub mod demo;
pub mod exit;
pub mod follow;
pub mod gateway;
pub mod history;
pub mod journal;
pub mod log_place;
pub mod manual;
pub mod options;
pub mod peer_names;
pub mod progress;
pub mod prometheus;
pub mod report;
pub mod serve;
pub mod top;
pub mod who;
