// SPDX-License-Identifier: GPL-2.0

//! Memory that processes have in common: where the broker has the same files mapped as the guest.
//!
//! A futex in such memory is one for all who map the file, whatever process they are of. The host tells that by the
//! file, which it does not know behind the mapping of the guest's memory; so the broker maps the file as well.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::errno::SysResult;
use crate::map::Mapping;

/// A part of the guest's memory that is also mapped by itself.
#[derive(Clone, Debug)]
struct Part {
    end: u64,
    mapping: Arc<Mapping>,
    /// Where in the mapping it starts.
    offset: u64,
}

/// All such parts, by their starts; they do not overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedMaps(BTreeMap<u64, Part>);

impl SharedMaps {
    /// Adds what is mapped from `start` to `end`, which is a file from `offset`.
    pub(super) fn insert(
        &mut self,
        (start, end): (u64, u64),
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> SysResult<()> {
        let mapping = Arc::new(Mapping::of_file(file, offset, (end - start) as usize)?);
        self.remove(start, end);
        let part = Part {
            end,
            mapping,
            offset: 0,
        };
        self.0.insert(start, part);
        Ok(())
    }

    /// Removes what is in a range.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        self.take(start, end);
    }

    /// Moves what is in a range to another place.
    pub(super) fn relocate(&mut self, start: u64, end: u64, to: u64) {
        for (at, mut part) in self.take(start, end) {
            part.end = part.end - start + to;
            self.0.insert(at - start + to, part);
        }
    }

    /// Takes out what is in a range.
    fn take(&mut self, start: u64, end: u64) -> Vec<(u64, Part)> {
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
                mapping: Arc::clone(&part.mapping),
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

    /// The mapping that has the word at `address`, and where in it.
    pub(super) fn find(&self, address: u64) -> Option<(Arc<Mapping>, u64)> {
        let (&start, part) = self.0.range(..=address).next_back()?;
        let inside = address.checked_add(4)? <= part.end;
        inside.then(|| (Arc::clone(&part.mapping), part.offset + (address - start)))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn parts_are_split_and_moved() {
        let file = crate::guest::sealed_file(c"test", &[0; 16384]).unwrap();
        // A sealed file cannot be mapped to be written.
        let mut maps = SharedMaps::default();
        assert!(maps.insert((0x10000, 0x14000), file.as_fd(), 0).is_err());
        let fd = crate::pass!(MEMFD_CREATE, c"test", libc::MFD_CLOEXEC as i32).unwrap();
        let file = crate::device::new_fd(fd as i32);
        std::fs::File::from(file.try_clone().unwrap())
            .set_len(16384)
            .unwrap();
        maps.insert((0x10000, 0x14000), file.as_fd(), 0).unwrap();
        let offset = |maps: &SharedMaps, at| maps.find(at).map(|(_, offset)| offset);
        assert_eq!(offset(&maps, 0x10004), Some(4));
        assert_eq!(offset(&maps, 0x13ffc), Some(0x3ffc));
        assert_eq!(offset(&maps, 0x13ffd), None);
        maps.remove(0x11000, 0x12000);
        assert_eq!(offset(&maps, 0x10ffc), Some(0xffc));
        assert_eq!(offset(&maps, 0x11000), None);
        assert_eq!(offset(&maps, 0x12000), Some(0x2000));
        maps.relocate(0x13000, 0x14000, 0x50000);
        assert_eq!(offset(&maps, 0x50008), Some(0x3008));
        assert_eq!(offset(&maps, 0x13000), None);
        assert_eq!(offset(&maps, 0x12ffc), Some(0x2ffc));
        maps.remove(0, u64::MAX);
        assert!(maps.is_empty());
    }
}
