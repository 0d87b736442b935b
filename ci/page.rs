//! The page of a running server (`--web`), in a real browser: headless Chromium, driven by
//! chromedriver. Not here: what the answers behind it say (`ci/protocol/admin.rs`).
//!
//! The Debian packages that are missing are installed by `ci/packages`.

#![expect(clippy::disallowed_methods, reason = "tests outside the core read the clock themselves")]

#[path = "harness/mod.rs"]
mod harness;
#[path = "judge/mod.rs"]
mod judge;
#[path = "harness/server.rs"]
mod server;

#[path = "page/browser.rs"]
mod browser;
#[path = "page/shown.rs"]
mod shown;
