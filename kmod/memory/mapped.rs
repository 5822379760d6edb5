// SPDX-License-Identifier: GPL-2.0

//! Which pages user mappings may have, so that there is no need to look for others there.

use uvisor_ept::Gpa;
use uvisor_uapi::PAGE_SIZE;

/// How many bits there are.
const BITS: u64 = 1024;

/// A set of pages that has all that were added, and some that were not: those with the same last bits of
/// the page number.
pub(super) struct Mapped([u64; (BITS / u64::BITS as u64) as usize]);

impl Mapped {
    /// None.
    pub(super) fn new() -> Self {
        Self([0; (BITS / u64::BITS as u64) as usize])
    }

    /// The word of a page, and its bit there.
    #[inline]
    fn place(gpa: Gpa) -> (usize, u64) {
        let number = gpa.0 / PAGE_SIZE % BITS;
        // CAST: A small number.
        let word = (number / u64::from(u64::BITS)) as usize;
        (word, 1 << (number % u64::from(u64::BITS)))
    }

    /// Adds a page.
    pub(super) fn add(&mut self, gpa: Gpa) {
        let (word, bit) = Self::place(gpa);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    /// Whether the page may have been added.
    #[inline]
    pub(super) fn may_have(&self, gpa: Gpa) -> bool {
        let (word, bit) = Self::place(gpa);
        self.0.get(word).is_none_or(|word| word & bit != 0)
    }

    /// Takes all out.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }
}
