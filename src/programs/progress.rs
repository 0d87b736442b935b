//! How far long work is: a line on a terminal, and nothing anywhere else.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Drawn so often, a second, at most.
const DRAWN_A_SECOND: u8 = 10;

/// Long work. The line is gone with the value.
#[derive(Debug, Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Of work that is told in octets. Nothing is drawn where standard error is no terminal.
    pub fn of_octets() -> Self {
        Self::drawn("{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} to go")
    }

    fn drawn(template: &str) -> Self {
        if !io::stderr().is_terminal() {
            return Self::hidden();
        }
        let target = ProgressDrawTarget::stderr_with_hz(DRAWN_A_SECOND);
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// One that is never drawn.
    pub fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// What is done now.
    pub fn say(&self, what: impl FnOnce() -> String) {
        if !self.0.is_hidden() {
            self.0.set_message(what());
        }
    }

    /// So much is done, of so much.
    pub fn set(&self, done: u64, all: u64) {
        self.0.set_length(all.max(done));
        self.0.set_position(done);
    }

    /// The line is gone, as what follows is to be read.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}
