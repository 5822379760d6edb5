// SPDX-License-Identifier: GPL-2.0

//! Memory of all kinds, next to each other: what may be touched, and what may not.

use crate::call::must;

const PAGE: u64 = 4096;

/// Pages that may be used, for what is not bad.
const GOOD: u64 = 24;
/// One that may be, with nothing behind it.
const EDGE: u64 = GOOD + 1;
const HOLE: u64 = GOOD + 2;
const NONE: u64 = GOOD + 3;
const READ_ONLY: u64 = GOOD + 5;
const ALL: u64 = GOOD + 7;

/// What is wrong with a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It is null.
    Null,
    /// It is in the first page.
    Low,
    /// Nothing is mapped there.
    Hole,
    /// What is mapped there may not be touched.
    None,
    /// What is there may be read.
    ReadOnly,
    /// Nothing is mapped behind the first byte.
    First,
    /// Nothing is mapped at the last byte.
    Last,
    /// It is at the end of what a process can have.
    Top,
    /// It is just behind that.
    Behind,
    /// No address has these bits.
    NonCanonical,
    /// It is the kernel's.
    Kernel,
    /// It is at the end of all.
    End,
}

impl Bad {
    pub const ALL: [Self; 12] = [
        Self::Null,
        Self::Low,
        Self::Hole,
        Self::None,
        Self::ReadOnly,
        Self::First,
        Self::Last,
        Self::Top,
        Self::Behind,
        Self::NonCanonical,
        Self::Kernel,
        Self::End,
    ];
}

/// The memory.
pub struct Arena {
    base: u64,
    /// Where the next good thing goes.
    next: u64,
}

impl Arena {
    /// Maps it.
    pub fn new() -> Self {
        let base = must(libc::SYS_mmap, &[0, ALL * PAGE, 0, 0x22, u64::MAX, 0]);
        let mut arena = Self { base, next: base };
        arena.restore();
        arena
    }

    /// Puts right whatever calls have changed of its mappings.
    pub fn restore(&mut self) {
        // Private and anonymous, at this place.
        let map = |page: u64, pages: u64, prot: u64| {
            let at = self.base + page * PAGE;
            must(libc::SYS_mmap, &[at, pages * PAGE, prot, 0x32, u64::MAX, 0]);
        };
        map(0, GOOD, 3);
        map(EDGE, 1, 3);
        map(NONE, 1, 0);
        map(READ_ONLY, 1, 1);
        // Who is root may have mapped that.
        must(libc::SYS_munmap, &[0, PAGE]);
        for page in [GOOD, HOLE, NONE + 1, READ_ONLY + 1] {
            must(libc::SYS_munmap, &[self.base + page * PAGE, PAGE]);
        }
    }

    /// Nothing good is placed yet.
    pub fn clear(&mut self) {
        self.next = self.base;
    }

    /// Places `bytes` where they may be used.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        let at = self.next;
        let len = bytes.len() as u64;
        assert!(
            at + len <= self.base + GOOD * PAGE,
            "the arena is too small"
        );
        write(at, bytes);
        self.next = (at + len + 63) & !63;
        at
    }

    /// Places `bytes` as `bad` says, as far as they can be placed at all.
    pub fn place_badly(&mut self, bytes: &[u8], bad: Bad) -> u64 {
        let page = |page: u64| self.base + page * PAGE;
        let at_edge = |valid: usize| {
            let at = page(EDGE + 1) - valid as u64;
            write(at, &bytes[..valid]);
            at
        };
        match bad {
            Bad::Null => 0,
            Bad::Low => 0x10,
            Bad::Hole => page(HOLE),
            Bad::None => page(NONE),
            Bad::ReadOnly => {
                let at = page(READ_ONLY);
                must(libc::SYS_mprotect, &[at, PAGE, 3]);
                write(at, bytes);
                must(libc::SYS_mprotect, &[at, PAGE, 1]);
                at
            }
            Bad::First => at_edge(1),
            Bad::Last => at_edge(bytes.len() - 1),
            Bad::Top => 0x7fff_ffff_eff8,
            Bad::Behind => 0x7fff_ffff_f000,
            Bad::NonCanonical => 0x8000_0000_0000,
            Bad::Kernel => 0xffff_8880_0000_1000,
            Bad::End => u64::MAX - 7,
        }
    }
}

/// Writes to memory of the arena's.
fn write(at: u64, bytes: &[u8]) {
    // SAFETY: The callers give addresses in pages that were mapped to be written, which nobody has a reference to.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
}
