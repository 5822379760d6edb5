// SPDX-License-Identifier: GPL-2.0

//! What parts of an address space have besides what a book says of areas: a value and an offset in it.

use std::collections::BTreeMap;

/// A part without its start.
#[derive(Clone, Debug)]
struct Part<T> {
    end: u64,
    value: T,
    /// Where in the value it starts.
    offset: u64,
}

/// Parts, by their starts; they do not overlap.
#[derive(Clone, Debug)]
pub(crate) struct Parts<T>(BTreeMap<u64, Part<T>>);

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Clone> Parts<T> {
    /// Adds one, in place of what is there.
    pub(crate) fn insert(&mut self, (start, end): (u64, u64), value: T, offset: u64) {
        self.remove(start, end);
        let part = Part { end, value, offset };
        self.0.insert(start, part);
    }

    /// Removes what is in a range.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        self.take(start, end);
    }

    /// Moves what is in a range to another place.
    pub(crate) fn relocate(&mut self, start: u64, end: u64, to: u64) {
        for (at, mut part) in self.take(start, end) {
            part.end = part.end - start + to;
            self.0.insert(at - start + to, part);
        }
    }

    /// Takes out what is in a range.
    fn take(&mut self, start: u64, end: u64) -> Vec<(u64, Part<T>)> {
        let touched: Vec<u64> = self
            .0
            .range(..end)
            .rev()
            .take_while(|(_, part)| part.end > start)
            .map(|(&at, _)| at)
            .collect();
        let mut taken = Vec::new();
        for at in touched {
            let Some(part) = self.0.remove(&at) else {
                continue;
            };
            let piece = |from: u64, end: u64| Part {
                end,
                value: part.value.clone(),
                offset: part.offset + (from - at),
            };
            if at < start {
                self.0.insert(at, piece(at, start));
            }
            if part.end > end {
                self.0.insert(end, piece(end, part.end));
            }
            let (from, until) = (at.max(start), part.end.min(end));
            taken.push((from, piece(from, until)));
        }
        taken
    }

    /// The value that `len` bytes from `address` are a part of, and where in it they are.
    pub(crate) fn find(&self, address: u64, len: u64) -> Option<(&T, u64)> {
        let (&start, part) = self.0.range(..=address).next_back()?;
        let inside = address.checked_add(len)? <= part.end;
        inside.then(|| (&part.value, part.offset + (address - start)))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_split_and_moved() {
        let mut parts = Parts::default();
        parts.insert((0x10000, 0x14000), 'a', 0x1000);
        let found = |parts: &Parts<char>, at, len| parts.find(at, len).map(|(&v, o)| (v, o));
        assert_eq!(found(&parts, 0x10004, 4), Some(('a', 0x1004)));
        assert_eq!(found(&parts, 0x13ffc, 4), Some(('a', 0x4ffc)));
        assert_eq!(found(&parts, 0x13ffd, 4), None);
        assert_eq!(found(&parts, u64::MAX, 4), None);
        parts.remove(0x11000, 0x12000);
        assert_eq!(found(&parts, 0x10ffc, 4), Some(('a', 0x1ffc)));
        assert_eq!(found(&parts, 0x11000, 1), None);
        assert_eq!(found(&parts, 0x12000, 1), Some(('a', 0x3000)));
        parts.relocate(0x13000, 0x14000, 0x50000);
        assert_eq!(found(&parts, 0x50008, 4), Some(('a', 0x4008)));
        assert_eq!(found(&parts, 0x13000, 1), None);
        parts.insert((0x10800, 0x12800), 'b', 0);
        assert_eq!(found(&parts, 0x107fc, 4), Some(('a', 0x17fc)));
        assert_eq!(found(&parts, 0x107fe, 4), None);
        assert_eq!(found(&parts, 0x11000, 1), Some(('b', 0x800)));
        assert_eq!(found(&parts, 0x12800, 1), Some(('a', 0x3800)));
        parts.remove(0, u64::MAX);
        assert!(parts.is_empty());
    }
}
