// SPDX-License-Identifier: GPL-2.0

//! Which entry of which table maps a page.

use core::ops::Range;

use crate::addr::PAGE_SHIFT;

/// How many entries a table has.
pub(crate) const ENTRIES: usize = 512;

/// How many bits of a page number each level uses up.
const LEVEL_BITS: u32 = 9;

/// The level of a table, as the binary logarithm of the number of pages that its entries span: 0
/// has the leaves, 27 is the root.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Level(u32);

impl Level {
    /// The level of the root.
    pub(crate) const ROOT: Self = Self(3 * LEVEL_BITS);

    /// The level of the leaves.
    pub(crate) const LEAVES: Self = Self(0);

    /// The other levels, from the root's down.
    pub(crate) const ABOVE_LEAVES: [Self; 3] = [Self::ROOT, Self(2 * LEVEL_BITS), Self(LEVEL_BITS)];

    /// The level of the tables that the entries of this one point to; none below the leaves'.
    #[inline]
    pub(crate) fn below(self) -> Option<Self> {
        self.0.checked_sub(LEVEL_BITS).map(Self)
    }

    /// The same number; the compiler sees that one can shift by it.
    #[inline]
    fn shift(self) -> u32 {
        self.0 & (u64::BITS - 1)
    }

    /// The entry for `page` in a table of this level.
    #[inline]
    pub(crate) fn index(self, page: u64) -> Index {
        // CAST: what is cut off would be masked off.
        Index::new((page >> self.shift()) as usize)
    }

    /// The pages that the entry for `page` spans.
    #[inline]
    pub(crate) fn span(self, page: u64) -> Range<u64> {
        let pages = 1 << self.shift();
        let start = page & !(pages - 1);
        start..start.saturating_add(pages)
    }

    /// The binary logarithm of how many bytes a table of this level spans.
    #[inline]
    pub(crate) fn table_bits(self) -> u32 {
        // OVERFLOW: Small numbers.
        self.0.wrapping_add(LEVEL_BITS).wrapping_add(PAGE_SHIFT)
    }

    /// How many pages `entries` entries span.
    #[inline]
    pub(crate) fn pages(self, entries: u64) -> u64 {
        entries << self.shift()
    }

    /// What of `pages` goes through which entry of one table of this level.
    ///
    /// All `pages` must be in the span of that table, and so below 2^36.
    #[inline]
    pub(crate) fn parts(self, pages: Range<u64>) -> impl Iterator<Item = Part> {
        let shift = self.shift();
        let mut at = pages.start;
        core::iter::from_fn(move || {
            if at >= pages.end {
                return None;
            }
            let span = 1 << shift;
            let next = (at & !(span - 1)).saturating_add(span);
            let end = next.min(pages.end);
            let whole = end.saturating_sub(at) == span;
            let part = Part {
                index: self.index(at),
                pages: at..end,
                whole,
            };
            at = end;
            Some(part)
        })
    }
}

/// The number of an entry.
///
/// # Invariants
///
/// Below [`ENTRIES`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Index(usize);

impl Index {
    /// The number `n` without its higher bits.
    #[inline]
    fn new(n: usize) -> Self {
        // INVARIANT: `ENTRIES` is a power of two.
        Self(n & (ENTRIES - 1))
    }

    /// The number.
    #[inline]
    pub(crate) fn number(self) -> usize {
        self.0
    }

    /// The element of `table` with this number.
    pub(crate) fn of<T>(self, table: &[T; ENTRIES]) -> &T {
        // PANIC: masked once more, so that the compiler sees that it is in bounds.
        &table[self.0 & (ENTRIES - 1)]
    }
}

/// What of a range goes through one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// The entry.
    pub(crate) index: Index,
    /// The pages of the range that it spans.
    pub(crate) pages: Range<u64>,
    /// Whether these are all pages that it spans. Always so at the level of the leaves.
    pub(crate) whole: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts as numbers.
    fn parts(level: u32, pages: Range<u64>) -> Vec<(usize, Range<u64>, bool)> {
        let parts = Level(level * LEVEL_BITS).parts(pages);
        parts
            .map(|part| (part.index.0, part.pages, part.whole))
            .collect()
    }

    #[test]
    fn divides_at_the_bounds_of_entries() {
        assert_eq!(
            parts(0, 510..514),
            [
                (510, 510..511, true),
                (511, 511..512, true),
                (0, 512..513, true),
                (1, 513..514, true),
            ]
        );
        assert_eq!(
            parts(1, 510..1537),
            [
                (0, 510..512, false),
                (1, 512..1024, true),
                (2, 1024..1536, true),
                (3, 1536..1537, false),
            ]
        );
        assert_eq!(parts(3, 0..1 << 36).len(), 512);
        assert!(parts(3, 0..1 << 36).iter().all(|part| part.2));
        assert_eq!(parts(2, 5..5), []);
    }

    #[test]
    fn takes_nine_bits_a_level() {
        let page = (0x1a << 27) | (0x1b << 18) | (0x1c << 9) | 0x1d;
        let mut level = Level::ROOT;
        let mut indices = vec![level.index(page).0];
        while let Some(below) = level.below() {
            level = below;
            indices.push(level.index(page).0);
        }
        assert_eq!(indices, [0x1a, 0x1b, 0x1c, 0x1d]);
    }
}
