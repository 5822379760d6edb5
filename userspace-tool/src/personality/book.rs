// SPDX-License-Identifier: GPL-2.0

//! The broker's book of a process's address space: how it and the regions of the micro-VM are changed as one.

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, MutexGuard};

use serde::{Deserialize, Serialize};
use uvisor_uapi::{Prot, PAGE_SIZE};

use super::SharedMaps;
use crate::errno::{Errno, SysResult};
use crate::layout::{page_up, MMAP_MIN};
use crate::space::{Area, Backing, NamedFile, Space};
use crate::task::{Child, Task};

/// The error of a region call as Linux has it.
pub(super) fn region_error(error: crate::Error) -> Errno {
    match Errno::from(error) {
        // Too many regions are too many mappings.
        Errno::ENOSPC | Errno::EEXIST => Errno::ENOMEM,
        other => other,
    }
}

/// The pages that a call names by a start and a length; `beyond` is the error of a range that is
/// not in the address space.
pub(super) fn pages(task: &Task, start: u64, len: u64, beyond: Errno) -> SysResult<(u64, u64)> {
    if start % PAGE_SIZE != 0 {
        return Err(Errno::EINVAL);
    }
    let len = page_up(len).ok_or(beyond)?;
    match start.checked_add(len) {
        Some(end) if end <= task.memory.limit() => Ok((start, end)),
        _ => Err(beyond),
    }
}

/// What a mapping is to show.
pub(super) enum Source<'a> {
    Anonymous(Backing),
    /// A file from an offset, copied when written.
    Private(BorrowedFd<'a>, u64),
    /// A file from an offset, as it is.
    Shared(BorrowedFd<'a>, u64),
    /// The same, by the broker's own mapping.
    Broker(BorrowedFd<'a>, u64),
    /// Memory that processes will have in common.
    Common(BorrowedFd<'a>),
}

impl Source<'_> {
    /// The file, as it is called, if it is one: mostly the one that was mapped last.
    fn named(&self, last: &Option<Arc<NamedFile>>) -> SysResult<Option<Arc<NamedFile>>> {
        let fd = match self {
            Self::Anonymous(_) => return Ok(None),
            Self::Private(fd, _) | Self::Shared(fd, _) | Self::Broker(fd, _) => fd.as_raw_fd(),
            Self::Common(fd) => {
                let named = NamedFile::called("/dev/zero (deleted)", fd.as_raw_fd());
                return named.map(Arc::new).map(Some);
            }
        };
        match last {
            Some(last) if last.is(fd) => Ok(Some(Arc::clone(last))),
            _ => NamedFile::of(fd).map(Arc::new).map(Some),
        }
    }
}

/// The heap: where it starts, and the break.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Heap {
    /// Where it starts.
    pub start: u64,
    /// Where it ends, in bytes.
    pub end: u64,
}

/// What a process has mapped where, and its heap. Whoever changes the micro-VM's regions has it locked.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub(crate) space: Space,
    pub(crate) heap: Heap,
    /// What of it other processes may have as well.
    pub(crate) shared: SharedMaps,
    /// The file that was mapped last.
    pub(crate) last: Option<Arc<NamedFile>>,
}

impl Book {
    /// The range around an address, below `limit`, in which nothing is mapped by the broker's own mappings. It is one
    /// mapping of guest memory when it is hidden as a whole, however many it has become.
    pub(super) fn without_files(&self, limit: u64, address: u64) -> Range<u64> {
        let files = self.of_broker();
        let below = files.iter().filter(|file| file.end <= address);
        let above = files.iter().filter(|file| file.start > address);
        let start = below.map(|file| file.end).max().unwrap_or(0);
        start..above.map(|file| file.start).min().unwrap_or(limit)
    }

    /// What is mapped by the broker's own mappings.
    pub(crate) fn of_broker(&self) -> Vec<Range<u64>> {
        let all = self.space.pieces(0, u64::MAX);
        all.into_iter()
            .filter(|piece| piece.backing == Backing::BrokerFile)
            .map(|piece| piece.start..piece.end)
            .collect()
    }

    /// That of a process which has mapped `space` so far.
    pub(crate) fn new(space: Space, heap: Heap) -> Self {
        Self {
            space,
            heap,
            shared: SharedMaps::default(),
            last: None,
        }
    }
}

/// The book of a task, to change the address space.
pub(super) fn change(task: &Task) -> SysResult<MutexGuard<'_, Book>> {
    if task.child.as_ref().is_some_and(Child::shares_memory) {
        // The parent, whose memory it is, would not know.
        return Err(Errno::ENOMEM);
    }
    Ok(task.shared.book.lock())
}

/// How many files there can be by the broker's own mappings, of which the kernel has some more for each, and no more
/// than 65,530.
const BROKER_FILES: usize = 10_000;

/// Maps a free range.
pub(super) fn map(
    task: &Task,
    book: &mut Book,
    (start, end): (u64, u64),
    prot: Prot,
    source: &Source<'_>,
) -> SysResult<()> {
    let named = source.named(&book.last)?;
    let (vm, len) = (task.memory.vm(), end - start);
    let (result, backing, offset) = match *source {
        Source::Anonymous(backing) => (vm.map_anonymous(start, len, prot), backing, 0),
        Source::Private(fd, offset) => {
            let result = vm.map_file(start, len, prot, fd, offset);
            (result, Backing::PrivateFile, offset)
        }
        Source::Shared(fd, offset) => {
            let result = vm.map_shared(start, len, prot, fd, offset);
            (result, Backing::SharedFile, offset)
        }
        Source::Broker(fd, offset) => {
            if book.of_broker().len() >= BROKER_FILES {
                return Err(Errno::ENOMEM);
            }
            let shown = task.memory.show(start..end, prot, fd, offset);
            if let Err(errno) = shown {
                task.memory.hide(start..end);
                return Err(errno);
            }
            (Ok(()), Backing::BrokerFile, offset)
        }
        Source::Common(fd) => (
            vm.map_shared(start, len, prot, fd, 0),
            Backing::SharedFile,
            0,
        ),
    };
    result.map_err(region_error)?;
    if let Source::Shared(fd, _) | Source::Broker(fd, _) | Source::Common(fd) = *source {
        // What the broker cannot write no other process waits for there.
        if book.shared.insert((start, end), fd, offset).is_ok() {
            task.has_common_memory();
        }
    }
    let area = Area { end, prot, backing };
    match named {
        None => book.space.insert(start, area),
        Some(named) => {
            book.space.insert_file(start, area, &named, offset);
            book.last = Some(named);
        }
    }
    Ok(())
}

/// Unmaps a range.
pub(super) fn unmap(task: &Task, book: &mut Book, start: u64, end: u64) -> SysResult<()> {
    let pieces = book.space.pieces(start, end);
    if pieces
        .iter()
        .any(|piece| piece.backing != Backing::Reserved)
    {
        let vm = task.memory.vm();
        vm.unmap(start, end - start).map_err(region_error)?;
    }
    book.space.remove(start, end);
    book.shared.remove(start, end);
    if pieces
        .iter()
        .any(|piece| piece.backing == Backing::BrokerFile)
    {
        task.memory
            .hide(book.without_files(task.memory.limit(), start));
    }
    Ok(())
}

/// Chooses where a mapping goes.
pub(super) fn choose(task: &Task, book: &Book, address: u64, len: u64, flags: i32) -> SysResult {
    let limit = task.memory.limit();
    if flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0 {
        let (start, end) = pages(task, address, len, Errno::ENOMEM)?;
        if start < MMAP_MIN {
            return Err(Errno::EPERM);
        }
        if flags & libc::MAP_FIXED == 0 && !book.space.is_free(start, end) {
            return Err(Errno::EEXIST);
        }
        return Ok(start);
    }
    if len > limit {
        return Err(Errno::ENOMEM);
    }
    if address != 0 {
        let hint = page_up(address).map(|hint| hint.max(MMAP_MIN));
        let end = hint.and_then(|hint| hint.checked_add(len));
        if let (Some(hint), Some(end)) = (hint, end) {
            if end <= limit && book.space.is_free(hint, end) {
                return Ok(hint);
            }
        }
    }
    let (bottom, top) = match flags & libc::MAP_32BIT {
        0 => (MMAP_MIN, task.shared.layout.mmap_top),
        _ => (1 << 30, 1 << 31),
    };
    book.space.find(len, bottom, top).ok_or(Errno::ENOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_without_files_end_at_files() {
        let heap = Heap { start: 0, end: 0 };
        let mut book = Book::new(Space::default(), heap);
        let prot = Prot::READ;
        for (start, end, backing) in [
            (0x1000, 0x2000, Backing::Anonymous),
            (0x3000, 0x4000, Backing::BrokerFile),
            (0x5000, 0x6000, Backing::SharedFile),
            (0x8000, 0x9000, Backing::BrokerFile),
        ] {
            book.space.insert(start, Area { end, prot, backing });
        }
        assert_eq!(book.of_broker(), [0x3000..0x4000, 0x8000..0x9000]);
        let around = |address| book.without_files(0x10000, address);
        assert_eq!(around(0x1000), 0..0x3000);
        assert_eq!(around(0x4000), 0x4000..0x8000);
        assert_eq!(around(0x7fff), 0x4000..0x8000);
        assert_eq!(around(0x9000), 0x9000..0x10000);
    }
}
