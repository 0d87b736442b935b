//! What a function writes, to be shown: `std::fmt::from_fn`, which the oldest Rust that builds this
//! does not have.

use std::fmt;

struct Shown<F>(F);

/// Shows what `write` writes.
pub fn shown<F>(write: F) -> impl fmt::Display
where
    F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result,
{
    Shown(write)
}

impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Shown<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)(f)
    }
}
