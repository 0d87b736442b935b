//! [`Token`] and [`Authenticator`]: octets that a NAT64 chose and wants back as they are.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::handoff::message::MESSAGE_DATA_MAX;

/// Up to this many octets stand in the value itself, without an allocation: a MAC of 16 does.
const INLINE_MAX: usize = 22;
/// The length of the MAC that most NAT64s choose, in octets.
const MAC_LENGTH: usize = 16;

const _: () = assert!(size_of::<Octets>() == 24 && size_of::<Authenticator>() == 24);

#[derive(Clone)]
enum Octets {
    Inline { length: u8, octets: [u8; INLINE_MAX] },
    Long(Box<[u8]>),
}

impl Octets {
    fn new(octets: &[u8]) -> Option<Self> {
        let length = octets.len();
        if length > MESSAGE_DATA_MAX || !length.is_multiple_of(2) {
            return None;
        }
        let mut inline = [0; INLINE_MAX];
        if let Ok(mac) = <&[u8; MAC_LENGTH]>::try_from(octets) {
            // The usual one is copied without a call.
            inline[..MAC_LENGTH].copy_from_slice(mac);
            return Some(Self::Inline { length: MAC_LENGTH as u8, octets: inline });
        }
        Some(match inline.get_mut(..length) {
            Some(start) => {
                start.copy_from_slice(octets);
                Self::Inline { length: length as u8, octets: inline }
            }
            None => Self::Long(octets.into()),
        })
    }

    fn get(&self) -> &[u8] {
        match self {
            Self::Inline { length, octets } => &octets[..usize::from(*length)],
            Self::Long(octets) => octets,
        }
    }

    #[inline]
    fn is(&self, octets: &[u8]) -> bool {
        let own = self.get();
        // Mostly a MAC, which is compared as words, without a call.
        match (<&[u8; MAC_LENGTH]>::try_from(own), <&[u8; MAC_LENGTH]>::try_from(octets)) {
            (Ok(own), Ok(octets)) => own == octets,
            _ => own == octets,
        }
    }
}

macro_rules! opaque {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        ///
        /// Opaque to us: an even number of octets from 0 to 510, kept and returned exactly.
        #[derive(Clone)]
        pub struct $name(Octets);

        impl $name {
            /// `None` where the length is odd or over [`MESSAGE_DATA_MAX`]: no message can carry
            /// that.
            pub fn new(octets: &[u8]) -> Option<Self> {
                Octets::new(octets).map(Self)
            }

            pub fn octets(&self) -> &[u8] {
                self.0.get()
            }

            /// Whether these are its octets.
            #[inline]
            pub fn is(&self, octets: &[u8]) -> bool {
                self.0.is(octets)
            }
        }

        /// No octets.
        impl Default for $name {
            fn default() -> Self {
                Self(Octets::Inline { length: 0, octets: [0; INLINE_MAX] })
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.is(other.octets())
            }
        }

        impl Eq for $name {}

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.octets().hash(state);
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "("))?;
                self.octets().iter().try_for_each(|octet| write!(f, "{octet:02x}"))?;
                f.write_str(")")
            }
        }
    };
}

opaque! {
/// The data of a message of type 4: what the NAT64 knows the server by.
Token
}
opaque! {
/// The data of a message of type 6: what the NAT64 knows a client by.
Authenticator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_2_any_even_length_is_kept() {
        for length in 0..=MESSAGE_DATA_MAX + 2 {
            let octets: Vec<u8> = (0..length).map(|i| i as u8 ^ 0x5a).collect();
            let token = Token::new(&octets);
            assert_eq!(token.is_some(), length % 2 == 0 && length <= MESSAGE_DATA_MAX, "{length}");
            let Some(token) = token else { continue };
            assert_eq!(token.octets(), octets);
            assert_eq!(token, token.clone());
            assert!(matches!(token.0, Octets::Inline { .. }) == (length <= INLINE_MAX));
            if length > 0 {
                assert_ne!(Token::new(&octets[..length - 2]), Some(token));
            }
        }
        assert_eq!(Token::default(), Token::new(&[]).unwrap());
    }
}
