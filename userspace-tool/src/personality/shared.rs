// SPDX-License-Identifier: GPL-2.0

//! Memory that processes have in common: where the broker has the same files mapped as the guest.
//!
//! A futex in such memory is one for all who map the file, whatever process they are of. The host tells that by the
//! file, which it does not know behind the mapping of the guest's memory; so the broker maps the file as well.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::errno::SysResult;
use crate::map::Mapping;
use crate::parts::Parts;

/// The parts of the guest's memory that are also mapped by themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedMaps(Parts<Arc<Mapping>>);

impl SharedMaps {
    /// Adds what is mapped from `start` to `end`, which is a file from `offset`.
    pub(super) fn insert(
        &mut self,
        (start, end): (u64, u64),
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> SysResult<()> {
        let mapping = Arc::new(Mapping::of_file(file, offset, (end - start) as usize)?);
        self.0.insert((start, end), mapping, 0);
        Ok(())
    }

    /// Removes what is in a range.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        self.0.remove(start, end);
    }

    /// Moves what is in a range to another place.
    pub(super) fn relocate(&mut self, start: u64, end: u64, to: u64) {
        self.0.relocate(start, end, to);
    }

    /// The mapping that has the word at `address`, and where in it.
    pub(super) fn find(&self, address: u64) -> Option<(Arc<Mapping>, u64)> {
        let (mapping, offset) = self.0.find(address, 4)?;
        Some((Arc::clone(mapping), offset))
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
    fn words_are_found_in_what_can_be_written() {
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
        maps.remove(0, u64::MAX);
        assert!(maps.is_empty());
    }
}
