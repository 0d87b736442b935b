//! An input, octet by octet.

/// What an input says, octet by octet. Zeros follow it.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u16()) % bound.max(1)
    }
}
