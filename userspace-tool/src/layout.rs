// SPDX-License-Identifier: GPL-2.0

//! Where things are in the guest's address space.
//!
//! Guest-virtual and guest-physical addresses are equal up to [`Layout::limit`]; the gibibyte above
//! it holds the guest's page tables and the shim, and is out of ring 3's reach.

use serde::{Deserialize, Serialize};
use uvisor_uapi::PAGE_SIZE;

/// A gibibyte.
pub const GIB: u64 = 1 << 30;

/// The lowest address that a task may map without asking for it by `MAP_FIXED`, as
/// `vm.mmap_min_addr` has it.
pub const MMAP_MIN: u64 = 0x10000;

/// Unmapped bytes below the stack, so that running over its end faults.
pub const STACK_GUARD: u64 = 1 << 20;

/// The least distance between the end of the stack and the mappings below it, guard included.
const STACK_GAP: u64 = 16 << 20;

/// Rounds down to a page.
pub const fn page_down(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

/// Rounds up to a page, unless that overflows.
pub const fn page_up(address: u64) -> Option<u64> {
    match address.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(page_down(sum)),
        None => None,
    }
}

/// Random bits for the placement of a program's parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entropy {
    /// For the program, if its position is free.
    pub program: u64,
    /// For the stack.
    pub stack: u64,
    /// For mappings.
    pub mmap: u64,
    /// For the heap.
    pub heap: u64,
}

impl Entropy {
    /// Fresh random bits from the kernel; `None` if it gives none.
    pub fn random() -> Option<Self> {
        let mut words = [[0u8; 8]; 4];
        for word in &mut words {
            crate::host::random(word).ok()?;
        }
        let [program, stack, mmap, heap] = words.map(u64::from_ne_bytes);
        Some(Self {
            program,
            stack,
            mmap,
            heap,
        })
    }
}

/// What a program is started with, on its stack: where each is, start and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initial {
    /// Its arguments, each with its NUL.
    pub arguments: (u64, u64),
    /// Its environment, likewise.
    pub environment: (u64, u64),
    /// The auxiliary vector.
    pub auxv: (u64, u64),
}

/// The places of a program's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The end of what ring 3 reaches; the page tables and the shim begin here.
    pub limit: u64,
    /// The end of the stack's region.
    pub stack_top: u64,
    /// Bytes of the stack's region.
    pub stack_size: u64,
    /// Mappings are placed below this address.
    pub mmap_top: u64,
    /// Where a position-independent program is loaded.
    pub program_base: u64,
    /// Bytes between the end of the program and the heap.
    pub heap_gap: u64,
    /// What it is started with, when that is on the stack.
    pub initial: Initial,
}

impl Layout {
    /// The highest that [`Self::limit`] can be.
    pub const MAX_LIMIT: u64 = (1 << 39) - GIB;

    /// The layout of an address space of `gpa_bits` bits with a stack of `stack_size` bytes.
    ///
    /// Without `entropy` it is the same each time.
    pub fn new(gpa_bits: u32, stack_size: u64, entropy: Option<Entropy>) -> Self {
        let size = 1u64 << gpa_bits.clamp(32, 39);
        let limit = size - GIB;
        // An eighth of the space is the range over which the program and the mappings move; the
        // stack moves over a quarter of that.
        let spread = |random: u64, range: u64| page_down(random % range);
        let stack_size = page_up(stack_size.clamp(16 * PAGE_SIZE, limit / 16)).unwrap_or(8 << 20);
        let (program, stack, mmap, heap) = match entropy {
            Some(e) => (
                spread(e.program, size / 8),
                spread(e.stack, size / 32),
                spread(e.mmap, size / 8),
                spread(e.heap, 32 << 20),
            ),
            None => (0, 0, 0, 0),
        };
        let stack_top = limit - PAGE_SIZE - stack;
        let mmap_top = stack_top - stack_size - STACK_GAP - mmap;
        Self {
            limit,
            stack_top,
            stack_size,
            mmap_top,
            // Above where fixed programs are linked to (4 MiB), with room for large ones.
            program_base: GIB + program,
            heap_gap: heap,
            initial: Initial::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn is_fixed_without_entropy() {
        let layout = Layout::new(39, 8 << 20, None);
        assert_eq!(layout, Layout::new(39, 8 << 20, None));
        assert_eq!(layout.limit, 511 * GIB);
        assert_eq!(layout.program_base, GIB);
    }

    #[test]
    fn rounding_does_not_overflow() {
        assert_eq!(page_up(u64::MAX), None);
        assert_eq!(page_up(1), Some(4096));
        assert_eq!(page_down(u64::MAX), u64::MAX - 4095);
    }

    proptest! {
        #[test]
        fn parts_are_apart(
            bits in 36u32..=39, stack in 0u64..u64::MAX,
            a in any::<u64>(), b in any::<u64>(), c in any::<u64>(), d in any::<u64>(),
        ) {
            let entropy = Entropy { program: a, stack: b, mmap: c, heap: d };
            let l = Layout::new(bits, stack, Some(entropy));
            prop_assert!(l.stack_top < l.limit);
            prop_assert!(l.mmap_top + STACK_GUARD < l.stack_top - l.stack_size);
            prop_assert!(l.program_base >= GIB);
            prop_assert!(l.program_base + l.heap_gap + 4 * GIB < l.mmap_top);
            for address in [l.stack_top, l.stack_size, l.mmap_top, l.program_base, l.heap_gap] {
                prop_assert_eq!(address % PAGE_SIZE, 0);
            }
        }
    }
}
