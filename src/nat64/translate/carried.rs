//! What a packet carries behind its headers: the same for both IP versions.

use super::{Refusal, Refused, Transport};
use crate::ip::flow::{Class, Truncated};

/// What a packet carries that can be translated. `E` is an ICMP error with what it quotes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Carried<E> {
    /// TCP, UDP or an ICMP echo: whole, or the first fragment.
    Transport(Transport),
    /// A fragment behind the first.
    Later(Transport),
    Error(E),
}

impl<E> Carried<E> {
    /// `protocol` is that behind all headers of the packet, `unknown` what its sender is told where
    /// it is none of these. `is_echo` and `error` are about ICMP of the packet's own version.
    pub(super) fn of(
        class: Result<Class<'_>, Truncated>,
        protocol: u8,
        unknown: Refused,
        is_echo: fn(u8) -> bool,
        error: impl FnOnce() -> Result<E, Refusal>,
    ) -> Result<Self, Refused> {
        match class.map_err(|Truncated| Refusal::HeaderTruncated)? {
            Class::Ports { transport, .. } => Ok(Self::Transport(transport)),
            Class::Icmp(kind) if is_echo(kind.ok_or(Refusal::HeaderTruncated)?) => {
                Ok(Self::Transport(Transport::Echo))
            }
            Class::Icmp(_) => Err(Refusal::IcmpType.into()),
            Class::Error(_) => Ok(Self::Error(error()?)),
            Class::Later(_) => Transport::of(protocol).map(Self::Later).ok_or(unknown),
            Class::Other => Err(unknown),
        }
    }
}
