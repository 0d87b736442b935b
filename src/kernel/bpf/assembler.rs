//! Instructions of eBPF (RFC 9669), as far as our programs use them.
//!
//! All jumps lead forward, most to the end of the program: what does not apply is left as it is.

use std::os::fd::{AsRawFd, BorrowedFd};

/// A register. `R0` has what a function returned, `R1` to `R5` are its arguments and are lost by
/// the call, `R6` to `R9` stay, `R10` points behind the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
}

/// How many octets are read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Width {
    Word = 0x00,
    Half = 0x08,
    Double = 0x18,
}

/// A function of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Function {
    MapLookup = 1,
    StorageGet = 107,
    /// The number of the network namespace that the program runs for.
    Namespace = 122,
    /// Nanoseconds since the boot, with the time that the machine slept.
    BootTime = 125,
}

/// Whether two values are equal, or one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Condition {
    Equal = 0x10,
    Greater = 0x20,
    NotEqual = 0x50,
}

const CLASS_LOAD_IMMEDIATE: u8 = 0x00;
const CLASS_LOAD: u8 = 0x01;
const CLASS_STORE_IMMEDIATE: u8 = 0x02;
const CLASS_STORE: u8 = 0x03;
const CLASS_JUMP: u8 = 0x05;
const CLASS_JUMP_32: u8 = 0x06;
const CLASS_ARITHMETIC: u8 = 0x07;
const MODE_MEMORY: u8 = 0x60;
const SOURCE_REGISTER: u8 = 0x08;
const ADD: u8 = 0x00;
const MULTIPLY: u8 = 0x20;
const OR: u8 = 0x40;
const SHIFT_LEFT: u8 = 0x60;
const SHIFT_RIGHT: u8 = 0x70;
const EXCLUSIVE_OR: u8 = 0xa0;
const MOVE: u8 = 0xb0;
const GO: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
/// The immediate of a wide load is the descriptor of a map.
const PSEUDO_MAP: u8 = 1;
/// It leads to the value of a map of one.
const PSEUDO_VALUE: u8 = 2;

/// `struct bpf_insn`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A place further on, to which jumps lead.
#[derive(Debug, Default)]
pub(super) struct Label {
    jumps: Vec<usize>,
}

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    /// Jumps to the end.
    jumps: Vec<usize>,
}

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, immediate: i32) {
        let registers = if cfg!(target_endian = "little") {
            (from as u8) << 4 | to as u8
        } else {
            (to as u8) << 4 | from as u8
        };
        self.instructions.push(Instruction { code, registers, offset, immediate });
    }

    /// `to = from`
    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.push(CLASS_ARITHMETIC | MOVE | SOURCE_REGISTER, to, from, 0, 0);
    }

    /// `to = value`
    pub(super) fn set(&mut self, to: Register, value: i32) {
        self.push(CLASS_ARITHMETIC | MOVE, to, Register::R0, 0, value);
    }

    /// `to += value`
    pub(super) fn add(&mut self, to: Register, value: i32) {
        self.push(CLASS_ARITHMETIC | ADD, to, Register::R0, 0, value);
    }

    /// `to += with`
    pub(super) fn add_register(&mut self, to: Register, with: Register) {
        self.push(CLASS_ARITHMETIC | ADD | SOURCE_REGISTER, to, with, 0, 0);
    }

    /// `to *= by`
    pub(super) fn multiply(&mut self, to: Register, by: Register) {
        self.push(CLASS_ARITHMETIC | MULTIPLY | SOURCE_REGISTER, to, by, 0, 0);
    }

    /// `to ^= with`
    pub(super) fn exclusive_or(&mut self, to: Register, with: Register) {
        self.push(CLASS_ARITHMETIC | EXCLUSIVE_OR | SOURCE_REGISTER, to, with, 0, 0);
    }

    /// `to *= value`
    pub(super) fn multiply_by(&mut self, to: Register, value: i32) {
        self.push(CLASS_ARITHMETIC | MULTIPLY, to, Register::R0, 0, value);
    }

    /// `to |= value`
    pub(super) fn or(&mut self, to: Register, value: i32) {
        self.push(CLASS_ARITHMETIC | OR, to, Register::R0, 0, value);
    }

    /// `to <<= bits`
    pub(super) fn shift_left(&mut self, to: Register, bits: i32) {
        self.push(CLASS_ARITHMETIC | SHIFT_LEFT, to, Register::R0, 0, bits);
    }

    /// `to >>= bits`
    pub(super) fn shift_right(&mut self, to: Register, bits: i32) {
        self.push(CLASS_ARITHMETIC | SHIFT_RIGHT, to, Register::R0, 0, bits);
    }

    /// `to = value`, all 64 bits of it.
    pub(super) fn set_wide(&mut self, to: Register, value: u64) {
        let halves = [value as u32, (value >> 32) as u32].map(u32::cast_signed);
        let code = CLASS_LOAD_IMMEDIATE | Width::Double as u8;
        self.push(code, to, Register::R0, 0, halves[0]);
        self.push(0, Register::R0, Register::R0, 0, halves[1]);
    }

    /// `to = *(base + offset)`
    pub(super) fn load(&mut self, width: Width, to: Register, base: Register, offset: i16) {
        self.push(CLASS_LOAD | MODE_MEMORY | width as u8, to, base, offset, 0);
    }

    /// `*(base + offset) = from`
    pub(super) fn store(&mut self, width: Width, base: Register, offset: i16, from: Register) {
        self.push(CLASS_STORE | MODE_MEMORY | width as u8, base, from, offset, 0);
    }

    /// `*(base + offset) = value`, a word.
    pub(super) fn store_word(&mut self, base: Register, offset: i16, value: i32) {
        let code = CLASS_STORE_IMMEDIATE | MODE_MEMORY | Width::Word as u8;
        self.push(code, base, Register::R0, offset, value);
    }

    /// `to = map`
    pub(super) fn map(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.load_map(to, map, PSEUDO_MAP);
    }

    /// `to` leads to the value of `map`, an array of one. Linux 5.2 and later.
    pub(super) fn map_value(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.load_map(to, map, PSEUDO_VALUE);
    }

    fn load_map(&mut self, to: Register, map: BorrowedFd<'_>, pseudo: u8) {
        let code = CLASS_LOAD_IMMEDIATE | Width::Double as u8;
        let start = self.instructions.len();
        self.push(code, to, Register::R0, 0, map.as_raw_fd());
        let to = to as u8;
        self.instructions[start].registers =
            if cfg!(target_endian = "little") { pseudo << 4 | to } else { to << 4 | pseudo };
        // The upper half.
        self.push(0, Register::R0, Register::R0, 0, 0);
    }

    /// `R0 = function(R1, R2, R3, R4, R5)`
    pub(super) fn call(&mut self, function: Function) {
        self.push(CLASS_JUMP | CALL, Register::R0, Register::R0, 0, function as i32);
    }

    /// Leaves where `left` and `right` are so, unsigned, in all 64 bits.
    pub(super) fn leave_if(&mut self, left: Register, condition: Condition, right: Register) {
        self.jumps.push(self.instructions.len());
        self.push(CLASS_JUMP | condition as u8 | SOURCE_REGISTER, left, right, 0, 0);
    }

    /// Leaves where the lower 32 bits of `left` and `value` are so.
    pub(super) fn leave_if_word(&mut self, left: Register, condition: Condition, value: u32) {
        self.jumps.push(self.instructions.len());
        self.push(CLASS_JUMP_32 | condition as u8, left, Register::R0, 0, value.cast_signed());
    }

    /// Leaves where `left`, a pointer, is null, or is not.
    pub(super) fn leave_if_null(&mut self, left: Register, condition: Condition) {
        self.jumps.push(self.instructions.len());
        self.push(CLASS_JUMP | condition as u8, left, Register::R0, 0, 0);
    }

    /// Goes on behind the next `count` instructions where the lower 32 bits of `left` and `value`
    /// are so.
    pub(super) fn skip_if_word(
        &mut self,
        left: Register,
        condition: Condition,
        value: u32,
        count: i16,
    ) {
        let value = value.cast_signed();
        self.push(CLASS_JUMP_32 | condition as u8, left, Register::R0, count, value);
    }

    /// Goes around what `body` adds where the lower 32 bits of `left` and `value` are so.
    pub(super) fn unless_word(
        &mut self,
        left: Register,
        condition: Condition,
        value: u32,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.instructions.len();
        self.skip_if_word(left, condition, value, 0);
        body(self);
        let count = self.instructions.len() - start - 1;
        self.instructions[start].offset = i16::try_from(count).unwrap_or(i16::MAX);
    }

    /// Goes to `label` where `left` and `right` are equal in all 64 bits, after `to += value`.
    pub(super) fn go_if_equal(
        &mut self,
        left: Register,
        right: Register,
        (to, value): (Register, i32),
        label: &mut Label,
    ) {
        let code = CLASS_JUMP | Condition::NotEqual as u8 | SOURCE_REGISTER;
        self.push(code, left, right, 2, 0);
        self.add(to, value);
        label.jumps.push(self.instructions.len());
        self.push(CLASS_JUMP | GO, Register::R0, Register::R0, 0, 0);
    }

    /// Where it has not gone to `label`, it leaves here; the program goes on with what comes there.
    pub(super) fn leave_unless_gone(&mut self, label: Label) {
        self.jumps.push(self.instructions.len());
        self.push(CLASS_JUMP | GO, Register::R0, Register::R0, 0, 0);
        let here = self.instructions.len();
        for jump in label.jumps {
            self.instructions[jump].offset = i16::try_from(here - jump - 1).unwrap_or(i16::MAX);
        }
    }

    /// The program. At its end it returns 1: go on.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        let end = self.instructions.len();
        for jump in std::mem::take(&mut self.jumps) {
            // A program has some hundred instructions at most.
            self.instructions[jump].offset = i16::try_from(end - jump - 1).unwrap_or(i16::MAX);
        }
        self.set(Register::R0, 1);
        self.push(CLASS_JUMP | EXIT, Register::R0, Register::R0, 0, 0);
        self.instructions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `llvm-objdump` shows them.
    fn octets(instructions: &[Instruction]) -> Vec<[u8; 8]> {
        let one = |instruction: &Instruction| {
            let mut octets = [0; 8];
            octets[0] = instruction.code;
            octets[1] = instruction.registers;
            octets[2..4].copy_from_slice(&instruction.offset.to_ne_bytes());
            octets[4..].copy_from_slice(&instruction.immediate.to_ne_bytes());
            octets
        };
        instructions.iter().map(one).collect()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn instructions_are_those_of_rfc_9669() {
        use Register::*;
        let mut program = Assembler::default();
        program.copy(R6, R1);
        program.load(Width::Word, R2, R6, 8);
        program.leave_if_word(R2, Condition::NotEqual, 0);
        program.store(Width::Word, R10, -16, R2);
        program.store_word(R10, -20, 0);
        program.add(R2, -16);
        program.call(Function::MapLookup);
        program.leave_if_null(R0, Condition::Equal);
        program.load(Width::Double, R7, R6, 64);
        program.set_wide(R4, 0x1122_3344_5566_7788);
        program.exclusive_or(R0, R2);
        program.multiply(R0, R4);
        program.shift_right(R3, 32);
        program.unless_word(R2, Condition::Equal, 2, |program| program.add_register(R0, R2));
        let mut found = Label::default();
        program.go_if_equal(R1, R2, (R0, 64), &mut found);
        program.leave_unless_gone(found);
        program.load(Width::Half, R2, R0, 10);
        program.shift_left(R2, 32);
        program.multiply_by(R2, 5);
        program.or(R2, 1);
        let expected: [[u8; 8]; 26] = [
            [0xbf, 0x16, 0, 0, 0, 0, 0, 0],             // r6 = r1
            [0x61, 0x62, 8, 0, 0, 0, 0, 0],             // r2 = *(u32 *)(r6 + 8)
            [0x56, 0x02, 21, 0, 0, 0, 0, 0],            // if w2 != 0 goto +21
            [0x63, 0x2a, 0xf0, 0xff, 0, 0, 0, 0],       // *(u32 *)(r10 - 16) = r2
            [0x62, 0x0a, 0xec, 0xff, 0, 0, 0, 0],       // *(u32 *)(r10 - 20) = 0
            [0x07, 0x02, 0, 0, 0xf0, 0xff, 0xff, 0xff], // r2 += -16
            [0x85, 0x00, 0, 0, 1, 0, 0, 0],             // call 1
            [0x15, 0x00, 16, 0, 0, 0, 0, 0],            // if r0 == 0 goto +16
            [0x79, 0x67, 64, 0, 0, 0, 0, 0],            // r7 = *(u64 *)(r6 + 64)
            [0x18, 0x04, 0, 0, 0x88, 0x77, 0x66, 0x55], // r4 = 0x1122334455667788
            [0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11],
            [0xaf, 0x20, 0, 0, 0, 0, 0, 0],  // r0 ^= r2
            [0x2f, 0x40, 0, 0, 0, 0, 0, 0],  // r0 *= r4
            [0x77, 0x03, 0, 0, 32, 0, 0, 0], // r3 >>= 32
            [0x16, 0x02, 1, 0, 2, 0, 0, 0],  // if w2 == 2 goto +1
            [0x0f, 0x20, 0, 0, 0, 0, 0, 0],  // r0 += r2
            [0x5d, 0x21, 2, 0, 0, 0, 0, 0],  // if r1 != r2 goto +2
            [0x07, 0x00, 0, 0, 64, 0, 0, 0], // r0 += 64
            [0x05, 0x00, 1, 0, 0, 0, 0, 0],  // goto +1
            [0x05, 0x00, 4, 0, 0, 0, 0, 0],  // goto +4
            [0x69, 0x02, 10, 0, 0, 0, 0, 0], // r2 = *(u16 *)(r0 + 10)
            [0x67, 0x02, 0, 0, 32, 0, 0, 0], // r2 <<= 32
            [0x27, 0x02, 0, 0, 5, 0, 0, 0],  // r2 *= 5
            [0x47, 0x02, 0, 0, 1, 0, 0, 0],  // r2 |= 1
            [0xb7, 0x00, 0, 0, 1, 0, 0, 0],  // r0 = 1
            [0x95, 0x00, 0, 0, 0, 0, 0, 0],  // exit
        ];
        assert_eq!(octets(&program.finish()), expected);
    }
}
