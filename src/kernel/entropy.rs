//! The one place that draws randomness. The pure rooms get it as an argument.

use std::io;

/// `N` octets of the kernel's randomness, for seeds and keys.
///
/// # Errors
/// Where the kernel refuses: without `getrandom` and without `/dev/urandom`.
#[expect(clippy::disallowed_methods, reason = "the one place that draws randomness")]
pub fn octets<const N: usize>() -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).map_err(io::Error::other)?;
    Ok(octets)
}
