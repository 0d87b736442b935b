//! The programs that `nat64handoff` is: serve, gateway, demo, and the command line that they share.

pub mod demo;
pub mod gateway;
pub mod options;
pub mod serve;
