// SPDX-License-Identifier: GPL-2.0

//! Addresses and page-aligned ranges.

/// The size of a page in bytes, the unit of all memory operations.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// The binary logarithm of [`PAGE_SIZE`].
pub(crate) const PAGE_SHIFT: u32 = 12;

/// How many bits a guest-physical address can have with tables of four levels.
pub(crate) const MAX_GPA_BITS: u32 = 48;

/// A guest-physical address; any number, since guests make them.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The number of the page, if the tables can map it.
    #[inline]
    pub(crate) fn page(self) -> Option<u64> {
        (self.0 >> MAX_GPA_BITS == 0).then_some(self.0 >> PAGE_SHIFT)
    }

    /// The first address of the page with this number.
    #[inline]
    pub(crate) fn of_page(page: u64) -> Self {
        Self(page << PAGE_SHIFT)
    }

    /// The first address of the page.
    #[inline]
    pub fn page_start(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }
}

/// The host-physical address of a page; page-aligned.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hpa(pub u64);

/// A range of guest-physical addresses.
///
/// # Invariants
///
/// `start` and `end` are multiples of [`PAGE_SIZE`], `start < end`, and `end` is at most
/// 2^48.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first address.
    start: u64,
    /// The first address behind.
    end: u64,
}

impl Range {
    /// The range of `len` bytes at `start`.
    ///
    /// None if it is empty, not page-aligned, or reaches beyond 2^`gpa_bits`, or beyond what tables
    /// of four levels can map.
    #[inline]
    pub fn new(start: u64, len: u64, gpa_bits: u32) -> Option<Self> {
        let end = start.checked_add(len)?;
        let limit = 1 << gpa_bits.min(MAX_GPA_BITS);
        if len == 0 || (start | len) & (PAGE_SIZE - 1) != 0 || end > limit {
            return None;
        }
        // INVARIANT: just checked; the sum of two multiples is a multiple.
        Some(Self { start, end })
    }

    /// The page that `gpa` is in; none if four levels cannot map it.
    #[inline]
    pub fn page_of(gpa: Gpa) -> Option<Self> {
        Self::new(gpa.page_start().0, PAGE_SIZE, MAX_GPA_BITS)
    }

    /// The first address.
    #[inline]
    pub fn start(&self) -> Gpa {
        Gpa(self.start)
    }

    /// The first address behind the range.
    #[inline]
    pub fn end(&self) -> Gpa {
        Gpa(self.end)
    }

    /// The length in bytes.
    #[allow(clippy::len_without_is_empty)] // No range is empty.
    #[inline]
    pub fn len(&self) -> u64 {
        // By the invariant, it never saturates.
        self.end.saturating_sub(self.start)
    }

    /// The first addresses of all pages, in ascending order.
    #[inline]
    pub fn pages(&self) -> impl DoubleEndedIterator<Item = Gpa> {
        self.page_numbers().map(|page| Gpa(page << PAGE_SHIFT))
    }

    /// The numbers of all pages; all are below 2^36.
    #[inline]
    pub(crate) fn page_numbers(&self) -> core::ops::Range<u64> {
        self.start >> PAGE_SHIFT..self.end >> PAGE_SHIFT
    }

    /// The part from the page with this number on.
    #[inline]
    pub(crate) fn since_page(&self, page: u64) -> Option<Self> {
        let start = self.start.max(page.checked_shl(PAGE_SHIFT)?);
        // INVARIANT: a multiple, like the bounds of the range.
        (page < self.end >> PAGE_SHIFT).then_some(Self {
            start,
            end: self.end,
        })
    }

    /// Whether `gpa` is inside.
    #[inline]
    pub fn contains(&self, gpa: Gpa) -> bool {
        (self.start..self.end).contains(&gpa.0)
    }

    /// What both ranges have in common.
    #[inline]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        // INVARIANT: each bound is one of a range's.
        (start < end).then_some(Self { start, end })
    }

    /// The part below the start of `other`.
    #[inline]
    pub(crate) fn before(&self, other: &Self) -> Option<Self> {
        let end = self.end.min(other.start);
        // INVARIANT: each bound is one of a range's.
        (self.start < end).then_some(Self {
            start: self.start,
            end,
        })
    }

    /// The part from the end of `other` on.
    #[inline]
    pub fn after(&self, other: &Self) -> Option<Self> {
        let start = self.start.max(other.end);
        // INVARIANT: each bound is one of a range's.
        (start < self.end).then_some(Self {
            start,
            end: self.end,
        })
    }

    /// The smallest range of whole blocks of 2^`bits` bytes that has this one inside.
    #[inline]
    pub(crate) fn in_blocks(&self, bits: u32) -> Self {
        let below = (1u64 << bits.clamp(PAGE_SHIFT, MAX_GPA_BITS)).saturating_sub(1);
        // INVARIANT: multiples of the page's size, as the blocks' is; 2^48 is one of each block's.
        Self {
            start: self.start & !below,
            end: self.end.saturating_add(below) & !below,
        }
    }

    /// The smallest range that has both inside.
    #[inline]
    pub(crate) fn joined(&self, other: &Self) -> Self {
        // INVARIANT: each bound is one of a range's, and it only grows.
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A range that must exist.
    fn range(start: u64, end: u64) -> Range {
        Range::new(start, end - start, 48).unwrap()
    }

    #[test]
    fn refuses_what_is_no_range() {
        assert_eq!(Range::new(0, 0, 39), None);
        assert_eq!(Range::new(1, 0x1000, 39), None);
        assert_eq!(Range::new(0x1000, 0x1001, 39), None);
        assert_eq!(Range::new(0x1000, 0xfff, 39), None);
        assert_eq!(Range::new(!0xfff, 0x1000, 39), None);
        assert_eq!(Range::new(!0xfff, 0x2000, 64), None);
        assert_eq!(Range::new(0x1000, !0xfff, u32::MAX), None);
    }

    #[test]
    fn is_limited_by_the_bits() {
        assert!(Range::new(0, 1 << 39, 39).is_some());
        assert_eq!(Range::new(0x1000, 1 << 39, 39), None);
        assert_eq!(Range::new(1 << 39, 0x1000, 39), None);
        assert!(Range::new((1 << 48) - 0x1000, 0x1000, 48).is_some());
        for bits in [48, 52, 63, 64, u32::MAX] {
            assert!(Range::new(0, 1 << 48, bits).is_some());
            assert_eq!(Range::new(1 << 48, 0x1000, bits), None);
        }
        assert_eq!(Range::new(0, 0x1000, 0), None);
    }

    #[test]
    fn gives_its_pages_and_parts() {
        let r = range(0x3000, 0x6000);
        let pages: Vec<_> = r.pages().collect();
        assert_eq!(pages, [Gpa(0x3000), Gpa(0x4000), Gpa(0x5000)]);
        assert_eq!(
            (r.start(), r.end(), r.len()),
            (Gpa(0x3000), Gpa(0x6000), 0x3000)
        );
        assert!(r.contains(Gpa(0x3000)) && r.contains(Gpa(0x5fff)));
        assert!(!r.contains(Gpa(0x2fff)) && !r.contains(Gpa(0x6000)));
        assert_eq!(r.intersect(&range(0, 0x4000)), Some(range(0x3000, 0x4000)));
        assert_eq!(r.intersect(&range(0, 0x3000)), None);
        assert_eq!(r.intersect(&range(0x6000, 0x7000)), None);
        let middle = range(0x4000, 0x5000);
        assert_eq!(r.before(&middle), Some(range(0x3000, 0x4000)));
        assert_eq!(r.after(&middle), Some(range(0x5000, 0x6000)));
        assert_eq!((r.before(&r), r.after(&r)), (None, None));
        assert_eq!(r.in_blocks(14), range(0, 0x8000));
        assert_eq!(r.in_blocks(12), r);
        let last = range((1 << 48) - 0x1000, 1 << 48);
        assert_eq!(last.in_blocks(21).end(), Gpa(1 << 48));
        assert_eq!(
            range(0, 0x1000).joined(&range(0x1000, 0x2000)),
            range(0, 0x2000)
        );
    }

    #[test]
    fn finds_the_page_of_any_address() {
        assert_eq!(Range::page_of(Gpa(0x1fff)), Some(range(0x1000, 0x2000)));
        assert_eq!(
            Range::page_of(Gpa((1 << 48) - 1)).map(|r| r.end()),
            Some(Gpa(1 << 48))
        );
        assert_eq!(Range::page_of(Gpa(1 << 48)), None);
        assert_eq!(Range::page_of(Gpa(u64::MAX)), None);
        assert_eq!(Gpa(u64::MAX).page(), None);
        assert_eq!(Gpa((1 << 48) - 1).page(), Some((1 << 36) - 1));
    }
}
